//! Reads responses out of bytes as they arrive: heads, informational ones first, then the body. Does no IO.

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::response_head::{HeadReader, keeps_alive};
use crate::protocol::wire::http1::body::{Body, Fault, Framing};
use crate::protocol::wire::http1::fields::{is_chunked, length};

/// Reads the response to one request.
#[derive(Debug, Default)]
pub struct ResponseReader {
    /// The request is HEAD, so that the response has no body.
    to_head: bool,
    head: HeadReader,
    /// The body; `None` before the final head.
    body: Option<Body>,
    keeps_alive: bool,
}

impl ResponseReader {
    /// Creates a reader; `to_head` if the request is HEAD.
    pub fn new(to_head: bool) -> Self {
        Self { to_head, ..Self::default() }
    }

    /// Takes the next head out of `input`; `None` if it is not complete. After an informational one (RFC 9110, 15.2) another
    /// one follows; 101 is final.
    ///
    /// # Errors
    /// The head is invalid or too long, or states two lengths.
    pub fn next_head(&mut self, input: &mut BytesMut) -> Result<Option<ResponseHeader>> {
        let Some(mut head) = self.head.next(input)? else { return Ok(None) };
        if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(head));
        }
        self.keeps_alive = keeps_alive(&head) && head.status != StatusCode::SWITCHING_PROTOCOLS;
        self.body = Some(body(&head, self.to_head)?);
        if head.headers.contains_key(TRANSFER_ENCODING) {
            // The coding overrides the length, which must not be forwarded (RFC 9112, 6.3).
            head.remove_header(&CONTENT_LENGTH);
        }
        Ok(Some(head))
    }

    /// Takes the next bytes of the body out of `input`. Returns `None` if more input is needed, and empty bytes never.
    ///
    /// # Errors
    /// The body is not validly chunked, or there was no head.
    pub fn next_data(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>> {
        let Some(body) = &mut self.body else {
            return Error::e_explain(ErrorType::InternalError, "a body is read before its head");
        };
        body.take(input).map_err(invalid)
    }

    /// Ends the body with the connection.
    ///
    /// # Errors
    /// The body is not complete.
    pub fn close(&mut self) -> Result<()> {
        self.keeps_alive = false;
        match &mut self.body {
            Some(body) => body.close().map_err(invalid),
            None => Err(invalid(Fault::CutShort)),
        }
    }

    /// Whether the whole response has been read.
    pub fn is_done(&self) -> bool {
        self.body.as_ref().is_some_and(Body::is_done)
    }

    /// Whether the whole response has been read and the backend keeps the connection open, so that another request can
    /// follow if no input is left.
    pub fn is_reusable(&self) -> bool {
        self.is_done() && self.keeps_alive
    }
}

/// Returns the body of the final response with this head (RFC 9112, 6.3); `to_head` if it answers a HEAD request.
///
/// # Errors
/// There are two lengths, or one that is not a number.
fn body(head: &ResponseHeader, to_head: bool) -> Result<Body> {
    let is_coded = head.headers.contains_key(TRANSFER_ENCODING);
    // Checked even where it does not say where the body ends, since the client would see it.
    let length = if is_coded { Ok(None) } else { length(&head.headers) };
    let length = length
        .map_err(|_| Error::explain(ErrorType::InvalidHTTPHeader, "the Content-Length is not one number"))?;
    let has_none = head.status.is_informational()
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if to_head || has_none {
        return Ok(Body::Done);
    }
    Ok(match length {
        Some(length) => Body::new(Framing::Length(length)),
        None if is_coded && is_chunked(&head.headers) => Body::new(Framing::Chunked),
        None => Body::Raw,
    })
}

/// Returns the error of a body that has no valid end.
fn invalid(fault: Fault) -> Box<Error> {
    match fault {
        Fault::CutShort => Error::explain(
            ErrorType::ConnectionClosed,
            "the backend closed the connection before the end of the response",
        ),
        Fault::Chunk(why) => Error::explain(ErrorType::Custom("InvalidChunk"), why),
    }
}
