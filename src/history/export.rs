//! Records as a file: NDJSON with the chain and its signed heads ([`super::chain_file`]), for [`super::verify`]; or CSV
//! for tables.

use std::io::{self, Write};

use rusqlite::params;
use serde_json::Value;

use super::chain_file::Chain;
use super::reader::Reader;
use super::walk::PAGE;
use super::window::Window;

/// The first and the last record of a window.
const BOUNDS: &str = "SELECT min(seq), max(seq) FROM records WHERE ended_ms >= ?1 AND ended_ms < ?2";

/// A column of the CSV form: its name, and where the value stands in the JSON form.
pub(super) type Column = (&'static str, &'static str);

/// The columns of records.
const COLUMNS: [Column; 24] = [
    ("seq", "/chain/seq"),
    ("uid", "/uid"),
    ("session_id", "/session_id"),
    ("incarnation", "/incarnation"),
    ("state", "/state"),
    ("end_reason", "/end_reason"),
    ("kind", "/kind"),
    ("principal", "/principal"),
    ("client", "/client"),
    ("client_addr", "/client_addr"),
    ("backend", "/backend"),
    ("started_at", "/started_at"),
    ("ended_at", "/ended_at"),
    ("duration_ms", "/duration_ms"),
    ("request_count", "/request_count"),
    ("error_count", "/error_count"),
    ("bytes_in", "/bytes_in"),
    ("bytes_out", "/bytes_out"),
    ("input_tokens", "/usage/input_tokens"),
    ("output_tokens", "/usage/output_tokens"),
    ("cache_read_tokens", "/usage/cache_read_tokens"),
    ("cache_write_tokens", "/usage/cache_write_tokens"),
    ("cost_usd", "/usage/cost_usd"),
    ("hash", "/chain/hash"),
];

/// The form of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, in the order of the chain.
    Ndjson,
    /// A table with a heading (RFC 4180).
    Csv,
}

impl Format {
    /// Reads the word of the API.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "ndjson" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// Why an export broke off.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The history cannot be read.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    /// The reader of the export has gone.
    #[error(transparent)]
    Sink(#[from] io::Error),
}

impl Reader {
    /// Writes the records that ended in the window and all between them; the chain has no gap then. The NDJSON form
    /// reaches from a signed head to a signed head, so it may hold some records before and after the window, and ends with
    /// a signed statement of what it holds. What does not lead to the last signed head is not signed: the last line
    /// says why. Nothing of the file is held open while the sink is written to.
    ///
    /// # Errors
    /// The history cannot be read, or the sink takes nothing more.
    pub fn export(&self, format: Format, window: Window, sink: &mut impl Write) -> Result<u64, ExportError> {
        let (from, to) = window.bounds();
        let bounds = |row: &rusqlite::Row<'_>| -> rusqlite::Result<(Option<i64>, Option<i64>)> {
            Ok((row.get(0)?, row.get(1)?))
        };
        match format {
            Format::Ndjson => {
                let view = self.trust.view(&self.database)?;
                let (first, last) = self.database.query_row(BOUNDS, params![from, to], bounds)?;
                let asked = first.zip(last).map(|(first, last)| (number(first), number(last)));
                Chain::new(self, view, asked)?.write(window, sink)
            }
            Format::Csv => {
                heading(&COLUMNS, sink)?;
                let (first, last) = self.database.query_row(BOUNDS, params![from, to], bounds)?;
                let count = self.table(first.unwrap_or(1), last.unwrap_or(0), sink)?;
                sink.flush()?;
                Ok(count)
            }
        }
    }

    fn table(&self, first: i64, last: i64, sink: &mut impl Write) -> Result<u64, ExportError> {
        let (mut next, mut count) = (first, 0);
        while next <= last {
            let mut page = self.database.prepare_cached(
                "SELECT seq, body FROM records WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
            )?;
            let rows = page.query_map(params![next, last, PAGE], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let rows: Vec<(i64, String)> = rows.collect::<rusqlite::Result<_>>()?;
            let Some((end, _)) = rows.last() else { break };
            next = end.saturating_add(1);
            for (_, body) in &rows {
                csv(body, &COLUMNS, sink)?;
                count += 1;
            }
        }
        Ok(count)
    }
}

fn number(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}

/// The first line of a table.
pub(super) fn heading(columns: &[Column], sink: &mut impl Write) -> io::Result<()> {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    write!(sink, "{}\r\n", names.join(","))
}

/// One line of a table.
pub(super) fn csv(body: &str, columns: &[Column], sink: &mut impl Write) -> Result<(), ExportError> {
    let record: Value = serde_json::from_str(body).map_err(io::Error::other)?;
    for (index, (_, pointer)) in columns.iter().enumerate() {
        if index > 0 {
            sink.write_all(b",")?;
        }
        match record.pointer(pointer) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => sink.write_all(cell(text).as_bytes())?,
            Some(other) => write!(sink, "{other}")?,
        }
    }
    Ok(sink.write_all(b"\r\n")?)
}

/// A text as a cell. What a spreadsheet would run as a formula gets an apostrophe before it (OWASP, CSV
/// injection): ids come from clients.
fn cell(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{guard}{}\"", text.replace('"', "\"\"")),
        false => format!("{guard}{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_neither_broken_nor_run() {
        assert_eq!(cell("plain"), "plain");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(cell("=1+1"), "'=1+1");
        assert_eq!(cell("@x,y"), "\"'@x,y\"");
    }
}
