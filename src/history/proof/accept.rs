//! An operator accepts a history that does not lead to what was signed, with the rights of the signing key and beside the
//! running gateway, which takes it over at its next look.

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

/// How long a lock of the gateway is waited for.
const LOCK: Duration = Duration::from_secs(5);

/// What was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What was wrong: a sentence.
    pub what: String,
    /// Up to this record nothing is vouched for.
    pub seq: u64,
}

/// Accepts the history in `file` as it is; the signing key lies in `data_dir`. From here on it is signed again, and each
/// export says up to which record it is not vouched for. Without a reason it is only looked at.
///
/// # Errors
/// A sentence: there is nothing to accept, or a file cannot be read or written.
pub fn accept(file: &Path, data_dir: &Path, reason: Option<&str>) -> anyhow::Result<Accepted> {
    let signer = Signer::load(data_dir).context("cannot read the key of the records")?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let told = || format!("cannot read {}", file.display());
    let mut database = Connection::open_with_flags(file, flags).with_context(told)?;
    database.busy_timeout(LOCK)?;
    // The gateway writes neither file meanwhile.
    let rows = database.transaction_with_behavior(TransactionBehavior::Immediate).with_context(told)?;
    let state = HeadFile::new(data_dir, file);
    let (before, what) = found(&rows, &state, &signer).with_context(told)?;
    let Some(what) = what else {
        bail!(
            "there is nothing to accept: the history leads to what was signed, record {}",
            before.head().seq
        )
    };
    // Numbers are not used again, also in a file that has no record.
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

/// What was signed last, and what is wrong with the file.
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
    // Above whatever the running gateway has, also when the file was lost.
    let now = u64::try_from(mark.at.as_millisecond()).unwrap_or(0);
    SignedState {
        serial: state.serial.max(now) + 1,
        head: Some(signer.sign_head(end, mark.at)),
        base: Some(mark.clone()),
        marks: state.marks.into_iter().chain([mark]).collect(),
        former_keys: state.former_keys,
        older_until: None,
        breach: None,
    }
}
