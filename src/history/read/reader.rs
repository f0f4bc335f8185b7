//! Reads the history. Each reader has a read-only connection of its own; thanks to SQLite's write-ahead log, a long query
//! never blocks the writer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params, params_from_iter};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use super::filter::{RecordFilter, of_tenants};
use super::record_schema::{ChainedRecord, StoredRequest};
use super::time_range::TimeRange;
use crate::history::proof::integrity::Integrity;
use crate::session::KillOrder;

/// How long to wait for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// A page of captures ends after this many bytes.
const MAX_CAPTURE_BYTES: usize = 8 << 20;
/// The largest number of events returned with a record.
const MAX_EVENTS: usize = 200;
/// The largest number of requests returned with a record; [`Reader::legs`] returns all.
const MAX_REQUESTS: usize = 20;

/// A connection to the history.
pub struct Reader {
    pub(in crate::history) database: Connection,
    pub(in crate::history) integrity: Arc<Integrity>,
}

/// A page of records, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RecordPage {
    /// The records as they were written, with their links in the chain.
    #[schemars(with = "Vec<ChainedRecord>")]
    pub records: Vec<Box<RawValue>>,
    /// Pass this as `before` to get the next page; `None` on the last page.
    pub next_cursor: Option<String>,
}

/// A record with everything else that the history has about its session.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RecordDetail {
    /// The record.
    #[schemars(with = "ChainedRecord")]
    pub record: Box<RawValue>,
    /// Its last requests, in the order in which they ended.
    #[schemars(with = "Vec<StoredRequest<'static>>")]
    pub requests: Vec<Box<RawValue>>,
    /// Its events, oldest first.
    pub events: Vec<EventLine>,
    /// The kill orders against it.
    pub kills: Vec<KillLine>,
}

/// An event of a session.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EventLine {
    /// When it happened.
    pub at: Timestamp,
    /// `session_started`, `session_ended`, `session_killed`, `session_resumed`, `approval_requested` or `approval_decided`.
    pub r#type: String,
    /// The id of the session.
    pub session_id: String,
    /// The uid of the incarnation.
    pub uid: String,
    /// Details, depending on the type.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub detail: Box<RawValue>,
}

/// A kill order, and when it was lifted.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KillLine {
    /// The order.
    #[schemars(with = "KillOrder")]
    pub order: Box<RawValue>,
    /// When it was lifted; `None` if it was not.
    pub lifted_at: Option<Timestamp>,
    /// Who lifted it; `None` if it was not lifted, or on another instance.
    pub lifted_by: Option<String>,
}

impl Reader {
    pub(in crate::history) fn open(file: &Path, integrity: Arc<Integrity>) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(file, flags)?;
        database.busy_timeout(LOCK_TIMEOUT)?;
        Ok(Self { database, integrity })
    }

    /// Returns a handle that interrupts the running query from another thread. The query then fails.
    pub fn interrupt(&self) -> rusqlite::InterruptHandle {
        self.database.get_interrupt_handle()
    }

    /// Reads a page of records, newest first. `before` is the cursor of the previous page.
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

    /// Reads the uid and the body of the record of a uid, or of the newest record of a session id, among those of callers
    /// of these tenants, or of all if the list is empty. `None` if there is none.
    pub(super) fn record_of(
        &self,
        target: &str,
        tenants: &[String],
    ) -> rusqlite::Result<Option<(String, Box<RawValue>)>> {
        let condition = of_tenants(tenants).map(|condition| format!(" AND {condition}")).unwrap_or_default();
        // The uid takes precedence: a client may choose another session's uid as its session id.
        let rows = format!("SELECT uid, body FROM records WHERE (uid = ?1 OR session_id = ?1){condition}");
        let sql = format!("{rows} ORDER BY uid = ?1 DESC, seq DESC LIMIT 1");
        let values = std::iter::once(target).chain(tenants.iter().map(String::as_str));
        let row = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, json(row, 1)?));
        self.database.query_row(&sql, params_from_iter(values), row).optional()
    }

    /// Reads the record of a uid, or the newest record of a session id, with everything about it, see
    /// [`Reader::record_of`]. `None` if there is none.
    pub fn detail(&self, target: &str, tenants: &[String]) -> rusqlite::Result<Option<RecordDetail>> {
        let Some((uid, record)) = self.record_of(target, tenants)? else { return Ok(None) };
        let mut legs = self.database.prepare(include_str!("../sql/last_legs.sql"))?;
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
            let lifted_at = row.get::<_, Option<i64>>(1)?.map(time);
            Ok(KillLine { order: json(row, 0)?, lifted_at, lifted_by: row.get(2)? })
        })?;
        let kills = kills.collect::<rusqlite::Result<_>>()?;
        Ok(Some(RecordDetail { record, requests, events, kills }))
    }

    /// Reads a page of the captures of a uid or session id, newest first. A page may end early, see
    /// [`MAX_CAPTURE_BYTES`].
    pub fn captures(
        &self,
        target: &str,
        before: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<(Vec<Box<RawValue>>, Option<String>)> {
        let sql = include_str!("../sql/captures.sql");
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

    /// Reads a page of events, newest first.
    pub fn events(
        &self,
        range: TimeRange,
        kind: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<(Vec<EventLine>, Option<String>)> {
        let (from, to) = range.bounds();
        let sql = include_str!("../sql/events.sql");
        let before = before.and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MAX);
        let mut statement = self.database.prepare(sql)?;
        let values = params![from, to, kind, before, i64::try_from(limit + 1).unwrap_or(i64::MAX)];
        let rows = statement.query_map(values, |row| Ok((row.get(5)?, event(row)?)))?;
        Ok(one_page(rows.collect::<rusqlite::Result<_>>()?, limit))
    }
}

/// Returns the first `limit` rows, and the cursor of the next page if there are more.
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

pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Reads a JSON column without parsing it into values.
pub(in crate::history) fn json(row: &Row<'_>, column: usize) -> rusqlite::Result<Box<RawValue>> {
    let text: String = row.get(column)?;
    RawValue::from_string(text).map_err(|fault| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(fault))
    })
}
