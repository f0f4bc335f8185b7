//! The NDJSON form of an export: records between signed heads, and at its end what the gateway says of it.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::json;

use super::check::rows_from;
use super::export::ExportError;
use super::head_file::Breach;
use super::reader::Reader;
use super::seal::Head;
use super::statement::{Exported, Kind, Statement};
use super::trust::View;
use super::walk::{PAGE, Walk, head_after, head_before, heads};
use super::window::Window;

/// The version of the line that stands in the place of a signed end.
pub(super) const UNSIGNED: &str = "elida.cdr-unsigned/1";

/// What is wrong with an export.
enum Fault {
    /// The file does not lead to what was signed.
    Breach(Breach),
    /// The records were forgotten while they were read.
    Forgotten,
}

/// The records of an export, and what surrounds them.
pub(super) struct Chain<'a> {
    reader: &'a Reader,
    view: View,
    walk: Walk,
    /// The anchor before the first record: a line of its own.
    anchor: Option<Vec<u8>>,
    /// The first record, and the last; the last is below the first when there is none.
    first: u64,
    last: u64,
    /// Up to here nothing is vouched for.
    accepted: Option<u64>,
    fault: Option<Fault>,
    count: u64,
}

impl<'a> Chain<'a> {
    /// The records between the heads around those that are asked for.
    pub(super) fn new(reader: &'a Reader, view: View, asked: Option<(u64, u64)>) -> rusqlite::Result<Self> {
        let base = view.base.as_ref().map(Statement::tip).unwrap_or_default();
        let accepted = view.base.as_ref().filter(|base| base.kind == Kind::Accepted).map(|base| base.seq);
        let mut chain = Self {
            reader,
            walk: Walk::behind(base.clone()),
            anchor: None,
            first: base.seq + 1,
            last: 0,
            accepted: None,
            fault: None,
            count: 0,
            view,
        };
        let Some((mut first, last)) = asked else { return Ok(chain) };
        if accepted.is_none() {
            // What is forgotten may still be there for a moment.
            first = first.max(base.seq + 1);
        }
        match first > base.seq {
            true => chain.anchor = chain.view.base.as_ref().map(Statement::line),
            false => chain.first = first,
        }
        let (file, keys) = (&reader.database, &chain.view.keys);
        let head = head_before(file, first.saturating_sub(1), keys)?;
        if let Some(head) = head.filter(|head| head.seq > base.seq || first <= base.seq) {
            (chain.first, chain.walk) = (head.seq + 1, Walk::behind(head.tip()));
            chain.anchor = Some(line_of(&head)?);
        }
        chain.accepted = accepted.filter(|accepted| *accepted >= chain.first);
        chain.last = match (head_after(file, last, keys)?, &chain.view.lead) {
            (Some(head), _) => head.seq,
            (None, Ok(lead)) => lead.tip.seq.max(last),
            (None, Err(_)) => last,
        };
        Ok(chain)
    }

    /// Writes it all; gives how many records.
    pub(super) fn write(mut self, window: Window, sink: &mut impl Write) -> Result<u64, ExportError> {
        self.marks_before(sink)?;
        if let Some(anchor) = self.anchor.take() {
            put(&anchor, sink)?;
        }
        let mut next = self.first;
        while next <= self.last {
            let mut rows = rows_from(&self.reader.database, next, PAGE)?;
            rows.retain(|row| row.seq <= self.last);
            let Some(end) = rows.last().map(|row| row.seq) else { break };
            let heads = heads(&self.reader.database, next, end, &self.view.keys)?;
            for row in &rows {
                if self.fault.is_none()
                    && let Err(breach) = self.walk.step(row)
                {
                    self.found(breach, row.seq);
                }
                put(row.body.as_bytes(), sink)?;
                self.count += 1;
                self.after(row.seq, &heads, sink)?;
            }
            next = end.saturating_add(1);
        }
        self.end(window, sink)?;
        sink.flush()?;
        Ok(self.count)
    }

    /// Hand-overs before the first record: without them a former key says nothing about this one.
    fn marks_before(&self, sink: &mut impl Write) -> Result<(), ExportError> {
        let before = |mark: &&Statement| mark.kind == Kind::Handover && mark.seq < self.first;
        for mark in self.view.marks.iter().filter(before) {
            put(&mark.line(), sink)?;
        }
        Ok(())
    }

    /// What was signed for this record.
    fn after(&mut self, seq: u64, heads: &[Head], sink: &mut impl Write) -> Result<(), ExportError> {
        for head in heads.iter().filter(|head| head.seq == seq) {
            if self.fault.is_none()
                && let Err(breach) = self.walk.pass(head)
            {
                self.found(breach, seq);
            }
            put(&line_of(head)?, sink)?;
        }
        for mark in self.view.marks.iter().filter(|mark| mark.seq == seq) {
            if mark.kind == Kind::Accepted {
                self.walk = Walk::behind(mark.tip());
            }
            put(&mark.line(), sink)?;
        }
        Ok(())
    }

    /// Something is not as it was written: no matter where an operator accepted it, else the export is not signed.
    fn found(&mut self, breach: Breach, seq: u64) {
        if self.accepted.is_some_and(|accepted| seq <= accepted) {
            return;
        }
        let is_gone = self.reader.trust.base().seq >= self.walk.tip.seq.saturating_add(1);
        self.fault = Some(if is_gone { Fault::Forgotten } else { Fault::Breach(breach) });
    }

    fn end(&mut self, window: Window, sink: &mut impl Write) -> Result<(), ExportError> {
        if self.fault.is_none() && self.count > 0 && self.walk.tip.seq < self.last {
            let what = format!("record {} is missing", self.walk.tip.seq + 1);
            self.found(Breach::new(what), self.last);
        }
        let why = match (self.fault.take(), &self.view.lead) {
            (Some(Fault::Forgotten), _) => "records were forgotten while they were exported; export again".to_owned(),
            (Some(Fault::Breach(breach)), _) => {
                let what = breach.what.clone();
                self.reader.trust.breached(breach);
                what
            }
            (None, Err(what)) => what.clone(),
            (None, Ok(lead)) => {
                let tip = if self.count > 0 { &self.walk.tip } else { &lead.tip };
                let exported = Exported {
                    first: (self.count > 0).then_some(self.first),
                    records: self.count,
                    from: window.from,
                    to: window.to,
                    accepted: self.accepted,
                };
                let unsigned = Statement {
                    export: Some(exported),
                    ..Statement::new(Kind::Export, tip, Timestamp::now())
                };
                return put(&self.reader.trust.signer.state(unsigned).line(), sink);
            }
        };
        put(json!({"schema": UNSIGNED, "why": why}).to_string().as_bytes(), sink)
    }
}

fn line_of(head: &Head) -> rusqlite::Result<Vec<u8>> {
    serde_json::to_vec(head).map_err(|fault| rusqlite::Error::ToSqlConversionFailure(Box::new(fault)))
}

fn put(line: &[u8], sink: &mut impl Write) -> Result<(), ExportError> {
    sink.write_all(line).and_then(|()| sink.write_all(b"\n")).map_err(|fault: io::Error| ExportError::Sink(fault))
}
