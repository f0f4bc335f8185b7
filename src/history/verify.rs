//! Checks an exported file without the gateway: that no record was changed, taken out or moved, that the file was not
//! cut off, and that the gateway's key has signed it.

use std::io::{self, BufRead};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::chain::Tip;
use super::chain_file::UNSIGNED;
use super::check::check_link;
use super::keys::Keys;
use super::seal::{self, Head};
use super::statement::{self, Kind, Statement};

/// The longest line that is read, in bytes.
const LINE: u64 = 16 << 20;

/// What a file must show beside being whole.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// The public keys that may have signed, in hexadecimal digits. Without one, those that the file names.
    pub keys: Vec<String>,
    /// Up to then at least it must be signed; `None` asks for nothing.
    pub until: Option<Timestamp>,
    /// A head or a statement that was kept apart, to which the file must lead; `None` asks for nothing.
    pub head: Option<Known>,
}

/// What a head or a statement says, kept apart from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    tip: Tip,
    key: String,
}

impl Known {
    /// Reads a head or a statement: the last line of an earlier export, a line of it, or the head file of a gateway.
    /// `None` when there is none in the text, or it is not genuine.
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

/// What a file holds, once it is found to be in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Records.
    pub records: u64,
    /// The number of the first; 0 when there is none.
    pub first: u64,
    /// The number of the last; 0 when there is none.
    pub last: u64,
    /// When the first of them ended to end; `None` when there is none.
    pub ended_from: Option<Timestamp>,
    /// When the last of them ended to end.
    pub ended_to: Option<Timestamp>,
    /// Signed heads.
    pub heads: u64,
    /// When the file was signed: what ended before, and in the window, is in it.
    pub signed_at: Timestamp,
    /// The window that the export was asked for: not before; `None` when it was open.
    pub from: Option<Timestamp>,
    /// Before; `None` when it was open.
    pub to: Option<Timestamp>,
    /// The key that signed last, in hexadecimal digits.
    pub key: String,
    /// All keys that signed, in the order in which they did.
    pub keys: Vec<String>,
    /// What operators accepted: up to these records nothing is vouched for.
    pub accepted: Vec<Acceptance>,
}

/// What an operator accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Acceptance {
    /// Up to this record.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// In the operator's words.
    pub reason: String,
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
    File(String),
}

/// Checks the NDJSON form of an export.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(file: impl BufRead, demand: &Demand) -> Result<Report, VerifyError> {
    let mut check = Check { demand: demand.clone(), keys: Keys::new(&demand.keys), ..Check::default() };
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
        if let Err(what) = taken {
            // What comes before a point that an operator accepted need not be in order.
            check.fault.get_or_insert(VerifyError::Line { line, what });
        }
        check.digest.update(&text);
        check.digest.update(b"\n");
    }
    check.end()
}

#[derive(Default)]
struct Check {
    demand: Demand,
    keys: Keys,
    tip: Option<Tip>,
    first: Option<u64>,
    ended: Option<(Timestamp, Timestamp)>,
    records: u64,
    heads: u64,
    /// When the last line was signed, if it was.
    signed_at: Option<Timestamp>,
    accepted: Vec<Acceptance>,
    trailer: Option<Statement>,
    /// Why the gateway did not sign.
    unsigned: Option<String>,
    /// The head that was asked for is in the file.
    has_known: bool,
    /// Over all lines so far.
    digest: Sha256,
    fault: Option<VerifyError>,
}

