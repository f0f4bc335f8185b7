//! The fields that frame a message: `Content-Length`, `Transfer-Encoding` and `Connection`.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue};

/// A `Content-Length` that is not a number, or differs from another one of the same message (RFC 9112, 6.3).
#[derive(Debug, PartialEq, Eq)]
pub struct NoLength;

/// Collects the values of `Content-Length`. Equal ones count as one (RFC 9110, 8.6).
#[derive(Default)]
pub struct Length(Option<u64>);

impl Length {
    /// Adds the value of a field line, which may be a list.
    ///
    /// # Errors
    /// An element is not a number of 64 bits, or differs from an earlier one.
    pub fn add(&mut self, line: &[u8]) -> Result<(), NoLength> {
        for element in line.split(|byte| *byte == b',') {
            let number = number(element.trim_ascii()).ok_or(NoLength)?;
            if self.0.replace(number).is_some_and(|other| other != number) {
                return Err(NoLength);
            }
        }
        Ok(())
    }

    /// Returns the length; `None` when no value was added.
    pub fn get(&self) -> Option<u64> {
        self.0
    }
}

/// Reads digits without a sign; `None` for an empty text and above 64 bits.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Returns the length of a response; `None` when it has none.
///
/// # Errors
/// It is not a number, or there are two different ones.
pub fn length(headers: &HeaderMap) -> Result<Option<u64>, NoLength> {
    let mut length = Length::default();
    headers.get_all(CONTENT_LENGTH).iter().try_for_each(|line| length.add(line.as_bytes()))?;
    Ok(length.get())
}

/// Whether `chunked` is the last coding of a message whose last `Transfer-Encoding` line has this value.
pub fn ends_chunked(line: &[u8]) -> bool {
    let last = memchr::memrchr(b',', line).map_or(line, |comma| &line[comma + 1..]);
    last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// Whether `chunked` is the last coding of a response.
pub fn is_chunked(headers: &HeaderMap) -> bool {
    let last = headers.get_all(TRANSFER_ENCODING).iter().next_back();
    last.map(HeaderValue::as_bytes).is_some_and(ends_chunked)
}

/// Whether the client wants the connection to be kept (RFC 9112, 9.3), by the value of its first `Connection` field;
/// `None` when that does not say.
pub fn wants_kept(connection: &[u8]) -> Option<bool> {
    if connection.eq_ignore_ascii_case(b"keep-alive") {
        return Some(true);
    }
    let mut options = connection.split(|byte| *byte == b',');
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close")).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_be_equal_numbers() {
        for (lines, length) in [
            (&[][..], Ok(None)),
            (&["5"], Ok(Some(5))),
            (&["5", "5"], Ok(Some(5))),
            (&["5, 5,5"], Ok(Some(5))),
            (&["18446744073709551615"], Ok(Some(u64::MAX))),
            (&["18446744073709551616"], Err(NoLength)),
            (&["5", "6"], Err(NoLength)),
            (&["5,6"], Err(NoLength)),
            (&["5,"], Err(NoLength)),
            (&["+5"], Err(NoLength)),
            (&["-5"], Err(NoLength)),
            (&["0x5"], Err(NoLength)),
            (&["5 5"], Err(NoLength)),
            (&[""], Err(NoLength)),
        ] {
            let mut read = Length::default();
            let result = lines.iter().try_for_each(|line| read.add(line.as_bytes())).map(|()| read.get());
            assert_eq!(result, length, "{lines:?}");
        }
    }

    #[test]
    fn only_the_last_coding_counts() {
        for (line, is_last) in [
            ("chunked", true),
            ("gzip, CHUNKED ", true),
            ("chunked,", false),
            ("chunked, gzip", false),
            ("xchunked", false),
            ("\u{b}chunked", false),
            ("", false),
        ] {
            assert_eq!(ends_chunked(line.as_bytes()), is_last, "{line:?}");
        }
    }

    #[test]
    fn close_is_found_in_a_list_and_keep_alive_alone() {
        for (connection, kept) in [
            ("keep-alive", Some(true)),
            ("Keep-Alive", Some(true)),
            ("close", Some(false)),
            ("te, Close", Some(false)),
            ("keep-alive, close", Some(false)),
            ("keep-alive, te", None),
            ("Upgrade", None),
            ("", None),
        ] {
            assert_eq!(wants_kept(connection.as_bytes()), kept, "{connection:?}");
        }
    }
}
