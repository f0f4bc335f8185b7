//! `elida cdr verify`: checks an export without the gateway. It proves that no record was changed, removed or reordered,
//! that the file was not truncated, and that the gateway's key signed it.

use std::io::{self, BufRead};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::hash_chain::Tip;
use super::record_check::check_link;
use super::signature::{self, Head};
use super::signing_keys::SigningKeys;
use super::statement::UNSIGNED;
use super::statement::{self, Kind, Statement};

/// The longest line that is accepted, in bytes.
const LINE: u64 = 16 << 20;

/// What an export must prove besides being intact.
#[derive(Clone, Debug, Default)]
pub struct Requirements {
    /// The public keys that may sign, in hexadecimal. If empty, the keys that the file names are used.
    pub keys: Vec<String>,
    /// The file must be signed at least up to this time; `None` for no requirement.
    pub until: Option<Timestamp>,
    /// A head or statement, kept apart from the file, that the file must contain; `None` for no requirement.
    pub head: Option<TrustedHead>,
}

/// A position and key from a signed head or statement that the auditor has kept apart from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedHead {
    tip: Tip,
    key: String,
}

impl TrustedHead {
    /// Parses a head or a statement: an earlier export (its last line), a line of one, or a gateway's head file. `None`
    /// if the text contains neither, or if the signature is invalid.
    pub fn read(text: &str) -> Option<Self> {
        let line = text.trim_end().lines().next_back()?;
        let whole = || serde_json::from_str::<Value>(text).ok()?.get("head").cloned();
        let value: Value = serde_json::from_str(line).ok().filter(Value::is_object).or_else(whole)?;
        if let Ok(head) = Head::deserialize(&value) {
            return head.is_genuine().then(|| Self { tip: head.tip(), key: head.key });
        }
        let statement: Statement = serde_json::from_value(value).ok()?;
        statement.is_genuine().then(|| Self { tip: statement.tip(), key: statement.key })
    }
}

/// The content of a verified export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The number of records.
    pub records: u64,
    /// The number of the first record; 0 if there is none.
    pub first: u64,
    /// The number of the last record; 0 if there is none.
    pub last: u64,
    /// The earliest end time of a session; `None` if there are no records.
    pub ended_from: Option<Timestamp>,
    /// The latest end time of a session; `None` if there are no records.
    pub ended_to: Option<Timestamp>,
    /// The number of signed heads.
    pub heads: u64,
    /// When the file was signed. It contains every record of the requested range that ended before.
    pub signed_at: Timestamp,
    /// The requested range: from (inclusive); `None` if open.
    pub from: Option<Timestamp>,
    /// To (exclusive); `None` if open.
    pub to: Option<Timestamp>,
    /// The key that signed last, in hexadecimal.
    pub key: String,
    /// All keys that signed, in order.
    pub keys: Vec<String>,
    /// What operators accepted. Records up to these positions are not vouched for.
    pub accepted: Vec<Acceptance>,
}

/// An operator's acceptance (`elida cdr accept`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Acceptance {
    /// Records up to this one were accepted.
    pub seq: u64,
    /// When it was signed.
    pub at: Timestamp,
    /// The operator's reason.
    pub reason: String,
}

/// Why an export is not valid.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// A line is not the one that was written.
    #[error("line {line}: {what}")]
    Line {
        /// The line number, starting at 1.
        line: u64,
        /// What is wrong: a sentence.
        what: String,
    },
    /// The file as a whole is not the one that was exported.
    #[error("{0}")]
    File(String),
}

/// Verifies an NDJSON export.
///
/// # Errors
/// The first problem found.
pub fn verify(file: impl BufRead, required: &Requirements) -> Result<Report, VerifyError> {
    let mut check =
        Check { required: required.clone(), keys: SigningKeys::new(&required.keys), ..Check::default() };
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
            if whole { check.line(&text) } else { Err("the line is truncated or far too long".to_owned()) };
        if let Err(what) = taken {
            // Keep the error for later: an acceptance further down may cover it.
            check.fault.get_or_insert(VerifyError::Line { line, what });
        }
        check.digest.update(&text);
        check.digest.update(b"\n");
    }
    check.end()
}

