//! Records as a file: NDJSON with the chain and its signed heads, for [`super::verify`]; or CSV for tables.

use std::io::{self, Write};

use rusqlite::params;
use serde_json::Value;

use super::chain::Tip;
use super::reader::Reader;
use super::seal::Head;
use super::verify::check_link;
use super::window::Window;

/// Records read at a time.
const PAGE: i64 = 500;

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
    /// Writes every record from the first to the last one that ended in the window; the chain has no gap then.
    /// The NDJSON form begins and ends with a signed head; the last one is only signed if the chain is whole
    /// since the one before it.
    ///
    /// # Errors
    /// The history cannot be read, or the sink takes nothing more.
    pub fn export(&self, format: Format, window: Window, sink: &mut impl Write) -> Result<u64, ExportError> {
        let (from, to) = window.bounds();
        let bounds = "SELECT min(seq), max(seq) FROM records WHERE ended_ms >= ?1 AND ended_ms < ?2";
        let (first, last): (Option<i64>, Option<i64>) =
            self.database.query_row(bounds, params![from, to], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if format == Format::Csv {
            heading(&COLUMNS, sink)?;
        }
        let (Some(first), Some(last)) = (first, last) else { return Ok(0) };
        let mut heads = Heads { reader: self, tip: None, is_whole: true, is_signed: false };
        let mut next = first;
        let mut count = 0;
        while next <= last {
            let sql =
                "SELECT seq, prev, body FROM records WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
            let mut page = self.database.prepare_cached(sql)?;
            let mut rows = page.query(params![next, last, PAGE])?;
            let before = next;
            while let Some(row) = rows.next()? {
                let seq: i64 = row.get(0)?;
                let (prev, body): (String, String) = (row.get(1)?, row.get(2)?);
                match format {
                    Format::Ndjson => heads.record(seq, prev, &body, sink)?,
                    Format::Csv => csv(&body, &COLUMNS, sink)?,
                }
                (next, count) = (seq + 1, count + 1);
            }
            if next == before {
                break;
            }
        }
        if format == Format::Ndjson {
            heads.end(sink)?;
        }
        sink.flush()?;
        Ok(count)
    }
}

/// Puts the heads between the records.
struct Heads<'a> {
    reader: &'a Reader,
    tip: Option<Tip>,
    /// The chain is whole since the last signed head.
    is_whole: bool,
    is_signed: bool,
}

impl Heads<'_> {
    fn record(
        &mut self,
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
                    let head = self.stored(anchor.seq)?;
                    self.write(&head.unwrap_or_else(|| self.sign(&anchor)), sink)?;
                }
                anchor
            }
        };
        writeln!(sink, "{body}")?;
        let tip = check_link(body.as_bytes(), Some(&before));
        self.is_whole &= tip.is_ok();
        self.tip = Some(tip.unwrap_or(Tip { seq: number, hash: String::new() }));
        self.is_signed = false;
        if let Some(head) = self.stored(number)? {
            self.write(&head, sink)?;
            self.is_signed = true;
        }
        Ok(())
    }

    fn end(&mut self, sink: &mut impl Write) -> Result<(), ExportError> {
        match self.tip.take() {
            Some(tip) if !self.is_signed && self.is_whole => self.write(&self.sign(&tip), sink),
            _ => Ok(()),
        }
    }

    fn sign(&self, tip: &Tip) -> Head {
        self.reader.signer.sign(tip, jiff::Timestamp::now())
    }

    fn stored(&self, seq: u64) -> rusqlite::Result<Option<Head>> {
        let mut find = self.reader.database.prepare_cached("SELECT body FROM heads WHERE seq = ?1")?;
        let found = find.query_row([i64::try_from(seq).unwrap_or(i64::MAX)], |row| row.get::<_, String>(0));
        match found {
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            // A head that cannot be read is as good as none: the file will show what is wrong.
            found => Ok(serde_json::from_str(&found?).ok()),
        }
    }

    fn write(&self, head: &Head, sink: &mut impl Write) -> Result<(), ExportError> {
        let text = serde_json::to_string(head).map_err(io::Error::other)?;
        Ok(writeln!(sink, "{text}")?)
    }
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
