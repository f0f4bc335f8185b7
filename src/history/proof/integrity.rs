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

use super::continuity::{Continuity, all_heads, check_continuity, has_expected_record, is_repaired};
use super::hash_chain::Tip;
use super::head_file::{Breach, FileStamp, HeadFile, SignedState};
use super::record_check::{first_row, last_row};
use super::signature::{FORMER_KEY_FILE, Head, Signer};
use super::statement::{Kind, Statement};
use crate::telemetry::metrics::HistoryMetrics;
use crate::telemetry::readiness::Readiness;

/// What an operator does about a breach.
const REMEDY: &str =
    "find out who changed it; put the file back, or accept it as it is with `elida cdr accept`";
/// How long a program of an older version may go on beside this one, at the longest.
const UPGRADE_OVERLAP: SignedDuration = SignedDuration::from_hours(1);
/// How often a look is repeated when another process signs in the same moment.
const CHECK_ATTEMPTS: usize = 3;

/// What the gateway knows of its history apart from the file.
pub(in crate::history) struct Integrity {
    pub(in crate::history) signer: Arc<Signer>,
    file: HeadFile,
    metrics: HistoryMetrics,
    readiness: Arc<Readiness>,
    state: Mutex<State>,
}

struct State {
    signed: SignedState,
    /// The last record that this process wrote, or found to lead here.
    known: Tip,
    /// The head file as it was read or written last.
    stamp: Option<FileStamp>,
    /// `signed.breach` is not in the head file yet.
    is_unsaved: bool,
    /// The log and the readiness say that there is a breach.
    is_reported: bool,
}

/// What an export needs to know.
#[derive(Clone, Debug)]
pub(in crate::history) struct ExportView {
    /// What leads to the last signed head, or why nothing does.
    pub(in crate::history) lead: Result<Continuity, String>,
    /// Records up to this one may be gone, or are not vouched for.
    pub(in crate::history) base: Option<Statement>,
    /// Hand-overs and acceptances, in order.
    pub(in crate::history) marks: Vec<Statement>,
    /// The public keys whose heads count.
    pub(in crate::history) keys: Vec<String>,
}

impl Integrity {
    /// Nothing is known yet: [`Integrity::begin`] comes next.
    pub(in crate::history) fn new(
        folder: &Path,
        history: &Path,
        signer: Arc<Signer>,
        metrics: HistoryMetrics,
        readiness: Arc<Readiness>,
    ) -> Self {
        let state = State {
            signed: SignedState::default(),
            known: Tip::default(),
            stamp: None,
            is_unsaved: false,
            is_reported: false,
        };
        Self { signer, file: HeadFile::new(folder, history), metrics, readiness, state: Mutex::new(state) }
    }

    /// Looks, at the start, whether the file leads to the last signed head. `file` is locked for writing.
    ///
    /// # Errors
    /// The file cannot be read. A breach is none: it is told, and nothing is signed.
    pub(in crate::history) fn begin(&self, file: &Connection) -> rusqlite::Result<()> {
        let mut state = self.state();
        let stamp = self.file.stamp();
        let found = match self.file.load() {
            Ok(Some(signed)) => {
                state.signed = signed;
                None
            }
            Ok(None) => self.adopt(&mut state, file)?,
            Err(what) => Some(Breach::lasting(what)),
        };
        (state.known, state.stamp) = (state.signed.head(), stamp);
        let found = match found {
            Some(breach) => Err(breach),
            None => self.check_file(&mut state, file, true)?,
        };
        if let Ok(lead) = &found {
            state.known = lead.tip.clone();
            self.hand_over(&mut state);
        }
        self.report(&mut state, found.err());
        if stamp.is_none() && state.signed.breach.is_none() {
            self.save(&mut state);
        }
        Ok(())
    }

