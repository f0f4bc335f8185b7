//! Compresses answers of backends of type `http` for clients that accept it (`compression`).
//!
//! What a backend sends leaves compressed at once, so that slow text arrives as it comes. Event streams, lines of JSON, gRPC
//! and answers of known APIs are never touched. Pingora's module is not used: it does not flush and does not read weights.

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, TRANSFER_ENCODING, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::ResponseHeader;

use super::compressing::Compressing;
use super::compression_settings::Compression;
use super::request_ctx::{Outcome, Routed};
use super::state::ProxyState;
use crate::protocol::wire::encoder::{Algorithm, Choice, Encoder, choose};
use crate::protocol::wire::framing::Framing;
use crate::protocol::{BackendKind, Dialect};

/// Fields that describe the bytes of the body as the backend sent it.
const OF_PLAIN_BYTES: [HeaderName; 4] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Decides whether the answer is compressed, and changes its head if it is. `request` are the fields of the client.
///
/// # Errors
/// A header cannot be set, or the library fails.
pub(super) fn begin(
    head: &mut ResponseHeader,
    request: &HeaderMap,
    app: &ProxyState,
    routed: &Routed,
    outcome: &mut Outcome,
) -> Result<()> {
    let received = &routed.who.received;
    let Some(settings) = &received.handle.settings.http.compression else { return Ok(()) };
    let is_plain = routed.route.dialect == Dialect::PLAIN
        && routed.route.backend.settings().kind() == BackendKind::HTTP
        && outcome.answer.judging.is_none();
    if !is_plain || !may_differ(head, request, settings) {
        return Ok(());
    }
    vary(head)?;
    let accepted = request.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let choice = choose(accepted, &settings.algorithms);
    let Some(algorithm) = choice.coding else { return Ok(()) };
    if head.status == StatusCode::NOT_MODIFIED {
        // It is about the answer that was compressed.
        return weaken(head);
    }
    if received.method == Method::HEAD || is_too_small(head, choice, settings) {
        return Ok(());
    }
    let encoder = Encoder::new(algorithm, settings.level);
    let encoder = encoder.map_err(|error| Error::because(ErrorType::InternalError, "an encoder", error))?;
    rewrite(head, algorithm, received.version)?;
    outcome.answer.framing = Some(Framing::Opaque);
    let metrics = app.metrics.compressed(algorithm.name());
    outcome.answer.compressing = Some(Box::new(Compressing::new(encoder, metrics)));
    Ok(())
}

/// Returns whether the answer may be sent compressed to some clients.
fn may_differ(head: &ResponseHeader, request: &HeaderMap, settings: &Compression) -> bool {
    let text = |name: HeaderName| head.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let is_excluded = head.status.is_informational()
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT
        )
        || head.headers.contains_key(CONTENT_RANGE)
        || text(CONTENT_ENCODING).is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity"))
        || forbids_changes(&head.headers)
        || forbids_changes(request);
    if is_excluded {
        return false;
    }
    let content_type = text(CONTENT_TYPE);
    let media = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    let is_of = |start: &str| media.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start));
    // A 304 has no type.
    let is_covered =
        settings.covers(media) || content_type.is_none() && head.status == StatusCode::NOT_MODIFIED;
    is_covered
        && !Framing::of(content_type, None).is_stream()
        && !is_of("application/grpc")
        && !is_of("application/connect+")
}

/// Returns whether `Cache-Control` has `no-transform` (RFC 9111, 5.2.1.6 and 5.2.2.6).
fn forbids_changes(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let mut directives = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

/// Tells caches that the answer depends on what the client accepts.
fn vary(head: &mut ResponseHeader) -> Result<()> {
    let lines = head.headers.get_all(VARY).iter();
    let mut names =
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    if names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding")) {
        return Ok(());
    }
    head.append_header(VARY, "Accept-Encoding").map(drop)
}

fn is_too_small(head: &ResponseHeader, choice: Choice, settings: &Compression) -> bool {
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length == 0 || length < settings.min_size && !choice.must_encode)
}