#[derive(Default)]
struct Check {
    required: Requirements,
    keys: SigningKeys,
    tip: Option<Tip>,
    first: Option<u64>,
    ended: Option<(Timestamp, Timestamp)>,
    records: u64,
    heads: u64,
    /// When the last line was signed; `None` if the last line is not signed.
    signed_at: Option<Timestamp>,
    accepted: Vec<Acceptance>,
    trailer: Option<Statement>,
    /// Why the gateway did not sign the export, if it did not.
    unsigned: Option<String>,
    /// True once the required head was found.
    has_known: bool,
    /// The digest of all lines so far.
    digest: Sha256,
    fault: Option<VerifyError>,
}

impl Check {
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        if self.trailer.is_some() || self.unsigned.is_some() {
            return Err("there are lines after the end of the export".to_owned());
        }
        let value: Value = serde_json::from_slice(line).map_err(|why| format!("this is not JSON: {why}"))?;
        match value.get("schema").and_then(Value::as_str) {
            Some(signature::SCHEMA) => self.head(line, &value),
            Some(statement::SCHEMA) => self.statement(line, value),
            Some(UNSIGNED) => {
                self.unsigned = Some(value["why"].as_str().unwrap_or("it gives no reason").to_owned());
                Ok(())
            }
            _ => self.record(line, &value),
        }
    }

    fn record(&mut self, line: &[u8], value: &Value) -> Result<(), String> {
        self.records += 1;
        self.signed_at = None;
        let seq = value["chain"]["seq"].as_u64().unwrap_or(0);
        self.first.get_or_insert(seq);
        if let Some(ended) = value["ended_at"].as_str().and_then(|ended| ended.parse::<Timestamp>().ok()) {
            let (from, to) = self.ended.unwrap_or((ended, ended));
            self.ended = Some((from.min(ended), to.max(ended)));
        }
        if self.fault.is_some() {
            return Ok(());
        }
        let tip = check_link(line, self.tip.as_ref())?;
        if self.tip.is_none() && tip.seq != 1 {
            return Err(format!("the file begins with record {}, and no signed head before it", tip.seq));
        }
        self.tip = Some(tip);
        self.match_known_head()
    }

    fn head(&mut self, line: &[u8], value: &Value) -> Result<(), String> {
        let head = Head::deserialize(value).map_err(|why| format!("this head cannot be read: {why}"))?;
        if serde_json::to_vec(&head).ok().as_deref() != Some(line) {
            return Err("the head is not in ELIDA's format".to_owned());
        }
        if !head.is_genuine() {
            return Err("the signature of this head is invalid".to_owned());
        }
        self.keys.add_signature(&head.key, head.seq);
        if self.fault.is_none() {
            self.check_position(&head.tip())?;
        }
        self.heads += 1;
        self.signed_at = Some(head.at);
        Ok(())
    }

    fn statement(&mut self, line: &[u8], value: Value) -> Result<(), String> {
        let said: Statement =
            serde_json::from_value(value).map_err(|why| format!("this statement cannot be read: {why}"))?;
        if said.line() != line {
            return Err("the statement is not in ELIDA's format".to_owned());
        }
        if !said.is_genuine() {
            return Err("the signature of this statement is invalid".to_owned());
        }
        self.keys.add_signature(&said.key, said.seq);
        match said.kind {
            Kind::Pruned if self.records > 0 => {
                Err("a statement about deleted records comes after a record".to_owned())
            }
            Kind::Pruned => self.check_position(&said.tip()),
            Kind::Accepted => {
                self.accept(said);
                self.match_known_head()
            }
            Kind::Handover => {
                self.keys.add_handover(&said);
                match self.records {
                    // It is about a record before this file.
                    0 => Ok(()),
                    _ if self.fault.is_some() => Ok(()),
                    _ => self.check_position(&said.tip()),
                }
            }
            Kind::Export => self.trailer(said),
        }
    }

    /// Checks that a signature is for the current position.
    fn check_position(&mut self, signed: &Tip) -> Result<(), String> {
        match &self.tip {
            Some(tip) if tip != signed => Err(format!(
                "this was signed for record {}, but the file is at record {}",
                signed.seq, tip.seq
            )),
            _ => {
                self.tip = Some(signed.clone());
                self.match_known_head()
            }
        }
    }

    /// Compares the required head with the current position.
    fn match_known_head(&mut self) -> Result<(), String> {
        let (Some(known), Some(tip)) = (&self.required.head, &self.tip) else { return Ok(()) };
        if known.tip.seq == tip.seq {
            if known.tip != *tip {
                return Err(format!("record {} is not the one that the given head was signed for", tip.seq));
            }
            self.has_known = true;
        }
        Ok(())
    }

    fn accept(&mut self, said: Statement) {
        if self.records > 0 {
            self.fault = None;
            self.accepted.push(Acceptance {
                seq: said.seq,
                at: said.at,
                reason: said.reason.clone().unwrap_or_default(),
            });
        }
        self.tip = Some(said.tip());
        self.signed_at = Some(said.at);
    }

    fn trailer(&mut self, said: Statement) -> Result<(), String> {
        let Some(export) = &said.export else {
            return Err("the end of the export does not say what it contains".to_owned());
        };
        let (accepted, first) = (self.accepted.last().map(|accepted| accepted.seq), self.first);
        let holds = export.records == self.records && export.first == first && export.accepted == accepted;
        if self.fault.is_none() && !holds {
            return Err(format!(
                "the export was signed with {} records, but the file has {}: some were removed or added",
                export.records, self.records
            ));
        }
        if self.fault.is_none() && self.records > 0 {
            self.check_position(&said.tip())?;
        } else if self.fault.is_none() {
            self.tip = Some(said.tip());
            self.match_known_head()?;
        }
        if self.fault.is_none()
            && export.digest != HEXLOWER.encode(&std::mem::take(&mut self.digest).finalize())
        {
            return Err(
                "the export was signed with different lines: one was removed, added or moved".to_owned()
            );
        }
        self.signed_at = Some(export.to.map_or(said.at, |to| to.min(said.at)));
        self.trailer = Some(said);
        Ok(())
    }

    fn end(self) -> Result<Report, VerifyError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let fault = |what: String| Err(VerifyError::File(what));
        if let Some(why) = self.unsigned {
            return fault(format!("the gateway did not sign this export: {why}"));
        }
        let Some(signed_at) = self.signed_at else {
            return fault("the file does not end with a signature: its end was cut off".to_owned());
        };
        if self.trailer.is_none() && self.required.until.is_none() && self.required.head.is_none() {
            return fault(
                "the file does not end with the signed end of an export: it was cut off, or an older gateway wrote it; \
                 use --until TIME or --head FILE to say how far it must reach"
                    .to_owned(),
            );
        }
        if let Some(until) = self.required.until.filter(|until| signed_at < *until) {
            return fault(format!("it is signed only until {signed_at}, not until {until}"));
        }
        if let Some(known) = &self.required.head {
            self.keys.check_allowed(&known.key).map_err(VerifyError::File)?;
            let last = self.tip.as_ref().map_or(0, |tip| tip.seq);
            if !self.has_known && last < known.tip.seq {
                let signed = known.tip.seq;
                return fault(format!(
                    "it ends with record {last}, but the given head was signed for record {signed}"
                ));
            }
            if !self.has_known {
                let what = "it begins after the record that the given head was signed for";
                return fault(what.to_owned());
            }
        }
        let keys = self.keys.finish().map_err(VerifyError::File)?;
        let export = self.trailer.and_then(|trailer| trailer.export);
        Ok(Report {
            records: self.records,
            first: self.first.unwrap_or(0),
            last: self.tip.filter(|_| self.records > 0).map_or(0, |tip| tip.seq),
            ended_from: self.ended.map(|(from, _)| from),
            ended_to: self.ended.map(|(_, to)| to),
            heads: self.heads,
            signed_at,
            from: export.as_ref().and_then(|export| export.from),
            to: export.as_ref().and_then(|export| export.to),
            key: keys.last().cloned().unwrap_or_default(),
            keys,
            accepted: self.accepted,
        })
    }
}
