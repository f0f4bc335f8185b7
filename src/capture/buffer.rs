//! Buffers the first bytes of a request and its response while they pass.

use std::time::Duration;

use jiff::Timestamp;

use crate::ids::{BackendName, RequestId, SessionId, Uid};

/// The memory of a capture besides its bodies, in bytes: a generous estimate.
const FRAME: usize = 1 << 10;

/// The first bytes of a body, and its total size.
#[derive(Debug, Default)]
pub struct Body {
    /// Its `Content-Type`.
    pub media: Option<Box<str>>,
    /// Its `Content-Encoding`.
    pub coding: Option<Box<str>>,
    pub(super) bytes: Vec<u8>,
    pub(super) total: u64,
}

impl Body {
    /// Creates an empty body from its `Content-Type` and `Content-Encoding`.
    pub fn of((media, coding): (Option<Box<str>>, Option<Box<str>>)) -> Self {
        Self { media, coding, ..Self::default() }
    }

    /// Appends the next bytes of the body, as far as they are among the first `max`.
    pub fn feed(&mut self, chunk: &[u8], max: usize) {
        self.total += chunk.len() as u64;
        let room = max.saturating_sub(self.bytes.len());
        let taken = &chunk[..chunk.len().min(room)];
        let needed = self.bytes.len() + taken.len();
        if needed > self.bytes.capacity() {
            // Double as usual, but never beyond `max`.
            let target = needed.max((2 * self.bytes.capacity()).min(max));
            self.bytes.reserve_exact(target - self.bytes.len());
        }
        self.bytes.extend_from_slice(taken);
    }

    /// Sets the total size to at least `total`, which includes bytes that were read before the capture started.
    pub fn came(&mut self, total: u64) {
        self.total = self.total.max(total);
    }

    /// Returns true if the body has more bytes than are stored.
    pub(super) fn is_cut(&self) -> bool {
        self.total > self.bytes.len() as u64
    }
}

/// The first bytes of both bodies of a request in progress.
#[derive(Debug)]
pub struct BodyCapture {
    /// When the request arrived.
    pub at: Timestamp,
    /// The request body.
    pub request: Body,
    /// The response body.
    pub answer: Body,
    /// How many bytes of each body are stored.
    max_body: usize,
}

impl BodyCapture {
    /// Begins a capture that stores up to `max_body` bytes of each body; `kinds` are `Content-Type` and
    /// `Content-Encoding` of the request.
    pub fn begin(max_body: usize, kinds: (Option<Box<str>>, Option<Box<str>>)) -> Self {
        Self { at: Timestamp::now(), request: Body::of(kinds), answer: Body::default(), max_body }
    }

    /// Adds a chunk of the request body.
    pub fn upload(&mut self, chunk: &[u8]) {
        self.request.feed(chunk, self.max_body);
    }

    /// Adds a chunk of the response body.
    pub fn download(&mut self, chunk: &[u8]) {
        self.answer.feed(chunk, self.max_body);
    }

    /// Adds an error body written by the proxy.
    pub fn refused(&mut self, body: &[u8]) {
        (self.answer.media, self.answer.coding) = (Some("application/json".into()), None);
        self.download(body);
    }
}

/// A request and its response.
#[derive(Debug)]
pub struct Capture {
    /// When the request arrived.
    pub at: Timestamp,
    /// The request id.
    pub request_id: RequestId,
    /// The session id.
    pub session_id: SessionId,
    /// The session's incarnation.
    pub uid: Uid,
    /// The request method.
    pub method: Box<str>,
    /// The path without the query.
    pub path: Box<str>,
    /// The backend; `None` if none was chosen.
    pub backend: Option<BackendName>,
    /// The requested model.
    pub model: Option<Box<str>>,
    /// The status sent to the client; `None` if none was.
    pub status: Option<u16>,
    /// `ok`, or the code of the error.
    pub outcome: &'static str,
    /// From the end of the request's head to the first attempt at a backend; `None` when none was asked.
    pub queue: Option<Duration>,
    /// Whether secrets are redacted in the stored copy.
    pub redact: bool,
    /// The number of bytes stored of each body, also after decoding.
    pub max_body: usize,
    /// The request body, as the client sent it.
    pub request: Body,
    /// The response body, as it was sent to the client.
    pub answer: Body,
}

impl Capture {
    /// The memory used, in bytes.
    pub fn weight(&self) -> usize {
        FRAME + self.request.bytes.capacity() + self.answer.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_buffer_keeps_the_first_bytes_and_never_grows_beyond_its_limit(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..12),
            max in 1usize..2000,
        ) {
            let mut body = Body::default();
            for chunk in &chunks {
                body.feed(chunk, max);
                prop_assert!(body.bytes.capacity() <= max);
            }
            let whole = chunks.concat();
            prop_assert_eq!(&body.bytes, &whole[..whole.len().min(max)]);
            prop_assert_eq!((body.total, body.is_cut()), (whole.len() as u64, whole.len() > max));
        }
    }
}
