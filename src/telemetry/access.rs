//! The access line, which is logged for each request.
//!
//! URLs are logged without secrets: user, password, and the values of query parameters are masked, except for a few
//! harmless parameters. Long values are truncated. Every request has a line, so its JSON is written member by member into
//! one buffer, without a serializer.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Serialize;

/// The `message` of an access line.
pub const MESSAGE: &str = "request_completed";

/// The longest field value, in bytes; longer values are truncated.
pub(super) const FIELD_MAX: usize = 2048;

/// The end of a truncated field value.
pub(super) const CLIPPED: &str = "…";

/// Query parameters whose values are logged; every other value is masked.
const HARMLESS: [&str; 11] = [
    "after",
    "alt",
    "api-version",
    "before",
    "beta",
    "include",
    "limit",
    "order",
    "page",
    "stream",
    "verbose",
];

/// A finished request.
#[derive(Clone, Debug)]
pub struct AccessLine<'a> {
    /// The client's address.
    pub client_ip: IpAddr,
    /// The request method.
    pub method: &'a str,
    /// The request target; masked and truncated when serialized.
    pub url: &'a str,
    /// The status that was sent; `None` if the client disconnected before.
    pub status: Option<u16>,
    /// Milliseconds from the request head to the last byte of the response.
    pub duration_ms: u64,
    /// The session id; `None` if the request was rejected before it had one.
    pub session_id: Option<&'a str>,
    /// The request id.
    pub request_id: &'a str,
    /// The caller.
    pub principal: Option<&'a str>,
    /// The backend; `None` if none was chosen.
    pub backend: Option<&'a str>,
    /// The number of backends tried; logged if more than one.
    pub attempts: u32,
    /// The backend that failed first; logged if another one took over.
    pub failover_from: Option<&'a str>,
    /// The requested model, or the one that answered.
    pub model: Option<&'a str>,
    /// The operation of an MCP or A2A request, such as `tools/call get_weather`.
    pub operation: Option<&'a str>,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// Milliseconds from the end of the head to the first attempt at a backend; absent when none was asked.
    pub queue_ms: Option<u64>,
    /// Milliseconds from forwarding the request to the first byte of the response.
    pub ttfb_ms: Option<u64>,
    /// Whether the response was a stream.
    pub stream: bool,
    /// The client program.
    pub client: Option<&'a str>,
    /// How it ended: `ok`, or the code of an [`crate::error::ErrorKind`].
    pub outcome: &'a str,
}

impl AccessLine<'_> {
    /// Appends the members of a JSON object, each after a comma.
    pub(super) fn write(&self, json: &mut Vec<u8>) {
        value(json, ",\"client_ip\":", &self.client_ip);
        text(json, ",\"method\":", self.method);
        text(json, ",\"url\":", &*mask(self.url));
        optional(json, ",\"status\":", self.status);
        value(json, ",\"duration_ms\":", &self.duration_ms);
        text(json, ",\"session_id\":", self.session_id);
        text(json, ",\"request_id\":", self.request_id);
        text(json, ",\"principal\":", self.principal);
        text(json, ",\"backend\":", self.backend);
        if self.attempts > 1 {
            value(json, ",\"attempts\":", &self.attempts);
        }
        if self.failover_from.is_some() {
            text(json, ",\"failover_from\":", self.failover_from);
        }
        text(json, ",\"model\":", self.model);
        if self.operation.is_some() {
            text(json, ",\"operation\":", self.operation);
        }
        value(json, ",\"bytes_in\":", &self.bytes_in);
        value(json, ",\"bytes_out\":", &self.bytes_out);
        if self.queue_ms.is_some() {
            optional(json, ",\"queue_ms\":", self.queue_ms);
        }
        optional(json, ",\"ttfb_ms\":", self.ttfb_ms);
        value(json, ",\"stream\":", &self.stream);
        text(json, ",\"client\":", self.client);
        text(json, ",\"outcome\":", self.outcome);
    }
}

/// Appends a member whose value needs no quotes. `name` begins with a comma and ends with a colon.
fn value(json: &mut Vec<u8>, name: &str, value: &impl Serialize) {
    json.extend_from_slice(name.as_bytes());
    // A number or an address cannot fail, nor can a vector.
    let _ = serde_json::to_writer(json, value);
}

/// Appends a member that is `null` without a value.
fn optional(json: &mut Vec<u8>, name: &str, number: Option<impl Into<u64>>) {
    let number: Option<u64> = number.map(Into::into);
    value(json, name, &number);
}

/// Appends a member with a text, truncated to [`FIELD_MAX`]; `null` without one.
fn text<'t>(json: &mut Vec<u8>, name: &str, text: impl Into<Option<&'t str>>) {
    let Some(text) = text.into() else { return value(json, name, &()) };
    let text = clip(text);
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    // Without an early exit the compiler looks at many bytes at once.
    if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        for part in [name, "\"", &text, "\""] {
            json.extend_from_slice(part.as_bytes());
        }
    } else {
        value(json, name, &text);
    }
}

/// Truncates a text to [`FIELD_MAX`] bytes, at a character boundary.
pub(super) fn clip(text: &str) -> Cow<'_, str> {
    if text.len() <= FIELD_MAX {
        return Cow::Borrowed(text);
    }
    let mut end = FIELD_MAX - CLIPPED.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}{CLIPPED}", &text[..end]))
}

/// Masks what may be a secret in a line of a method, a target and more.
pub(crate) fn mask_line(line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    let mut next = || words.next().unwrap_or_default();
    let (method, target, more) = (next(), next(), next());
    format!("{method} {} {more}", mask(target)).trim_end().to_owned()
}

