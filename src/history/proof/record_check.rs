//! Checks a single record, either a line of an export or a row of the database with its columns: its own digest, and
//! its link to the record before it.

use jiff::Timestamp;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::Value;

use super::hash_chain::{LINK, MAX_INTEGER, ORIGIN, SCHEMA_V1, Tip, digest, hashed_form};
use super::signature::is_sealed;

/// The largest number of records that are read at a time.
pub(in crate::history) const PAGE_RECORDS: i64 = 500;
/// The largest size of the records that are read at a time, in bytes; the last one may exceed it.
pub(in crate::history) const PAGE_BYTES: usize = 256 << 10;

/// A parsed record with the link that it claims.
struct LinkedRecord {
    record: Value,
    tip: Tip,
    prev: String,
}

/// Checks a line of an export: its digest, and that it follows `before`; `None` skips the latter. Returns the new tip.
///
/// # Errors
/// A sentence that says what is wrong.
pub(in crate::history) fn check_link(line: &[u8], before: Option<&Tip>) -> Result<Tip, String> {
    let link = parse(line)?;
    check_order(&link, before)?;
    Ok(link.tip)
}

fn parse(line: &[u8]) -> Result<LinkedRecord, String> {
    let mut record: Value = serde_json::from_slice(line).map_err(|why| format!("this is not JSON: {why}"))?;
    let form = hashed_form(&record).ok_or("this is not a record of a known version")?;
    if !is_permutation(line, &form) {
        return Err("the line is not in ELIDA's format: something in it was changed".to_owned());
    }
    let link =
        record.get_mut(LINK).and_then(Value::as_object_mut).ok_or("this record has no link to the chain")?;
    let hash = link
        .remove("hash")
        .and_then(|hash| hash.as_str().map(str::to_owned))
        .ok_or("the record has no digest")?;
    let seq = link.get("seq").and_then(Value::as_u64).ok_or("the record has no number")?;
    let prev = link
        .get("prev")
        .and_then(Value::as_str)
        .ok_or("the record has no digest of the record before it")?
        .to_owned();
    if hashed_form(&record).is_none_or(|form| digest(&form) != hash) {
        return Err(format!("record {seq} was changed: its digest does not match"));
    }
    Ok(LinkedRecord { record, tip: Tip { seq, hash }, prev })
}

fn check_order(link: &LinkedRecord, before: Option<&Tip>) -> Result<(), String> {
    let seq = link.tip.seq;
    match before {
        Some(before) if seq != before.seq + 1 => {
            Err(format!("record {seq} follows record {}: one was removed, added or moved", before.seq))
        }
        Some(before) if link.prev != before.hash => {
            Err(format!("record {seq} does not follow the one before it: that one was replaced"))
        }
        None if seq == 1 && link.prev != ORIGIN => Err("record 1 does not begin the chain".to_owned()),
        _ => Ok(()),
    }
}

