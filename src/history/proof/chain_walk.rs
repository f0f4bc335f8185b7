//! Walks along the chain in the database, record by record, and checks the signed heads that are stored there.

use rusqlite::Connection;

use super::hash_chain::Tip;
use super::head_file::Breach;
use super::record_check::{RecordRow, rows_from};
use super::signature::Head;

/// The position of a walk.
#[derive(Clone, Debug)]
pub(in crate::history) struct ChainWalk {
    /// The last record checked.
    pub(in crate::history) tip: Tip,
    /// The last trusted position: where the walk started, or a signed head since.
    anchor: Tip,
    /// Whether each record must have a seal.
    needs_seals: bool,
}

impl ChainWalk {
    /// Starts after a trusted position.
    pub(in crate::history) fn after(tip: Tip) -> Self {
        Self { anchor: tip.clone(), tip, needs_seals: false }
    }

    /// Sets whether each record must have a seal. Records that a signed head covers need none.
    pub(in crate::history) fn needing_seals(self, needs_seals: bool) -> Self {
        Self { needs_seals, ..self }
    }

    /// Checks the next record.
    ///
    /// # Errors
    /// It is not the record that was written.
    pub(in crate::history) fn step(&mut self, row: &RecordRow) -> Result<(), Breach> {
        let found = row.check(&self.tip);
        self.tip = found.map_err(|what| Breach::between(what, &self.anchor, self.tip.seq + 1))?;
        Ok(())
    }

    fn check_seal(&self, row: &RecordRow, keys: &[String]) -> Result<(), Breach> {
        match self.needs_seals && !row.is_sealed(keys) {
            true => Err(Breach::new(format!("record {} was not written by this gateway", row.seq))),
            false => Ok(()),
        }
    }

    /// Checks that a genuine head was signed for the current position.
    ///
    /// # Errors
    /// The head was signed for a different record with this number.
    pub(in crate::history) fn pass_head(&mut self, head: &Head) -> Result<(), Breach> {
        if head.tip() != self.tip {
            let what = format!("record {} is not the one that was signed", head.seq);
            return Err(Breach::between(what, &self.anchor, head.seq));
        }
        self.anchor = self.tip.clone();
        Ok(())
    }

    /// Walks up to record `last`, but no further than `pages` pages. Returns true if there may be more.
    ///
    /// # Errors
    /// The outer error means that the database cannot be read, the inner one that a record is not the one written.
    pub(in crate::history) fn advance_to(
        &mut self,
        file: &Connection,
        last: u64,
        pages: usize,
        keys: &[String],
    ) -> rusqlite::Result<Result<bool, Breach>> {
        for _ in 0..pages {
            let mut rows = rows_from(file, self.tip.seq + 1)?;
            rows.retain(|row| row.seq <= last);
            let Some(end) = rows.last().map(|row| row.seq) else { return Ok(Ok(false)) };
            let heads = heads(file, self.tip.seq + 1, end, keys)?;
            for row in &rows {
                let mut here = heads.iter().filter(|head| head.seq == row.seq);
                let checked = self
                    .step(row)
                    .and_then(|()| self.check_seal(row, keys))
                    .and_then(|()| here.try_for_each(|head| self.pass_head(head)));
                if let Err(breach) = checked {
                    return Ok(Err(breach));
                }
            }
            if end == last {
                return Ok(Ok(false));
            }
        }
        Ok(Ok(true))
    }
}

/// Reads the stored heads from record `from` to `to` (inclusive) that one of `keys` has signed. Other rows of the table
/// prove nothing and are skipped.
pub(in crate::history) fn heads(
    file: &Connection,
    from: u64,
    to: u64,
    keys: &[String],
) -> rusqlite::Result<Vec<Head>> {
    let bound = |seq| i64::try_from(seq).unwrap_or(i64::MAX);
    let mut find = file.prepare_cached("SELECT body FROM heads WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq")?;
    let bodies = find.query_map([bound(from), bound(to)], |row| row.get::<_, String>(0))?;
    let mut found = Vec::new();
    for body in bodies {
        found.extend(genuine(&body?, keys).filter(|head| (from..=to).contains(&head.seq)));
    }
    Ok(found)
}

/// Reads the last such head at or before this record.
pub(in crate::history) fn head_before(
    file: &Connection,
    seq: u64,
    keys: &[String],
) -> rusqlite::Result<Option<Head>> {
    let found = "SELECT body FROM heads WHERE seq <= ?1 ORDER BY seq DESC";
    nearest(file, found, seq, keys, |head| head.seq <= seq)
}

/// Reads the first such head at or after this record.
pub(in crate::history) fn head_after(
    file: &Connection,
    seq: u64,
    keys: &[String],
) -> rusqlite::Result<Option<Head>> {
    nearest(file, "SELECT body FROM heads WHERE seq >= ?1 ORDER BY seq", seq, keys, |head| head.seq >= seq)
}

fn nearest(
    file: &Connection,
    sql: &str,
    seq: u64,
    keys: &[String],
    fits: impl Fn(&Head) -> bool,
) -> rusqlite::Result<Option<Head>> {
    let mut find = file.prepare_cached(sql)?;
    let mut bodies = find.query([i64::try_from(seq).unwrap_or(i64::MAX)])?;
    while let Some(row) = bodies.next()? {
        if let Some(head) = genuine(&row.get::<_, String>(0)?, keys).filter(&fits) {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

fn genuine(body: &str, keys: &[String]) -> Option<Head> {
    let head: Head = serde_json::from_str(body).ok()?;
    (keys.contains(&head.key) && head.is_genuine()).then_some(head)
}
