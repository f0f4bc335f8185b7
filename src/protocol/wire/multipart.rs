//! Reads `multipart/form-data` as it arrives (RFC 7578; RFC 2046, 5.1): which fields it has, and where they are. What two
//! programs could read differently breaks it.

use memchr::memchr2;

use super::parameters::values;

/// The longest boundary in bytes (RFC 2046, 5.1.1).
const BOUNDARY_MAX: usize = 70;
/// The longest head of a part in bytes.
const HEAD_MAX: usize = 8 << 10;

/// The length of the CRLF that begins a delimiter.
const LINE_BREAK: usize = 2;

/// What was read. Positions are in bytes of the body.
#[derive(Debug, PartialEq, Eq)]
pub enum FormEvent<'a> {
    /// A field begins.
    Begin {
        /// Its name.
        name: &'a str,
        /// It has a file name.
        is_file: bool,
        /// Its head does not say that its value is encoded, or in another character set than UTF-8.
        is_text: bool,
        /// The position of its value.
        at: usize,
    },
    /// More of its value.
    Value(&'a [u8]),
    /// It has ended.
    End {
        /// The position behind its value.
        at: usize,
    },
}

/// The position of the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first byte of the body.
    Start,
    /// In the first delimiter, or in the empty line before it.
    Preamble,
    /// Behind a delimiter.
    Delimiter,
    /// Behind a delimiter and one hyphen.
    Hyphen,
    /// In the padding behind a delimiter.
    Padding,
    /// Behind the CR that ends the line of a delimiter.
    LineEnd,
    /// In the head of a part.
    Head,
    /// At the first byte of a value, or behind a lone CR or LF in it, where some programs look for a delimiter.
    LineStart,
    /// In a value.
    Value,
    /// Behind the last delimiter. What follows is not looked at.
    Done,
    /// Not a form, or one that can be read in two ways.
    Broken,
}

/// Reads one form, chunk by chunk. It keeps the head of the part under way, never a value.
#[derive(Debug)]
pub struct FormScan {
    /// CRLF, two hyphens and the boundary.
    delimiter: Box<[u8]>,
    state: State,
    /// How many bytes of the delimiter have been seen.
    matched: usize,
    head: Vec<u8>,
    /// Bytes read before this chunk.
    position: usize,
}

impl FormScan {
    /// A scan at the beginning of a body with this `Content-Type`; `None` when that names no boundary, or several.
    pub fn new(media: &str) -> Option<Self> {
        let boundary = only(values(media, "boundary")).filter(|boundary| is_plain(boundary, media))?;
        let delimiter = format!("\r\n--{boundary}").into_bytes().into();
        let scan = Self { delimiter, state: State::Start, matched: 0, head: Vec::new(), position: 0 };
        (boundary.len() <= BOUNDARY_MAX).then_some(scan)
    }

    /// Whether a `Content-Type` is that of a form.
    pub fn is_form(media: &str) -> bool {
        let kind = media.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("multipart/form-data")
    }