/// Returns true if both contain the same bytes in any order. Only the order of keys may differ from the canonical form,
/// so that a different spelling of the same value is detected, too.
fn is_permutation(a: &[u8], b: &[u8]) -> bool {
    let count = |bytes: &[u8]| {
        let mut counts = [0_u32; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        counts
    };
    a.len() == b.len() && count(a) == count(b)
}

/// Columns that duplicate a string of the record, with its JSON pointer.
const TEXTS: [(&str, &str); 7] = [
    ("uid", "/uid"),
    ("session_id", "/session_id"),
    ("state", "/state"),
    ("kind", "/kind"),
    ("principal", "/principal"),
    ("client", "/client"),
    ("backend", "/backends/0/name"),
];

/// Columns that duplicate a timestamp of the record, in milliseconds.
const TIMES: [(&str, &str); 2] = [("started_ms", "/started_at"), ("ended_ms", "/ended_at")];

/// Columns that duplicate a number of the record.
const NUMBERS: [(&str, &str); 4] = [
    ("requests", "/request_count"),
    ("errors", "/error_count"),
    ("bytes_in", "/bytes_in"),
    ("bytes_out", "/bytes_out"),
];

/// A row of the `records` table.
#[derive(Debug)]
pub(in crate::history) struct RecordRow {
    /// The number of the record.
    pub(in crate::history) seq: u64,
    prev: String,
    hash: String,
    /// `None` if an older version wrote the record.
    seal: Option<String>,
    /// The record as JSON.
    pub(in crate::history) body: String,
    texts: [Option<String>; 7],
    times: [i64; 2],
    numbers: [i64; 4],
}

impl RecordRow {
    /// Reads a row of `SELECT * FROM records`.
    fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let (mut texts, mut times, mut numbers) = <([Option<String>; 7], [i64; 2], [i64; 4])>::default();
        for (text, (column, _)) in texts.iter_mut().zip(TEXTS) {
            *text = text_of(row, column)?;
        }
        for (time, (column, _)) in times.iter_mut().zip(TIMES) {
            *time = row.get(column)?;
        }
        for (number, (column, _)) in numbers.iter_mut().zip(NUMBERS) {
            *number = row.get(column)?;
        }
        Ok(Self {
            // No record has the number 0, so that a negative number is detected.
            seq: u64::try_from(row.get::<_, i64>("seq")?).unwrap_or(0),
            prev: text_of(row, "prev")?.unwrap_or_default(),
            hash: text_of(row, "hash")?.unwrap_or_default(),
            seal: text_of(row, "seal")?,
            body: text_of(row, "body")?.unwrap_or_default(),
            texts,
            times,
            numbers,
        })
    }

    /// Returns true if the record has the schema `elida.cdr/1`.
    pub(in crate::history) fn is_v1(&self) -> bool {
        serde_json::from_str(&self.body).is_ok_and(|record: Value| record["schema"] == SCHEMA_V1)
    }

    /// The tip after this record, according to its columns.
    pub(in crate::history) fn tip(&self) -> Tip {
        Tip { seq: self.seq, hash: self.hash.clone() }
    }

    /// The tip before this record, according to its columns.
    pub(in crate::history) fn before(&self) -> Tip {
        Tip { seq: self.seq.saturating_sub(1), hash: self.prev.clone() }
    }

    /// Returns true if one of `keys` sealed the record at this position.
    pub(in crate::history) fn is_sealed(&self, keys: &[String]) -> bool {
        self.seal.as_ref().is_some_and(|seal| is_sealed(&self.tip(), seal, keys))
    }

    /// Checks the record, its columns, and that it follows `before`. Returns the new tip.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub(in crate::history) fn check(&self, before: &Tip) -> Result<Tip, String> {
        if self.seq != before.seq + 1 {
            return Err(match self.seq > before.seq {
                true => format!("record {} is missing", before.seq + 1),
                false => format!("a record with the number {} was added", self.seq),
            });
        }
        let link = parse(self.body.as_bytes()).map_err(|what| format!("record {}: {what}", self.seq))?;
        check_order(&link, Some(before))?;
        if link.tip != self.tip() || link.prev != self.prev {
            return Err(format!("record {}: its columns prev and hash do not match its body", self.seq));
        }
        match self.mismatched_column(&link.record) {
            Some(column) => Err(format!("record {}: its column {column} does not match its body", self.seq)),
            None => Ok(link.tip),
        }
    }

    fn mismatched_column(&self, record: &Value) -> Option<&'static str> {
        let texts = self.texts.iter().zip(TEXTS).find_map(|(text, (column, at))| {
            (text.as_deref() != record.pointer(at).and_then(Value::as_str)).then_some(column)
        });
        let times = self.times.iter().zip(TIMES).find_map(|(time, (column, at))| {
            let told = record.pointer(at).and_then(|told| told.as_str()?.parse::<Timestamp>().ok());
            (told.map(Timestamp::as_millisecond) != Some(*time)).then_some(column)
        });
        let numbers = self.numbers.iter().zip(NUMBERS).find_map(|(number, (column, at))| {
            let told = record.pointer(at).and_then(Value::as_u64);
            (told.map(|told| i64::try_from(told).unwrap_or(i64::MAX)) != Some(*number)).then_some(column)
        });
        texts.or(times).or(numbers)
    }
}

/// Reads a page of rows starting at `seq`. No transaction stays open afterwards.
pub(in crate::history) fn rows_from(file: &Connection, seq: u64) -> rusqlite::Result<Vec<RecordRow>> {
    let mut find = file.prepare_cached("SELECT * FROM records WHERE seq >= ?1 ORDER BY seq LIMIT ?2")?;
    let mut rows = find.query((i64::try_from(seq).unwrap_or(i64::MAX), PAGE_RECORDS))?;
    let (mut page, mut size) = (Vec::new(), 0);
    while size < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let row = RecordRow::of(row)?;
        size += row.body.len();
        page.push(row);
    }
    Ok(page)
}

/// Reads the row with this number.
pub(in crate::history) fn row_at(file: &Connection, seq: u64) -> rusqlite::Result<Option<RecordRow>> {
    let mut find = file.prepare_cached("SELECT * FROM records WHERE seq = ?1")?;
    let mut found = find.query_map([i64::try_from(seq).unwrap_or(i64::MAX)], RecordRow::of)?;
    found.next().transpose()
}

/// Reads the row with the smallest number.
pub(in crate::history) fn first_row(file: &Connection) -> rusqlite::Result<Option<RecordRow>> {
    one(file, "SELECT * FROM records ORDER BY seq LIMIT 1")
}

/// Reads a string column. A value that is not UTF-8 text is replaced by one that differs from every record, so that it
/// is reported as a change instead of failing the query.
fn text_of(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => Some(char::REPLACEMENT_CHARACTER.to_string()),
    })
}

/// Reads the row with the largest number, ignoring numbers that no record could follow.
pub(in crate::history) fn last_row(file: &Connection) -> rusqlite::Result<Option<RecordRow>> {
    one(file, &format!("SELECT * FROM records WHERE seq < {MAX_INTEGER} ORDER BY seq DESC LIMIT 1"))
}

fn one(file: &Connection, sql: &str) -> rusqlite::Result<Option<RecordRow>> {
    let mut find = file.prepare_cached(sql)?;
    let mut found = find.query_map([], RecordRow::of)?;
    found.next().transpose()
}
