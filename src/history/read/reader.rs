//! Reads the history. Each reader is a connection of its own, read-only, so a long question never holds up
//! the writer (SQLite's write-ahead log).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OpenFlags, Row, params, params_from_iter};
use serde::Serialize;
use serde_json::value::RawValue;

use super::filter::{GroupBy, Interval, RecordFilter};
use super::time_range::TimeRange;
use crate::history::proof::integrity::Integrity;

/// How long a lock is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Points of a series at most.
const MAX_POINTS: usize = 10_000;
/// Lines of a usage report at most.
const MAX_USAGE_LINES: usize = 1000;
/// Bytes of captures on one page, beside the last.
const MAX_CAPTURE_BYTES: usize = 8 << 20;
/// Events of one session that are shown.
const MAX_EVENTS: usize = 200;
/// Requests of one session that are shown with its record; [`Reader::legs`] gives all that are kept.
const MAX_REQUESTS: usize = 20;

/// One view of the history.
pub struct Reader {
    pub(in crate::history) database: Connection,
    pub(in crate::history) integrity: Arc<Integrity>,
}

/// Some records, the last ended first.
#[derive(Debug, Serialize)]
pub struct RecordPage {
    /// The records as they were written, with their links of the chain.
    pub records: Vec<Box<RawValue>>,
    /// The number before which the next page begins; `None` on the last page.
    pub next_cursor: Option<String>,
}

/// One record with everything that is kept of its session.
#[derive(Debug, Serialize)]
pub struct RecordDetail {
    /// The record.
    pub record: Box<RawValue>,
    /// Its last requests, in the order in which they ended.
    pub requests: Vec<Box<RawValue>>,
    /// What happened to it.
    pub events: Vec<EventLine>,
    /// The orders against it.
    pub kills: Vec<KillLine>,
}

/// One event.
#[derive(Debug, Serialize)]
pub struct EventLine {
    /// When.
    pub at: Timestamp,
    /// `session_started`, `session_ended`, `session_killed` or `session_resumed`.
    pub r#type: String,
    /// Of which session.
    pub session_id: String,
    /// Of which incarnation.
    pub uid: String,
    /// What there is to say beyond that.
    pub detail: Box<RawValue>,
}

/// One kill order, and its lifting.
#[derive(Debug, Serialize)]
pub struct KillLine {
    /// The order.
    pub order: Box<RawValue>,
    /// When it was lifted.
    pub lifted_at: Option<Timestamp>,
    /// Who lifted it.
    pub lifted_by: Option<String>,
}

/// Sums over the sessions that ended in one step of time, or under one name.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Sums {
    /// Sessions that ended.
    pub sessions: u64,
    /// Those of them that were killed.
    pub killed: u64,
    /// Those of them that timed out.
    pub timed_out: u64,
    /// Their requests.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// Bytes from their clients.
    pub bytes_in: u64,
    /// Bytes to their clients.
    pub bytes_out: u64,
    /// Tokens read by the models.
    pub input_tokens: u64,
    /// Tokens written by the models.
    pub output_tokens: u64,
    /// Tokens read from the providers' caches.
    pub cache_read_tokens: u64,
    /// Tokens written to the providers' caches.
    pub cache_write_tokens: u64,
    /// Tokens spent on reasoning, counted in `output_tokens`.
    pub reasoning_tokens: u64,
    /// What they cost, in US dollars; 0 where no price is known.
    pub cost_usd: f64,
}

/// One step of a series.
#[derive(Debug, PartialEq, Serialize)]
pub struct Point {
    /// When it begins.
    pub at: Timestamp,
    /// The sums over what ended in it.
    #[serde(flatten)]
    pub sums: Sums,
}

/// One line of a usage report.
#[derive(Debug, PartialEq, Serialize)]
pub struct UsageLine {
    /// The principal, model, client, backend or session; `None` for what has none.
    pub name: Option<String>,
    /// Requests.
    pub requests: u64,
    /// Tokens read by the model.
    pub input_tokens: u64,
    /// Tokens written by the model.
    pub output_tokens: u64,
    /// Tokens read from the provider's cache.
    pub cache_read_tokens: u64,
    /// Tokens written to the provider's cache.
    pub cache_write_tokens: u64,
    /// Tokens spent on reasoning.
    pub reasoning_tokens: u64,
    /// In US dollars.
    pub cost_usd: f64,
}

