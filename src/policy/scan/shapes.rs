//! Recognises where numbers of people may stand, digit by digit: nine digits in groups (cards, telephones, social security
//! numbers), and two capitals with two digits (bank accounts).

use crate::policy::secrets::{Detector, SecretKind};

/// Digits that make a number.
const DIGITS: u8 = 9;
/// What may stand between two groups.
const SEPARATORS: &[u8] = b" -.()";
/// Most of it, as in `(212) 555`.
const MOST_SEPARATORS: u64 = 2;

/// Nine digits or more end here.
pub(super) const NUMBER: u8 = 1;
/// The beginning of the number of a bank account ends here.
pub(super) const ACCOUNT: u8 = 2;

/// The digits read last, with what separates them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Digits {
    /// How many, up to [`DIGITS`].
    count: u8,
    /// Where the last one ends in the text.
    end: u64,
}

impl Digits {
    /// Reads a digit. `before` is the text before it in two parts, `end` the place at which it ends. Returns what ends with
    /// it: [`NUMBER`], [`ACCOUNT`] or 0.
    #[inline]
    pub(super) fn read(&mut self, before: (&[u8], &[u8]), end: u64) -> u8 {
        let gap = end - 1 - self.end;
        self.end = end;
        let byte_before = |back: usize| match before.1.len().checked_sub(back) {
            Some(place) => before.1.get(place),
            None => before.0.get((before.0.len() + before.1.len()).wrapping_sub(back)),
        };
        let is_separator =
            |back: u64| byte_before(back as usize).is_some_and(|byte| SEPARATORS.contains(byte));
        let follows = self.count > 0 && gap <= MOST_SEPARATORS && (1..=gap).all(is_separator);
        self.count = if follows { (self.count + 1).min(DIGITS) } else { 1 };
        let is_account = || {
            let is_capital = |back: usize| byte_before(back).is_some_and(u8::is_ascii_uppercase);
            gap == 0 && is_capital(2) && is_capital(3)
        };
        match self.count {
            DIGITS => NUMBER,
            2 if is_account() => ACCOUNT,
            _ => 0,
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
