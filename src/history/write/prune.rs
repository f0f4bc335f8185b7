//! What is forgotten: what is past its time, and what a file at its largest size has no room for.
//!
//! From the oldest on, so that the chain that is left has no gap; in small steps, so that the writer is never away
//! from its queue for long.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{ErrorCode, Transaction, TransactionBehavior, params};
use tracing::{info, warn};

use super::writer::Writer;
use crate::history::proof::chain_walk::ChainWalk;
use crate::history::proof::continuity::Continuity;
use crate::history::proof::integrity::Integrity;

/// Pages that one transaction needs at most, roughly.
const BATCH_PAGES: i64 = 2048;
/// Records forgotten in one transaction.
const MAX_RECORDS: i64 = 2000;
/// Legs forgotten in one transaction.
const MAX_LEGS: i64 = 20_000;
/// Legs for each record, on an average, below which a full file loses records: what `history.legs: last` keeps.
const LEGS_PER_RECORD: i64 = 20;

/// Pages of records that one audit looks at: some 2,000 records a minute.
const AUDIT_PAGES: usize = 10;

/// How much was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::history) struct Pruned {
    records: usize,
    legs: usize,
    bodies: usize,
}

impl Pruned {
    /// True when a step has done as much as it may, so there may be more to do.
    fn is_full_step(self) -> bool {
        self.records >= MAX_RECORDS as usize || self.legs >= MAX_LEGS as usize
    }
}

impl Writer {
    /// One step of forgetting what is past `history.retention`; true when there may be more to forget.
    pub(in crate::history) fn prune(&mut self) -> bool {
        let gone = self.prune_expired();
        log_pruned("forgot what is past history.retention", gone).is_some_and(Pruned::is_full_step)
    }

    /// At its largest size the file loses its oldest bodies; when there are none, the batch loses its own; then the
    /// oldest legs go, as long as there are more than `history.legs: last` would keep, then records. A disk that is full is another matter: there nothing is taken away.
    pub(in crate::history) fn make_room(&mut self, fault: &rusqlite::Error) -> bool {
        if fault.sqlite_error_code() != Some(ErrorCode::DiskFull) {
            return false;
        }
        let count = |name| self.database.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        // The pages of the batch that did not fit have been given back already.
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

    /// A tenth of the bodies, so that this is seldom.
    fn prune_bodies(&mut self) -> rusqlite::Result<Pruned> {
        let count: i64 = self.database.query_row("SELECT count(*) FROM captures", [], |row| row.get(0))?;
        let oldest =
            "DELETE FROM captures WHERE number IN (SELECT number FROM captures ORDER BY number LIMIT ?1)";
        let bodies = self.database.execute(oldest, [(count / 10).clamp(1, MAX_RECORDS)])?;
        Ok(Pruned { bodies, ..Pruned::default() })
    }

    fn prune_oldest(&mut self) -> rusqlite::Result<Pruned> {
        // Numbers are given one after another: this is at least how many there are, and costs nothing to ask.
        let span = |sql| self.database.query_row(sql, [], |row| row.get::<_, i64>(0));
        let legs = span("SELECT coalesce(max(number) - min(number) + 1, 0) FROM requests")?;
        let records = span("SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM records")?;
        // A tenth of them, so that this is seldom; of few all, so that it always ends.
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
        // A record may have any number of legs: they go first, so many at a time.
        let owned = "DELETE FROM requests WHERE number IN (SELECT number FROM requests WHERE uid IN \
             (SELECT uid FROM records WHERE seq <= ?1) LIMIT ?2)";
        let legs = self.database.execute(owned, params![bound, MAX_LEGS])?;
        let mut gone = Pruned { legs, ..Pruned::default() };
        if !gone.is_full_step() {
            let more = self.prune_before(bound + 1, horizon)?;
            gone = Pruned { legs: gone.legs + more.legs + self.prune_orphaned_legs(horizon)?, ..more };
        }
        Ok(gone)
    }

    /// Forgets legs that ended before that time and whose session has no record here: the process was killed before
    /// it could be written, another instance has it, or the session is still active.
    fn prune_orphaned_legs(&mut self, horizon: i64) -> rusqlite::Result<usize> {
        // Legs are written as they end: the search ends at the first that is young.
        let strays = "DELETE FROM requests WHERE number IN (SELECT number FROM requests WHERE number < \
             coalesce((SELECT number FROM requests WHERE at_ms >= ?1 ORDER BY number LIMIT 1), 9223372036854775807) \
             AND NOT EXISTS (SELECT 1 FROM records WHERE records.uid = requests.uid) LIMIT ?2)";
        self.database.execute(strays, params![horizon, MAX_LEGS])
    }

    /// Looks at some more of the older records, again and again over the whole file: whether they are as they were
    /// written.
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

    /// Signs that the records before this number go; false when what goes is not what was written, which nobody may
    /// sign for.
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

    /// Forgets the records before this number with their legs and bodies, and the events before that time, and signs where
    /// the rest begins. Of a history that was changed no record goes for its age: it shows what was done.
    fn prune_before(&mut self, seq: i64, horizon: i64) -> rusqlite::Result<Pruned> {
        let integrity = Arc::clone(&self.integrity);
        let rows = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let is_for_room = horizon == i64::MIN;
        let seq = if Self::sign_before(&integrity, &rows, seq)? || is_for_room { seq } else { 0 };
        let ended: Option<i64> =
            rows.query_row("SELECT max(ended_ms) FROM records WHERE seq < ?1", [seq], |row| row.get(0))?;
        let owned = "DELETE FROM requests WHERE uid IN (SELECT uid FROM records WHERE seq < ?1)";
        let legs = rows.execute(owned, [seq])?;
        // No body is kept for longer, also when its session goes on or its record was lost.
        let bodies = "DELETE FROM captures \
             WHERE at_ms < ?2 OR uid IN (SELECT uid FROM records WHERE seq < ?1)";
        let bodies = rows.execute(bodies, [seq, horizon])?;
        let records = rows.execute("DELETE FROM records WHERE seq < ?1", [seq])?;
        rows.execute(
            "DELETE FROM heads WHERE seq < (SELECT coalesce(min(seq), 9223372036854775807) - 1 FROM records) \
             AND seq < (SELECT max(seq) FROM heads)",
            [],
        )?;
        let before = horizon.max(ended.unwrap_or(i64::MIN));
        rows.execute("DELETE FROM events WHERE at_ms < ?1", [before])?;
        // What still stands is needed at the next start, however old it is.
        let now = Timestamp::now().as_millisecond();
        rows.execute("DELETE FROM kills WHERE at_ms < ?1 AND ends_ms <= ?2", params![before, now])?;
        rows.commit()?;
        Ok(Pruned { records, legs, bodies })
    }
}

/// Tells it; `None` when nothing was forgotten.
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
