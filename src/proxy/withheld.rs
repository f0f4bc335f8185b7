//! Withholds an answer that is judged: it leaves in whole units only (events, lines, elements of a streamed array, messages
//! of a socket), each after it was judged, so that the client always stands between two of them and a block can end the
//! answer in its own dialect.
//!
//! A JSON text that is no stream stays whole, up to [`MAX_KEPT`]; what is longer flows but for its last chunk. A compressed
//! answer is judged decoded, and leaves in chunks that end between two units. No byte is changed.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::downstream::{Gate, GateWait, KeepAlive};
use crate::error::Refusal;
use crate::protocol::answer::events::Event;

/// Bytes of one unit, or of a whole answer, that are kept.
pub(super) const MAX_KEPT: usize = 1 << 20;
/// How long a text that may become a secret is held back.
const MAX_UNDECIDED: Duration = Duration::from_secs(2);
/// And how many bytes of it.
const MAX_UNDECIDED_TEXT: u64 = 512;

/// Reads an answer, unit by unit.
pub(super) trait Source {
    /// Reads up to the end of the unit under way; returns how many bytes it has read.
    fn read(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) -> usize;

    /// The answer has ended: reports what was waiting for its end.
    fn end(&mut self, on: &mut dyn FnMut(Event<'_>));

    /// Whether what was read ends with a unit.
    fn is_between(&self) -> bool;

    /// Whether the answer comes in units.
    fn has_units(&self) -> bool;

    /// Whether what was read, and what follows, cannot be read.
    fn is_unread(&self) -> bool;

    /// Whether what was read ends in a call that clients make as it is if the answer ends there.
    fn has_open_call(&self) -> bool;
}

/// Judges what was read.
pub(super) trait Judge {
    /// Something was read.
    fn hear(&mut self, event: Event<'_>);

    /// A whole unit, as it is about to be judged. Returns what leaves in its place.
    fn unit(&mut self, bytes: Bytes) -> Bytes {
        bytes
    }

    /// Says what becomes of what was read since the last time.
    fn rule(&mut self, of: Part) -> Ruling;
}

/// What is to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A whole unit.
    Unit,
    /// A part of a text that is too long to be kept.
    Long,
    /// A part of a unit that is too long to be kept.
    LongUnit,
    /// What cannot be read.
    Unread,
    /// The rest of the answer.
    End,
}

/// What becomes of a part.
pub(super) enum Ruling {
    /// It leaves. So many bytes of text are in it; behind the last one, nothing stays behind.
    Pass { text: u64, is_last: bool },
    /// It has the beginning of what may be a secret, or more of it; so many bytes of that have been read. It is a new one if all
    /// that were undecided before it are decided.
    Undecided { text: u64, of_secret: u64, is_new: bool },
    /// It leaves when this is ready.
    Wait(GateWait, Option<KeepAlive>),
    /// It does not leave, and ends the answer.
    Refuse(Box<Refusal>),
}

/// The way to the client: straight on, or through the gate as long as something waits there.
pub(super) struct Exit<'a> {
    gate: &'a Gate,
    is_closed: bool,
    straight: Vec<Bytes>,
    counted: &'a mut dyn FnMut(&[u8]),
}

impl<'a> Exit<'a> {
    /// `counted` is told of everything that leaves, or will when the gate opens.
    pub(super) fn new(gate: &'a Gate, counted: &'a mut dyn FnMut(&[u8])) -> Self {
        Self { gate, is_closed: gate.is_closed(), straight: Vec::new(), counted }
    }

    fn leave(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        (self.counted)(&bytes);
        match self.is_closed {
            true => self.gate.push(bytes),
            false => self.straight.push(bytes),
        }
    }

    /// What went before leaves before what the gate is closed for.
    fn close(&mut self) {
        self.straight.drain(..).for_each(|bytes| self.gate.push(bytes));
        self.is_closed = true;
    }

    fn hold_until(&mut self, deadline: Instant) {
        self.close();
        self.gate.hold_until(deadline);
    }

    fn wait(&mut self, wait: GateWait, keep_alive: Option<KeepAlive>) {
        self.close();
        self.gate.wait(wait, keep_alive);
    }

    /// Returns what leaves at once, which is all of `chunk` if that was divided and nothing of it stays.
    fn finish(mut self, chunk: Bytes) -> Bytes {
        match self.straight.len() {
            0 => Bytes::new(),
            1 => self.straight.pop().unwrap_or_default(),
            _ => {
                let length: usize = self.straight.iter().map(Bytes::len).sum();
                let is_all = length == chunk.len() && self.straight[0].as_ptr() == chunk.as_ptr();
                if is_all { chunk } else { self.straight.concat().into() }
            }
        }
    }
}

/// A judged unit that has not left.
struct Unit {
    bytes: Bytes,
    /// Bytes of text in it.
    text: u64,
    /// When it had the first bytes of what may be a secret.
    secret_since: Option<Instant>,
}

/// Whether the text may be the beginning of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secret {
    None,
    Held,
    /// It was held for too long, and leaves undecided.
    Passed,
}

/// What is withheld of one answer.
pub(super) struct Withheld {
    /// The unit under way.
    kept: BytesMut,
    /// How many of these bytes the last chunk had.
    last: usize,
    /// The unit under way is too long to be kept, and flows.
    is_long: bool,
    behind: VecDeque<Unit>,
    behind_text: u64,
    behind_bytes: usize,
    /// Bytes of text that always stay behind.
    hold_back: u64,
    /// All units stay behind, up to [`MAX_KEPT`].
    stays: bool,
    secret: Secret,
}

