//! Whether the history still leads to what this gateway signed last. Nothing is signed while it does not: who writes
//! into the file with SQL, replaces or deletes it, cannot get a signature for that.
//!
//! Three things are known apart from the file: the last signed head and the point up to which records were forgotten
//! (both in [`super::head_file`]), and in memory the last record that this process wrote or found to be in order.

use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;
use tracing::{error, info, warn};

use super::chain::Tip;
use super::check::{first_row, last_row};
use super::head_file::{Breach, HeadFile, Kept, Stamp};
use super::lead::{Lead, all_heads, is_mended, is_there, lead};
use super::seal::{FORMER_KEY_FILE, Head, Signer};
use super::statement::{Kind, Statement};
use crate::telemetry::history::HistoryMetrics;
use crate::telemetry::readiness::Readiness;

/// What an operator does about a breach.
const REMEDY: &str =
    "find out who changed it; put the file back, or accept it as it is with `elida cdr accept`";
/// How long a program of an older version may go on beside this one, at the longest.
const OLDER: SignedDuration = SignedDuration::from_hours(1);
/// How often a look is repeated when another process signs in the same moment.
const LOOKS: usize = 3;

/// What the gateway knows of its history apart from the file.
pub(super) struct Trust {
    pub(super) signer: Arc<Signer>,
    file: HeadFile,
    metrics: HistoryMetrics,
    readiness: Arc<Readiness>,
    state: Mutex<State>,
}

struct State {
    kept: Kept,
    /// The last record that this process wrote, or found to lead here.
    known: Tip,
    /// The head file as it was read or written last.
    stamp: Option<Stamp>,
    /// `kept.breach` is not in the head file yet.
    is_unsaved: bool,
    /// The log and the readiness say that there is a breach.
    is_told: bool,
}

/// What an export needs to know.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// What leads to the last signed head, or why nothing does.
    pub(super) lead: Result<Lead, String>,
    /// Records up to this one may be gone, or are not vouched for.
    pub(super) base: Option<Statement>,
    /// Hand-overs and acceptances, in order.
    pub(super) marks: Vec<Statement>,
    /// The public keys whose heads count.
    pub(super) keys: Vec<String>,
}

impl Trust {
    /// Nothing is known yet: [`Trust::begin`] comes next.
    pub(super) fn new(
        folder: &Path,
        history: &Path,
        signer: Arc<Signer>,
        metrics: HistoryMetrics,
        readiness: Arc<Readiness>,
    ) -> Self {
        let state = State {
            kept: Kept::default(),
            known: Tip::default(),
            stamp: None,
            is_unsaved: false,
            is_told: false,
        };
        Self { signer, file: HeadFile::new(folder, history), metrics, readiness, state: Mutex::new(state) }
    }

    /// Looks, at the start, whether the file leads to the last signed head. `file` is locked for writing.
    ///
    /// # Errors
    /// The file cannot be read. A breach is none: it is told, and nothing is signed.
    pub(super) fn begin(&self, file: &Connection) -> rusqlite::Result<()> {
        let mut state = self.state();
        let stamp = self.file.stamp();
        let found = match self.file.load() {
            Ok(Some(kept)) => {
                state.kept = kept;
                None
            }
            Ok(None) => self.adopt(&mut state, file)?,
            Err(what) => Some(Breach::unknown(what)),
        };
        (state.known, state.stamp) = (state.kept.head(), stamp);
        let found = match found {
            Some(breach) => Err(breach),
            None => self.look(&mut state, file, true)?,
        };
        if let Ok(lead) = &found {
            state.known = lead.tip.clone();
            self.hand_over(&mut state);
        }
        self.settle(&mut state, found.err());
        if stamp.is_none() && state.kept.breach.is_none() {
            self.save(&mut state);
        }
        Ok(())
    }

    /// Takes over a file that a program without a head file has written: what it signed last is believed.
    fn adopt(&self, state: &mut State, file: &Connection) -> rusqlite::Result<Option<Breach>> {
        let last = last_row(file)?;
        if last.as_ref().is_some_and(|last| !last.is_older()) {
            let path = self.file.path();
            return Ok(Some(Breach::unknown(format!(
                "{} is missing, but there are records",
                path.display()
            ))));
        }
        let mut stored = all_heads(file)?;
        // Heads of other keys count only when this one has signed none.
        let key = self.signer.public_key();
        if stored.iter().any(|head| head.key == key) {
            stored.retain(|head| head.key == key);
        }
        let first = match first_row(file)? {
            Some(row) => row.before(),
            None => stored.first().map(Head::tip).unwrap_or_default(),
        };
        if first.seq > 0 && !stored.iter().any(|head| head.tip() == first) {
            let what = format!("no signed head says that the history begins behind record {}", first.seq);
            return Ok(Some(Breach::unknown(what)));
        }
        state.kept.base = (first.seq > 0).then(|| self.statement(Kind::Pruned, &first));
        state.kept.head = stored.into_iter().next();
        if last.is_some() {
            state.kept.older_until = Timestamp::now().checked_add(OLDER).ok();
            info!(head = state.kept.head().seq, "the history of an older version is taken over");
        }
        Ok(None)
    }

