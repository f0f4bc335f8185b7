//! Recognises where numbers of people may stand, byte by byte: nine digits in groups (cards, telephones, social security
//! numbers), and two capitals with two digits (bank accounts).

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::policy::secrets::{Detector, SecretKind};

/// Digits that make a number.
const DIGITS: u8 = 9;
/// Most characters between two groups, as in `(212) 555`.
const SEPARATORS: u8 = 2;

/// Where in a number the text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Place {
    capitals: u8,
    /// The first digit followed two capitals.
    is_account: bool,
    digits: u8,
    separators: u8,
    /// What has been recognised with the last byte.
    found: u8,
}

/// Nine digits or more end here.
pub(super) const NUMBER: u8 = 1;
/// The beginning of the number of a bank account ends here.
pub(super) const ACCOUNT: u8 = 2;

/// The automaton: a row of 256 states for each state.
pub(super) struct Shapes {
    next: Vec<[u8; 256]>,
    found: Vec<u8>,
    /// States from here on have found something.
    first_found: u8,
}

/// The automaton, made when it is first used.
pub(super) static SHAPES: LazyLock<Shapes> = LazyLock::new(Shapes::new);

impl Shapes {
    fn new() -> Self {
        let mut places = vec![Place::default()];
        let mut known = HashMap::from([(Place::default(), 0_usize)]);
        let mut at = 0;
        while let Some(place) = places.get(at).copied() {
            for byte in 0..=u8::MAX {
                let next = place.after(byte);
                known.entry(next).or_insert_with(|| {
                    places.push(next);
                    places.len() - 1
                });
            }
            at += 1;
        }
        // States that found something come last. There are about sixty.
        places.sort_by_key(|place| (place.found, *place != Place::default()));
        let number = |place: &Place| places.iter().position(|known| known == place).unwrap_or_default() as u8;
        let row = |place: &Place| {
            let mut row = [0; 256];
            (0..=u8::MAX).for_each(|byte| row[usize::from(byte)] = number(&place.after(byte)));
            row
        };
        Self {
            next: places.iter().map(row).collect(),
            found: places.iter().map(|place| place.found).collect(),
            first_found: places.partition_point(|place| place.found == 0) as u8,
        }
    }

    /// The state after a byte. State 0 is that before the first byte.
    #[inline(always)]
    pub(super) fn next(&self, state: u8, byte: u8) -> u8 {
        self.next[usize::from(state)][usize::from(byte)]
    }

    /// Whether something ends in this state.
    #[inline(always)]
    pub(super) fn is_found(&self, state: u8) -> bool {
        state >= self.first_found
    }

    /// What ends in this state: [`NUMBER`], [`ACCOUNT`] or both.
    pub(super) fn found(&self, state: u8) -> u8 {
        self.found[usize::from(state)]
    }
}

impl Place {
    fn after(self, byte: u8) -> Self {
        match byte {
            b'0'..=b'9' => {
                let digits = (self.digits + 1).min(DIGITS);
                let is_account = match self.digits {
                    0 => self.capitals == 2,
                    1 => self.is_account && self.separators == 0,
                    _ => false,
                };
                let number = if digits == DIGITS { NUMBER } else { 0 };
                let account = if digits == 2 && is_account { ACCOUNT } else { 0 };
                Self {
                    capitals: 0,
                    is_account: is_account && digits == 1,
                    digits,
                    separators: 0,
                    found: number | account,
                }
            }
            b'A'..=b'Z' => Self { capitals: (self.capitals + 1).min(2), ..Self::default() },
            b' ' | b'-' | b'.' | b'(' | b')' if self.digits > 0 && self.separators < SEPARATORS => {
                Self { is_account: false, separators: self.separators + 1, found: 0, ..self }
            }
            _ => Self::default(),
        }
    }
}

/// The length of the local part of an address at the end of a text.
pub(super) fn local_part(text: &[u8]) -> u64 {
    let is_local = |byte: &&u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(byte);
    text.iter().rev().take(64).take_while(is_local).count() as u64
}

/// The length of the last nine digits with what stands between them, if they are the start of a group.
pub(super) fn nine_digits(text: &[u8]) -> Option<u64> {
    let mut digits = 0;
    for (length, byte) in text.iter().rev().enumerate() {
        if digits == 9 {
            return (!byte.is_ascii_digit()).then_some(length as u64);
        }
        digits += u8::from(byte.is_ascii_digit());
    }
    (digits == 9).then_some(text.len() as u64)
}

/// Whether a telephone number begins with the `+` before it.
pub(super) fn is_international(detector: &Detector, before: &[u8]) -> bool {
    detector.kind == SecretKind::Phone && before.last() == Some(&b'+')
}
