//! What the `h2` crate does not check of a head: bytes that would mean something else over HTTP/1.1, and more than one host.

use h2::ext::Protocol;
use http::header::HOST;
use http::{HeaderValue, Method};
use pingora_core::protocols::http::authority::{RawTargetAuthority, raw_target_authority};
use pingora_http::RequestHeader;

/// Returns whether no byte of a target would end it, or its line, in HTTP/1.1.
pub(super) fn is_target(path: &[u8]) -> bool {
    !path.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n' | b' '))
}

/// Returns whether a head names one host, in one way (RFC 9113, 8.3.1): by `:authority`, by `Host`, or by both equally,
/// without user information, and not in its path.
pub(super) fn has_one_authority(head: &RequestHeader) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let (host, another) = (hosts.next(), hosts.next());
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let is_one = match (host, authority) {
        (Some(host), Some(authority)) => host == authority,
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    };
    let has_user = |name: &[u8]| name.contains(&b'@');
    // The target of CONNECT is its authority; with a protocol (RFC 8441) it has a path as well.
    let has_path = head.method != Method::CONNECT || head.extensions.get::<Protocol>().is_some();
    let is_relative = || matches!(raw_target_authority(head.raw_path()), RawTargetAuthority::None);
    another.is_none()
        && is_one
        && !host.is_some_and(has_user)
        && !authority.is_some_and(has_user)
        && (!has_path || is_relative())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(uri: &str, hosts: &[&str]) -> RequestHeader {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        RequestHeader::from(request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_host_is_named_once_or_twice_in_the_same_way() {
        for (uri, hosts) in [
            ("https://a.example/b", &[][..]),
            ("https://a.example/b", &["a.example"]),
            ("/b", &["a.example"]),
        ] {
            assert!(has_one_authority(&head(uri, hosts)), "{uri} {hosts:?}");
        }
        for (uri, hosts) in [
            ("https://a.example/b", &["b.example"][..]),
            ("https://a.example/b", &["A.example"]),
            ("https://a.example/b", &["a.example", "a.example"]),
            ("https://me@a.example/b", &[]),
            ("/b", &["me@a.example"]),
            ("/b", &[]),
        ] {
            assert!(!has_one_authority(&head(uri, hosts)), "{uri} {hosts:?}");
        }
        assert!(is_target(b"/a?b=%20") && !is_target(b"/a b") && !is_target(b"/a\r\nx"));
    }
}
