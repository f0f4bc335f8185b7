//! Legs as they were kept: those of one session page by page, or all of a time as a file.

use std::io::{self, Write};

use rusqlite::params;
use serde::Serialize;
use serde_json::value::RawValue;

use super::export::{Column, ExportError, Format, PAGE_BYTES, csv, heading};
use super::reader::{Reader, json, one_page};
use super::window::Window;
use crate::ids::Uid;

/// Legs of one page at most.
const PAGE: i64 = 1000;

/// The columns of the CSV form.
const COLUMNS: [Column; 32] = [
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
    ("cost_usd", "/usage/cost_usd"),
    ("close_code", "/socket/close_code"),
];

/// Some legs of one session, in the order in which they ended.
#[derive(Debug, Serialize)]
pub struct LegPage {
    /// The session's incarnation.
    pub uid: String,
    /// What was kept of each.
    pub requests: Vec<Box<RawValue>>,
    /// The number behind which the next page begins; `None` on the last page.
    pub next_cursor: Option<String>,
}

impl Reader {
    /// The incarnation that a uid or a session id means here: of several the last one that ended, or, if none has a
    /// record, the last one that began. `None` when nothing is kept of it.
    pub fn incarnation(&self, target: &str) -> rusqlite::Result<Option<String>> {
        let known = match Uid::parse(target) {
            Some(_) => {
                "SELECT uid FROM (SELECT uid FROM requests WHERE uid = ?1 LIMIT 1) \
                 UNION SELECT uid FROM records WHERE uid = ?1"
            }
            None => "SELECT uid FROM records WHERE session_id = ?1 ORDER BY seq DESC LIMIT 1",
        };
        // From the last event back: after a crash it is among the last.
        let begun = "SELECT uid FROM events WHERE session_id = ?1 AND type = 'session_started' \
             ORDER BY number DESC LIMIT 1";
        for sql in [known, begun] {
            match self.database.query_row(sql, [target], |row| row.get(0)) {
                Err(rusqlite::Error::QueryReturnedNoRows) => {}
                found => return found.map(Some),
            }
        }
        Ok(None)
    }

    /// A page of the legs of this incarnation, the first that ended first; `after` is the cursor of the page before
    /// it.
    pub fn legs(&self, uid: &str, after: Option<u64>, limit: usize) -> rusqlite::Result<LegPage> {
        let sql = "SELECT number, body FROM requests WHERE uid = ?1 AND number > ?2 ORDER BY number LIMIT ?3";
        let after = after.and_then(|number| i64::try_from(number).ok()).unwrap_or(0);
        let values = params![uid, after, i64::try_from(limit + 1).unwrap_or(i64::MAX)];
        let mut statement = self.database.prepare(sql)?;
        let rows = statement.query_map(values, |row| Ok((row.get(0)?, json(row, 1)?)))?;
        let (requests, next_cursor) = one_page(rows.collect::<rusqlite::Result<_>>()?, limit);
        Ok(LegPage { uid: uid.to_owned(), requests, next_cursor })
    }

    /// Begins an export of every leg that ended in the window up to now, in the order in which they ended, each with
    /// the uid and, once its session has a record here, the id of its session.
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn export_legs(self, format: Format, window: Window) -> rusqlite::Result<LegExport> {
        let sql = "SELECT coalesce(max(number), 0) FROM requests";
        let last = self.database.query_row(sql, [], |row| row.get(0))?;
        Ok(LegExport { reader: self, format, window, after: 0, last, needs_heading: format == Format::Csv })
    }
}

/// An export of legs under way, read a page at a time as [`super::export::RecordExport`] is.
pub struct LegExport {
    reader: Reader,
    format: Format,
    window: Window,
    /// The number of the last leg that was written, and of the last one of the export.
    after: i64,
    last: i64,
    /// The heading of a table is still to be written.
    needs_heading: bool,
}

impl LegExport {
    /// Appends the next page to `page`; false when it was the last one.
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn next_page(&mut self, page: &mut Vec<u8>) -> Result<bool, ExportError> {
        if std::mem::take(&mut self.needs_heading) {
            heading(&COLUMNS, page)?;
        }
        let (from, to) = self.window.bounds();
        let sql = "SELECT number, requests.uid, session_id, requests.body FROM requests \
             LEFT JOIN records ON records.uid = requests.uid \
             WHERE number > ?1 AND number <= ?2 AND at_ms >= ?3 AND at_ms < ?4 ORDER BY number LIMIT ?5";
        let mut select = self.reader.database.prepare_cached(sql)?;
        let mut rows = select.query(params![self.after, self.last, from, to, PAGE])?;
        let (begin, before) = (page.len(), self.after);
        while page.len() - begin < PAGE_BYTES
            && let Some(row) = rows.next()?
        {
            let (uid, id): (String, Option<String>) = (row.get(1)?, row.get(2)?);
            let leg = whole(&uid, id.as_deref(), &row.get::<_, String>(3)?)?;
            match self.format {
                Format::Ndjson => writeln!(page, "{leg}")?,
                Format::Csv => csv(&leg, &COLUMNS, page)?,
            }
            self.after = row.get(0)?;
        }
        Ok(self.after > before && self.after < self.last)
    }
}

/// A leg with its session's names before the rest.
fn whole(uid: &str, id: Option<&str>, body: &str) -> Result<String, ExportError> {
    let id = serde_json::to_string(&id).map_err(io::Error::other)?;
    let rest = body.strip_prefix('{').ok_or_else(|| io::Error::other("a leg that is no object"))?;
    Ok(format!("{{\"uid\":\"{uid}\",\"session_id\":{id},{rest}"))
}
