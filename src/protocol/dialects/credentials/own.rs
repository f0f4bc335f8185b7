//! The key of this gateway among the credentials of a request: where it is, and the request without it.

use std::borrow::Cow;

use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;
use url::form_urlencoded;

use super::{FIELDS, Holds, classified, is_parameter, joined, keep_parameters, subprotocols, without_scheme};

/// The field for the key of this gateway, beside the provider's credential in another one.
pub(super) const ELIDA_KEY: HeaderName = HeaderName::from_static("x-elida-key");

/// Whether a value contains the key.
pub fn contains(value: &[u8], key: &[u8]) -> bool {
    memmem::find(value, key).is_some()
}

/// Whether a request carries a credential for its backend beside the key.
pub fn is_present_beside(headers: &HeaderMap, query: Option<&str>, key: &[u8]) -> bool {
    let is_other = |value: &[u8]| !value.is_empty() && !contains(value, key);
    let for_backend = FIELDS.iter().filter(|(field, holds)| {
        // These two never reach a backend.
        *holds != Holds::Companion && *field != ELIDA_KEY && *field != PROXY_AUTHORIZATION
    });
    let mut values = for_backend.flat_map(|(field, _)| headers.get_all(field));
    values.any(|value| is_other(without_scheme(value.as_bytes().trim_ascii())))
        || subprotocols(headers).any(|(text, start)| start.is_some_and(|at| is_other(&text.as_bytes()[at..])))
        || query.is_some_and(|query| {
            query
                .as_bytes()
                .split(|byte| *byte == b'&')
                .any(|pair| is_parameter(pair) && !is_in_pair(pair, key))
        })
}

/// A request target without the query parameters that contain the key; all else byte for byte.
pub fn target_without<'t>(target: &'t [u8], key: &[u8]) -> Cow<'t, [u8]> {
    keep_parameters(target, |pair| !is_in_pair(pair, key))
}

/// A query without the parameters that contain the key.
pub fn query_without(query: &str, key: &[u8]) -> String {
    let pairs: Vec<&str> = query.split('&').filter(|pair| !is_in_pair(pair.as_bytes(), key)).collect();
    pairs.join("&")
}

/// The value of `Sec-WebSocket-Protocol`, all its lines in one, without the entries that contain the key.
pub fn subprotocols_without(headers: &HeaderMap, key: &[u8]) -> HeaderValue {
    joined(classified(headers).iter().map(|(text, _)| *text).filter(|text| !contains(text.as_bytes(), key)))
}

fn is_in_pair(pair: &[u8], key: &[u8]) -> bool {
    contains(pair, key)
        || form_urlencoded::parse(pair)
            .any(|(name, value)| contains(name.as_bytes(), key) || contains(value.as_bytes(), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"elida_one";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_credential_for_the_backend_is_told_from_the_key() {
        let is_present =
            |pairs: &[(&'static str, &str)], query| is_present_beside(&headers(pairs), Some(query), KEY);
        for (pairs, query) in [
            (&[][..], ""),
            (&[("authorization", "Bearer elida_one"), ("x-elida-key", "elida_one")], "key=elida_one&alt=sse"),
            (
                &[
                    ("authorization", "Bearer "),
                    ("openai-project", "p"),
                    ("proxy-authorization", "Basic eA=="),
                ],
                "",
            ),
            (
                &[("x-elida-key", "other"), ("sec-websocket-protocol", "realtime, bearer.elida_one")],
                "key=elida%5Fone",
            ),
        ] {
            assert!(!is_present(pairs, query), "{pairs:?} {query}");
        }
        for (pairs, query) in [
            (&[("x-elida-key", "elida_one"), ("authorization", "Bearer sk-1")][..], ""),
            (&[("authorization", "Bearer elida_one"), ("cookie", "a=b")], ""),
            (&[("sec-websocket-protocol", "realtime, openai-insecure-api-key.sk-1")], ""),
            (&[], "key=sk-1"),
        ] {
            assert!(is_present(pairs, query), "{pairs:?} {query}");
        }
    }

    #[test]
    fn the_key_is_taken_out_and_nothing_else() {
        let target = |target: &'static str| {
            String::from_utf8(target_without(target.as_bytes(), KEY).into_owned()).unwrap()
        };
        assert_eq!(target("/v1?a=%20&key=elida_one&b"), "/v1?a=%20&b");
        assert_eq!(target("/v1?key=elida%5fone"), "/v1");
        assert_eq!(target("/v1?key=sk-1"), "/v1?key=sk-1");
        assert_eq!(query_without("key=elida_one&alt=sse", KEY), "alt=sse");
        let offered =
            headers(&[("sec-websocket-protocol", "realtime, openai-insecure-api-key.elida_one, x")]);
        assert_eq!(subprotocols_without(&offered, KEY), "realtime, x");
    }
}
