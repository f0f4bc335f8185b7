//! An operator accepts a history that does not lead to what was signed, with the rights of the signing key and beside the
//! running gateway, which takes it over at its next look.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::check::last_row;
use super::head_file::{HeadFile, Kept};
use super::lead::lead;
use super::seal::Signer;
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
    let kept = HeadFile::new(data_dir, file);
    let (before, what) = found(&rows, &kept, &signer).with_context(told)?;
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
        kept.store(&accepted(before, &signer, &end, reason))
            .with_context(|| format!("cannot write {}", kept.path().display()))?;
    }
    Ok(Accepted { what, seq: end.seq })
}

/// What was signed last, and what is wrong with the file.
fn found(
    file: &Connection,
    head_file: &HeadFile,
    signer: &Signer,
) -> rusqlite::Result<(Kept, Option<String>)> {
    let kept = match head_file.load() {
        Ok(Some(kept)) => kept,
        Ok(None) => {
            let what = format!("{} is missing", head_file.path().display());
            return Ok((Kept::default(), Some(what)));
        }
        Err(what) => return Ok((Kept::default(), Some(what))),
    };
    let mut keys = kept.former_keys.clone();
    keys.extend(kept.head.iter().map(|head| head.key.clone()));
    keys.push(signer.public_key());
    let breach = lead(file, &kept, &kept.head(), &keys)?.err().or(kept.breach.clone());
    Ok((kept, breach.map(|breach| breach.what)))
}

fn accepted(mut kept: Kept, signer: &Signer, end: &super::chain::Tip, reason: &str) -> Kept {
    let unsigned = Statement {
        reason: Some(reason.to_owned()),
        ..Statement::new(Kind::Accepted, end, Timestamp::now())
    };
    let mark = signer.state(unsigned);
    if let Some(head) = kept.head.take().filter(|head| head.key != signer.public_key()) {
        kept.former_keys.push(head.key);
    }
    // Above whatever the running gateway has, also when the file was lost.
    let now = u64::try_from(mark.at.as_millisecond()).unwrap_or(0);
    Kept {
        serial: kept.serial.max(now) + 1,
        head: Some(signer.sign(end, mark.at)),
        base: Some(mark.clone()),
        marks: kept.marks.into_iter().chain([mark]).collect(),
        former_keys: kept.former_keys,
        older_until: None,
        breach: None,
    }
}