impl Check {
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        if self.trailer.is_some() || self.unsigned.is_some() {
            return Err("there is more behind the end of the export".to_owned());
        }
        let value: Value = serde_json::from_slice(line).map_err(|why| format!("this is no JSON: {why}"))?;
        match value.get("schema").and_then(Value::as_str) {
            Some(seal::SCHEMA) => self.head(line, &value),
            Some(statement::SCHEMA) => self.statement(line, value),
            Some(UNSIGNED) => {
                self.unsigned = Some(value["why"].as_str().unwrap_or("it does not say why").to_owned());
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
        self.meet()
    }

    fn head(&mut self, line: &[u8], value: &Value) -> Result<(), String> {
        let head = Head::deserialize(value).map_err(|why| format!("this head cannot be read: {why}"))?;
        if serde_json::to_vec(&head).ok().as_deref() != Some(line) {
            return Err("the head is not written as ELIDA writes it".to_owned());
        }
        if !head.is_genuine() {
            return Err("the signature of this head does not fit".to_owned());
        }
        self.keys.signed(&head.key, head.seq);
        if self.fault.is_none() {
            self.stands_at(&head.tip())?;
        }
        self.heads += 1;
        self.signed_at = Some(head.at);
        Ok(())
    }

    fn statement(&mut self, line: &[u8], value: Value) -> Result<(), String> {
        let said: Statement =
            serde_json::from_value(value).map_err(|why| format!("this statement cannot be read: {why}"))?;
        if said.line() != line {
            return Err("the statement is not written as ELIDA writes it".to_owned());
        }
        if !said.is_genuine() {
            return Err("the signature of this statement does not fit".to_owned());
        }
        self.keys.signed(&said.key, said.seq);
        match said.kind {
            Kind::Pruned if self.records > 0 => {
                Err("a statement of what was forgotten stands between records".to_owned())
            }
            Kind::Pruned => self.stands_at(&said.tip()),
            Kind::Accepted => {
                self.accept(said);
                self.meet()
            }
            Kind::Handover => {
                self.keys.handover(&said);
                match self.records {
                    // Of a record before this file.
                    0 => Ok(()),
                    _ if self.fault.is_some() => Ok(()),
                    _ => self.stands_at(&said.tip()),
                }
            }
            Kind::Export => self.trailer(said),
        }
    }

    /// What was signed for this position must find the file there.
    fn stands_at(&mut self, signed: &Tip) -> Result<(), String> {
        match &self.tip {
            Some(tip) if tip != signed => Err(format!(
                "this was signed for record {}, but the file stands at record {}",
                signed.seq, tip.seq
            )),
            _ => {
                self.tip = Some(signed.clone());
                self.meet()
            }
        }
    }

    /// Holds the head that was asked for against the position.
    fn meet(&mut self) -> Result<(), String> {
        let (Some(known), Some(tip)) = (&self.demand.head, &self.tip) else { return Ok(()) };
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
            return Err("this end does not say what the export holds".to_owned());
        };
        let (accepted, first) = (self.accepted.last().map(|accepted| accepted.seq), self.first);
        let holds = export.records == self.records && export.first == first && export.accepted == accepted;
        if self.fault.is_none() && !holds {
            return Err(format!(
                "the export was signed with {} records, but the file has {}: some were taken out or added",
                export.records, self.records
            ));
        }
        if self.fault.is_none() && self.records > 0 {
            self.stands_at(&said.tip())?;
        } else if self.fault.is_none() {
            self.tip = Some(said.tip());
            self.meet()?;
        }
        if self.fault.is_none()
            && export.digest != HEXLOWER.encode(&std::mem::take(&mut self.digest).finalize())
        {
            return Err(
                "the export was signed with other lines: one was taken out, added or moved".to_owned()
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
        if self.trailer.is_none() && self.demand.until.is_none() && self.demand.head.is_none() {
            return fault(
                "the file does not end with the signed end of an export: it was cut off, or an older gateway wrote it; \
                 say with --until TIME or --head FILE how far it must reach"
                    .to_owned(),
            );
        }
        if let Some(until) = self.demand.until.filter(|until| signed_at < *until) {
            return fault(format!("it is signed until {signed_at} only, not until {until}"));
        }
        if let Some(known) = &self.demand.head {
            self.keys.knows(&known.key).map_err(VerifyError::File)?;
            let last = self.tip.as_ref().map_or(0, |tip| tip.seq);
            if !self.has_known && last < known.tip.seq {
                let signed = known.tip.seq;
                return fault(format!(
                    "it ends with record {last}, but the given head was signed for record {signed}"
                ));
            }
            if !self.has_known {
                let what = "it begins behind the record that the given head was signed for";
                return fault(what.to_owned());
            }
        }
        let keys = self.keys.end().map_err(VerifyError::File)?;
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
