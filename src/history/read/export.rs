//! Exports records, either as NDJSON with the hash chain and its signatures ([`super::signed_export`]) for
//! [`crate::history::proof::verify`], or as CSV.

use std::io::{self, Write};

use rusqlite::params;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reader::Reader;
use super::signed_export::SignedExport;
use super::time_range::TimeRange;
use crate::history::proof::record_check::{PAGE_BYTES, PAGE_RECORDS};

/// A CSV column: its name, and the JSON pointer of its value.
pub(in crate::history) type Column = (&'static str, &'static str);

/// The CSV columns of records.
const COLUMNS: [Column; 28] = [
    ("seq", "/chain/seq"),
    ("uid", "/uid"),
    ("session_id", "/session_id"),
    ("incarnation", "/incarnation"),
    ("state", "/state"),
    ("end_reason", "/end_reason"),
    ("kind", "/kind"),
    ("principal", "/principal"),
    ("tenant", "/tenant"),
    ("groups", "/groups"),
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
    ("unpriced_answers", "/usage/unpriced_answers"),
    ("estimated_answers", "/usage/estimated_answers"),
    ("cost_usd", "/usage/cost_usd"),
    ("hash", "/chain/hash"),
];

/// The format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object per line, in the order of the chain.
    #[default]
    Ndjson,
    /// CSV with a header line (RFC 4180).
    Csv,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The history cannot be read.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    /// A row does not contain a JSON object.
    #[error(transparent)]
    Row(#[from] io::Error),
}

/// An export of records in progress, read page by page. No transaction is open between pages, so that a slow client
/// blocks neither a thread nor the checkpoint of the write-ahead log.
pub struct RecordExport {
    reader: Reader,
    form: Form,
}

/// The progress of an export, by format.
enum Form {
    Ndjson(Box<SignedExport>),
    /// `rest` is the first and the last record still to be exported; `None` if there are none.
    Csv {
        needs_heading: bool,
        rest: Option<(i64, i64)>,
    },
}

impl Reader {
    /// Starts an export of the records from the first to the last one that ended in `range`, without gaps in the chain.
    ///
    /// The NDJSON format starts and ends at a signed head, so it may contain some records before and after the range. It
    /// ends with a signed statement of its content, or, if the history does not continue from what was signed before,
    /// with a line that says why it is not signed.
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn export(self, format: Format, range: TimeRange) -> rusqlite::Result<RecordExport> {
        // Check the file before reading the bounds: it only grows.
        let view = match format {
            Format::Ndjson => Some(self.integrity.view(&self.database)?),
            Format::Csv => None,
        };
        let (from, to) = range.bounds();
        let bounds = "SELECT min(seq), max(seq) FROM records WHERE ended_ms >= ?1 AND ended_ms < ?2";
        let (first, last): (Option<i64>, Option<i64>) =
            self.database.query_row(bounds, params![from, to], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let number = |seq| u64::try_from(seq).unwrap_or(0);
        let form = match view {
            Some(view) => {
                let asked = first.zip(last).map(|(first, last)| (number(first), number(last)));
                Form::Ndjson(Box::new(SignedExport::new(&self, view, range, asked)?))
            }
            None => Form::Csv { needs_heading: true, rest: first.zip(last) },
        };
        Ok(RecordExport { reader: self, form })
    }
}

impl RecordExport {
    /// Appends the next page to `page`. Returns false if it was the last one.
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn next_page(&mut self, page: &mut Vec<u8>) -> Result<bool, ExportError> {
        match &mut self.form {
            Form::Ndjson(chain) => Ok(chain.next_page(&self.reader, page)?),
            Form::Csv { needs_heading, rest } => {
                if std::mem::take(needs_heading) {
                    heading(&COLUMNS, page)?;
                }
                let Some((first, last)) = rest.take() else { return Ok(false) };
                let next = table_rows(&self.reader, first, last, page)?;
                *rest = Some((next, last)).filter(|_| next > first && next <= last);
                Ok(rest.is_some())
            }
        }
    }
}

/// Appends a page of records starting at `first`. Returns the number after the last one.
fn table_rows(reader: &Reader, first: i64, last: i64, page: &mut Vec<u8>) -> Result<i64, ExportError> {
    let sql = "SELECT seq, body FROM records WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
    let mut select = reader.database.prepare_cached(sql)?;
    let mut rows = select.query(params![first, last, PAGE_RECORDS])?;
    let (begin, mut next) = (page.len(), first);
    while page.len() - begin < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        csv(&row.get::<_, String>(1)?, &COLUMNS, page)?;
        next = row.get::<_, i64>(0)? + 1;
    }
    Ok(next)
}

/// Writes the header line of a CSV file.
pub(in crate::history) fn heading(columns: &[Column], sink: &mut impl Write) -> io::Result<()> {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    write!(sink, "{}\r\n", names.join(","))
}

/// Writes one line of a CSV file.
pub(in crate::history) fn csv(
    body: &str,
    columns: &[Column],
    sink: &mut impl Write,
) -> Result<(), ExportError> {
    let record: Value = serde_json::from_str(body).map_err(io::Error::other)?;
    for (index, (_, pointer)) in columns.iter().enumerate() {
        if index > 0 {
            sink.write_all(b",")?;
        }
        match record.pointer(pointer) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => sink.write_all(cell(text).as_bytes())?,
            Some(Value::Array(list)) => {
                let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                sink.write_all(cell(&texts.join(" ")).as_bytes())?;
            }
            Some(other) => write!(sink, "{other}")?,
        }
    }
    Ok(sink.write_all(b"\r\n")?)
}

/// Quotes a CSV field. A value that a spreadsheet would run as a formula gets a leading apostrophe (OWASP, "CSV
/// injection"): clients choose ids.
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