    /// Takes over a file that a program without a head file has written: what it signed last is believed.
    fn adopt(&self, state: &mut State, file: &Connection) -> rusqlite::Result<Option<Breach>> {
        let last = last_row(file)?;
        if last.as_ref().is_some_and(|last| !last.is_v1()) {
            let path = self.file.path();
            return Ok(Some(Breach::lasting(format!(
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
            return Ok(Some(Breach::lasting(what)));
        }
        state.signed.base = (first.seq > 0).then(|| self.statement(Kind::Pruned, &first));
        state.signed.head = stored.into_iter().next();
        if last.is_some() {
            state.signed.older_until = Timestamp::now().checked_add(UPGRADE_OVERLAP).ok();
            info!(head = state.signed.head().seq, "the history of an older version is taken over");
        }
        Ok(None)
    }

    /// Another key than that of the last head is in use: signs where it begins.
    fn hand_over(&self, state: &mut State) {
        let key = self.signer.public_key();
        let Some(former_key) = state.signed.head.as_ref().map(|head| head.key.clone()) else { return };
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
        state.signed.head = Some(self.signer.sign_head(&state.known, mark.at));
        state.signed.marks.push(mark);
        state.signed.former_keys.push(former_key);
        self.save(state);
    }

    /// Looks whether the file leads to what is known; `None` when it does not, which is told. `file` is locked for
    /// writing. `is_thorough`: also where a breach was found before.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::history) fn check(
        &self,
        file: &Connection,
        is_thorough: bool,
    ) -> rusqlite::Result<Option<Continuity>> {
        let mut state = self.state();
        self.refresh(&mut state);
        let found = self.check_file(&mut state, file, is_thorough)?;
        let lead = found.as_ref().ok().cloned();
        self.report(&mut state, found.err());
        if state.is_unsaved && !state.signed.breach.as_ref().is_some_and(|breach| breach.is_lasting) {
            self.save(&mut state);
        }
        Ok(lead)
    }

    /// What an export stands on, by a connection that reads only.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::history) fn view(&self, file: &Connection) -> rusqlite::Result<ExportView> {
        let mut state = self.state();
        self.refresh(&mut state);
        let mut found = self.check_file(&mut state, file, true)?;
        for _ in 1..CHECK_ATTEMPTS {
            let serial = state.signed.serial;
            self.refresh(&mut state);
            // Another process may have forgotten records just now.
            if found.is_ok() || state.signed.serial == serial {
                break;
            }
            found = self.check_file(&mut state, file, true)?;
        }
        let lead = found.as_ref().map_err(|breach| breach.what.clone()).cloned();
        self.report(&mut state, found.err());
        let signed = &state.signed;
        Ok(ExportView {
            lead,
            base: signed.base.clone(),
            marks: signed.marks.clone(),
            keys: self.keys(signed),
        })
    }

    /// The public keys whose heads count.
    pub(in crate::history) fn trusted_keys(&self) -> Vec<String> {
        self.keys(&self.state().signed)
    }

    /// Something in the file does not lead to what was signed.
    pub(in crate::history) fn report_breach(&self, breach: Breach) {
        self.report(&mut self.state(), Some(breach));
    }

    /// The record where this process stands is in the file for good.
    pub(in crate::history) fn set_known(&self, tip: &Tip) {
        self.state().known = tip.clone();
    }

    /// Where the last head was signed.
    pub(in crate::history) fn head_seq(&self) -> u64 {
        self.state().signed.head().seq
    }

    /// Records up to this one may be gone.
    pub(in crate::history) fn base(&self) -> Tip {
        self.state().signed.base()
    }

    /// Behind which record the next one comes, whether or not the file leads here. Numbers are not used again, also
    /// in a file that has no record.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::history) fn last_tip(&self, file: &Connection) -> rusqlite::Result<Tip> {
        let found = last_row(file)?.map(|row| row.tip());
        Ok(found.unwrap_or_else(|| last_known_tip(&self.state())))
    }

    /// Keeps a head that was signed, and the base if an older program moved it. The file is locked for writing: another
    /// process keeps its own meanwhile.
    pub(in crate::history) fn set_head(&self, head: Head, base: &Tip) {
        let mut state = self.state();
        self.refresh(&mut state);
        if base.seq > state.signed.base().seq {
            state.signed.base = Some(self.statement(Kind::Pruned, base));
        }
        if head.seq > state.signed.head().seq {
            state.signed.head = Some(head);
        }
        self.save(&mut state);
    }

    /// Signs that the records up to this one are forgotten. This comes before they go: after a crash in between they
    /// are still there, which is no breach.
    ///
    /// # Errors
    /// The head file cannot be written.
    pub(in crate::history) fn set_pruned(&self, anchor: &Tip) -> std::io::Result<()> {
        let mut state = self.state();
        if anchor.seq <= state.signed.base().seq {
            return Ok(());
        }
        let mut next = state.signed.clone();
        next.base = Some(self.statement(Kind::Pruned, anchor));
        if anchor.seq > next.head().seq {
            next.head = Some(self.signer.sign_head(anchor, Timestamp::now()));
        }
        next.serial += 1;
        self.file.store(&next)?;
        state.signed = next;
        state.stamp = self.file.stamp();
        Ok(())
    }

    fn statement(&self, kind: Kind, tip: &Tip) -> Statement {
        self.signer.sign_statement(Statement::new(kind, tip, Timestamp::now()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn keys(&self, signed: &SignedState) -> Vec<String> {
        let own = std::iter::once(self.signer.public_key());
        own.chain(signed.former_keys.iter().cloned())
            .chain(signed.head.iter().map(|head| head.key.clone()))
            .collect()
    }

    /// Takes over what another process signed, or an operator accepted.
    fn refresh(&self, state: &mut State) {
        let stamp = self.file.stamp();
        if stamp == state.stamp {
            return;
        }
        match self.file.load() {
            Ok(Some(signed)) if signed.serial > state.signed.serial => {
                let base = signed.base.as_ref().filter(|base| base.kind == Kind::Accepted);
                let base = base.filter(|base| state.signed.base.as_ref() != Some(base));
                let unsaved = state.signed.breach.take().filter(|_| state.is_unsaved && base.is_none());
                if let Some(base) = base {
                    info!(
                        record = base.seq,
                        reason = base.reason,
                        "an operator accepted the history as it is"
                    );
                    state.known = base.tip();
                }
                state.signed = signed;
                state.signed.breach = unsaved.or(state.signed.breach.take());
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

    fn check_file(
        &self,
        state: &mut State,
        file: &Connection,
        is_thorough: bool,
    ) -> rusqlite::Result<Result<Continuity, Breach>> {
        let keys = self.keys(&state.signed);
        let lead = match check_continuity(file, &state.signed, &state.known, &keys)? {
            Ok(lead) => lead,
            Err(breach) => return Ok(Err(breach)),
        };
        let Some(breach) = state.signed.breach.clone() else { return Ok(Ok(lead)) };
        let is_over = !breach.is_lasting
            && has_expected_record(file, &breach, &lead.base)?
            && is_repaired(file, &breach, &lead.base, is_thorough, &keys)?;
        Ok(if is_over { Ok(lead) } else { Err(breach) })
    }

    /// Tells when a breach is found, and when it is over.
    fn report(&self, state: &mut State, found: Option<Breach>) {
        self.metrics.intact(found.is_none());
        // The log and the readiness of a new process do not know of a breach that is older.
        if found.is_some() == std::mem::replace(&mut state.is_reported, found.is_some()) {
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
        state.is_unsaved |= state.signed.breach != found;
        state.signed.breach = found;
    }

    fn save(&self, state: &mut State) {
        state.signed.serial += 1;
        match self.file.store(&state.signed) {
            Ok(()) => state.is_unsaved = false,
            Err(fault) => {
                warn!(%fault, file = %self.file.path().display(), "the last signed head cannot be signed there; it is tried again");
            }
        }
        state.stamp = self.file.stamp();
    }
}

fn warning(breach: &Breach) -> String {
    format!("the history was changed and is not signed: {}; {REMEDY}", breach.what)
}

/// The last position that is known of.
fn last_known_tip(state: &State) -> Tip {
    let tips = [state.signed.base(), state.signed.head(), state.known.clone()];
    tips.into_iter().max_by_key(|tip| tip.seq).unwrap_or_default()
}
