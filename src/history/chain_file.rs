//! The NDJSON form of an export: records between signed heads, and at its end what the gateway says of it.

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::check::rows_from;
use super::head_file::Breach;
use super::reader::Reader;
use super::seal::Head;
use super::statement::{Exported, Kind, Statement};
use super::trust::View;
use super::walk::{Walk, head_after, head_before, heads};
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
pub(super) struct Chain {
    view: View,
    window: Window,
    walk: Walk,
    /// Lines before the first record: hand-overs, and what was signed for the position there.
    opening: Vec<u8>,
    /// The first record, the next one, and the last; the last is below the first when there is none.
    first: u64,
    next: u64,
    last: u64,
    /// Up to here nothing is vouched for.
    accepted: Option<u64>,
    fault: Option<Fault>,
    count: u64,
    /// Over all that was written.
    digest: Sha256,
}

impl Chain {
    /// The records between the heads around those that are asked for.
    pub(super) fn new(
        reader: &Reader,
        view: View,
        window: Window,
        asked: Option<(u64, u64)>,
    ) -> rusqlite::Result<Self> {
        let base = view.base.as_ref().map(Statement::tip).unwrap_or_default();
        let accepted = view.base.as_ref().filter(|base| base.kind == Kind::Accepted).map(|base| base.seq);
        let (file, keys) = (&reader.database, &view.keys);
        let (mut first, mut last) = (base.seq + 1, 0);
        let (mut walk, mut anchor) = (Walk::behind(base.clone()), None);
        if let Some((wanted, end)) = asked {
            // What is forgotten may still be there for a moment.
            let wanted = if accepted.is_some() { wanted } else { wanted.max(base.seq + 1) };
            match wanted > base.seq {
                true => anchor = view.base.as_ref().map(Statement::line),
                false => first = wanted,
            }
            let head = head_before(file, wanted.saturating_sub(1), keys)?;
            if let Some(head) = head.filter(|head| head.seq > base.seq || wanted <= base.seq) {
                (first, walk) = (head.seq + 1, Walk::behind(head.tip()));
                anchor = Some(line_of(&head)?);
            }
            last = match (head_after(file, end, keys)?, &view.lead) {
                (Some(head), _) => head.seq,
                (None, Ok(lead)) => lead.tip.seq.max(end),
                (None, Err(_)) => end,
            };
        }
        let mut opening = Vec::new();
        let handovers = view.marks.iter().filter(|mark| mark.kind == Kind::Handover && mark.seq < first);
        handovers.map(Statement::line).chain(anchor).for_each(|line| put(&line, &mut opening));
        let accepted = accepted.filter(|accepted| *accepted >= first);
        Ok(Self {
            view,
            window,
            walk,
            opening,
            first,
            next: first,
            last,
            accepted,
            fault: None,
            count: 0,
            digest: Sha256::new(),
        })
    }

    /// Appends the next page; false when it was the last one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next_page(&mut self, reader: &Reader, page: &mut Vec<u8>) -> rusqlite::Result<bool> {
        let begin = page.len();
        page.append(&mut self.opening);
        let mut rows = match self.next <= self.last {
            true => rows_from(&reader.database, self.next)?,
            false => Vec::new(),
        };
        rows.retain(|row| row.seq <= self.last);
        let Some(end) = rows.last().map(|row| row.seq) else {
            self.digest.update(&page[begin..]);
            self.end(reader, page);
            return Ok(false);
        };
        let heads = heads(&reader.database, self.next, end, &self.view.keys)?;
        for row in &rows {
            if self.fault.is_none()
                && let Err(breach) = self.walk.step(row)
            {
                self.found(reader, breach, row.seq);
            }
            put(row.body.as_bytes(), page);
            self.count += 1;
            self.after(reader, row.seq, &heads, page)?;
        }
        self.digest.update(&page[begin..]);
        self.next = end.saturating_add(1);
        Ok(true)
    }

    /// What was signed for this record.
    fn after(
        &mut self,
        reader: &Reader,
        seq: u64,
        heads: &[Head],
        page: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        for head in heads.iter().filter(|head| head.seq == seq) {
            if self.fault.is_none()
                && let Err(breach) = self.walk.pass(head)
            {
                self.found(reader, breach, seq);
            }
            put(&line_of(head)?, page);
        }
        for mark in self.view.marks.iter().filter(|mark| mark.seq == seq) {
            if mark.kind == Kind::Accepted {
                self.walk = Walk::behind(mark.tip());
            }
            put(&mark.line(), page);
        }
        Ok(())
    }

    /// Something is not as it was written: no matter where an operator accepted it, else the export is not signed.
    fn found(&mut self, reader: &Reader, breach: Breach, seq: u64) {
        if self.accepted.is_some_and(|accepted| seq <= accepted) {
            return;
        }
        let is_gone = reader.trust.base().seq >= self.walk.tip.seq.saturating_add(1);
        self.fault = Some(if is_gone { Fault::Forgotten } else { Fault::Breach(breach) });
    }

    fn end(&mut self, reader: &Reader, page: &mut Vec<u8>) {
        if self.fault.is_none() && self.count > 0 && self.walk.tip.seq < self.last {
            let what = format!("record {} is missing", self.walk.tip.seq + 1);
            self.found(reader, Breach::new(what), self.last);
        }
        let why = match (self.fault.take(), &self.view.lead) {
            (Some(Fault::Forgotten), _) => {
                "records were forgotten while they were exported; export again".to_owned()
            }
            (Some(Fault::Breach(breach)), _) => {
                let what = breach.what.clone();
                reader.trust.breached(breach);
                what
            }
            (None, Err(what)) => what.clone(),
            (None, Ok(lead)) => {
                let tip = if self.count > 0 { &self.walk.tip } else { &lead.tip };
                let exported = Exported {
                    first: (self.count > 0).then_some(self.first),
                    records: self.count,
                    from: self.window.from,
                    to: self.window.to,
                    accepted: self.accepted,
                    digest: HEXLOWER.encode(&std::mem::take(&mut self.digest).finalize()),
                };
                let unsigned = Statement {
                    export: Some(exported),
                    ..Statement::new(Kind::Export, tip, Timestamp::now())
                };
                return put(&reader.trust.signer.state(unsigned).line(), page);
            }
        };
        put(json!({"schema": UNSIGNED, "why": why}).to_string().as_bytes(), page);
    }
}

fn line_of(head: &Head) -> rusqlite::Result<Vec<u8>> {
    serde_json::to_vec(head).map_err(|fault| rusqlite::Error::ToSqlConversionFailure(Box::new(fault)))
}

fn put(line: &[u8], page: &mut Vec<u8>) {
    page.extend_from_slice(line);
    page.push(b'\n');
}