    /// Another key than that of the last head is in use: signs where it begins.
    fn hand_over(&self, state: &mut State) {
        let key = self.signer.public_key();
        let Some(former_key) = state.kept.head.as_ref().map(|head| head.key.clone()) else { return };
        if former_key == key {
            return;
        }
        let former = Signer::former(self.file.folder()).unwrap_or_else(|fault| {
            warn!(%fault, "the former signing key cannot be used");
            None
        });
        let former = former.filter(|former| former.public_key() == former_key);
        match &former {
            Some(_) => warn!(
                former_key,
                key, "another signing key is in use from now on; the former one announces it"
            ),
            None => warn!(
                former_key,
                key,
                "another signing key is in use from now on, and the former one does not announce it: exports that \
                 span the change need --key of both; to announce it put the former key at {FORMER_KEY_FILE}"
            ),
        }
        let mark = Statement::handover(&state.known, &former_key, former.as_ref(), &self.signer);
        state.kept.head = Some(self.signer.sign(&state.known, mark.at));
        state.kept.marks.push(mark);
        state.kept.former_keys.push(former_key);
        self.save(state);
    }

    /// Looks whether the file leads to what is known; `None` when it does not, which is told. `file` is locked for
    /// writing. `is_thorough`: also where a breach was found before.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn check(&self, file: &Connection, is_thorough: bool) -> rusqlite::Result<Option<Lead>> {
        let mut state = self.state();
        self.refresh(&mut state);
        let found = self.look(&mut state, file, is_thorough)?;
        let lead = found.as_ref().ok().cloned();
        self.settle(&mut state, found.err());
        if state.is_unsaved && !state.kept.breach.as_ref().is_some_and(|breach| breach.is_lasting) {
            self.save(&mut state);
        }
        Ok(lead)
    }

    /// What an export stands on, by a connection that reads only.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn view(&self, file: &Connection) -> rusqlite::Result<View> {
        let mut state = self.state();
        self.refresh(&mut state);
        let mut found = self.look(&mut state, file, true)?;
        for _ in 1..LOOKS {
            let serial = state.kept.serial;
            self.refresh(&mut state);
            // Another process may have forgotten records just now.
            if found.is_ok() || state.kept.serial == serial {
                break;
            }
            found = self.look(&mut state, file, true)?;
        }
        let lead = found.as_ref().map_err(|breach| breach.what.clone()).cloned();
        self.settle(&mut state, found.err());
        let kept = &state.kept;
        Ok(View { lead, base: kept.base.clone(), marks: kept.marks.clone(), keys: self.keys(kept) })
    }

    /// The public keys whose heads count.
    pub(super) fn trusted_keys(&self) -> Vec<String> {
        self.keys(&self.state().kept)
    }

    /// Something in the file does not lead to what was signed.
    pub(super) fn breached(&self, breach: Breach) {
        self.settle(&mut self.state(), Some(breach));
    }

    /// The record where this process stands is in the file for good.
    pub(super) fn wrote(&self, tip: &Tip) {
        self.state().known = tip.clone();
    }

    /// Where the last head was signed.
    pub(super) fn head_seq(&self) -> u64 {
        self.state().kept.head().seq
    }

    /// Records up to this one may be gone.
    pub(super) fn base(&self) -> Tip {
        self.state().kept.base()
    }

    /// Behind which record the next one comes, whether or not the file leads here. Numbers are not used again, also
    /// in a file that has no record.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn end_of(&self, file: &Connection) -> rusqlite::Result<Tip> {
        let found = last_row(file)?.map(|row| row.tip());
        Ok(found.unwrap_or_else(|| last_of(&self.state())))
    }

    /// Keeps a head that was signed, and the base if an older program moved it. The file is locked for writing: another
    /// process keeps its own meanwhile.
    pub(super) fn sealed(&self, head: Head, base: &Tip) {
        let mut state = self.state();
        self.refresh(&mut state);
        if base.seq > state.kept.base().seq {
            state.kept.base = Some(self.statement(Kind::Pruned, base));
        }
        if head.seq > state.kept.head().seq {
            state.kept.head = Some(head);
        }
        self.save(&mut state);
    }

    /// Signs that the records up to this one are forgotten. This comes before they go: after a crash in between they
    /// are still there, which is no breach.
    ///
    /// # Errors
    /// The head file cannot be written.
    pub(super) fn pruned(&self, anchor: &Tip) -> std::io::Result<()> {
        let mut state = self.state();
        if anchor.seq <= state.kept.base().seq {
            return Ok(());
        }
        let mut next = state.kept.clone();
        next.base = Some(self.statement(Kind::Pruned, anchor));
        if anchor.seq > next.head().seq {
            next.head = Some(self.signer.sign(anchor, Timestamp::now()));
        }
        next.serial += 1;
        self.file.store(&next)?;
        state.kept = next;
        state.stamp = self.file.stamp();
        Ok(())
    }

    fn statement(&self, kind: Kind, tip: &Tip) -> Statement {
        self.signer.state(Statement::new(kind, tip, Timestamp::now()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn keys(&self, kept: &Kept) -> Vec<String> {
        let own = std::iter::once(self.signer.public_key());
        own.chain(kept.former_keys.iter().cloned())
            .chain(kept.head.iter().map(|head| head.key.clone()))
            .collect()
    }

    /// Takes over what another process signed, or an operator accepted.
    fn refresh(&self, state: &mut State) {
        let stamp = self.file.stamp();
        if stamp == state.stamp {
            return;
        }
        match self.file.load() {
            Ok(Some(kept)) if kept.serial > state.kept.serial => {
                let base = kept.base.as_ref().filter(|base| base.kind == Kind::Accepted);
                let base = base.filter(|base| state.kept.base.as_ref() != Some(base));
                let unsaved = state.kept.breach.take().filter(|_| state.is_unsaved && base.is_none());
                if let Some(base) = base {
                    info!(
                        record = base.seq,
                        reason = base.reason,
                        "an operator accepted the history as it is"
                    );
                    state.known = base.tip();
                }
                state.kept = kept;
                state.kept.breach = unsaved.or(state.kept.breach.take());
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                warn!(file = %self.file.path().display(), "the file with the last signed head is gone; it is written again");
                state.is_unsaved = true;
            }
            Err(fault) => {
                warn!(fault, "the file with the last signed head is unusable; it is written again");
                state.is_unsaved = true;
            }
        }
        state.stamp = stamp;
    }

    fn look(
        &self,
        state: &mut State,
        file: &Connection,
        is_thorough: bool,
    ) -> rusqlite::Result<Result<Lead, Breach>> {
        let keys = self.keys(&state.kept);
        let lead = match lead(file, &state.kept, &state.known, &keys)? {
            Ok(lead) => lead,
            Err(breach) => return Ok(Err(breach)),
        };
        let Some(breach) = state.kept.breach.clone() else { return Ok(Ok(lead)) };
        let is_over = !breach.is_lasting
            && is_there(file, &breach, &lead.base)?
            && is_mended(file, &breach, &lead.base, is_thorough, &keys)?;
        Ok(if is_over { Ok(lead) } else { Err(breach) })
    }

    /// Tells when a breach is found, and when it is over.
    fn settle(&self, state: &mut State, found: Option<Breach>) {
        self.metrics.intact(found.is_none());
        // The log and the readiness of a new process do not know of a breach that is older.
        if found.is_some() == std::mem::replace(&mut state.is_told, found.is_some()) {
            return;
        }
        match &found {
            Some(breach) => {
                error!(
                    what = breach.what,
                    "the history was changed: it does not lead to what was signed, and nothing is signed; {REMEDY}"
                );
            }
            None => info!("the history leads to what was signed; it is signed again"),
        }
        self.readiness.warn_of_history(found.as_ref().map(warning));
        state.is_unsaved |= state.kept.breach != found;
        state.kept.breach = found;
    }

    fn save(&self, state: &mut State) {
        state.kept.serial += 1;
        match self.file.store(&state.kept) {
            Ok(()) => state.is_unsaved = false,
            Err(fault) => {
                warn!(%fault, file = %self.file.path().display(), "the last signed head cannot be kept there; it is tried again");
            }
        }
        state.stamp = self.file.stamp();
    }
}

fn warning(breach: &Breach) -> String {
    format!("the history was changed and is not signed: {}; {REMEDY}", breach.what)
}

/// The last position that is known of.
fn last_of(state: &State) -> Tip {
    let tips = [state.kept.base(), state.kept.head(), state.known.clone()];
    tips.into_iter().max_by_key(|tip| tip.seq).unwrap_or_default()
}
