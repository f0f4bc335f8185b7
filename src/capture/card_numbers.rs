//! Finds payment card numbers in a text.

use std::ops::Range;

use crate::policy::secrets::luhn;

/// The number of digits of a card number (ISO/IEC 7812-1).
const CARD_DIGITS: Range<usize> = 13..20;

/// Finds card numbers: digits, possibly in groups, with a valid check digit (ISO/IEC 7812-1, annex B).
pub(super) fn card_numbers(text: &str, is_cut: bool, take: &mut impl FnMut(Range<usize>)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(u8::is_ascii_digit) {
        let begin = at + next;
        // Groups of digits, separated by one space or hyphen.
        let mut groups: Vec<Range<usize>> = Vec::new();
        at = begin;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            let length =
                bytes[at..].iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len() - at);
            groups.push(at..at + length);
            at += length;
            let is_joint = matches!(bytes.get(at), Some(b' ' | b'-'));
            if is_joint && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
        }
        // Digits after a decimal point are a fraction.
        let is_fraction = begin > 1 && bytes[begin - 1] == b'.' && bytes[begin - 2].is_ascii_digit();
        if !is_fraction {
            // The text may have been cut before the next group.
            let is_last = matches!(bytes[at..], [] | [b' ' | b'-']);
            find_in_groups(bytes, &groups, is_cut && is_last, take);
        }
    }
}

fn find_in_groups(bytes: &[u8], groups: &[Range<usize>], is_cut: bool, take: &mut impl FnMut(Range<usize>)) {
    let mut first = 0;
    while let Some(begin) = groups.get(first).map(|group| group.start) {
        let mut count = 0;
        let mut found = None;
        for (last, group) in groups.iter().enumerate().skip(first) {
            count += group.len();
            if count >= CARD_DIGITS.end {
                break;
            }
            let has_begun = is_cut && last + 1 == groups.len() && count >= 6;
            let is_card = || {
                let digits = bytes[begin..group.end].iter().filter(|byte| byte.is_ascii_digit());
                luhn(&digits.map(|digit| digit - b'0').collect::<Vec<u8>>())
            };
            if is_issuer(bytes[begin]) && (has_begun || CARD_DIGITS.contains(&count) && is_card()) {
                found = Some((last, group.end));
            }
        }
        first = match found {
            Some((last, end)) => {
                take(begin..end);
                last + 1
            }
            None => first + 1,
        };
    }
}

/// The first digits of cards of banks and merchants.
fn is_issuer(digit: u8) -> bool {
    matches!(digit, b'2'..=b'6')
}
