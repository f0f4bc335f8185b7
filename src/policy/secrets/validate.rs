//! Check digits and other proofs.

use crate::ids::base62_checksum;

/// Whatever matches is one.
pub(super) fn always(_: &[u8]) -> bool {
    true
}

/// A key has a digit; words with hyphens do not.
pub(super) fn has_digit(found: &[u8]) -> bool {
    found.iter().any(u8::is_ascii_digit)
}

/// OpenAI's form, but none of the vendors whose keys begin like it.
pub(super) fn openai(found: &[u8]) -> bool {
    !found.starts_with(b"sk-ant-") && !found.starts_with(b"sk-or-v1-") && has_digit(found)
}

/// A payment card (ISO/IEC 7812-1): the first digits and lengths of issuers, and the check digit.
pub(super) fn card(found: &[u8]) -> bool {
    let digits: Vec<u8> = found.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| byte - b'0').collect();
    is_issued(&digits) && luhn(&digits) && digits.windows(2).any(|pair| pair[0] != pair[1])
}

/// The Luhn check (ISO/IEC 7812-1, annex B) of digits.
pub fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) => digit * 2 / 10 + digit * 2 % 10,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The first digits and lengths of the large issuers.
fn is_issued(digits: &[u8]) -> bool {
    let Some(start) = digits.get(..4) else { return false };
    let four = start.iter().fold(0, |number: u32, digit| number * 10 + u32::from(*digit));
    match four {
        // American Express, Diners.
        3400..=3499 | 3700..=3799 => digits.len() == 15,
        3000..=3059 | 3600..=3699 | 3800..=3999 => matches!(digits.len(), 14 | 16),
        // JCB, Visa, Mastercard (also 2221 to 2720), Maestro, Discover, UnionPay.
        3528..=3589 => digits.len() == 16,
        4000..=4999 => matches!(digits.len(), 13 | 16 | 19),
        2221..=2720 | 5100..=5599 => digits.len() == 16,
        5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763 => (13..=19).contains(&digits.len()),
        6011 | 6440..=6599 | 6200..=6299 => (16..=19).contains(&digits.len()),
        _ => false,
    }
}

/// An IBAN (ISO 13616): the length in its country and the remainder by 97.
pub(super) fn iban(found: &[u8]) -> bool {
    let text: Vec<u8> = found.iter().filter(|byte| byte.is_ascii_alphanumeric()).copied().collect();
    let Some(country) = text.get(..2) else { return false };
    let length = COUNTRIES.split(|byte| *byte == b' ').find_map(|entry| {
        let length = std::str::from_utf8(entry.strip_prefix(country)?).ok()?;
        length.parse::<usize>().ok()
    });
    let value = |byte: u8| match byte {
        b'0'..=b'9' => u32::from(byte - b'0'),
        byte => u32::from(byte.to_ascii_uppercase() - b'A') + 10,
    };
    let moved = text[4..].iter().chain(&text[..4]);
    let remainder = moved.fold(0, |remainder, byte| match value(*byte) {
        digit @ 0..10 => (remainder * 10 + digit) % 97,
        letter => (remainder * 100 + letter) % 97,
    });
    length == Some(text.len()) && remainder == 1
}

/// Countries of the IBAN registry and the length of their numbers.
const COUNTRIES: &[u8] = b"AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 \
EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 \
LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 \
SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20";

/// A US social security number: areas and groups that are given out, and not the numbers of advertisements.
pub(super) fn ssn(found: &[u8]) -> bool {
    let digits: Vec<u8> = found.iter().filter(|byte| byte.is_ascii_digit()).copied().collect();
    let Some((area, rest)) = digits.split_first_chunk::<3>() else { return false };
    let is_given = !matches!(area, b"000" | b"666") && area[0] != b'9';
    is_given
        && !rest.starts_with(b"00")
        && !rest.ends_with(b"0000")
        && !matches!(&digits[..], b"078051120" | b"219099999" | b"123456789")
}

