//! Checks whether the history still continues from what this gateway signed last, and signs nothing while it does not:
//! an attacker who edits the file with SQL, replaces it or deletes it gets no signature for the result.
//!
//! Three facts are known independently of the file: the last signed head and the point up to which records were deleted
//! (both in [`super::head_file`]), and, in memory, the last record that this process wrote or found intact. Each record
//! after those has a seal, a signature of its own, which distinguishes records of this gateway from appended ones.

use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;
use tracing::{error, info, warn};

use super::continuity::{
    Continuity, ExportView, all_heads, check_continuity, has_expected_record, is_repaired,
};
use super::hash_chain::Tip;
use super::head_file::{Breach, FileStamp, HeadFile, SignedState};
use super::record_check::{first_row, last_row};
use super::signature::{FORMER_KEY_FILE, Head, Signer};
use super::statement::{Kind, Statement};
use crate::telemetry::metrics::HistoryMetrics;
use crate::telemetry::readiness::Readiness;

/// What an operator should do about a breach.
const REMEDY: &str =
    "find out who changed it; put the file back, or accept it as it is with `elida cdr accept`";
/// How long an older version of the program may run beside this one, at most.
const UPGRADE_OVERLAP: SignedDuration = SignedDuration::from_hours(1);
/// How often a check is attempted when another process signs at the same time.
const CHECK_ATTEMPTS: usize = 3;

/// What the gateway knows about its history, independently of the file.
pub(in crate::history) struct Integrity {
    pub(in crate::history) signer: Arc<Signer>,
    file: HeadFile,
    metrics: HistoryMetrics,
    readiness: Arc<Readiness>,
    state: Mutex<State>,
}

struct State {
    signed: SignedState,
    /// The last record that this process wrote or found intact.
    known: Tip,
    /// The version of the head file that was read or written last.
    stamp: Option<FileStamp>,
    /// `signed` has a change that is not in the head file yet.
    is_unsaved: bool,
    /// The breach was logged, and readiness warns of it.
    is_reported: bool,
}

impl Integrity {
    /// Creates the guard. Call [`Integrity::begin`] before anything else.
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

    /// Checks at start whether the file continues from the last signed head. `file` is locked for writing.
    ///
    /// # Errors
    /// The file cannot be read. A breach is not an error: it is reported, and nothing is signed.
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
        let was_sealed = std::mem::replace(&mut state.signed.is_sealed, true);
        if !was_sealed && last_row(file)?.is_some() {
            state.signed.older_until = Timestamp::now().checked_add(UPGRADE_OVERLAP).ok();
        }
        let found = match found {
            Some(breach) => Err(breach),
            None => self.check_file(&mut state, file, true)?,
        };
        if let Ok(lead) = &found {
            state.known = lead.tip.clone();
            self.hand_over(&mut state);
        }
        self.report(&mut state, found.err());
        if (stamp.is_none() || !was_sealed) && state.signed.breach.is_none() {
            self.save(&mut state);
        }
        Ok(())
    }

    /// Adopts a file that was written by an older version, which had no head file. Trusts its last signature.
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
        // Heads of other keys count only if the current key has signed none.
        let key = self.signer.public_key();
        if stored.iter().any(|head| head.key == key) {
            stored.retain(|head| head.key == key);
        }
        let first = match first_row(file)? {
            Some(row) => row.before(),
            None => stored.first().map(Head::tip).unwrap_or_default(),
        };
        if first.seq > 0 && !stored.iter().any(|head| head.tip() == first) {
            let what = format!("no signed head confirms that the history begins after record {}", first.seq);
            return Ok(Some(Breach::lasting(what)));
        }
        state.signed.base = (first.seq > 0).then(|| self.statement(Kind::Pruned, &first));
        state.signed.head = stored.into_iter().next();
        if last.is_some() {
            info!(head = state.signed.head().seq, "the history of an older version is taken over");
        }
        Ok(None)
    }

    /// Signs a hand-over if another key signed the last head.
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

    /// Checks whether the file continues from the last known record. Reports a breach and returns `None` if it does not.
    /// `file` is locked for writing. With `is_thorough`, also checks whether an earlier breach was repaired.
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

    /// Checks the file for an export, over a read-only connection.
    pub(in crate::history) fn view(&self, file: &Connection) -> rusqlite::Result<ExportView> {
        let mut state = self.state();
        self.refresh(&mut state);
        let mut found = self.check_file(&mut state, file, true)?;
        for _ in 1..CHECK_ATTEMPTS {
            let serial = state.signed.serial;
            self.refresh(&mut state);
            // Another process may just have deleted records.
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

    /// The public keys whose signatures are trusted.
    pub(in crate::history) fn trusted_keys(&self) -> Vec<String> {
        self.keys(&self.state().signed)
    }

    /// Reports that the file does not continue from what was signed.
    pub(in crate::history) fn report_breach(&self, breach: Breach) {
        self.report(&mut self.state(), Some(breach));
    }

    /// Sets the last record that this process has committed.
    pub(in crate::history) fn set_known(&self, tip: &Tip) {
        self.state().known = tip.clone();
    }

    /// The number of the record that was signed last.
    pub(in crate::history) fn head_seq(&self) -> u64 {
        self.state().signed.head().seq
    }

    /// Records up to this one may be deleted.
    pub(in crate::history) fn base(&self) -> Tip {
        self.state().signed.base()
    }

    /// The tip for the next record, whether or not the file is intact. Numbers are never reused, not even in a file
    /// without records.
    pub(in crate::history) fn last_tip(&self, file: &Connection) -> rusqlite::Result<Tip> {
        let found = last_row(file)?.map(|row| row.tip());
        Ok(found.unwrap_or_else(|| last_known_tip(&self.state())))
    }

    /// Saves a signed head, and the base if an older version of the program moved it. The caller holds the write lock of
    /// the history, so that another process cannot save its own head at the same time.
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

    /// Signs that the records up to `anchor` are deleted. Call this before deleting them: if the process crashes in
    /// between, the records are still there, which is not a breach.
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

    /// Reloads the head file if another process or an operator has changed it.
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

    /// Logs and records when a breach is found and when it ends.
    fn report(&self, state: &mut State, found: Option<Breach>) {
        self.metrics.intact(found.is_none());
        // A new process reports a breach that an earlier one found, too.
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

/// The highest position known.
fn last_known_tip(state: &State) -> Tip {
    let tips = [state.signed.base(), state.signed.head(), state.known.clone()];
    tips.into_iter().max_by_key(|tip| tip.seq).unwrap_or_default()
}