impl Withheld {
    pub(super) fn new(hold_back: u64) -> Self {
        Self {
            kept: BytesMut::new(),
            last: 0,
            is_long: false,
            behind: VecDeque::new(),
            behind_text: 0,
            behind_bytes: 0,
            hold_back,
            stays: false,
            secret: Secret::None,
        }
    }

    /// Whether the client stands between two units.
    pub(super) fn is_between(&self) -> bool {
        !self.is_long
    }

    /// Reads and judges a chunk of the answer, and returns what of the answer may leave now.
    ///
    /// # Errors
    /// The answer must end here; nothing that has not left may leave.
    pub(super) fn feed(
        &mut self,
        chunk: Bytes,
        end: bool,
        source: &mut dyn Source,
        judge: &mut dyn Judge,
        mut exit: Exit<'_>,
    ) -> Result<Bytes, Box<Refusal>> {
        let mut at = 0;
        while at < chunk.len() {
            let used = source.read(&chunk[at..], &mut |event| judge.hear(event)).max(1);
            let piece = chunk.slice(at..at + used);
            at += used;
            if source.is_unread() {
                let bytes = self.whole(piece);
                // Nobody knows where the client stands.
                self.is_long = true;
                self.settle(bytes, judge.rule(Part::Unread), &mut exit)?;
                continue;
            }
            if source.is_between() {
                let unit = judge.unit(self.whole(piece));
                self.stays = source.has_open_call() && self.behind_bytes < MAX_KEPT;
                self.settle(unit, judge.rule(Part::Unit), &mut exit)?;
                continue;
            }
            self.keep(&piece);
            if self.is_long || self.kept.len() > MAX_KEPT {
                self.is_long = true;
                let part = if source.has_units() { Part::LongUnit } else { Part::Long };
                let ready = self.kept.split_to(self.kept.len() - self.last).freeze();
                self.settle(ready, judge.rule(part), &mut exit)?;
            }
        }
        if end {
            source.end(&mut |event| judge.hear(event));
            self.stays = false;
            let mut rest = self.kept.split().freeze();
            if source.is_unread() {
                self.settle(std::mem::take(&mut rest), judge.rule(Part::Unread), &mut exit)?;
            }
            self.settle(rest, judge.rule(Part::End), &mut exit)?;
            self.let_all_go(&mut exit);
            exit.gate.lift();
        }
        Ok(exit.finish(chunk))
    }

    fn keep(&mut self, piece: &[u8]) {
        self.kept.extend_from_slice(piece);
        self.last = piece.len();
    }

    /// Returns the unit that ends with this piece.
    fn whole(&mut self, piece: Bytes) -> Bytes {
        self.is_long = false;
        if self.kept.is_empty() {
            return piece;
        }
        self.kept.extend_from_slice(&piece);
        self.kept.split().freeze()
    }

    fn settle(&mut self, bytes: Bytes, ruling: Ruling, exit: &mut Exit<'_>) -> Result<(), Box<Refusal>> {
        match ruling {
            Ruling::Pass { text, is_last } => {
                if std::mem::replace(&mut self.secret, Secret::None) != Secret::None {
                    exit.gate.lift();
                }
                self.stay_behind(Unit { bytes, text, secret_since: None }, exit);
                if is_last && !self.stays {
                    self.let_all_go(exit);
                }
            }
            Ruling::Undecided { text, of_secret, is_new } => {
                let is_first = is_new || self.secret == Secret::None;
                if is_first {
                    exit.gate.lift();
                    self.secret = Secret::Held;
                }
                if self.secret == Secret::Held
                    && (of_secret > MAX_UNDECIDED_TEXT || !is_first && exit.gate.has_passed())
                {
                    self.secret = Secret::Passed;
                    exit.gate.lift();
                }
                let secret_since = is_first.then(Instant::now);
                self.stay_behind(Unit { bytes, text, secret_since }, exit);
            }
            Ruling::Wait(wait, keep_alive) => {
                self.let_all_go(exit);
                exit.wait(wait, keep_alive);
                self.stay_behind(Unit { bytes, text: 0, secret_since: None }, exit);
            }
            Ruling::Refuse(refusal) => {
                exit.gate.clear();
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Puts a unit behind the others that stay, of which those leave behind which there is enough text.
    fn stay_behind(&mut self, unit: Unit, exit: &mut Exit<'_>) {
        if self.hold_back == 0 && !self.stays && self.behind.is_empty() {
            return self.let_go(unit, exit);
        }
        self.behind_text += unit.text;
        self.behind_bytes += unit.bytes.len();
        self.behind.push_back(unit);
        if self.stays {
            return;
        }
        while let Some(unit) =
            self.behind.pop_front_if(|first| self.behind_text - first.text >= self.hold_back)
        {
            self.behind_text -= unit.text;
            self.behind_bytes -= unit.bytes.len();
            self.let_go(unit, exit);
        }
    }

    fn let_all_go(&mut self, exit: &mut Exit<'_>) {
        (self.behind_text, self.behind_bytes) = (0, 0);
        while let Some(unit) = self.behind.pop_front() {
            self.let_go(unit, exit);
        }
    }

    fn let_go(&mut self, unit: Unit, exit: &mut Exit<'_>) {
        if let Some(since) = unit.secret_since.filter(|_| self.secret == Secret::Held) {
            exit.hold_until(since + MAX_UNDECIDED);
        }
        exit.leave(unit.bytes);
    }
}

#[cfg(test)]
mod tests;