    /// Whether the last delimiter has been read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether it is no form, or one that can be read in two ways.
    pub fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Reads the next bytes.
    pub fn feed(&mut self, bytes: &[u8], on: &mut dyn FnMut(FormEvent<'_>)) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Start => {
                    // The first delimiter may be at the very beginning, as if a CRLF preceded it; an empty line is harmless.
                    self.state = State::Preamble;
                    self.matched = if byte == b'\r' { 0 } else { LINE_BREAK };
                    continue;
                }
                State::Value if self.matched == 0 => {
                    at += self.find_line_end(&bytes[at..], on);
                    continue;
                }
                State::Preamble | State::LineStart | State::Value => {
                    at += self.compare(&bytes[at..], self.position + at, on);
                    continue;
                }
                State::Head => self.add_to_head(byte, self.position + at + 1, on),
                State::Done | State::Broken => break,
                State::Delimiter | State::Hyphen | State::Padding | State::LineEnd => {
                    self.state = after_delimiter(self.state, byte);
                }
            }
            at += 1;
        }
        self.position += bytes.len();
    }

    /// Passes over the value in `bytes` up to where a delimiter may begin. Returns how many of them were read.
    fn find_line_end(&mut self, bytes: &[u8], on: &mut dyn FnMut(FormEvent<'_>)) -> usize {
        let found = memchr2(b'\r', b'\n', bytes);
        let is_lone = found.is_some_and(|at| bytes[at] == b'\n');
        // What may belong to a delimiter is not reported yet.
        let end = found.map_or(bytes.len(), |at| at + usize::from(is_lone));
        if end > 0 {
            on(FormEvent::Value(&bytes[..end]));
        }
        if is_lone {
            self.begin_line();
        } else if found.is_some() {
            self.matched = 1;
            return end + 1;
        }
        end
    }

    /// Behind a lone CR or LF, which was reported as part of the value.
    fn begin_line(&mut self) {
        self.state = State::LineStart;
        self.matched = LINE_BREAK;
    }

    /// Compares `bytes`, which begin at `position`, with the rest of the delimiter. Returns how many of them were read. Only
    /// its first bytes are CR and LF, so after a mismatch another one can only start at the byte that differs.
    fn compare(&mut self, bytes: &[u8], position: usize, on: &mut dyn FnMut(FormEvent<'_>)) -> usize {
        let same = bytes.iter().zip(&self.delimiter[self.matched..]).take_while(|(a, b)| a == b).count();
        self.matched += same;
        if self.matched == self.delimiter.len() {
            self.matched = 0;
            // Some programs take one without its CRLF for the end of the value, others for its text.
            let is_unclear = self.state == State::LineStart;
            if self.state == State::Value {
                on(FormEvent::End { at: position + same - self.delimiter.len() });
            }
            self.state = if is_unclear { State::Broken } else { State::Delimiter };
        } else if same < bytes.len() {
            let matched = std::mem::take(&mut self.matched);
            let reported = if self.state == State::LineStart { LINE_BREAK } else { 0 };
            // Programs differ on where a delimiter may be in a preamble.
            self.state = if self.state == State::Preamble { State::Broken } else { State::Value };
            if self.state == State::Value && matched > reported {
                on(FormEvent::Value(&self.delimiter[reported..matched]));
            }
            if self.state == State::Value && matched == 1 {
                self.begin_line();
            }
        }
        same
    }

    /// Adds a byte to the head of the part; `value_at` is the position behind it.
    fn add_to_head(&mut self, byte: u8, value_at: usize, on: &mut dyn FnMut(FormEvent<'_>)) {
        self.head.push(byte);
        let follows_cr = self.head.iter().nth_back(1) == Some(&b'\r');
        let is_lone_line_end = (byte == b'\n') != follows_cr;
        if is_lone_line_end || self.head.len() > HEAD_MAX {
            self.state = State::Broken;
        } else if self.head.ends_with(b"\r\n\r\n") || self.head == b"\r\n" {
            let head = std::mem::take(&mut self.head);
            let field = std::str::from_utf8(&head).ok().and_then(field);
            self.state = if field.is_some() { State::LineStart } else { State::Broken };
            self.matched = LINE_BREAK;
            if let Some(Part { name, is_file, is_text }) = field {
                on(FormEvent::Begin { name: &name, is_file, is_text, at: value_at });
            }
        }
    }
}

/// Reads the rest of a delimiter's line: `--` ends the form, padding and CRLF begin a part.
fn after_delimiter(state: State, byte: u8) -> State {
    match (state, byte) {
        (State::Delimiter, b'-') => State::Hyphen,
        (State::Hyphen, b'-') => State::Done,
        (State::Delimiter | State::Padding, b' ' | b'\t') => State::Padding,
        (State::Delimiter | State::Padding, b'\r') => State::LineEnd,
        (State::LineEnd, b'\n') => State::Head,
        _ => State::Broken,
    }
}

/// What the head of a part says.
struct Part {
    name: String,
    is_file: bool,
    is_text: bool,
}

/// Reads the head of a field; `None` when it has no name, or several.
fn field(head: &str) -> Option<Part> {
    // A line that begins with a space continues the one before.
    let head = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut lines = head.split("\r\n").filter(|line| {
        line.split_once(':').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
    });
    let line = lines.next().filter(|_| lines.next().is_none())?;
    let name = only(values(line, "name"))?;
    let is_file = !values(line, "filename").is_empty();
    let is_text = is_text(&head);
    let is_clear = !line.contains('\\') && names(line) == 1 && (is_file || is_text);
    is_clear.then_some(Part { name, is_file, is_text })
}

/// How often a line has `name=`, wherever, but in `filename=`: programs that split at each `;` find those in quotes, too.
fn names(line: &str) -> usize {
    let line = line.to_ascii_lowercase();
    line.match_indices("name=").filter(|(at, _)| !line[..*at].ends_with("file")).count()
}

/// Whether the value behind this head is its own text: not encoded, and in UTF-8.
fn is_text(head: &str) -> bool {
    head.split("\r\n").filter_map(|line| line.split_once(':')).all(|(name, value)| match name.trim() {
        name if name.eq_ignore_ascii_case("content-transfer-encoding") => {
            ["7bit", "8bit", "binary"].iter().any(|known| value.trim().eq_ignore_ascii_case(known))
        }
        name if name.eq_ignore_ascii_case("content-type") => {
            let charsets = values(value, "charset");
            charsets
                .iter()
                .all(|set| set.eq_ignore_ascii_case("utf-8") || set.eq_ignore_ascii_case("us-ascii"))
        }
        _ => true,
    })
}

/// Whether every program reads this boundary from this `Content-Type`: once, in letters of RFC 2046, 5.1.1 but a space, and
/// without escapes.
fn is_plain(boundary: &str, media: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    let is_whole = !media.contains('"') || media.contains(&format!("\"{boundary}\""));
    let media = media.to_ascii_lowercase();
    let is_once = media.matches("boundary=").count() == 1 && !media.contains("boundary*");
    !boundary.is_empty() && boundary.bytes().all(is_letter) && is_whole && is_once && !media.contains('\\')
}

/// Returns the only value among these, which may repeat it.
fn only(values: Vec<String>) -> Option<String> {
    let mut values = values.into_iter();
    let first = values.next()?;
    values.all(|other| other == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A field: name, whether it is a file, value.
    type Field = (String, bool, Vec<u8>);

    fn written(fields: &[Field]) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, is_file, value) in fields {
            let file = if *is_file { "; filename=\"a.wav\"\r\nContent-Type: audio/wav" } else { "" };
            let head = format!("--b-1\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(value);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--b-1--\r\n");
        body
    }

    /// The fields of a body that comes in chunks of this size; `None` when it does not end.
    fn fields(body: &[u8], size: usize) -> Option<Vec<Field>> {
        let mut scan = FormScan::new("multipart/form-data; boundary=b-1").unwrap();
        let mut found: Vec<Field> = Vec::new();
        let mut begun = 0;
        for chunk in body.chunks(size) {
            scan.feed(chunk, &mut |event| match event {
                FormEvent::Begin { name, is_file, at, .. } => {
                    begun = at;
                    found.push((name.to_owned(), is_file, Vec::new()));
                }
                FormEvent::Value(more) => found.last_mut().unwrap().2.extend_from_slice(more),
                FormEvent::End { at } => assert_eq!(&body[begun..at], found.last().unwrap().2),
            });
        }
        scan.is_done().then_some(found)
    }

    #[test]
    fn fields_are_found_with_their_places() {
        let value = |text: &str| text.as_bytes().to_vec();
        let form = [
            ("file".to_owned(), true, value("RIFF\r\n--b-\r\r\n--b-2\r\n\r\n")),
            ("model".to_owned(), false, value("whisper-1")),
            ("empty".to_owned(), false, value("")),
            ("lines".to_owned(), false, value("a\nb\r--b-\rc\n\r\n\n--b-2\r")),
        ];
        let body = written(&form);
        for size in 1..body.len() {
            assert_eq!(fields(&body, size).as_deref(), Some(&form[..]), "in chunks of {size}");
        }
        let around = [b"\r\n".to_vec(), body.clone(), b"epilogue".to_vec()].concat();
        assert_eq!(fields(&around, 1).as_deref(), Some(&form[..]));
        assert_eq!(fields(&around, 500).as_deref(), Some(&form[..]));
        let loose = "--b-1 \t\r\ncontent-type: text/plain\r\nCONTENT-DISPOSITION:form-data;\r\n Name=model\r\n\r\nx\r\n--b-1--";
        assert_eq!(fields(loose.as_bytes(), 3), Some(vec![("model".to_owned(), false, value("x"))]));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        let part = |head: &str| format!("--b-1\r\n{head}\r\n\r\nx\r\n--b-1--");
        let named = "Content-Disposition: form-data; name=model";
        for body in [
            part("Content-Type: text/plain"),
            part(&format!("{named}; name=other")),
            part(&format!("{named}; name*=UTF-8''other")),
            part(&format!("{named}\r\nContent-Disposition: form-data; name=model")),
            part(&format!("{named}\nX: y")),
            part(&format!("{named}\r\nX: {}", "y".repeat(HEAD_MAX))),
            part(named).replace("\r\n", "\n"),
            // Go ends its lines as the first delimiter does, and this form ends for it before ours begins.
            format!("x\n--b-1\n{named}\n\nother\n--b-1--\n\r\n{}", part(named)),
            format!("--b-1\n{}", part(named)),
            part(&format!("{named}\rX: y")),
            part(&format!("{named}\r\nContent-Transfer-Encoding: quoted-printable")),
            part(&format!("{named}\r\nContent-Type: text/plain; charset=utf-16le")),
            part("Content-Disposition: form-data; z=\"; name=other; \"; name=model"),
            part("Content-Disposition: form-data; name=\"mo\\del\""),
            // Werkzeug and PHP find a delimiter behind any end of a line, and another model with it.
            part(named).replace("\r\n\r\nx\r\n", "\r\n\r\nx\n--b-1\r\n"),
            part(named).replace("\r\n\r\nx\r\n", "\r\n\r\nx\n--b-1--\r\nx\r\n"),
            part(named).replace("\r\n\r\nx\r\n", "\r\n\r\nx\r--b-1\r\nx\r\n"),
            part(named).replace("\r\n\r\nx\r\n", "\r\n\r\n\n--b-1\r\nx\r\n"),
            part(named).replace("\r\n\r\nx\r\n", "\r\n\r\nx\r\n\n--b-1\r\nx\r\n"),
            part(named).replace("\r\n\r\nx\r\n", "\r\n\r\nx\n\r--b-1\r\nx\r\n"),
            format!("\r\n\r\n{}", part(named)),
            format!("\n{}", part(named)),
            part(named).replace("--b-1--", "--b-1-"),
            part(named).replace("x\r\n", ""),
            part(named).replacen("--b-1\r", "--b-1x\r", 1),
            "{\"model\":\"x\"}".to_owned(),
            String::new(),
        ] {
            assert_eq!(fields(body.as_bytes(), 7), None, "{body:?}");
        }
        for media in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a; boundary*=UTF-8''a",
            "multipart/form-data; boundary=\"b\\c\"",
            "multipart/form-data; boundary=\"b \"",
            "multipart/form-data; boundary=\"b 1\"",
            &format!("multipart/form-data; boundary={}", "b".repeat(71)),
        ] {
            assert!(FormScan::new(media).is_none(), "{media}");
        }
        for media in ["Multipart/Form-Data; Boundary=\"b=1\"", "multipart/form-data; boundary=boundary7"] {
            assert!(FormScan::new(media).is_some(), "{media}");
        }
        assert!(FormScan::is_form("Multipart/Form-Data;boundary=x") && !FormScan::is_form("multipart/mixed"));
    }

    proptest! {
        #[test]
        fn any_fields_come_back(
            form in prop::collection::vec(("[a-z]{1,8}", any::<bool>(), "[a\r\n-]{0,9}((\r\n|\r|\n)--b-)?[1\r\n-]{0,4}"), 0..4),
            size in 1usize..40,
        ) {
            // Another digit where the value has the delimiter in it.
            let clear = |value: String| {
                let has_delimiter = ["\n--b-1", "\r--b-1"].iter().any(|end| format!("\n{value}").contains(end));
                if has_delimiter { value.replace('1', "2") } else { value }
            };
            let form = form.into_iter().map(|(name, is_file, value)| (name, is_file, clear(value).into_bytes()));
            let form: Vec<Field> = form.collect();
            prop_assert_eq!(fields(&written(&form), size), Some(form));
        }

        #[test]
        fn chunks_make_no_difference(body in "(--b-1|\r\n|\r|\n|-|: |name=|;|Content-Disposition|x){0,30}", size in 1usize..20) {
            prop_assert_eq!(fields(body.as_bytes(), size), fields(body.as_bytes(), usize::MAX));
        }
    }
}
