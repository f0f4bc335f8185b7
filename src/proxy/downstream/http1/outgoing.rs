//! What is to be sent to a client: heads and body in the framing of the response, joined so that a head leaves with the
//! first bytes of its body, and the size, data and end of a chunk together.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderValue, Method, StatusCode, Version};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{HeaderNameVariant, ResponseHeader};

use super::wire::Wire;
use crate::protocol::wire::http1::fields::{is_chunked, length};

/// Larger pieces of a body are not copied: they are sent from where they are, after what waits.
const MAX_COPIED: usize = 4 << 10;

/// First capacity of a buffer.
const CAPACITY: usize = 1 << 10;

/// A buffer that has grown larger is not kept.
const MAX_KEPT: usize = 2 * MAX_COPIED;

thread_local! {
    /// The buffer of the connection that was the last one to send all of it, so that a connection has none while nothing
    /// waits to be sent.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The last chunk, without trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// How the body of a response is delimited (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// No final head was sent.
    None,
    /// The bytes that are still to come.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    UntilClose,
    /// The body is complete.
    Done,
}

/// The fields of a final response that the gateway sets. They are written with the others, not added to the map of fields.
pub(super) struct OwnFields {
    /// `Date` (RFC 9110, 6.6.1).
    pub(super) date: HeaderValue,
    /// `Connection`.
    pub(super) connection: &'static str,
}

impl OwnFields {
    /// Writes the fields of `head` with these, each where `head` has it first, or at the end.
    fn write(&self, head: &ResponseHeader, out: &mut Vec<u8>) -> Result<()> {
        let mut own =
            [Some(("Date", self.date.as_bytes())), Some(("Connection", self.connection.as_bytes()))];
        let is_own = |name: &[u8]| {
            let names: [&[u8]; 2] = [b"date", b"connection"];
            names.iter().position(|own| name.eq_ignore_ascii_case(own))
        };
        head.map(|name, value| {
            let name = match name {
                HeaderNameVariant::Case(name) => name.as_slice(),
                HeaderNameVariant::Titled(name) => name.as_bytes(),
            };
            match is_own(name) {
                None => put_field(name, value.as_bytes(), out),
                Some(which) => {
                    if let Some((name, value)) = own[which].take() {
                        put_field(name.as_bytes(), value, out);
                    }
                }
            }
            Ok(())
        })?;
        for (name, value) in own.into_iter().flatten() {
            put_field(name.as_bytes(), value, out);
        }
        Ok(())
    }
}

