//! Checks an exported file without the gateway: that no record was changed, taken out or moved, and that the
//! gateway's key has signed where the chain stood.

use std::io::{self, BufRead};

use serde::Serialize;
use serde_json::Value;

use super::chain::{LINK, ORIGIN, Tip, canonical, digest};
use super::seal::{Head, SCHEMA};

/// The longest line that is read, in bytes.
const LINE: u64 = 16 << 20;

/// What a file holds, once it is found to be in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Records.
    pub records: u64,
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// Signed heads.
    pub heads: u64,
    /// The key that signed them, in hexadecimal digits.
    pub key: String,
}

/// What is wrong, and where.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// A line is not what was written.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// A sentence.
        what: String,
    },
    /// The file as a whole is not what was exported.
    #[error("{0}")]
    File(&'static str),
}

/// Checks the NDJSON form of an export. `key`: the public key that must have signed, in hexadecimal digits;
/// without one, whichever the first head names.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(file: impl BufRead, key: Option<&str>) -> Result<Report, VerifyError> {
    let mut check = Check { key: key.map(str::to_owned), ..Check::default() };
    let mut file = file;
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let length = io::Read::take(&mut file, LINE).read_until(b'\n', &mut text)?;
        if length == 0 {
            break;
        }
        let whole = text.pop() == Some(b'\n');
        let taken =
            if whole { check.line(&text) } else { Err("the line is cut short, or far too long".to_owned()) };
        taken.map_err(|what| VerifyError::Line { line, what })?;
    }
    check.end()
}

/// Checks one record: its own digest, and its place behind `before`. Gives the new tip.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn check_link(line: &[u8], before: Option<&Tip>) -> Result<Tip, String> {
    let mut record: Value = serde_json::from_slice(line).map_err(|why| format!("this is no JSON: {why}"))?;
    if !same_bytes(line, &canonical(&record)) {
        return Err("the line is not written as ELIDA writes it: something in it was changed".to_owned());
    }
    let link = record.get_mut(LINK).and_then(Value::as_object_mut).ok_or("this record has no link")?;
    let hash = link.remove("hash").and_then(|hash| hash.as_str().map(str::to_owned)).ok_or("no digest")?;
    let seq = link.get("seq").and_then(Value::as_u64).ok_or("the record has no number")?;
    let prev = link.get("prev").and_then(Value::as_str).ok_or("no digest of the record before")?.to_owned();
    if digest(&record) != hash {
        return Err(format!("record {seq} was changed: its digest does not fit"));
    }
    match before {
        Some(before) if seq != before.seq + 1 => {
            Err(format!("record {seq} follows record {}: one was taken out, added or moved", before.seq))
        }
        Some(before) if prev != before.hash => {
            Err(format!("record {seq} does not follow the one before it: that one was replaced"))
        }
        None if seq == 1 && prev != ORIGIN => Err("record 1 does not begin the chain".to_owned()),
        _ => Ok(Tip { seq, hash }),
    }
}

/// True when both have the same bytes in whatever order: only the order of keys may differ from the canonical
/// form, so another spelling of the same value is found too.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let count = |bytes: &[u8]| {
        let mut counts = [0_u32; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        counts
    };
    a.len() == b.len() && count(a) == count(b)
}

#[derive(Default)]
struct Check {
    key: Option<String>,
    tip: Option<Tip>,
    first: Option<u64>,
    records: u64,
    heads: u64,
    is_signed: bool,
}

impl Check {
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        // Only a head has its name at the top; a text in a record cannot look so, since quotes are escaped.
        if line.starts_with(format!("{{\"schema\":\"{SCHEMA}\"").as_bytes()) {
            return self.head(line);
        }
        let tip = check_link(line, self.tip.as_ref())?;
        if self.tip.is_none() && tip.seq != 1 {
            return Err(format!("the file begins with record {}, and no signed head before it", tip.seq));
        }
        self.first.get_or_insert(tip.seq);
        self.records += 1;
        self.tip = Some(tip);
        self.is_signed = false;
        Ok(())
    }

    fn head(&mut self, line: &[u8]) -> Result<(), String> {
        let head: Head =
            serde_json::from_slice(line).map_err(|why| format!("this head cannot be read: {why}"))?;
        if serde_json::to_vec(&head).ok().as_deref() != Some(line) {
            return Err("the head is not written as ELIDA writes it".to_owned());
        }
        if !head.is_genuine() {
            return Err("the signature of this head does not fit".to_owned());
        }
        if *self.key.get_or_insert_with(|| head.key.clone()) != head.key {
            return Err(format!("this head is signed with another key: {}", head.key));
        }
        match &self.tip {
            Some(tip) if *tip != head.tip() => {
                return Err(format!(
                    "the head was signed for record {}, but the file stands at record {}",
                    head.seq, tip.seq
                ));
            }
            _ => self.tip = Some(head.tip()),
        }
        self.heads += 1;
        self.is_signed = true;
        Ok(())
    }

    fn end(self) -> Result<Report, VerifyError> {
        let (Some(tip), Some(first)) = (self.tip, self.first) else {
            return Err(VerifyError::File("the file holds no record"));
        };
        if !self.is_signed {
            let what = "the file does not end with a signed head: its end was cut off, or the chain was broken already";
            return Err(VerifyError::File(what));
        }
        let key = self.key.unwrap_or_default();
        Ok(Report { records: self.records, first, last: tip.seq, heads: self.heads, key })
    }
}
