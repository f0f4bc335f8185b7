//! The loop that reads a text, byte by byte, and what it does with what it finds.

use memchr::memchr3;

use super::automaton::Match;
use super::candidates::{Candidates, Text};
use super::encoded::{Place, Readings};
use super::escapes::Escapes;
use super::fold::{SLOW, Sink};
use super::lane::Lane;
use super::pattern::{HIDDEN_TEXT, Hit, Via};
use super::patterns::{ByteClass, Literal, Patterns};
use super::regexes::Region;
use super::shapes::{ACCOUNT, Digits, NUMBER, is_international, local_part, nine_digits};
use super::state::{Again, Decoders, Found, Run, State};
use super::window::KEEP;
use super::work::Work;
use crate::policy::secrets::Lead;

/// How much is read before candidates are confirmed.
const BLOCK: usize = 4 << 10;

impl Patterns {
    /// Scans the next bytes of a lane; `on` gets each hit once.
    pub fn feed(&self, lane: &mut Lane, text: &[u8], on: &mut dyn FnMut(Hit)) {
        lane.work.grow(text.len());
        self.read(&mut lane.state, &mut lane.work, text, on);
    }

    /// Ends the text of a lane: what waited for more text is a hit or not.
    pub fn end(&self, lane: &mut Lane, on: &mut dyn FnMut(Hit)) {
        self.finish(&mut lane.state, &mut lane.work, on);
    }

    /// Scans a whole text.
    pub fn whole(&self, text: &[u8], work: &mut Work, on: &mut dyn FnMut(Hit)) {
        let mut state = work.state.take().unwrap_or_else(|| Box::new(State::new()));
        state.reset();
        self.read(&mut state, work, text, on);
        self.finish(&mut state, work, on);
        work.state = Some(state);
    }

    /// Reads the next bytes of a text.
    pub(super) fn read(&self, state: &mut State, work: &mut Work, text: &[u8], on: &mut dyn FnMut(Hit)) {
        if state.of != self.id {
            begin(state, self);
        }
        for block in text.chunks(BLOCK) {
            let from = state.push(block);
            self.step(state, block, from, on);
            if state.fold.is_hidden && !state.is_hidden_told {
                state.is_hidden_told = true;
                let end = from + block.len() as u64;
                on(Hit { pattern: HIDDEN_TEXT, start: 0, end, via: Via::Folded });
            }
            self.confirm(state, work, false, on);
            self.read_again(state, work, block.len(), from, on);
        }
    }

    /// Ends a text.
    pub(super) fn finish(&self, state: &mut State, work: &mut Work, on: &mut dyn FnMut(Hit)) {
        if state.of != self.id {
            begin(state, self);
        }
        state.window.reserve(128);
        let mut fold = std::mem::take(&mut state.fold);
        fold.end(&mut Reader { patterns: self, state, on });
        state.fold = fold;
        self.confirm(state, work, true, on);
        let end = state.text(true).end();
        self.with_readings(state, work, on, |again, _, readings| {
            again.runs.end(end, readings);
            again.escapes.iter_mut().for_each(|escapes| escapes.end(readings));
        });
    }

    /// Reads what the last bytes may be besides.
    fn read_again(
        &self,
        state: &mut State,
        work: &mut Work,
        bytes: usize,
        from: u64,
        on: &mut dyn FnMut(Hit),
    ) {
        self.with_readings(state, work, on, |again, kept, readings| {
            again.runs.read(kept, bytes, from, readings);
            let is_idle = again.escapes.iter().all(Escapes::is_idle);
            if !is_idle || memchr3(b'%', b'\\', b'&', &kept[kept.len() - bytes..]).is_some() {
                again.escapes.iter_mut().for_each(|escapes| escapes.read(kept, bytes, from, readings));
            }
        });
    }

    fn with_readings(
        &self,
        state: &mut State,
        work: &mut Work,
        on: &mut dyn FnMut(Hit),
        read: impl FnOnce(&mut Decoders, &[u8], &mut Inner<'_, '_>),
    ) {
        let Some(depth) = state.depth_below() else { return };
        let State { again: Again { decoders, readings }, raw, .. } = state;
        read(decoders, raw, &mut Inner { patterns: self, depth, work, readings, on });
    }

    /// Reads a block; its first byte is at `from` in the text.
    fn step(&self, state: &mut State, block: &[u8], from: u64, on: &mut dyn FnMut(Hit)) {
        let mut at = 0;
        while let Some(&byte) = block.get(at) {
            if state.fold.drops(byte) {
                at += 1;
                self.anchor(state, byte, from + at as u64);
                continue;
            }
            let read = if state.fold.is_clear() { self.ascii(state, block.len() - at, on) } else { 0 };
            if read == 0 {
                self.anchor(state, byte, from + at as u64 + 1);
                let mut fold = std::mem::take(&mut state.fold);
                fold.byte(byte, &mut Reader { patterns: self, state, on });
                state.fold = fold;
            }
            at += read.max(1);
        }
    }

