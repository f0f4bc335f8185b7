//! The automaton that finds literals, in tables of our own: the crate looks up a class and a state for each byte and
//! automaton, and the loop of the scanner has the classes of a byte from one look-up.

use std::collections::{HashMap, HashSet};

use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton as _, StateID};
use aho_corasick::dfa::DFA;

/// An automaton. State 0 is that before the first byte.
#[derive(Debug)]
pub(super) struct Automaton {
    /// The class of each byte: those of a class lead to the same states.
    classes: [u8; 256],
    /// A row for each state: the next state for each class. A state is the place of its row.
    next: Vec<u32>,
    /// What ends in each state that finds something, by their order. These states come last.
    found: Vec<Vec<Match>>,
    first_found: u32,
    /// The length of a row.
    row: u32,
}

/// A literal that ends in a state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Match {
    /// Its place in the list.
    pub(super) literal: usize,
    /// Its length in bytes.
    pub(super) length: u64,
}

impl Automaton {
    /// Returns the automaton of these literals; `None` if it has more than `max` bytes.
    pub(super) fn new<T: AsRef<[u8]>>(literals: &[T], max: usize) -> Option<Self> {
        let bytes: usize = literals.iter().map(|literal| literal.as_ref().len()).sum();
        let (classes, spellings) = classes(literals);
        // A state for each byte at most, of a row for each class.
        if bytes.saturating_mul(spellings.len().next_power_of_two()).saturating_mul(4) > max {
            return None;
        }
        let dfa = DFA::builder().prefilter(false).build(literals).ok()?;
        let start = dfa.start_state(Anchored::No).ok()?;
        let states = states(&dfa, start, &spellings);
        let row = spellings.len() as u32;
        let places: HashMap<StateID, u32> =
            states.iter().copied().zip((0..).map(|number| number * row)).collect();
        let after = |state: &StateID, byte: &u8| places[&dfa.next_state(Anchored::No, *state, *byte)];
        let first = states.partition_point(|state| !dfa.is_match(*state));
        let found = |state: &StateID| {
            let literals = (0..dfa.match_len(*state)).map(|index| dfa.match_pattern(*state, index));
            literals.map(|id| Match { literal: id.as_usize(), length: dfa.pattern_len(id) as u64 }).collect()
        };
        Some(Self {
            classes,
            next: states
                .iter()
                .flat_map(|state| spellings.iter().map(move |byte| after(state, byte)))
                .collect(),
            found: states[first..].iter().map(found).collect(),
            first_found: first as u32 * row,
            row,
        })
    }

    /// The class of a byte.
    pub(super) fn class(&self, byte: u8) -> u8 {
        self.classes[usize::from(byte)]
    }

    /// The state after a byte of this class.
    #[inline(always)]
    pub(super) fn next(&self, state: u32, class: u8) -> u32 {
        // Rows are whole, so that there is one.
        self.next.get(state as usize + usize::from(class)).copied().unwrap_or(0)
    }

    /// Whether something ends in this state.
    #[inline(always)]
    pub(super) fn is_found(&self, state: u32) -> bool {
        state >= self.first_found
    }

    /// What ends in this state.
    pub(super) fn found(&self, state: u32) -> &[Match] {
        let place = state.checked_sub(self.first_found).map(|place| (place / self.row) as usize);
        place.and_then(|place| self.found.get(place)).map_or(&[], Vec::as_slice)
    }
}

/// Returns the class of each byte, and a byte of each class: each byte of a literal is one, and the others are one.
fn classes<T: AsRef<[u8]>>(literals: &[T]) -> ([u8; 256], Vec<u8>) {
    let mut is_used = [false; 256];
    literals.iter().flat_map(|literal| literal.as_ref()).for_each(|byte| is_used[usize::from(*byte)] = true);
    let (mut classes, mut spellings) = ([0; 256], Vec::new());
    spellings.extend((0..=u8::MAX).find(|byte| !is_used[usize::from(*byte)]));
    for byte in (0..=u8::MAX).filter(|byte| is_used[usize::from(*byte)]) {
        classes[usize::from(byte)] = spellings.len() as u8;
        spellings.push(byte);
    }
    (classes, spellings)
}

/// Returns all states: the one before the first byte first, those in which something ends last.
fn states(dfa: &DFA, start: StateID, spellings: &[u8]) -> Vec<StateID> {
    let (mut states, mut known) = (vec![start], HashSet::from([start]));
    let mut at = 0;
    while let Some(state) = states.get(at).copied() {
        let next = spellings.iter().map(|byte| dfa.next_state(Anchored::No, state, *byte));
        states.extend(next.filter(|next| known.insert(*next)));
        at += 1;
    }
    states.sort_by_key(|state| dfa.is_match(*state));
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns where which literal ends.
    fn ends(automaton: &Automaton, text: &[u8]) -> Vec<(usize, usize)> {
        let mut state = 0;
        let found = text.iter().enumerate().flat_map(|(at, byte)| {
            state = automaton.next(state, automaton.class(*byte));
            assert_eq!(automaton.is_found(state), !automaton.found(state).is_empty());
            automaton.found(state).iter().map(move |found| (at + 1, found.literal)).collect::<Vec<_>>()
        });
        found.collect()
    }

    #[test]
    fn each_end_of_each_literal_is_found() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let literals = [&b"he"[..], b"she", b"hers", b"e", &all];
        let automaton = Automaton::new(&literals, 1 << 20).expect("an automaton");
        let text = [b"ushers, he", &*all, b"hehers"].concat();
        let expected = (1..=text.len()).flat_map(|end| {
            let text = &text[..end];
            literals
                .iter()
                .enumerate()
                .filter(|(_, literal)| text.ends_with(literal))
                .map(move |(at, _)| (end, at))
        });
        let mut found = ends(&automaton, &text);
        found.sort_unstable();
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn without_literals_nothing_is_found_and_a_large_one_is_refused() {
        let none = Automaton::new::<&[u8]>(&[], 1 << 20).expect("an automaton");
        assert_eq!(ends(&none, b"anything"), []);
        assert!(Automaton::new(&["abc".repeat(100)], 1000).is_none());
    }
}