fn put_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Bytes that wait to be sent: `first`, then `body`, then `last`.
#[derive(Debug)]
pub(super) struct Outgoing {
    first: Vec<u8>,
    /// How many bytes of `first` were sent.
    sent: usize,
    /// A piece that is too large to be copied.
    body: Bytes,
    last: &'static [u8],
    /// The wire may hold back bytes that were written.
    is_written: bool,
    framing: Framing,
    /// Bytes of the body so far, without framing.
    pub(super) body_bytes: usize,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            first: Vec::new(),
            sent: 0,
            body: Bytes::new(),
            last: b"",
            is_written: false,
            framing: Framing::None,
            body_bytes: 0,
        }
    }

    /// Prepares for the response to the next request.
    pub(super) fn restart(&mut self) {
        (self.framing, self.body_bytes) = (Framing::None, 0);
    }

    /// Adds a head, with `own` fields in place of those that it has.
    ///
    /// # Errors
    /// Its version is not HTTP/1.
    pub(super) fn add_head(&mut self, head: &ResponseHeader, own: Option<OwnFields>) -> Result<()> {
        self.gather();
        let version: &[u8] = match head.version {
            Version::HTTP_10 => b"HTTP/1.0 ",
            Version::HTTP_11 => b"HTTP/1.1 ",
            _ => return Error::e_explain(ErrorType::WriteError, "serializing response header"),
        };
        self.first.put_slice(version);
        self.first.put_slice(head.status.as_str().as_bytes());
        self.first.put_u8(b' ');
        self.first.put_slice(head.get_reason_phrase().unwrap_or_default().as_bytes());
        self.first.put_slice(b"\r\n");
        match own {
            Some(own) => own.write(head, &mut self.first)?,
            None => head.header_to_h1_wire(&mut self.first),
        }
        self.first.put_slice(b"\r\n");
        Ok(())
    }

    /// Sets how the body is delimited that follows the final head of the response to a `method` request. `is_upgrade`: the
    /// connection changes to another protocol.
    pub(super) fn begin_body(&mut self, head: &ResponseHeader, method: &Method, is_upgrade: bool) {
        let has_none = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.framing = if has_none || *method == Method::HEAD {
            Framing::Length(0)
        } else if is_upgrade {
            Framing::UntilClose
        } else if is_chunked(&head.headers) {
            Framing::Chunked
        } else {
            length(&head.headers).ok().flatten().map_or(Framing::UntilClose, Framing::Length)
        };
    }

    /// Whether the body ends with the connection.
    pub(super) fn is_until_close(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    /// Whether the body needs no further bytes.
    pub(super) fn is_finished(&self) -> bool {
        matches!(self.framing, Framing::Done | Framing::Length(0))
    }

    /// Adds bytes of the body. Those beyond its length are dropped.
    pub(super) fn add_body(&mut self, mut data: Bytes) {
        match &mut self.framing {
            Framing::None | Framing::Done => return,
            Framing::Length(left) => {
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
            }
            Framing::Chunked | Framing::UntilClose => {}
        }
        if data.is_empty() {
            return;
        }
        self.gather();
        self.body_bytes += data.len();
        let is_chunk = self.framing == Framing::Chunked;
        if is_chunk {
            self.add_size(data.len());
        }
        match data.len() > MAX_COPIED {
            true => self.body = data,
            false => self.first.extend_from_slice(&data),
        }
        if is_chunk {
            self.add_end(b"\r\n");
        }
    }

    /// Ends the body. Does nothing before a final head and after the end.
    ///
    /// # Errors
    /// The body is shorter than its head says.
    pub(super) fn end_body(&mut self) -> Result<()> {
        let framing = match self.framing {
            Framing::None => return Ok(()),
            _ => std::mem::replace(&mut self.framing, Framing::Done),
        };
        match framing {
            Framing::Chunked => {
                self.gather();
                self.add_end(LAST_CHUNK);
                Ok(())
            }
            Framing::Length(left) if left > 0 => Error::e_explain(
                ErrorType::Custom("PrematureBodyEnd"),
                format!("{left} bytes of the body are missing"),
            ),
            _ => Ok(()),
        }
    }

    /// Adds the line of a chunk's size.
    fn add_size(&mut self, size: usize) {
        let digits = (usize::BITS - size.leading_zeros()).div_ceil(4);
        let digit = |place: u32| b"0123456789ABCDEF"[size >> (4 * place) & 0xf];
        self.first.extend((0..digits).rev().map(digit));
        self.first.extend_from_slice(b"\r\n");
    }

    /// Adds bytes behind everything that waits.
    fn add_end(&mut self, end: &'static [u8]) {
        match self.body.is_empty() {
            true => self.first.extend_from_slice(end),
            false => self.last = end,
        }
    }

    /// Makes room behind what was not sent yet.
    fn gather(&mut self) {
        if self.first.capacity() == 0 {
            self.first = SPARE.take();
            self.first.reserve(CAPACITY);
        }
        if !self.body.is_empty() || !self.last.is_empty() {
            self.first.extend_from_slice(&std::mem::take(&mut self.body));
            self.first.extend_from_slice(std::mem::take(&mut self.last));
        }
    }

    /// Returns how many bytes wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.first.len() - self.sent + self.body.len() + self.last.len()
    }

    /// Sends everything that waits. Can be cancelled: the rest is sent by the next call.
    pub(super) fn poll_send(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            let first = &self.first[self.sent..];
            let written = match self.body.is_empty() && self.last.is_empty() {
                true => ready!(wire.poll_write(cx, first))?,
                false => {
                    let parts = [first, &self.body, self.last].map(IoSlice::new);
                    ready!(wire.poll_write_parts(cx, &parts))?
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.remove(written);
            self.is_written = true;
        }
        if self.is_written {
            ready!(wire.poll_flush(cx))?;
            self.is_written = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Removes what was sent.
    fn remove(&mut self, written: usize) {
        let of_first = written.min(self.first.len() - self.sent);
        self.sent += of_first;
        let of_body = (written - of_first).min(self.body.len());
        self.body.advance(of_body);
        self.last = &self.last[written - of_first - of_body..];
        if self.sent == self.first.len() {
            let mut sent = std::mem::take(&mut self.first);
            sent.clear();
            if (1..=MAX_KEPT).contains(&sent.capacity()) {
                SPARE.set(sent);
            }
            self.sent = 0;
        }
        if self.body.is_empty() {
            // Frees it.
            self.body = Bytes::new();
        }
    }
}