    /// Reads bytes of the last block, of which `left` are left: up to one that needs more than look-ups, or with one in which
    /// something ends. Returns how many.
    fn ascii(&self, state: &mut State, left: usize, on: &mut dyn FnMut(Hit)) -> usize {
        state.window.skip(std::mem::take(&mut state.fold.dropped));
        let mut run = state.run(left);
        let read = match (&self.anchors, &self.literals) {
            (None, None) => self.run::<false, false>(&mut run),
            (Some(_), None) => self.run::<true, false>(&mut run),
            (None, Some(_)) => self.run::<false, true>(&mut run),
            (Some(_), Some(_)) => self.run::<true, true>(&mut run),
        };
        let end = run.from + read as u64;
        let Run { anchor, digits, literal, last, number, .. } = run;
        (state.anchor, state.digits, state.literal, state.fold.last) = (anchor, digits, literal, last);
        state.window.add(read);
        if read == 0 {
            return 0;
        }
        state.fold.before = state.text_before(end).last().copied().map(char::from);
        if self.anchors.as_ref().is_some_and(|anchors| anchors.automaton.is_found(anchor)) {
            self.on_anchor(state, anchor, end);
        }
        if number > 0 {
            self.on_number(state, number, end);
        }
        if self.literals.as_ref().is_some_and(|literals| literals.automaton.is_found(literal)) {
            self.on_literal(state, literal, on);
        }
        read
    }

    /// The loop of [`ascii`](Self::ascii), by itself so that what it needs for a byte stays in registers.
    #[inline(never)]
    fn run<const ANCHORS: bool, const LITERALS: bool>(&self, run: &mut Run<'_>) -> usize {
        let Run { before, bytes, from, .. } = *run;
        let Run { mut anchor, mut digits, mut literal, mut last, .. } = *run;
        let (mut number, mut read) = (0, bytes.len());
        for (at, (&byte, place)) in bytes.iter().zip(run.folded.iter_mut()).enumerate() {
            let class = self.bytes[usize::from(byte)];
            if class.folded >= SLOW || class.folded == b' ' && last == b' ' {
                read = at;
                break;
            }
            last = class.folded;
            *place = last;
            let mut is_found = false;
            if ANCHORS && let Some(anchors) = &self.anchors {
                anchor = anchors.automaton.next(anchor, class.anchor);
                is_found = anchors.automaton.is_found(anchor);
                if class.is_digit {
                    number = digits.read((before, &bytes[..at]), from + at as u64 + 1);
                    is_found |= number > 0;
                }
            }
            if LITERALS && let Some(literals) = &self.literals {
                literal = literals.automaton.next(literal, class.literal);
                is_found |= literals.automaton.is_found(literal);
            }
            if is_found {
                read = at + 1;
                break;
            }
        }
        (run.anchor, run.digits, run.literal, run.last, run.number) = (anchor, digits, literal, last, number);
        read
    }

    /// Looks for anchors and numbers that end with a byte.
    fn anchor(&self, state: &mut State, byte: u8, end: u64) {
        let Some(anchors) = &self.anchors else { return };
        let ByteClass { anchor: class, is_digit, .. } = self.bytes[usize::from(byte)];
        state.anchor = anchors.automaton.next(state.anchor, class);
        if anchors.automaton.is_found(state.anchor) {
            self.on_anchor(state, state.anchor, end);
        }
        if is_digit {
            let mut digits = state.digits;
            let number = digits.read((state.text_before(end - 1), &[]), end);
            state.digits = digits;
            if number > 0 {
                self.on_number(state, number, end);
            }
        }
    }

    #[cold]
    fn on_anchor(&self, state: &mut State, at: u32, end: u64) {
        let Some(anchors) = &self.anchors else { return };
        for &Match { literal, length } in anchors.automaton.found(at) {
            let slot = anchors.slots[literal];
            let start = match self.detectors[usize::from(slot)].1.lead {
                Lead::LocalPart => end - length - local_part(state.text_before(end - length)),
                _ => end - length,
            };
            state.candidate(&self.detectors, slot, start);
        }
    }

    #[cold]
    fn on_number(&self, state: &mut State, found: u8, end: u64) {
        let group = match found & NUMBER {
            0 => None,
            _ => nine_digits(state.text_before(end)).map(|length| end - length),
        };
        for (slot, (_, detector)) in self.detectors.iter().enumerate() {
            let start = match detector.lead {
                Lead::Digits => group,
                Lead::Account if found & ACCOUNT != 0 => Some(end - 4),
                _ => None,
            };
            let Some(mut start) = start else { continue };
            if is_international(detector, state.text_before(start)) {
                start -= 1;
            }
            state.candidate(&self.detectors, slot as u16, start);
        }
    }