/// A telephone number: 8 to 15 digits after `+`, or ten of the North American plan. Without separators, in code mostly a number
/// that is added, it has 10 to 13 digits that differ.
pub(super) fn phone(found: &[u8]) -> bool {
    let digits: Vec<u8> = found.iter().filter(|byte| byte.is_ascii_digit()).copied().collect();
    let is_plain = digits.len() + 1 >= found.len();
    let is_american = |number: &[u8]| {
        // Area and exchange begin with 2 to 9.
        number.len() == 10 && number[0] >= b'2' && number[3] >= b'2' && number[1..3] != *b"11"
    };
    match (found.first(), digits.split_first()) {
        (Some(b'+'), Some((b'1', number))) => is_american(number),
        (Some(b'+'), Some((first, number))) if is_plain => {
            (10..=13).contains(&digits.len())
                && *first != b'0'
                && number.iter().any(|digit| *digit != number[0])
        }
        (Some(b'+'), Some((first, _))) => (8..=15).contains(&digits.len()) && *first != b'0',
        (_, Some((b'1', number))) if digits.len() == 11 => is_american(number),
        _ => is_american(&digits),
    }
}

/// A token of GitHub or npm: 30 random characters and their CRC-32 in 6 of base62. Longer ones have another form.
pub(super) fn github(found: &[u8]) -> bool {
    let token = found.iter().position(|byte| *byte == b'_').map_or(&[][..], |at| &found[at + 1..]);
    match token.split_at_checked(30) {
        Some((random, sum)) if sum.len() == 6 => sum == base62_checksum(random),
        Some(_) => true,
        None => false,
    }
}

/// A key of this gateway: the CRC-32 of the rest in 6 characters of base62.
pub(super) fn elida(found: &[u8]) -> bool {
    found.split_last_chunk::<6>().is_some_and(|(text, sum)| *sum == base62_checksum(text))
}

/// A value whose name says that it is secret: random enough, and not a name, a path or a placeholder.
pub(super) fn assigned(found: &[u8]) -> bool {
    let quoted = |byte: &u8| matches!(byte, b'"' | b'\'');
    let is_inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/_.~=-".contains(byte);
    let end = found.iter().rposition(is_inside).map_or(0, |at| at + 1);
    let start = found[..end].iter().rposition(|byte| quoted(byte) || byte.is_ascii_whitespace());
    // `KEY=value` has no blank: the value may contain the sign itself.
    let start = start.or_else(|| found.iter().position(|byte| matches!(byte, b'=' | b':')));
    let value = start.and_then(|at| found.get(at + 1..end)).unwrap_or_default();
    let value = value.strip_prefix(b"=").or(value.strip_prefix(b":")).unwrap_or(value);
    let is_plain = |word: &[u8]| value.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    let is_placeholder = [
        &b"example"[..],
        b"xxxx",
        b"your",
        b"redacted",
        b"placeholder",
        b"changeme",
        b"1234567890",
        b"${",
        b"{{",
        b"<",
    ]
    .into_iter()
    .any(is_plain);
    // Names in programs are made of words; what is random has no long ones.
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    let longest = value.split(|byte| !byte.is_ascii_lowercase()).map(<[u8]>::len).max().unwrap_or(0);
    let has_words = longest >= 7 && digits * 5 < value.len() || value.windows(3).any(|part| part == b"://");
    let is_quoted = found[..end].iter().any(quoted);
    let is_member = !is_quoted && value.contains(&b'.');
    let has_letter = value.iter().any(u8::is_ascii_alphabetic);
    value.len() >= 12
        && has_digit(value)
        && has_letter
        && !has_words
        && !is_member
        && !is_placeholder
        && entropy(value) >= 3.5
}

/// The entropy of the bytes, in bits each.
fn entropy(text: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    text.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let length = text.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / length)
        .map(|share| -share * share.log2())
        .sum()
}

/// The credential of a URL that is not a placeholder.
pub(super) fn url_password(found: &[u8]) -> bool {
    let password = found.iter().rposition(|byte| *byte == b':').map_or(&[][..], |at| &found[at + 1..]);
    let words = [
        &b"password@"[..],
        b"pass@",
        b"pw@",
        b"secret@",
        b"pwd@",
        b"user@",
        b"xxx@",
        b"token@",
        b"***@",
        b"...@",
    ];
    password.len() > 5
        && !words.contains(&password)
        && !password.starts_with(b"$")
        && !password.starts_with(b"{")
        && !password.starts_with(b"<")
}