/// Makes this the head of the compressed body. Ranges and digests of the plain one do not fit it.
fn rewrite(head: &mut ResponseHeader, algorithm: Algorithm, client: Version) -> Result<()> {
    head.insert_header(CONTENT_ENCODING, HeaderValue::from_static(algorithm.name()))?;
    for name in [CONTENT_LENGTH, ACCEPT_RANGES].iter().chain(&OF_PLAIN_BYTES) {
        head.remove_header(name);
    }
    if client == Version::HTTP_11 {
        head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    weaken(head)
}

/// Weakens the validator (RFC 9110, 8.8.3): the bytes are not those that it stands for.
fn weaken(head: &mut ResponseHeader) -> Result<()> {
    let Some(tag) = head.headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) else {
        return Ok(());
    };
    let weak = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat());
    head.insert_header(ETAG, weak.or_err(ErrorType::InvalidHTTPHeader, "the entity tag")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::compression_settings::CompressionConfig;
    use crate::settings::fault::Faults;

    fn fields(written: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs =
            written.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        pairs.collect()
    }

    fn settings() -> Compression {
        let written = CompressionConfig { enabled: true, ..Default::default() };
        (*written.compile(&mut Faults::default()).unwrap().unwrap()).clone()
    }

    fn head(status: u16, written: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for (name, value) in written {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn only_whole_plain_texts_that_may_be_changed_are_compressed() {
        let json = ("content-type", "application/json");
        for (status, written, request, expected) in [
            (200, &[json][..], &[][..], true),
            (404, &[json], &[], true),
            (304, &[], &[], true),
            (200, &[json, ("content-encoding", "identity")], &[], true),
            (200, &[("content-type", "text/csv; charset=utf-8")], &[], true),
            (200, &[], &[], false),
            (200, &[("content-type", "image/png")], &[], false),
            (200, &[("content-type", "text/event-stream; charset=utf-8")], &[], false),
            (200, &[("content-type", "application/x-ndjson")], &[], false),
            (200, &[("content-type", "application/grpc+proto")], &[], false),
            (200, &[json, ("content-encoding", "gzip")], &[], false),
            (200, &[json, ("content-range", "bytes 0-1/2")], &[], false),
            (206, &[json], &[], false),
            (204, &[json], &[], false),
            (101, &[json], &[], false),
            (200, &[json, ("cache-control", "private, No-Transform")], &[], false),
            (200, &[json], &[("cache-control", "no-transform")], false),
        ] {
            let found = may_differ(&head(status, written), &fields(request), &settings());
            assert_eq!(found, expected, "{status} {written:?} {request:?}");
        }
        // Whatever the file says.
        let written = CompressionConfig {
            enabled: true,
            types: vec!["application/*".into(), "text/event-stream".into()],
            ..Default::default()
        };
        let all = written.compile(&mut Faults::default()).unwrap().unwrap();
        for kind in
            ["application/x-ndjson", "application/grpc", "text/event-stream", "application/connect+json"]
        {
            assert!(!may_differ(&head(200, &[("content-type", kind)]), &fields(&[]), &all), "{kind}");
        }
    }

    #[test]
    fn the_head_is_that_of_the_compressed_body() {
        let written = [
            ("content-length", "5000"),
            ("etag", "\"a\""),
            ("accept-ranges", "bytes"),
            ("digest", "x"),
            ("content-digest", "x"),
            ("repr-digest", "x"),
            ("content-md5", "x"),
            ("vary", "Origin"),
        ];
        let mut head = head(200, &written);
        vary(&mut head).unwrap();
        vary(&mut head).unwrap();
        rewrite(&mut head, Algorithm::Br, Version::HTTP_11).unwrap();
        rewrite(&mut head, Algorithm::Br, Version::HTTP_11).unwrap();
        let mut left: Vec<String> =
            head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(
            left,
            [
                "content-encoding: br",
                "etag: W/\"a\"",
                "transfer-encoding: chunked",
                "vary: Accept-Encoding",
                "vary: Origin"
            ]
        );
    }

    #[test]
    fn small_bodies_stay_as_they_are_unless_the_client_refuses_that() {
        let of = |length: &'static str, must_encode| {
            let choice = Choice { coding: Some(Algorithm::Gzip), must_encode };
            is_too_small(&head(200, &[("content-length", length)]), choice, &settings())
        };
        assert_eq!([of("1023", false), of("1024", false)], [true, false]);
        assert_eq!([of("1023", true), of("0", true)], [false, true]);
        let choice = Choice { coding: Some(Algorithm::Gzip), must_encode: false };
        assert!(!is_too_small(&head(200, &[]), choice, &settings()), "of unknown length");
    }
}