    #[cold]
    fn on_literal(&self, state: &mut State, at: u32, on: &mut dyn FnMut(Hit)) {
        let Some(literals) = &self.literals else { return };
        let (Found { window, regions, open }, text) = state.parts(false);
        for &Match { literal, length } in literals.automaton.found(at) {
            let start = window.end() - length;
            match literals.outputs[literal] {
                Literal::Phrase { pattern } => {
                    on(hit(pattern, window.text_place(start), window.text_end, text));
                }
                Literal::Needle { expression: number } => {
                    let expression = &self.expressions[number as usize];
                    if regions.is_empty() {
                        regions.resize(self.expressions.len(), Region::default());
                    }
                    let place = |place| window.text_place(place);
                    let on = &mut |from, to| on(hit(expression.pattern, place(from), place(to), text));
                    expression.open(&mut regions[number as usize], start, window.folded(false), on);
                    if !open.contains(&number) {
                        open.push(number);
                    }
                }
            }
        }
    }

    /// Confirms what waits.
    fn confirm(&self, state: &mut State, work: &mut Work, is_over: bool, on: &mut dyn FnMut(Hit)) {
        if !state.candidates.is_empty() {
            let mut candidates = std::mem::take(&mut state.candidates);
            candidates.read(&self.detectors, state.text(is_over), &mut work.steps, on);
            work.is_exceeded |= work.steps == 0 || candidates.is_full;
            state.held = candidates.held_from(&self.detectors);
            state.candidates = candidates;
        }
        if state.open.is_empty() {
            return;
        }
        let (Found { window, regions, open }, text) = state.parts(is_over);
        if regions.is_empty() {
            regions.resize(self.expressions.len(), Region::default());
        }
        open.retain(|number| {
            let expression = &self.expressions[*number as usize];
            let region = &mut regions[*number as usize];
            let place = |place| window.text_place(place);
            let on = &mut |from, to| on(hit(expression.pattern, place(from), place(to), text));
            expression.search(region, window.folded(is_over), on);
            region.is_open()
        });
    }
}

/// What is found in folded text: it reads as it is if all its characters are ASCII.
fn hit(pattern: u32, start: u64, end: u64, text: Text<'_>) -> Hit {
    let is_plain = end - start <= KEEP as u64 && text.range(start, end).is_ascii();
    Hit { pattern, start, end, via: if is_plain { Via::Plain } else { Via::Folded } }
}

/// Reads folded bytes one by one.
struct Reader<'a, 'b> {
    patterns: &'a Patterns,
    state: &'a mut State,
    on: &'a mut (dyn FnMut(Hit) + 'b),
}

impl Sink for Reader<'_, '_> {
    fn push(&mut self, byte: u8, bytes: u64) {
        self.state.window.push(byte, bytes);
        let Some(literals) = &self.patterns.literals else { return };
        self.state.literal = literals.automaton.next(self.state.literal, literals.automaton.class(byte));
        if literals.automaton.is_found(self.state.literal) {
            self.patterns.on_literal(self.state, self.state.literal, self.on);
        }
    }
}

/// Forgets what belongs to other patterns.
fn begin(state: &mut State, patterns: &Patterns) {
    state.of = patterns.id;
    (state.anchor, state.literal) = (0, 0);
    state.digits = Digits::default();
    state.candidates = Candidates::default();
    state.regions.clear();
    state.open.clear();
    state.open.extend(&patterns.slow);
    state.held = None;
    state.again.clear();
}

/// Reads the readings of a text.
struct Inner<'a, 'b> {
    patterns: &'a Patterns,
    depth: u8,
    work: &'a mut Work,
    readings: &'a mut Vec<(Via, Box<State>)>,
    on: &'a mut (dyn FnMut(Hit) + 'b),
}

impl Readings for Inner<'_, '_> {
    fn text(&mut self, via: Via, bytes: &[u8], place: Place<'_>) {
        let Self { patterns, work, readings, on, .. } = self;
        match work.decode.checked_sub(bytes.len() as u64) {
            Some(rest) => work.decode = rest,
            None => {
                work.is_exceeded = true;
                return;
            }
        }
        let at = readings.iter().position(|(other, _)| *other == via).unwrap_or_else(|| {
            readings.push((via, Box::new(State::reading(self.depth))));
            readings.len() - 1
        });
        patterns.read(&mut readings[at].1, work, bytes, &mut |hit| found(hit, via, place, on));
    }

    fn over(&mut self, via: Via, place: Place<'_>) {
        if let Some(at) = self.readings.iter().position(|(other, _)| *other == via) {
            let (_, mut state) = self.readings.swap_remove(at);
            self.patterns.finish(&mut state, self.work, &mut |hit| found(hit, via, place, self.on));
        }
    }
}

/// Tells of what was found in a reading.
fn found(hit: Hit, via: Via, place: Place<'_>, on: &mut dyn FnMut(Hit)) {
    if hit.pattern != HIDDEN_TEXT
        && let Some((start, end)) = place(hit.start, hit.end)
    {
        on(Hit { start, end, via, ..hit });
    }
}
