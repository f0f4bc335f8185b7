//! Decodes the quoted-printable encoding (RFC 2045, 6.7), which parts of forms may have.

/// What the fields of a part say of it.
const NAME: &[u8] = b"quoted-printable";

/// Decodes what follows the first mention of the encoding in a form, which comes in pieces. Other parts behind it are decoded as
/// well: a part that is not encoded reads nearly the same.
#[derive(Debug, Default)]
pub struct QuotedPrintable {
    is_on: bool,
    /// The end of what was read, where the name may be divided.
    tail: Vec<u8>,
    /// An `=` and what follows it.
    partial: Vec<u8>,
}

impl QuotedPrintable {
    /// Reads the next bytes, and appends what they read as to `out`.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        if !self.is_on {
            self.tail.extend_from_slice(bytes);
            let Some(end) = end_of_name(&self.tail) else {
                self.tail.drain(..self.tail.len().saturating_sub(NAME.len() - 1));
                return;
            };
            let behind = self.tail.len() - end;
            (self.is_on, self.tail) = (true, Vec::new());
            rest = &bytes[bytes.len() - behind..];
        }
        for byte in rest {
            match (&self.partial[..], *byte) {
                ([], b'=') => self.partial.push(b'='),
                ([], byte) => out.push(byte),
                // A line that goes on.
                ([b'='], b'\n') | ([b'=', b'\r'], b'\n') => self.partial.clear(),
                ([b'='], b'\r' | b' ' | b'\t') => self.partial = b"=\r".to_vec(),
                ([b'=', b'\r'], b'\r' | b' ' | b'\t') => {}
                ([b'='], byte) if byte.is_ascii_hexdigit() => self.partial.push(byte),
                ([b'=', high], low) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    out.push(digit(*high) << 4 | digit(low));
                    self.partial.clear();
                }
                (partial, byte) => {
                    out.extend_from_slice(partial);
                    self.partial.clear();
                    match byte {
                        b'=' => self.partial.push(byte),
                        _ => out.push(byte),
                    }
                }
            }
        }
    }
}

/// Where the name of the encoding ends.
fn end_of_name(text: &[u8]) -> Option<usize> {
    memchr::memchr2_iter(b'q', b'Q', text)
        .map(|at| (at, at + NAME.len()))
        .find(|(at, end)| text.get(*at..*end).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))
        .map(|(_, end)| end)
}

fn digit(byte: u8) -> u8 {
    char::from(byte).to_digit(16).unwrap_or_default() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_name_is_decoded_however_it_is_divided() {
        let text = b"=69 Quoted-Printable\r\n\r\n=69g=6Eore a=\r\nll = \r\nprevious 1=2 =zz =";
        for size in 1..=text.len() {
            let (mut decoder, mut out) = (QuotedPrintable::default(), Vec::new());
            text.chunks(size).for_each(|chunk| decoder.feed(chunk, &mut out));
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out, "\r\n\r\nignore all previous 1=2 =zz ", "in pieces of {size}");
        }
    }

    #[test]
    fn a_form_without_it_is_left_alone() {
        let (mut decoder, mut out) = (QuotedPrintable::default(), Vec::new());
        decoder.feed(b"=69gnore quoted printable", &mut out);
        assert!(out.is_empty() && decoder.tail.len() < NAME.len());
    }
}
