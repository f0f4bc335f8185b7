//! The fields of a request's head that `receive` and `framing` need, from one pass over the head.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::ids::REQUEST_ID;

/// The fields of a head that the steps ask for.
#[derive(Default)]
pub(crate) struct HeadFields<'h> {
    pub(crate) content_encoding: Lines<'h>,
    pub(crate) content_length: Lines<'h>,
    pub(crate) expect: Lines<'h>,
    pub(crate) host: Lines<'h>,
    pub(crate) request_id: Lines<'h>,
    pub(crate) transfer_encoding: Lines<'h>,
    pub(crate) upgrade: Lines<'h>,
    /// Names that a backend that maps `-` to `_` (CGI, WSGI) could mistake for a field that frames the body.
    pub(crate) has_framing_twin: bool,
    /// The first field that is repeated with another value, of those for which the caller asked.
    pub(crate) differing: Option<&'h HeaderName>,
    /// Size of all fields on the wire in bytes: names, values, and `: ` and CRLF for each.
    pub(crate) bytes: usize,
}

/// The lines of one field.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lines<'h> {
    /// The value of the first line; `None` without the field.
    pub(crate) first: Option<&'h HeaderValue>,
    /// Whether there are more lines.
    pub(crate) has_more: bool,
}

impl<'h> HeadFields<'h> {
    /// Finds the fields. `is_single` says which fields must not be repeated with another value.
    pub(crate) fn of(headers: &'h HeaderMap, is_single: impl Fn(&HeaderName) -> bool) -> Self {
        let mut found = Self::default();
        // The lines of a field follow each other.
        let mut before: Option<(&HeaderName, &HeaderValue)> = None;
        for (name, value) in headers {
            found.bytes += name.as_str().len() + value.len() + 4;
            match name.as_str() {
                "content-encoding" => found.content_encoding.add(value),
                "content-length" => found.content_length.add(value),
                "expect" => found.expect.add(value),
                "host" => found.host.add(value),
                REQUEST_ID => found.request_id.add(value),
                "transfer-encoding" => found.transfer_encoding.add(value),
                "upgrade" => found.upgrade.add(value),
                "content_length" | "transfer_encoding" => found.has_framing_twin = true,
                _ => {}
            }
            match before {
                Some((same, first)) if same == name => {
                    if first != value && found.differing.is_none() && is_single(name) {
                        found.differing = Some(name);
                    }
                }
                _ => before = Some((name, value)),
            }
        }
        found
    }
}

impl<'h> Lines<'h> {
    fn add(&mut self, value: &'h HeaderValue) {
        self.has_more = self.first.is_some();
        self.first.get_or_insert(value);
    }

    /// Returns whether the field is there.
    pub(crate) fn is_present(&self) -> bool {
        self.first.is_some()
    }

    /// Returns whether the field has one line, with this value in any case.
    pub(crate) fn is_only(&self, value: &[u8]) -> bool {
        !self.has_more && self.first.is_some_and(|first| first.as_bytes().eq_ignore_ascii_case(value))
    }
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, HOST, UPGRADE};

    use super::*;

    #[test]
    fn each_field_is_found_with_its_lines() {
        let mut headers = HeaderMap::new();
        let mut add = |name: &str, value: &str| {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        };
        add("Host", "a.example");
        add("upgrade", "WebSocket");
        add("content-type", "a/b");
        add("x-request-id", "one");
        add("x-request-id", "two");
        add("content-type", "a/b");
        let found = HeadFields::of(&headers, |name| *name == CONTENT_TYPE);
        assert_eq!(found.host.first, headers.get(HOST));
        assert!(found.upgrade.is_only(b"websocket") && found.upgrade.first == headers.get(UPGRADE));
        assert!(found.request_id.has_more && !found.request_id.is_only(b"one"));
        assert_eq!(found.request_id.first.unwrap(), "one");
        assert!(!found.expect.is_present() && !found.has_framing_twin && found.differing.is_none());
        let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
        assert_eq!(found.bytes, headers.iter().map(size).sum::<usize>());

        headers.append(CONTENT_TYPE, HeaderValue::from_static("c/d"));
        headers.append("transfer_encoding", HeaderValue::from_static("chunked"));
        let found = HeadFields::of(&headers, |name| *name == CONTENT_TYPE);
        assert_eq!(found.differing, Some(&CONTENT_TYPE));
        assert!(found.has_framing_twin && !found.transfer_encoding.is_present());
        assert_eq!(HeadFields::of(&headers, |_| false).differing, None);
    }
}