impl Reader {
    pub(in crate::history) fn open(file: &Path, integrity: Arc<Integrity>) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(file, flags)?;
        database.busy_timeout(LOCK_TIMEOUT)?;
        Ok(Self { database, integrity })
    }

    /// Stops the question under way, from another thread; it fails then.
    pub fn interrupt(&self) -> rusqlite::InterruptHandle {
        self.database.get_interrupt_handle()
    }

    /// A page of records, the last written first; `before` is the cursor of the page before it.
    pub fn page(
        &self,
        filter: &RecordFilter,
        before: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<RecordPage> {
        let (condition, mut values) = filter.condition();
        let sql =
            format!("SELECT seq, body FROM records WHERE {condition} AND seq < ? ORDER BY seq DESC LIMIT ?");
        values.push(before.and_then(|seq| i64::try_from(seq).ok()).unwrap_or(i64::MAX).into());
        values.push(i64::try_from(limit + 1).unwrap_or(i64::MAX).into());
        let mut statement = self.database.prepare(&sql)?;
        let rows = statement.query_map(params_from_iter(values), |row| Ok((row.get(0)?, json(row, 1)?)))?;
        let (records, next_cursor) = one_page(rows.collect::<rusqlite::Result<_>>()?, limit);
        Ok(RecordPage { records, next_cursor })
    }

    /// The record of a uid, or the last one of a session id, with all that is kept beside it.
    pub fn detail(&self, target: &str) -> rusqlite::Result<Option<RecordDetail>> {
        // An id that a client chose to be another record's uid does not hide that record.
        let sql = "SELECT uid, body FROM records WHERE uid = ?1 OR session_id = ?1 \
             ORDER BY uid = ?1 DESC, seq DESC LIMIT 1";
        let found =
            self.database.query_row(sql, [target], |row| Ok((row.get::<_, String>(0)?, json(row, 1)?)));
        let (uid, record) = match found {
            Err(rusqlite::Error::QueryReturnedNoRows) => return Ok(None),
            found => found?,
        };
        let mut legs = self.database.prepare(
            "SELECT body FROM (SELECT number, body FROM requests WHERE uid = ?1 ORDER BY number DESC LIMIT ?2) \
             ORDER BY number",
        )?;
        let limit = i64::try_from(MAX_REQUESTS).unwrap_or(i64::MAX);
        let requests =
            legs.query_map(params![uid, limit], |row| json(row, 0))?.collect::<rusqlite::Result<_>>()?;
        let mut events = self.database.prepare(
            "SELECT at_ms, type, session_id, uid, body FROM events WHERE uid = ?1 ORDER BY number LIMIT ?2",
        )?;
        let limit = i64::try_from(MAX_EVENTS).unwrap_or(i64::MAX);
        let events = events.query_map(params![uid, limit], event)?.collect::<rusqlite::Result<_>>()?;
        let sql = "SELECT body, lifted_ms, lifted_by FROM kills WHERE uid = ?1 ORDER BY at_ms";
        let mut kills = self.database.prepare(sql)?;
        let kills = kills.query_map([uid], |row| {
            let lifted: Option<i64> = row.get(1)?;
            Ok(KillLine { order: json(row, 0)?, lifted_at: lifted.map(time), lifted_by: row.get(2)? })
        })?;
        let kills = kills.collect::<rusqlite::Result<_>>()?;
        Ok(Some(RecordDetail { record, requests, events, kills }))
    }

    /// The bodies that are kept of a uid, or of a session id, the last first. A page ends where it becomes large.
    pub fn captures(
        &self,
        target: &str,
        before: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<(Vec<Box<RawValue>>, Option<String>)> {
        let sql = "SELECT number, body FROM captures WHERE (uid = ?1 OR session_id = ?1) AND number < ?2 \
             ORDER BY number DESC LIMIT ?3";
        let before = before.and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MAX);
        let mut statement = self.database.prepare(sql)?;
        let values = params![target, before, i64::try_from(limit + 1).unwrap_or(i64::MAX)];
        let mut rows = statement.query(values)?;
        let (mut found, mut size, mut limit) = (Vec::new(), 0, limit);
        while let Some(row) = rows.next()? {
            let capture = json(row, 1)?;
            size += capture.get().len();
            found.push((row.get(0)?, capture));
            if size > MAX_CAPTURE_BYTES {
                limit = limit.min(found.len());
            }
            if found.len() > limit {
                break;
            }
        }
        Ok(one_page(found, limit))
    }

    /// What happened in a range, the last first.
    pub fn events(
        &self,
        range: TimeRange,
        kind: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<(Vec<EventLine>, Option<String>)> {
        let (from, to) = range.bounds();
        let sql = "SELECT at_ms, type, session_id, uid, body, number FROM events WHERE at_ms >= ?1 \
             AND at_ms < ?2 AND (?3 IS NULL OR type = ?3) AND number < ?4 ORDER BY number DESC LIMIT ?5";
        let before = before.and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MAX);
        let mut statement = self.database.prepare(sql)?;
        let values = params![from, to, kind, before, i64::try_from(limit + 1).unwrap_or(i64::MAX)];
        let rows = statement.query_map(values, |row| Ok((row.get(5)?, event(row)?)))?;
        Ok(one_page(rows.collect::<rusqlite::Result<_>>()?, limit))
    }

    /// Sums for each step of time, in order; steps in which nothing ended are left out.
    pub fn series(&self, filter: &RecordFilter, step: Interval) -> rusqlite::Result<Vec<Point>> {
        let (condition, values) = filter.condition();
        let length = step.millis();
        let [i, o, r, w, t] =
            ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"]
                .map(|column| format!("total({column})"));
        let sql = format!(
            "WITH tokens AS (SELECT seq AS of, {i} AS i, {o} AS o, {r} AS r, {w} AS w, {t} AS t, \
             total(cost_usd) AS c FROM usage GROUP BY seq) \
             SELECT ended_ms / {length} * {length}, count(*), sum(state = 'killed'), sum(state = 'timed_out'), \
             {}, {}, {}, {}, {}, {}, {}, {}, {}, total(c) \
             FROM records LEFT JOIN tokens ON of = seq WHERE {condition} GROUP BY 1 ORDER BY 1 LIMIT {MAX_POINTS}",
            sum("requests"),
            sum("errors"),
            sum("bytes_in"),
            sum("bytes_out"),
            sum("i"),
            sum("o"),
            sum("r"),
            sum("w"),
            sum("t"),
        );
        let mut statement = self.database.prepare(&sql)?;
        let points = statement.query_map(params_from_iter(values), |row| {
            Ok(Point { at: time(row.get(0)?), sums: sums(row)? })
        })?;
        points.collect()
    }

    /// Tokens and cost in a range, by name, the dearest first.
    pub fn usage(&self, filter: &RecordFilter, by: GroupBy) -> rusqlite::Result<Vec<UsageLine>> {
        let (condition, values): (_, Vec<Sql>) = filter.condition();
        let condition = condition.replace("seq IN", "records.seq IN");
        let sql = format!(
            "SELECT {}, {}, {} AS input, {} AS output, {}, {}, {}, total(cost_usd) AS cost FROM usage \
             JOIN records ON records.seq = usage.seq WHERE {condition} GROUP BY 1 \
             ORDER BY cost DESC, 0.0 + input + output DESC, 1 LIMIT {MAX_USAGE_LINES}",
            by.column(),
            sum("usage.requests"),
            sum("input_tokens"),
            sum("output_tokens"),
            sum("cache_read_tokens"),
            sum("cache_write_tokens"),
            sum("reasoning_tokens"),
        );
        let mut statement = self.database.prepare(&sql)?;
        let lines = statement.query_map(params_from_iter(values), |row| {
            Ok(UsageLine {
                name: row.get(0)?,
                requests: number(row, 1)?,
                input_tokens: number(row, 2)?,
                output_tokens: number(row, 3)?,
                cache_read_tokens: number(row, 4)?,
                cache_write_tokens: number(row, 5)?,
                reasoning_tokens: number(row, 6)?,
                cost_usd: row.get(7)?,
            })
        })?;
        lines.collect()
    }
}

