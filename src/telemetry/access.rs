//! The line each request leaves in the log.
//!
//! A URL is written without what may be a secret: user and password, and the values of all query parameters
//! but a few that are known to be harmless. Long values are clipped.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

/// The `message` of an access line.
pub const MESSAGE: &str = "request_completed";

/// More bytes than this of one field are not written.
pub(super) const FIELD_MAX: usize = 2048;

/// What a clipped field ends with.
pub(super) const CLIPPED: &str = "…";

/// Query parameters whose values are no secret; every other value is masked.
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

/// One request, as it ended. Serializes to the fields of the access line.
#[derive(Clone, Debug, Serialize)]
pub struct AccessLine<'a> {
    /// Address of the client.
    pub client_ip: IpAddr,
    /// Method as it came.
    #[serde(serialize_with = "clipped")]
    pub method: &'a str,
    /// Target as it came; masked and clipped when written.
    #[serde(serialize_with = "masked")]
    pub url: &'a str,
    /// Status the client saw; `None` when it went away before.
    pub status: Option<u16>,
    /// From the request's head to the last byte of the answer, in milliseconds.
    pub duration_ms: u64,
    /// The session's id, when one was found.
    #[serde(serialize_with = "clipped_option")]
    pub session_id: Option<&'a str>,
    /// The request's id.
    #[serde(serialize_with = "clipped")]
    pub request_id: &'a str,
    /// Who called.
    #[serde(serialize_with = "clipped_option")]
    pub principal: Option<&'a str>,
    /// The backend chosen.
    #[serde(serialize_with = "clipped_option")]
    pub backend: Option<&'a str>,
    /// How many backends were asked; told when it was more than one.
    #[serde(skip_serializing_if = "is_usual")]
    pub attempts: u32,
    /// The backend that failed before, when another one took its place; else not told.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clipped_option")]
    pub failover_from: Option<&'a str>,
    /// The model asked for, or the one that answered.
    #[serde(serialize_with = "clipped_option")]
    pub model: Option<&'a str>,
    /// What a JSON-RPC request asked for.
    #[serde(serialize_with = "clipped_option", skip_serializing_if = "Option::is_none")]
    pub operation: Option<&'a str>,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// From the end of the head to the first attempt at a backend, in milliseconds; absent when none was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u64>,
    /// From the request sent on to the first byte of the answer, in milliseconds.
    pub ttfb_ms: Option<u64>,
    /// Whether the answer was a stream.
    pub stream: bool,
    /// The program that called.
    #[serde(serialize_with = "clipped_option")]
    pub client: Option<&'a str>,
    /// How it ended: `ok`, or an [`crate::error::ErrorKind`]'s code.
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

/// The text itself, or its first 2 KiB and a mark.
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

/// The URL without what may be a secret.
fn mask(url: &str) -> Cow<'_, str> {
    let (place, query) = url.split_once('?').map_or((url, None), |(place, query)| (place, Some(query)));
    let place = without_user(place);
    let Some(query) = query else { return place };
    let mut text = place.into_owned();
    // A query a client makes endless is not worth masking to its end: it is clipped anyway.
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

/// An absolute URL without `user:password@`.
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
