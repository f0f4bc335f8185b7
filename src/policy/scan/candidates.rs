//! Confirms secrets and personal data behind their anchors.
//!
//! Each candidate is stepped through the automaton of its detector as the text comes, until no more text can change what it
//! is. Of the ends at which it is valid, the last one counts.

use regex_automata::dfa::Automaton;
use regex_automata::dfa::dense::DFA;
use regex_automata::util::primitives::StateID;

use super::pattern::{Hit, Via};
use crate::policy::secrets::Detector;

/// Most bytes of a secret, and of the text of a lane that is kept.
pub(super) const MAX_SECRET: u64 = 512;
/// Most candidates that wait: those of a block of nothing but anchors.
const MAX_WAITING: usize = 4096;

/// A place where a secret may stand.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// The detector, by its place among those that are used.
    slot: u16,
    start: u64,
    /// Up to where it was read, and the state there.
    read: u64,
    state: StateID,
    /// Where it ends, if it does.
    valid: Option<u64>,
}

/// The candidates of a lane.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    waiting: Vec<Candidate>,
    /// Where the last hit of each detector ended.
    taken: Vec<(u16, u64)>,
    /// One was dropped because too many waited.
    pub(super) is_full: bool,
}

/// The text that is kept.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) bytes: &'a [u8],
    /// The place of the first of them in the whole.
    pub(super) from: u64,
    /// Nothing follows.
    pub(super) is_over: bool,
}

impl Text<'_> {
    /// Where it ends.
    pub(super) fn end(&self) -> u64 {
        self.from + self.bytes.len() as u64
    }

    /// A part of it.
    pub(super) fn range(&self, start: u64, end: u64) -> &[u8] {
        let at = |place: u64| (place.saturating_sub(self.from) as usize).min(self.bytes.len());
        &self.bytes[at(start)..at(end).max(at(start))]
    }
}

/// A detector and the number of its pattern.
pub(super) type Slot = (u32, &'static Detector);

impl Candidates {
    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Where the first secret starts that is not decided.
    pub(super) fn held_from(&self, slots: &[Slot]) -> Option<u64> {
        let held = self.waiting.iter().filter(|candidate| slots[usize::from(candidate.slot)].1.is_secret);
        held.map(|candidate| candidate.start).min()
    }

    /// Adds a candidate that starts here, unless it stands where none may.
    pub(super) fn add(&mut self, slots: &[Slot], slot: u16, start: u64, text: Text<'_>) {
        let (_, detector) = slots[usize::from(slot)];
        let before = text.range(start.saturating_sub(2).max(text.from), start);
        if !detector.may_follow(before) {
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.is_full = true;
            return;
        }
        let state = detector.automaton().1;
        self.waiting.push(Candidate { slot, start, read: start, state, valid: None });
    }

    /// Reads what has come since; `steps` is what may be read.
    pub(super) fn read(&mut self, slots: &[Slot], text: Text<'_>, steps: &mut u64, on: &mut dyn FnMut(Hit)) {
        let mut waiting = std::mem::take(&mut self.waiting);
        // Of two candidates of a detector the second waits for the first, which may contain it.
        let mut before = 0_u128;
        let mut others: Vec<u16> = Vec::new();
        waiting.retain_mut(|candidate| {
            let (pattern, detector) = slots[usize::from(candidate.slot)];
            let is_second = match candidate.slot {
                slot @ 0..128 => before & 1 << slot != 0,
                slot => others.contains(&slot),
            };
            if is_second {
                return true;
            }
            let taken =
                self.taken.iter().find(|(slot, _)| *slot == candidate.slot).map_or(0, |(_, end)| *end);
            if candidate.start < taken {
                return false;
            }
            if !candidate.read(detector, text, steps) {
                match candidate.slot {
                    slot @ 0..128 => before |= 1 << slot,
                    slot => others.push(slot),
                }
                return true;
            }
            if let Some(end) = candidate.valid {
                self.taken.retain(|(slot, _)| *slot != candidate.slot);
                self.taken.push((candidate.slot, end));
                on(Hit { pattern, start: candidate.start, end, via: Via::Plain });
            }
            false
        });
        self.waiting = waiting;
    }
}

impl Candidate {
    /// Reads on; returns whether it is decided.
    fn read(&mut self, detector: &Detector, text: Text<'_>, steps: &mut u64) -> bool {
        let (automaton, _): &(DFA<Vec<u32>>, StateID) = detector.automaton();
        let end = (self.start + MAX_SECRET).min(text.from + text.bytes.len() as u64);
        for &byte in text.range(self.read, end) {
            // Nothing more may be read: what has been found counts.
            if *steps == 0 {
                return true;
            }
            *steps -= 1;
            self.state = automaton.next_state(self.state, byte);
            // The state tells of the byte before.
            if automaton.is_match_state(self.state) {
                self.found(detector, text, self.read);
            }
            self.read += 1;
            if automaton.is_dead_state(self.state) {
                return true;
            }
        }
        let is_over = text.is_over || self.read >= self.start + MAX_SECRET;
        if is_over && automaton.is_match_state(automaton.next_eoi_state(self.state)) {
            self.found(detector, text, self.read);
        }
        is_over
    }

    fn found(&mut self, detector: &Detector, text: Text<'_>, end: u64) {
        if (detector.validate)(text.range(self.start, end)) {
            self.valid = Some(end);
        }
    }
}
