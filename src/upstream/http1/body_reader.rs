//! The body of a response: where it ends (RFC 9112, 6.3), and its content as it arrives.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};
use pingora_core::{Error, ErrorType, Result};

use crate::protocol::wire::chunked::{Chunked, Decoded, take};

/// The error of a body that is not validly chunked, as Pingora names it.
const INVALID_CHUNK: ErrorType = ErrorType::Custom("InvalidChunk");

/// How the end of a body is found.
#[derive(Debug)]
pub(super) enum BodyReader {
    /// By its length: this many bytes are missing.
    Length(u64),
    Chunked(Chunked),
    /// By the end of the connection.
    UntilClose,
}

/// The next part of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Bytes of the content; never empty.
    Data(Bytes),
    /// More input is needed.
    Partial,
    /// The body has ended.
    End,
}

impl BodyReader {
    /// A response without a body.
    pub(super) const NONE: Self = Self::Length(0);

    /// Returns how the body of the final response with this head ends; `to_head` if it answers a HEAD request.
    ///
    /// # Errors
    /// There are two lengths, or one that is not a number.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, to_head: bool) -> Result<Self> {
        let coding = headers.get_all(TRANSFER_ENCODING).iter().next_back();
        // Checked even where it does not say where the body ends, since the client would see it.
        let length = if coding.is_none() { content_length(headers)? } else { None };
        let has_none =
            status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if to_head || has_none {
            return Ok(Self::NONE);
        }
        let Some(coding) = coding else { return Ok(length.map_or(Self::UntilClose, Self::Length)) };
        let last = coding.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
        Ok(match last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            true => Self::Chunked(Chunked::default()),
            false => Self::UntilClose,
        })
    }

    /// Whether the whole body has been read. One that lasts until the connection ends is never done before.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_done(),
            Self::UntilClose => false,
        }
    }

    /// Takes the next part of the body out of `input`.
    ///
    /// # Errors
    /// The body is not validly chunked.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Part> {
        if self.is_done() {
            return Ok(Part::End);
        }
        match self {
            Self::Chunked(chunked) => Ok(match chunked.next(input).map_err(invalid_chunk)? {
                Decoded::Data(data) => Part::Data(data),
                Decoded::Partial => Part::Partial,
                Decoded::End => Part::End,
            }),
            Self::Length(_) | Self::UntilClose if input.is_empty() => Ok(Part::Partial),
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= taken as u64;
                Ok(Part::Data(take(input, taken)))
            }
            Self::UntilClose => Ok(Part::Data(take(input, input.len()))),
        }
    }
}

fn invalid_chunk(fault: impl std::error::Error) -> Box<Error> {
    Error::explain(INVALID_CHUNK, fault.to_string())
}

/// Returns the length that the head states. A repeated one is accepted if all are the same (RFC 9110, 8.6).
///
/// # Errors
/// There are two lengths, or one that is not a number.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>> {
    let mut length = None;
    let values =
        headers.get_all(CONTENT_LENGTH).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    for value in values {
        let digits = std::str::from_utf8(value.trim_ascii()).ok();
        // `parse` alone would accept a sign.
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(stated) = digits.and_then(|digits| digits.parse::<u64>().ok()) else {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "the Content-Length is not a number");
        };
        if length.is_some_and(|length| length != stated) {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "two different Content-Lengths");
        }
        length = Some(stated);
    }
    Ok(length)
}
