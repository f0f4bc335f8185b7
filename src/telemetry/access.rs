//! The access line, which is logged for each request.
//!
//! URLs are logged without secrets: user, password, and the values of query parameters are masked, except for a few
//! harmless parameters. Long values are truncated.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

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

/// A finished request. Serializes to the fields of the access line.
#[derive(Clone, Debug, Serialize)]
pub struct AccessLine<'a> {
    /// The client's address.
    pub client_ip: IpAddr,
    /// The request method.
    #[serde(serialize_with = "clipped")]
    pub method: &'a str,
    /// The request target; masked and truncated when serialized.
    #[serde(serialize_with = "masked")]
    pub url: &'a str,
    /// The status that was sent; `None` if the client disconnected before.
    pub status: Option<u16>,
    /// Milliseconds from the request head to the last byte of the response.
    pub duration_ms: u64,
    /// The session id; `None` if the request was rejected before it had one.
    #[serde(serialize_with = "clipped_option")]
    pub session_id: Option<&'a str>,
    /// The request id.
    #[serde(serialize_with = "clipped")]
    pub request_id: &'a str,
    /// The caller.
    #[serde(serialize_with = "clipped_option")]
    pub principal: Option<&'a str>,
    /// The backend; `None` if none was chosen.
    #[serde(serialize_with = "clipped_option")]
    pub backend: Option<&'a str>,
    /// The number of backends tried; logged if more than one.
    #[serde(skip_serializing_if = "is_usual")]
    pub attempts: u32,
    /// The backend that failed first; logged if another one took over.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clipped_option")]
    pub failover_from: Option<&'a str>,
    /// The requested model, or the one that answered.
    #[serde(serialize_with = "clipped_option")]
    pub model: Option<&'a str>,
    /// The operation of an MCP or A2A request, such as `tools/call get_weather`.
    #[serde(serialize_with = "clipped_option", skip_serializing_if = "Option::is_none")]
    pub operation: Option<&'a str>,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// Milliseconds from the end of the head to the first attempt at a backend; absent when none was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u64>,
    /// Milliseconds from forwarding the request to the first byte of the response.
    pub ttfb_ms: Option<u64>,
    /// Whether the response was a stream.
    pub stream: bool,
    /// The client program.
    #[serde(serialize_with = "clipped_option")]
    pub client: Option<&'a str>,
    /// How it ended: `ok`, or the code of an [`crate::error::ErrorKind`].
    #[serde(serialize_with = "clipped")]
    pub outcome: &'a str,
}

fn is_usual(attempts: &u32) -> bool {
    *attempts <= 1
}

fn clipped<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&clip(text))
}

fn clipped_option<S: Serializer>(text: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => serializer.serialize_some(&*clip(text)),
        None => serializer.serialize_none(),
    }
}

fn masked<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&clip(&mask(url)))
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
    let Some((scheme, rest)) = place.split_once("://") else { return Cow::Borrowed(place) };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => Cow::Owned(format!("{scheme}://***@{}", &rest[user.len() + 1..])),
        None => Cow::Borrowed(place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
