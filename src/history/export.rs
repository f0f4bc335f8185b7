//! Records as a file: NDJSON with the chain and its signed heads, for [`super::verify`]; or CSV for tables.

use std::io::{self, Write};

use rusqlite::params;
use serde_json::Value;

use super::chain::Tip;
use super::reader::Reader;
use super::seal::Head;
use super::verify::check_link;
use super::window::Window;

/// Records of one page at most.
const PAGE: i64 = 500;
/// Bytes of one page, beside its last row.
pub(super) const PAGE_BYTES: usize = 256 << 10;

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
    /// A row holds no JSON object.
    #[error(transparent)]
    Row(#[from] io::Error),
}

/// An export of records under way, read a page at a time. Between two pages no transaction is open: a reader that
/// is slow or stalls holds back neither the write-ahead log nor a thread.
pub struct RecordExport {
    reader: Reader,
    format: Format,
    /// The number at which the next page begins, and the last one of the export; `None` when nothing is left.
    rest: Option<(i64, i64)>,
    heads: Heads,
    /// The heading of a table is still to be written.
    needs_heading: bool,
}

impl Reader {
    /// Begins an export of every record from the first to the last one that ended in the window; the chain has no
    /// gap then. The NDJSON form begins and ends with a signed head; the last one is only signed if the chain is
    /// whole since the one before it.
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn export(self, format: Format, window: Window) -> rusqlite::Result<RecordExport> {
        let (from, to) = window.bounds();
        let bounds = "SELECT min(seq), max(seq) FROM records WHERE ended_ms >= ?1 AND ended_ms < ?2";
        let (first, last): (Option<i64>, Option<i64>) =
            self.database.query_row(bounds, params![from, to], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(RecordExport {
            reader: self,
            format,
            rest: first.zip(last),
            heads: Heads { tip: None, is_whole: true, is_signed: false },
            needs_heading: format == Format::Csv,
        })
    }
}

impl RecordExport {
    /// Appends the next page to `page`; false when it was the last one.
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn next_page(&mut self, page: &mut Vec<u8>) -> Result<bool, ExportError> {
        if std::mem::take(&mut self.needs_heading) {
            heading(&COLUMNS, page)?;
        }
        let Some((first, last)) = self.rest.take() else { return Ok(false) };
        let next = self.records(first, last, page)?;
        if next > first && next <= last {
            self.rest = Some((next, last));
        } else if self.format == Format::Ndjson {
            self.heads.end(&self.reader, page)?;
        }
        Ok(self.rest.is_some())
    }

    /// Appends records from this number on; gives the number behind the last one.
    fn records(&mut self, first: i64, last: i64, page: &mut Vec<u8>) -> Result<i64, ExportError> {
        let sql = "SELECT seq, prev, body FROM records WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
        let mut select = self.reader.database.prepare_cached(sql)?;
        let mut rows = select.query(params![first, last, PAGE])?;
        let (begin, mut next) = (page.len(), first);
        while page.len() - begin < PAGE_BYTES
            && let Some(row) = rows.next()?
        {
            let seq: i64 = row.get(0)?;
            let (prev, body): (String, String) = (row.get(1)?, row.get(2)?);
            match self.format {
                Format::Ndjson => self.heads.record(&self.reader, seq, prev, &body, page)?,
                Format::Csv => csv(&body, &COLUMNS, page)?,
            }
            next = seq + 1;
        }
        Ok(next)
    }
}

/// Puts the heads between the records.
struct Heads {
    tip: Option<Tip>,
    /// The chain is whole since the last signed head.
    is_whole: bool,
    is_signed: bool,
}

impl Heads {
    fn record(
        &mut self,
        reader: &Reader,
        seq: i64,
        prev: String,
        body: &str,
        sink: &mut impl Write,
    ) -> Result<(), ExportError> {
        let number = i64::unsigned_abs(seq);
        let before = match self.tip.take() {
            Some(tip) => tip,
            None => {
                let anchor = Tip { seq: number.saturating_sub(1), hash: prev };
                if anchor.seq > 0 {
                    let head = stored(reader, anchor.seq)?;
                    write_head(&head.unwrap_or_else(|| sign(reader, &anchor)), sink)?;
                }
                anchor
            }
        };
        writeln!(sink, "{body}")?;
        let tip = check_link(body.as_bytes(), Some(&before));
        self.is_whole &= tip.is_ok();
        self.tip = Some(tip.unwrap_or(Tip { seq: number, hash: String::new() }));
        self.is_signed = false;
        if let Some(head) = stored(reader, number)? {
            write_head(&head, sink)?;
            self.is_signed = true;
        }
        Ok(())
    }

    fn end(&mut self, reader: &Reader, sink: &mut impl Write) -> Result<(), ExportError> {
        match self.tip.take() {
            Some(tip) if !self.is_signed && self.is_whole => write_head(&sign(reader, &tip), sink),
            _ => Ok(()),
        }
    }
}

fn sign(reader: &Reader, tip: &Tip) -> Head {
    reader.signer.sign(tip, jiff::Timestamp::now())
}

fn stored(reader: &Reader, seq: u64) -> rusqlite::Result<Option<Head>> {
    let mut find = reader.database.prepare_cached("SELECT body FROM heads WHERE seq = ?1")?;
    let found = find.query_row([i64::try_from(seq).unwrap_or(i64::MAX)], |row| row.get::<_, String>(0));
    match found {
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
        // A head that cannot be read is as good as none: the file will show what is wrong.
        found => Ok(serde_json::from_str(&found?).ok()),
    }
}

fn write_head(head: &Head, sink: &mut impl Write) -> Result<(), ExportError> {
    let text = serde_json::to_string(head).map_err(io::Error::other)?;
    Ok(writeln!(sink, "{text}")?)
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
