//! Parses the head of a request (RFC 9112, 3 and 5).
//!
//! What ends a line, names a field or may stand in a value is decided by `httparse`; what frames the body, here. Where
//! RFC 9112 lets a recipient repair a request line, none is repaired.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use httparse::Status;
use pingora_core::protocols::http::authority::validate_request_authority;
use pingora_http::RequestHeader;

use crate::protocol::wire::http1::body::{Framing, split};
use crate::protocol::wire::http1::fields::{Length, ends_chunked, wants_kept};

/// The most fields of a head. The configured limits are checked by `proxy/receive`; this one bounds the parser.
const MAX_FIELDS: usize = 256;

/// Bytes after which no more are read of a head that is not complete; bounds the parser, as [`MAX_FIELDS`] does.
const MAX_HEAD: usize = (1 << 20) - 1;

/// The head of a request.
#[derive(Debug)]
pub struct Head {
    /// The parsed head.
    pub header: Box<RequestHeader>,
    /// Its bytes on the wire, with empty lines in front and the one at its end.
    pub raw: Bytes,
    /// How long the body is.
    pub framing: Framing,
    /// Whether the client lets the connection carry another request.
    pub keeps_open: bool,
}

impl Head {
    /// Returns an empty head in place of a rejected one, so that an error response can be written.
    pub(in crate::proxy::downstream) fn rejected() -> Self {
        let header = Box::new(Request::new(()).into_parts().0.into());
        Self { header, raw: Bytes::new(), framing: Framing::Length(0), keeps_open: false }
    }
}

/// Why a head is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has too many bytes or fields.
    TooLarge,
    /// It is not valid HTTP/1.1.
    Invalid,
}

/// Where a field is in the raw head.
struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

/// What the fields of a head say about its body and the connection.
#[derive(Default)]
struct Facts {
    length: Length,
    /// The length is not valid. It counts only without a transfer coding.
    has_bad_length: bool,
    has_length: bool,
    /// Whether the last `Transfer-Encoding` line ends in `chunked`.
    chunked: Option<bool>,
    /// What the first `Connection` line says, if there is one.
    connection: Option<Option<bool>>,
}

/// Takes a head from the front of `buffer`. Returns `None` when it is not complete yet.
///
/// # Errors
/// The bytes are not the beginning of a valid head, or too many of them are not a complete one.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Head>, Fault> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(buffer, &mut fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if buffer.len() > MAX_HEAD => return Err(Fault::TooLarge),
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooLarge),
        Err(_) => return Err(Fault::Invalid),
    };
    let base = buffer.as_ptr().addr();
    let place = |part: &[u8]| {
        let start = part.as_ptr().addr() - base;
        start..start + part.len()
    };
    let method = request.method.unwrap_or_default().parse::<Method>().map_err(|_| Fault::Invalid)?;
    let target = place(request.path.unwrap_or_default().as_bytes());
    let version = match request.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let places: Vec<Field> = request
        .headers
        .iter()
        .map(|field| Field { name: place(field.name.as_bytes()), value: place(field.value) })
        .collect();
    let raw = split(buffer, length);
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.version) = (method, version);
    parts.headers = HeaderMap::with_capacity(places.len());
    let mut facts = Facts::default();
    for Field { name, value } in places {
        let name = &raw[name];
        facts.add(name, &raw[value.clone()]);
        let name = HeaderName::from_bytes(name).map_err(|_| Fault::Invalid)?;
        let value = HeaderValue::from_maybe_shared(raw.slice(value)).map_err(|_| Fault::Invalid)?;
        parts.headers.try_append(name, value).map_err(|_| Fault::Invalid)?;
    }
    // `protocol/wire/http1/spelling` finds the client's spelling of the names in `raw`.
    let mut header = RequestHeader::from(parts);
    header.set_raw_path(&raw[target]).map_err(|_| Fault::Invalid)?;
    let framing = facts.framing(version)?;
    if facts.is_ambiguous() {
        header.remove_header(&CONTENT_LENGTH);
    }
    validate_request_authority(&header).map_err(|_| Fault::Invalid)?;
    Ok(Some(Head { header: Box::new(header), raw, framing, keeps_open: facts.keeps_open(version) }))
}

impl Facts {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.connection.get_or_insert_with(|| wants_kept(value));
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.has_length = true;
                self.has_bad_length |= self.length.add(value).is_err();
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.chunked = Some(ends_chunked(value)),
            _ => {}
        }
    }

    /// Returns how the body is delimited (RFC 9112, 6.3).
    fn framing(&self, version: Version) -> Result<Framing, Fault> {
        match self.chunked {
            // HTTP/1.0 has no transfer codings (RFC 9112, 6.1).
            Some(true) if version == Version::HTTP_11 => Ok(Framing::Chunked),
            Some(_) => Err(Fault::Invalid),
            None if self.has_bad_length => Err(Fault::Invalid),
            None => Ok(Framing::Length(self.length.get().unwrap_or(0))),
        }
    }

    /// Whether the head has a length beside a transfer coding. `proxy/framing` rejects it; in case it did not, the
    /// coding counts and the connection is closed (RFC 9112, 6.1).
    fn is_ambiguous(&self) -> bool {
        self.has_length && self.chunked.is_some()
    }

    fn keeps_open(&self, version: Version) -> bool {
        !self.is_ambiguous() && self.connection.flatten().unwrap_or(version == Version::HTTP_11)
    }
}
