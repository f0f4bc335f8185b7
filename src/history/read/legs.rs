//! Reads legs: those of one session page by page, or all of a time range as an export.

use std::io::{self, Write};

use rusqlite::params;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use super::export::{Column, ExportError, Format, csv, heading};
use super::reader::{Reader, json, one_page};
use super::record_schema::StoredRequest;
use super::time_range::TimeRange;
use crate::history::proof::record_check::PAGE_BYTES;
use crate::ids::Uid;

/// The largest number of legs read at a time.
const PAGE: i64 = 1000;

/// The CSV columns of legs.
const COLUMNS: [Column; 34] = [
    ("uid", "/uid"),
    ("session_id", "/session_id"),
    ("request_id", "/request_id"),
    ("agent", "/agent"),
    ("kind", "/kind"),
    ("started_at", "/started_at"),
    ("duration_ms", "/duration_ms"),
    ("queue_ms", "/queue_ms"),
    ("ttfb_ms", "/ttfb_ms"),
    ("method", "/method"),
    ("path", "/path"),
    ("operation", "/operation"),
    ("backend", "/backend"),
    ("failover_from", "/failover_from"),
    ("attempts", "/attempts"),
    ("model", "/model"),
    ("status", "/status"),
    ("error", "/error"),
    ("outcome", "/outcome"),
    ("stop_reason", "/stop_reason"),
    ("stream", "/stream"),
    ("tools_offered", "/tools_offered"),
    ("bytes_in", "/bytes_in"),
    ("bytes_out", "/bytes_out"),
    ("input_tokens", "/usage/input_tokens"),
    ("output_tokens", "/usage/output_tokens"),
    ("cache_read_tokens", "/usage/cache_read_tokens"),
    ("cache_write_tokens", "/usage/cache_write_tokens"),
    ("reasoning_tokens", "/usage/reasoning_tokens"),
    ("web_search_requests", "/usage/web_search_requests"),
    ("unpriced_answers", "/usage/unpriced_answers"),
    ("estimated_answers", "/usage/estimated_answers"),
    ("cost_usd", "/usage/cost_usd"),
    ("close_code", "/socket/close_code"),
];

/// A page of legs of one session, in the order in which they ended.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LegPage {
    /// The session's incarnation.
    pub uid: String,
    /// The legs.
    #[schemars(with = "Vec<StoredRequest<'static>>")]
    pub requests: Vec<Box<RawValue>>,
    /// Pass this as `after` to get the next page; `None` on the last page.
    pub next_cursor: Option<String>,
}

impl Reader {
    /// Resolves a uid or session id to the uid of an incarnation. If a session id has several, returns the last one that
    /// ended, or, if none has ended, the last one that started. `None` if the history does not know it. With `tenants`
    /// only sessions that have ended are found, those of callers of one of them.
    pub fn incarnation(&self, target: &str, tenants: &[String]) -> rusqlite::Result<Option<String>> {
        if !tenants.is_empty() {
            return Ok(self.record_of(target, tenants)?.map(|(uid, _)| uid));
        }
        let known = match Uid::parse(target) {
            Some(_) => {
                include_str!("../sql/uid_of_uid.sql")
            }
            None => "SELECT uid FROM records WHERE session_id = ?1 ORDER BY seq DESC LIMIT 1",
        };
        // Search from the newest event: after a crash it is among the last ones.
        let begun = include_str!("../sql/uid_of_started_session.sql");
        for sql in [known, begun] {
            match self.database.query_row(sql, [target], |row| row.get(0)) {
                Err(rusqlite::Error::QueryReturnedNoRows) => {}
                found => return found.map(Some),
            }
        }
        Ok(None)
    }

    /// Reads a page of the legs of an incarnation, oldest first. `after` is the cursor of the previous page.
    pub fn legs(&self, uid: &str, after: Option<u64>, limit: usize) -> rusqlite::Result<LegPage> {
        let sql = "SELECT number, body FROM requests WHERE uid = ?1 AND number > ?2 ORDER BY number LIMIT ?3";
        let after = after.and_then(|number| i64::try_from(number).ok()).unwrap_or(0);
        let values = params![uid, after, i64::try_from(limit + 1).unwrap_or(i64::MAX)];
        let mut statement = self.database.prepare(sql)?;
        let rows = statement.query_map(values, |row| Ok((row.get(0)?, json(row, 1)?)))?;
        let (requests, next_cursor) = one_page(rows.collect::<rusqlite::Result<_>>()?, limit);
        Ok(LegPage { uid: uid.to_owned(), requests, next_cursor })
    }

    /// Starts an export of every leg that ended in `range`, in the order in which they ended. Each has the uid of its
    /// session and, once the session has a record, its id.
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn export_legs(self, format: Format, range: TimeRange) -> rusqlite::Result<LegExport> {
        let sql = "SELECT coalesce(max(number), 0) FROM requests";
        let last = self.database.query_row(sql, [], |row| row.get(0))?;
        Ok(LegExport { reader: self, format, range, after: 0, last, needs_heading: format == Format::Csv })
    }
}

/// An export of legs in progress, read page by page like [`super::export::RecordExport`].
pub struct LegExport {
    reader: Reader,
    format: Format,
    range: TimeRange,
    /// The number of the last leg written.
    after: i64,
    /// The number of the last leg of the export.
    last: i64,
    /// True until the header line of a CSV file is written.
    needs_heading: bool,
}

impl LegExport {
    /// Appends the next page to `page`. Returns false if it was the last one.
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn next_page(&mut self, page: &mut Vec<u8>) -> Result<bool, ExportError> {
        if std::mem::take(&mut self.needs_heading) {
            heading(&COLUMNS, page)?;
        }
        let (from, to) = self.range.bounds();
        let sql = include_str!("../sql/export_legs.sql");
        let mut select = self.reader.database.prepare_cached(sql)?;
        let mut rows = select.query(params![self.after, self.last, from, to, PAGE])?;
        let (begin, before) = (page.len(), self.after);
        while page.len() - begin < PAGE_BYTES
            && let Some(row) = rows.next()?
        {
            let (uid, id): (String, Option<String>) = (row.get(1)?, row.get(2)?);
            let leg = with_session(&uid, id.as_deref(), &row.get::<_, String>(3)?)?;
            match self.format {
                Format::Ndjson => writeln!(page, "{leg}")?,
                Format::Csv => csv(&leg, &COLUMNS, page)?,
            }
            self.after = row.get(0)?;
        }
        Ok(self.after > before && self.after < self.last)
    }
}

/// Prepends the uid and id of its session to a leg's JSON.
fn with_session(uid: &str, id: Option<&str>, body: &str) -> Result<String, ExportError> {
    let id = serde_json::to_string(&id).map_err(io::Error::other)?;
    let rest = body.strip_prefix('{').ok_or_else(|| io::Error::other("the leg is not a JSON object"))?;
    Ok(format!("{{\"uid\":\"{uid}\",\"session_id\":{id},{rest}"))
}