/// The sum of a column, which never fails: where SQLite's `sum` of integers overflows, this is the largest integer. It
/// is exact up to 2^53.
fn sum(column: &str) -> String {
    format!("CAST(total({column}) AS INTEGER)")
}

/// The first `limit` of what was found, and the number at which the next page goes on, if there is more.
pub(in crate::history) fn one_page<T>(mut found: Vec<(i64, T)>, limit: usize) -> (Vec<T>, Option<String>) {
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(number, _)| number.to_string());
    (found.into_iter().map(|(_, one)| one).collect(), next)
}

fn event(row: &Row<'_>) -> rusqlite::Result<EventLine> {
    Ok(EventLine {
        at: time(row.get(0)?),
        r#type: row.get(1)?,
        session_id: row.get(2)?,
        uid: row.get(3)?,
        detail: json(row, 4)?,
    })
}

/// The columns behind the first.
fn sums(row: &Row<'_>) -> rusqlite::Result<Sums> {
    Ok(Sums {
        sessions: number(row, 1)?,
        killed: number(row, 2)?,
        timed_out: number(row, 3)?,
        requests: number(row, 4)?,
        errors: number(row, 5)?,
        bytes_in: number(row, 6)?,
        bytes_out: number(row, 7)?,
        input_tokens: number(row, 8)?,
        output_tokens: number(row, 9)?,
        cache_read_tokens: number(row, 10)?,
        cache_write_tokens: number(row, 11)?,
        reasoning_tokens: number(row, 12)?,
        cost_usd: row.get(13)?,
    })
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// JSON as it was written.
pub(in crate::history) fn json(row: &Row<'_>, column: usize) -> rusqlite::Result<Box<RawValue>> {
    let text: String = row.get(column)?;
    RawValue::from_string(text).map_err(|fault| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(fault))
    })
}
