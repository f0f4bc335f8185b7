//! Deletes what is older than `history.retention`, and the oldest entries when the file reaches `history.max_size`.
//!
//! Records are deleted oldest first, so that the remaining chain has no gap, and in small steps, so that the writer
//! returns to its queue quickly.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{ErrorCode, Transaction, TransactionBehavior, params};
use tracing::{info, warn};

use super::writer::Writer;
use crate::history::proof::chain_walk::ChainWalk;
use crate::history::proof::continuity::Continuity;
use crate::history::proof::integrity::Integrity;

/// About the largest number of database pages that one transaction needs.
const BATCH_PAGES: i64 = 2048;
/// The largest number of records deleted in one transaction.
const MAX_RECORDS: i64 = 2000;
/// The largest number of legs deleted in one transaction.
const MAX_LEGS: i64 = 20_000;
/// A full file loses legs while it has more than this many per record on average, then records. It is the number that
/// `history.legs: last` keeps.
const LEGS_PER_RECORD: i64 = 20;

/// Pages of records that are audited at a time: about 2,000 records a minute.
const AUDIT_PAGES: usize = 10;

/// How much was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::history) struct Pruned {
    records: usize,
    legs: usize,
    bodies: usize,
}

impl Pruned {
    /// Returns true if the step reached its limit, so there may be more to delete.
    fn is_full_step(self) -> bool {
        self.records >= MAX_RECORDS as usize || self.legs >= MAX_LEGS as usize
    }
}

impl Writer {
    /// Deletes one step of what is past `history.retention`. Returns true if there may be more.
    pub(in crate::history) fn prune(&mut self) -> bool {
        let gone = self.prune_expired();
        log_pruned("forgot what is past history.retention", gone).is_some_and(Pruned::is_full_step)
    }

    /// Makes room in a file that has reached `history.max_size`. Returns false if nothing could be freed.
    ///
    /// The oldest captures go first, then the captures of the current batch, then the oldest legs (see
    /// [`LEGS_PER_RECORD`]), then the oldest records. If the disk itself is full, nothing is deleted.
    pub(in crate::history) fn make_room(&mut self, fault: &rusqlite::Error) -> bool {
        if fault.sqlite_error_code() != Some(ErrorCode::DiskFull) {
            return false;
        }
        let count = |name| self.database.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        // The pages of the failed batch were already rolled back.
        let near = |is: i64, max: i64| max - is < BATCH_PAGES;
        let at_limit =
            matches!((count("page_count"), count("max_page_count")), (Ok(is), Ok(max)) if near(is, max));
        if !at_limit {
            return false;
        }
        let what = "forgot the oldest to make room (history.max_size)";
        let bodies = self.prune_bodies();
        log_pruned(what, bodies).is_some() || self.drop_captures() > 0 || {
            let gone = self.prune_oldest();
            log_pruned(what, gone).is_some()
        }
    }

    /// Deletes a tenth of the captures, so that this happens rarely.
    fn prune_bodies(&mut self) -> rusqlite::Result<Pruned> {
        let count: i64 = self.database.query_row("SELECT count(*) FROM captures", [], |row| row.get(0))?;
        let oldest =
            "DELETE FROM captures WHERE number IN (SELECT number FROM captures ORDER BY number LIMIT ?1)";
        let bodies = self.database.execute(oldest, [(count / 10).clamp(1, MAX_RECORDS)])?;
        Ok(Pruned { bodies, ..Pruned::default() })
    }

    fn prune_oldest(&mut self) -> rusqlite::Result<Pruned> {
        // Numbers are consecutive, so the span is an upper bound of the count, and cheaper.
        let span = |sql| self.database.query_row(sql, [], |row| row.get::<_, i64>(0));
        let legs = span("SELECT coalesce(max(number) - min(number) + 1, 0) FROM requests")?;
        let records = span("SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM records")?;
        // A tenth of them, so that this happens rarely, but at least one, so that it terminates.
        if legs > records.saturating_mul(LEGS_PER_RECORD) {
            let oldest =
                "DELETE FROM requests WHERE number IN (SELECT number FROM requests ORDER BY number LIMIT ?1)";
            let legs = self.database.execute(oldest, [(legs / 10).clamp(1, MAX_LEGS)])?;
            return Ok(Pruned { legs, ..Pruned::default() });
        }
        let first = "SELECT seq FROM records ORDER BY seq LIMIT 1 OFFSET ?1";
        let found = self.database.query_row(first, [(records / 10).clamp(1, MAX_RECORDS)], |row| row.get(0));
        match found {
            Err(rusqlite::Error::QueryReturnedNoRows) => self.prune_before(i64::MAX, i64::MIN),
            found => self.prune_before(found?, i64::MIN),
        }
    }

