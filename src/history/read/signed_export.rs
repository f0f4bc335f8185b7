//! The NDJSON format of an export: records between signed heads, and a signed statement at the end.

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::reader::Reader;
use super::time_range::TimeRange;
use crate::history::proof::chain_walk::{ChainWalk, head_after, head_before, heads};
use crate::history::proof::continuity::ExportView;
use crate::history::proof::head_file::Breach;
use crate::history::proof::record_check::rows_from;
use crate::history::proof::signature::Head;
use crate::history::proof::statement::{ExportSummary, Kind, Statement, UNSIGNED};

/// Why an export cannot be signed.
enum Fault {
    /// The file does not continue from what was signed.
    Breach(Breach),
    /// Records were deleted (`history.retention`) while they were being exported.
    Forgotten,
}

/// An NDJSON export in progress.
pub(in crate::history) struct SignedExport {
    view: ExportView,
    range: TimeRange,
    walk: ChainWalk,
    /// The lines before the first record: hand-overs, and the signature for the position before it.
    opening: Vec<u8>,
    /// The first record, the next one, and the last. `last < first` if there are no records.
    first: u64,
    next: u64,
    last: u64,
    /// Records up to this one are not vouched for.
    accepted: Option<u64>,
    fault: Option<Fault>,
    count: u64,
    /// The digest of all lines written so far.
    digest: Sha256,
}

impl SignedExport {
    /// Starts an export of the records `asked` (first and last), extended to the signed heads around them. `None` exports
    /// no records.
    pub(in crate::history) fn new(
        reader: &Reader,
        view: ExportView,
        range: TimeRange,
        asked: Option<(u64, u64)>,
    ) -> rusqlite::Result<Self> {
        let base = view.base.as_ref().map(Statement::tip).unwrap_or_default();
        let accepted = view.base.as_ref().filter(|base| base.kind == Kind::Accepted).map(|base| base.seq);
        let (file, keys) = (&reader.database, &view.keys);
        let (mut first, mut last) = (base.seq + 1, 0);
        let (mut walk, mut anchor) = (ChainWalk::after(base.clone()), None);
        if let Some((wanted, end)) = asked {
            // Records that are signed as deleted may still be in the file for a moment.
            let wanted = if accepted.is_some() { wanted } else { wanted.max(base.seq + 1) };
            match wanted > base.seq {
                true => anchor = view.base.as_ref().map(Statement::line),
                false => first = wanted,
            }
            let head = head_before(file, wanted.saturating_sub(1), keys)?;
            if let Some(head) = head.filter(|head| head.seq > base.seq || wanted <= base.seq) {
                (first, walk) = (head.seq + 1, ChainWalk::after(head.tip()));
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
        handovers.map(Statement::line).chain(anchor).for_each(|line| push_line(&line, &mut opening));
        let accepted = accepted.filter(|accepted| *accepted >= first);
        Ok(Self {
            view,
            range,
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

    /// Appends the next page. Returns false if it was the last one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::history) fn next_page(
        &mut self,
        reader: &Reader,
        page: &mut Vec<u8>,
    ) -> rusqlite::Result<bool> {
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
                self.add_fault(reader, breach, row.seq);
            }
            push_line(row.body.as_bytes(), page);
            self.count += 1;
            self.after(reader, row.seq, &heads, page)?;
        }
        self.digest.update(&page[begin..]);
        self.next = end.saturating_add(1);
        Ok(true)
    }

    /// Appends the heads and statements that were signed for record `seq`.
    fn after(
        &mut self,
        reader: &Reader,
        seq: u64,
        heads: &[Head],
        page: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        for head in heads.iter().filter(|head| head.seq == seq) {
            if self.fault.is_none()
                && let Err(breach) = self.walk.pass_head(head)
            {
                self.add_fault(reader, breach, seq);
            }
            push_line(&line_of(head)?, page);
        }
        for mark in self.view.marks.iter().filter(|mark| mark.seq == seq) {
            if mark.kind == Kind::Accepted {
                self.walk = ChainWalk::after(mark.tip());
            }
            push_line(&mark.line(), page);
        }
        Ok(())
    }

    /// Marks the export as unsigned because of a breach, unless an operator has accepted that part of the history.
    fn add_fault(&mut self, reader: &Reader, breach: Breach, seq: u64) {
        if self.accepted.is_some_and(|accepted| seq <= accepted) {
            return;
        }
        let is_gone = reader.integrity.base().seq >= self.walk.tip.seq.saturating_add(1);
        self.fault = Some(if is_gone { Fault::Forgotten } else { Fault::Breach(breach) });
    }

    fn end(&mut self, reader: &Reader, page: &mut Vec<u8>) {
        if self.fault.is_none() && self.count > 0 && self.walk.tip.seq < self.last {
            let what = format!("record {} is missing", self.walk.tip.seq + 1);
            self.add_fault(reader, Breach::new(what), self.last);
        }
        let why = match (self.fault.take(), &self.view.lead) {
            (Some(Fault::Forgotten), _) => {
                "records were deleted while they were exported; export again".to_owned()
            }
            (Some(Fault::Breach(breach)), _) => {
                let what = breach.what.clone();
                reader.integrity.report_breach(breach);
                what
            }
            (None, Err(what)) => what.clone(),
            (None, Ok(lead)) => {
                let tip = if self.count > 0 { &self.walk.tip } else { &lead.tip };
                let exported = ExportSummary {
                    first: (self.count > 0).then_some(self.first),
                    records: self.count,
                    from: self.range.from,
                    to: self.range.to,
                    accepted: self.accepted,
                    digest: HEXLOWER.encode(&std::mem::take(&mut self.digest).finalize()),
                };
                let unsigned = Statement {
                    export: Some(exported),
                    ..Statement::new(Kind::Export, tip, Timestamp::now())
                };
                return push_line(&reader.integrity.signer.sign_statement(unsigned).line(), page);
            }
        };
        push_line(json!({"schema": UNSIGNED, "why": why}).to_string().as_bytes(), page);
    }
}

fn line_of(head: &Head) -> rusqlite::Result<Vec<u8>> {
    serde_json::to_vec(head).map_err(|fault| rusqlite::Error::ToSqlConversionFailure(Box::new(fault)))
}

fn push_line(line: &[u8], page: &mut Vec<u8>) {
    page.extend_from_slice(line);
    page.push(b'\n');
}
