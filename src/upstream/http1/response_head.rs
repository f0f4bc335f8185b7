//! The head of a response: parsed when it is complete, into one header map whose values are not copied.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Response, Version};
use httparse::{ParserConfig, Status};
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{ResponseHeader, header_value_from_raw};

use crate::protocol::wire::http1::head_end;

/// Maximum bytes of a head, as in Pingora's client.
const MAX_HEAD: usize = 1 << 20;

/// Maximum fields of a head, as in Pingora's client.
const MAX_FIELDS: usize = 256;

/// Finds heads in bytes that arrive in pieces.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    /// Bytes without the end of a head.
    searched: usize,
}

impl HeadReader {
    /// Takes a head out of `input`; `None` if it is not complete.
    ///
    /// # Errors
    /// It is not a valid head of HTTP/1.0 or HTTP/1.1, or too long.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<ResponseHeader>> {
        if self.searched == 0 {
            // Some servers send an empty line after a body.
            while input.starts_with(b"\r\n") || input.starts_with(b"\n") {
                input.advance(if input[0] == b'\r' { 2 } else { 1 });
            }
            if **input == *b"\r" {
                // The rest of such a line, or none, comes next.
                return Ok(None);
            }
        }
        // Parsing waits for the end, so that a head in many pieces costs no more than one.
        let Some(length) = head_end::find(input, self.searched.saturating_sub(2)) else {
            self.searched = input.len();
            if input.len() > MAX_HEAD {
                return Error::e_explain(ErrorType::InvalidHTTPHeader, "the response's head is too long");
            }
            return Ok(None);
        };
        self.searched = 0;
        parse(&input.split_to(length).freeze()).map(Some)
    }
}

/// Parses a complete head.
fn parse(head: &Bytes) -> Result<ResponseHeader> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let mut parser = ParserConfig::default();
    // A proxy removes such white space and unfolds such lines (RFC 9112, 5.1 and 5.2).
    parser.allow_spaces_after_header_name_in_responses(true);
    parser.allow_obsolete_multiline_headers_in_responses(true);
    let parsed = parser
        .parse_response_with_uninit_headers(&mut response, head, &mut fields)
        .or_err(ErrorType::InvalidHTTPHeader, "the response's head")?;
    if parsed != Status::Complete(head.len()) {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "the response's head has two ends");
    }
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 4);
    for field in &*response.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .or_err(ErrorType::InvalidHTTPHeader, "a field name of the response")?;
        let value = header_value_from_raw(head.slice_ref(field.value));
        headers
            .try_append(name, value)
            .or_err(ErrorType::InvalidHTTPHeader, "the response has too many fields")?;
    }
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = response
        .code
        .unwrap_or_default()
        .try_into()
        .or_err(ErrorType::InvalidHTTPHeader, "the status of the response")?;
    parts.version = if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = headers;
    let mut header = ResponseHeader::from(parts);
    header.set_reason_phrase(response.reason)?;
    Ok(header)
}

/// Returns whether the backend keeps the connection open after a response with this head (RFC 9112, 9.3). A head whose
/// framing is doubtful ends the connection: two ways to find the end of the body (RFC 9112, 6.3), or a transfer coding of
/// HTTP/1.0 (6.1).
pub(super) fn keeps_alive(head: &ResponseHeader) -> bool {
    let is_coded = head.headers.contains_key(TRANSFER_ENCODING);
    if is_coded && (head.version == Version::HTTP_10 || head.headers.contains_key(CONTENT_LENGTH)) {
        return false;
    }
    let mut keeps = head.version == Version::HTTP_11;
    for value in head.headers.get_all(CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keeps |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keeps
}
