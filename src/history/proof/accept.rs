//! `elida cdr accept`: an operator accepts a history that does not continue from what was signed. This needs access to
//! the signing key. A running gateway picks up the acceptance with its next check.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::continuity::check_continuity;
use super::head_file::{HeadFile, SignedState};
use super::record_check::last_row;
use super::signature::Signer;
use super::statement::{Kind, Statement};

/// How long to wait for the gateway's lock.
const LOCK: Duration = Duration::from_secs(5);

/// The outcome of [`accept`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What was wrong with the file: a sentence.
    pub what: String,
    /// Records up to this one are not vouched for.
    pub seq: u64,
}

/// Accepts the history in `file` as it is. The signing key is in `data_dir`. From here on the history is signed again, and
/// each export states up to which record it is not vouched for. Without a `reason` this only reports what is wrong.
///
/// # Errors
/// There is nothing to accept, or a file cannot be read or written.
pub fn accept(file: &Path, data_dir: &Path, reason: Option<&str>) -> anyhow::Result<Accepted> {
    let signer = Signer::load(data_dir).context("cannot read the signing key")?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let told = || format!("cannot read {}", file.display());
    let mut database = Connection::open_with_flags(file, flags).with_context(told)?;
    database.busy_timeout(LOCK)?;
    // Holds the write lock, so that the gateway changes neither file.
    let rows = database.transaction_with_behavior(TransactionBehavior::Immediate).with_context(told)?;
    let state = HeadFile::new(data_dir, file);
    let (before, what) = found(&rows, &state, &signer).with_context(told)?;
    let Some(what) = what else {
        bail!(
            "there is nothing to accept: the history continues from what was signed, record {}",
            before.head().seq
        )
    };
    // Numbers are never reused, not even in a file without records.
    let [base, head] = [before.base(), before.head()];
    let end = match last_row(&rows)? {
        Some(row) => row.tip(),
        None if head.seq > base.seq => head,
        None => base,
    };
    if let Some(reason) = reason {
        state
            .store(&accepted(before, &signer, &end, reason))
            .with_context(|| format!("cannot write {}", state.path().display()))?;
    }
    Ok(Accepted { what, seq: end.seq })
}

/// Returns what was signed last, and what is wrong with the file, if anything.
fn found(
    file: &Connection,
    head_file: &HeadFile,
    signer: &Signer,
) -> rusqlite::Result<(SignedState, Option<String>)> {
    let state = match head_file.load() {
        Ok(Some(state)) => state,
        Ok(None) => {
            let what = format!("{} is missing", head_file.path().display());
            return Ok((SignedState::default(), Some(what)));
        }
        Err(what) => return Ok((SignedState::default(), Some(what))),
    };
    let mut keys = state.former_keys.clone();
    keys.extend(state.head.iter().map(|head| head.key.clone()));
    keys.push(signer.public_key());
    let breach = check_continuity(file, &state, &state.head(), &keys)?.err().or(state.breach.clone());
    Ok((state, breach.map(|breach| breach.what)))
}

fn accepted(
    mut state: SignedState,
    signer: &Signer,
    end: &super::hash_chain::Tip,
    reason: &str,
) -> SignedState {
    let unsigned = Statement {
        reason: Some(reason.to_owned()),
        ..Statement::new(Kind::Accepted, end, Timestamp::now())
    };
    let mark = signer.sign_statement(unsigned);
    if let Some(head) = state.head.take().filter(|head| head.key != signer.public_key()) {
        state.former_keys.push(head.key);
    }
    // Higher than the running gateway's, even if the head file was lost.
    let now = u64::try_from(mark.at.as_millisecond()).unwrap_or(0);
    SignedState {
        serial: state.serial.max(now) + 1,
        head: Some(signer.sign_head(end, mark.at)),
        base: Some(mark.clone()),
        marks: state.marks.into_iter().chain([mark]).collect(),
        former_keys: state.former_keys,
        older_until: None,
        is_sealed: true,
        breach: None,
    }
}
