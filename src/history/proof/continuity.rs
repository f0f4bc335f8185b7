//! What must hold before anything is signed: the file begins and continues where it should, and a breach found earlier
//! has been repaired.

use rusqlite::Connection;

use super::chain_walk::{ChainWalk, head_before};
use super::hash_chain::Tip;
use super::head_file::{Breach, SignedState};
use super::record_check::{first_row, row_at};
use super::signature::Head;
use super::statement::Statement;

/// The range of records that continues from the last signed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::history) struct Continuity {
    /// The last record.
    pub(in crate::history) tip: Tip,
    /// The position before the first record; records up to here may be deleted.
    pub(in crate::history) base: Tip,
}

/// What an export needs: the checked range of the file, and what was signed about it.
#[derive(Clone, Debug)]
pub(in crate::history) struct ExportView {
    /// The range that continues from the last signed head, or what is wrong with the file.
    pub(in crate::history) lead: Result<Continuity, String>,
    /// Records up to this one may be deleted, or are not vouched for.
    pub(in crate::history) base: Option<Statement>,
    /// Key hand-overs and acceptances, in order.
    pub(in crate::history) marks: Vec<Statement>,
    /// The public keys whose signatures are trusted.
    pub(in crate::history) keys: Vec<String>,
}

/// Returns true if the record that the breach misses is in the file, or is no longer needed.
pub(in crate::history) fn has_expected_record(
    file: &Connection,
    breach: &Breach,
    base: &Tip,
) -> rusqlite::Result<bool> {
    match &breach.expects {
        Some((seq, hash)) if *seq > base.seq => {
            Ok(row_at(file, *seq)?.is_some_and(|row| row.tip().hash == *hash))
        }
        _ => Ok(true),
    }
}

/// Returns true if the records at which the breach was found are in order now. Without `is_thorough` they are not
/// read, and the breach counts as unrepaired.
pub(in crate::history) fn is_repaired(
    file: &Connection,
    breach: &Breach,
    base: &Tip,
    is_thorough: bool,
    keys: &[String],
) -> rusqlite::Result<bool> {
    let Some((seq, hash, at)) = breach.range.clone() else { return Ok(true) };
    if at <= base.seq {
        return Ok(true);
    }
    if !is_thorough {
        return Ok(false);
    }
    let mut walk = ChainWalk::after(if seq < base.seq { base.clone() } else { Tip { seq, hash } });
    Ok(walk.advance_to(file, at, usize::MAX, keys)?.is_ok() && walk.tip.seq == at)
}

/// Reads every genuine head of the file, newest first, whichever key signed it.
pub(in crate::history) fn all_heads(file: &Connection) -> rusqlite::Result<Vec<Head>> {
    let mut find = file.prepare("SELECT body FROM heads ORDER BY seq DESC")?;
    let bodies = find.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let heads = bodies.iter().filter_map(|body| serde_json::from_str(body).ok());
    Ok(heads.filter(Head::is_genuine).collect())
}

/// Checks that the file begins where it should, that it contains the `known` record, and that everything after that
/// record follows from it and was written by a holder of the key: by this process before it was killed, or by the other
/// process of an upgrade.
///
/// # Errors
/// The outer error means that the database cannot be read, the inner one that the file was changed.
pub(in crate::history) fn check_continuity(
    file: &Connection,
    signed: &SignedState,
    known: &Tip,
    keys: &[String],
) -> rusqlite::Result<Result<Continuity, Breach>> {
    let mut base = signed.base();
    let Some(first) = first_row(file)? else {
        return Ok(match known.seq > base.seq {
            true => {
                let what = format!("records {} to {} are missing", base.seq + 1, known.seq);
                Err(Breach::missing(what, known))
            }
            false => Ok(Continuity { tip: base.clone(), base }),
        });
    };
    if first.seq == 0 {
        return Ok(Err(Breach::new("a record without a number was added")));
    }
    if first.seq > base.seq + 1 {
        let before = first.before();
        let head = if signed.may_be_older() { head_before(file, before.seq, keys)? } else { None };
        match head.filter(|head| head.tip() == before) {
            Some(_) => base = before,
            None => {
                let what = format!("records {} to {} are missing", base.seq + 1, first.seq - 1);
                return Ok(Err(Breach::new(what)));
            }
        }
    }
    let mut tip = base.clone();
    if known.seq > base.seq {
        // Its digest covers everything before it.
        let row = row_at(file, known.seq)?;
        let sound = row.is_some_and(|row| row.tip() == *known && row.check(&row.before()).is_ok());
        if !sound {
            let what = format!("record {} is not the one that was written", known.seq);
            return Ok(Err(Breach::missing(what, known)));
        }
        tip = known.clone();
        // Check only the link here; exports and the audit check the record itself.
        let next = row_at(file, base.seq + 1)?;
        if next.is_none_or(|row| row.before() != base) {
            let what = format!("the record after {} is not the one that was written", base.seq);
            return Ok(Err(Breach::new(what)));
        }
    }
    let mut walk = ChainWalk::after(tip).needing_seals(!signed.may_be_older());
    Ok(walk.advance_to(file, u64::MAX, usize::MAX, keys)?.map(|_| Continuity { tip: walk.tip, base }))
}