/// Masks what may be a secret in a URL.
fn mask(url: &str) -> Cow<'_, str> {
    let (place, query) = url.split_once('?').map_or((url, None), |(place, query)| (place, Some(query)));
    let place = without_user(place);
    let Some(query) = query else { return place };
    let mut text = place.into_owned();
    // Do not mask an endless query to its end: it is truncated anyway.
    for (i, pair) in query.split('&').take(64).enumerate() {
        text.push(if i == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if HARMLESS.contains(&name) => text.push_str(pair),
            Some((name, _)) => text.extend([&*clip(name), "=***"]),
            None if pair.is_empty() || HARMLESS.contains(&pair) => text.push_str(pair),
            None => text.push_str("***"),
        }
        if text.len() > FIELD_MAX {
            break;
        }
    }
    Cow::Owned(text)
}

/// Masks `user:password@` in an absolute URL.
fn without_user(place: &str) -> Cow<'_, str> {
    // Most targets are paths.
    let absolute = if place.starts_with('/') { None } else { place.split_once("://") };
    let Some((scheme, rest)) = absolute else { return Cow::Borrowed(place) };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => Cow::Owned(format!("{scheme}://***@{}", &rest[user.len() + 1..])),
        None => Cow::Borrowed(place),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    proptest! {
        #[test]
        fn a_line_is_written_as_serde_writes_it(
            texts in prop::collection::vec("(?s).{0,40}|[ -~]{0,40}|(a|\"|\\\\|\n|\u{1f}|\u{7f}|é|\u{2028}){0,9}", 10),
            some in prop::collection::vec(any::<bool>(), 9),
            numbers in any::<[u64; 5]>(),
            (status, attempts, address) in any::<(u16, u32, IpAddr)>(),
            is_long: bool,
        ) {
            let long = "é\"".repeat(FIELD_MAX);
            let text = |at: usize| if is_long && at == 0 { long.as_str() } else { texts[at].as_str() };
            let maybe = |at: usize| some[at].then(|| text(at));
            let line = AccessLine {
                client_ip: address,
                method: text(8),
                url: text(9),
                status: some[7].then_some(status),
                duration_ms: numbers[0],
                session_id: maybe(0),
                request_id: text(7),
                principal: maybe(1),
                backend: maybe(2),
                attempts,
                failover_from: maybe(3),
                model: maybe(4),
                operation: maybe(5),
                bytes_in: numbers[1],
                bytes_out: numbers[2],
                queue_ms: some[8].then_some(numbers[3]),
                ttfb_ms: some[7].then_some(numbers[4]),
                stream: is_long,
                client: maybe(6),
                outcome: "ok",
            };
            let clipped = |text: Option<&str>| text.map_or(Value::Null, |text| Value::from(clip(text)));
            let members = [
                ("client_ip", json!(line.client_ip)),
                ("method", clipped(Some(line.method))),
                ("url", clipped(Some(&mask(line.url)))),
                ("status", json!(line.status)),
                ("duration_ms", json!(line.duration_ms)),
                ("session_id", clipped(line.session_id)),
                ("request_id", clipped(Some(line.request_id))),
                ("principal", clipped(line.principal)),
                ("backend", clipped(line.backend)),
                ("attempts", if attempts > 1 { json!(attempts) } else { Value::Null }),
                ("failover_from", clipped(line.failover_from)),
                ("model", clipped(line.model)),
                ("operation", clipped(line.operation)),
                ("bytes_in", json!(line.bytes_in)),
                ("bytes_out", json!(line.bytes_out)),
                ("queue_ms", json!(line.queue_ms)),
                ("ttfb_ms", json!(line.ttfb_ms)),
                ("stream", json!(line.stream)),
                ("client", clipped(line.client)),
                ("outcome", json!("ok")),
            ];
            let left_out = ["attempts", "failover_from", "operation", "queue_ms"];
            let kept = members.iter().filter(|(name, value)| !value.is_null() || !left_out.contains(name));
            let expected: String = kept.map(|(name, value)| format!(",\"{name}\":{value}")).collect();
            let mut written = Vec::new();
            line.write(&mut written);
            prop_assert_eq!(String::from_utf8(written).unwrap(), expected);
        }
    }

    #[test]
    fn a_url_loses_what_may_be_a_secret() {
        for (url, shown) in [
            ("/v1/messages?beta=true", "/v1/messages?beta=true"),
            ("/v1/models/x:generate?key=AIza&alt=sse", "/v1/models/x:generate?key=***&alt=sse"),
            ("/x?%6bey=AIza&beta", "/x?%6bey=***&beta"),
            ("/x?sk-ant-secret", "/x?***"),
            ("/x?", "/x?"),
            ("http://me:pw@host/a?b=c", "http://***@host/a?b=***"),
            ("http://host/a@b", "http://host/a@b"),
        ] {
            assert_eq!(mask(url), shown);
        }
    }

    #[test]
    fn long_fields_are_clipped_between_characters() {
        assert_eq!(clip("short"), "short");
        for pad in 0..4 {
            let text = format!("{}{}", "a".repeat(pad), "ü€𝄞".repeat(1000));
            let clipped = clip(&text);
            assert!(clipped.len() <= FIELD_MAX && clipped.ends_with(CLIPPED), "{}", clipped.len());
        }
        assert!(mask(&format!("/x?{}", "a=b&".repeat(100_000))).len() < 3 * FIELD_MAX);
    }
}