    fn prune_expired(&mut self) -> rusqlite::Result<Pruned> {
        let retention = i64::try_from(self.settings.load().retention.as_millis()).unwrap_or(i64::MAX);
        let horizon = Timestamp::now().as_millisecond().saturating_sub(retention);
        let young = "SELECT coalesce(min(seq), 9223372036854775807) FROM records WHERE ended_ms >= ?1";
        let first: i64 = self.database.query_row(young, [horizon], |row| row.get(0))?;
        let bound = "SELECT coalesce(max(seq), 0) FROM \
             (SELECT seq FROM records WHERE seq < ?1 ORDER BY seq LIMIT ?2)";
        let bound: i64 = self.database.query_row(bound, params![first, MAX_RECORDS], |row| row.get(0))?;
        // A record may have any number of legs: delete them first, a limited number at a time.
        let owned = include_str!("../sql/delete_legs_of_records.sql");
        let legs = self.database.execute(owned, params![bound, MAX_LEGS])?;
        let mut gone = Pruned { legs, ..Pruned::default() };
        if !gone.is_full_step() {
            let more = self.prune_before(bound + 1, horizon)?;
            gone = Pruned { legs: gone.legs + more.legs + self.prune_orphaned_legs(horizon)?, ..more };
        }
        Ok(gone)
    }

    /// Deletes legs that ended before `horizon` and whose session has no record here: the process was killed before it
    /// could write the record, another instance has it, or the session is still active.
    fn prune_orphaned_legs(&mut self, horizon: i64) -> rusqlite::Result<usize> {
        // Legs are numbered in the order in which they end: stop at the first one within the horizon.
        let strays = include_str!("../sql/delete_orphaned_legs.sql");
        self.database.execute(strays, params![horizon, MAX_LEGS])
    }

    /// Checks the next pages of older records for changes. Starts over at the end of the file.
    pub(in crate::history) fn audit_older_records(&mut self) {
        let base = self.integrity.base();
        if self.audit.tip.seq < base.seq {
            self.audit = ChainWalk::after(base.clone());
        }
        match self.audit.advance_to(&self.database, u64::MAX, AUDIT_PAGES, &self.integrity.trusted_keys()) {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => self.audit = ChainWalk::after(base),
            Ok(Err(breach)) => {
                self.integrity.report_breach(breach);
                self.audit = ChainWalk::after(base);
            }
            Err(fault) => warn!(%fault, "a look at older records failed"),
        }
    }

    /// Signs that the records before `seq` are deleted. Returns false if they are not the records that were written: the
    /// gateway does not sign for those.
    fn sign_before(integrity: &Integrity, rows: &Transaction<'_>, seq: i64) -> rusqlite::Result<bool> {
        let Some(Continuity { base, .. }) = integrity.check(rows, true)? else { return Ok(false) };
        let last = "SELECT coalesce(max(seq), 0) FROM records WHERE seq < ?1";
        let last = rows.query_row(last, [seq], |row| row.get::<_, i64>(0))?;
        let last = u64::try_from(last).unwrap_or(0);
        if last <= base.seq {
            return Ok(true);
        }
        let keys = integrity.trusted_keys();
        let mut walk = ChainWalk::after(base);
        if let Err(breach) = walk.advance_to(rows, last, usize::MAX, &keys)? {
            integrity.report_breach(breach);
            return Ok(false);
        }
        let odd = |fault: std::io::Error| rusqlite::Error::ToSqlConversionFailure(Box::new(fault));
        integrity.set_pruned(&walk.tip).map_err(odd)?;
        Ok(true)
    }

    /// Deletes the records before `seq` with their legs and captures, and the events before `horizon`, and signs where the
    /// rest begins. If the history was tampered with, no record is deleted for its age: it is evidence.
    fn prune_before(&mut self, seq: i64, horizon: i64) -> rusqlite::Result<Pruned> {
        let integrity = Arc::clone(&self.integrity);
        let rows = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let is_for_room = horizon == i64::MIN;
        let seq = if Self::sign_before(&integrity, &rows, seq)? || is_for_room { seq } else { 0 };
        let ended: Option<i64> =
            rows.query_row("SELECT max(ended_ms) FROM records WHERE seq < ?1", [seq], |row| row.get(0))?;
        let owned = "DELETE FROM requests WHERE uid IN (SELECT uid FROM records WHERE seq < ?1)";
        let legs = rows.execute(owned, [seq])?;
        // Captures expire even if their session is still active or its record was lost.
        let bodies = "DELETE FROM captures \
             WHERE at_ms < ?2 OR uid IN (SELECT uid FROM records WHERE seq < ?1)";
        let bodies = rows.execute(bodies, [seq, horizon])?;
        let records = rows.execute("DELETE FROM records WHERE seq < ?1", [seq])?;
        rows.execute(include_str!("../sql/delete_unused_heads.sql"), [])?;
        let before = horizon.max(ended.unwrap_or(i64::MIN));
        rows.execute("DELETE FROM events WHERE at_ms < ?1", [before])?;
        // Orders in force are needed at the next start, however old they are.
        let now = Timestamp::now().as_millisecond();
        rows.execute("DELETE FROM kills WHERE at_ms < ?1 AND ends_ms <= ?2", params![before, now])?;
        rows.commit()?;
        Ok(Pruned { records, legs, bodies })
    }
}

/// Logs the result of a step; returns `None` if nothing was deleted or the step failed.
fn log_pruned(what: &str, gone: rusqlite::Result<Pruned>) -> Option<Pruned> {
    match gone {
        Ok(gone) if gone == Pruned::default() => None,
        Ok(gone) => {
            info!(records = gone.records, legs = gone.legs, bodies = gone.bodies, "{what}");
            Some(gone)
        }
        Err(fault) => {
            warn!(%fault, "{what} failed");
            None
        }
    }
}
