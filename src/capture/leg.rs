//! What is kept of one request while it passes: the first bytes of both bodies.

use std::time::Duration;

use jiff::Timestamp;

use crate::ids::{BackendName, RequestId, SessionId, Uid};

/// What a capture takes beside its bodies, in bytes: a generous guess.
const FRAME: usize = 1 << 10;

/// The first bytes of a body, and how many there were.
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
    /// A body of this type and coding, of which nothing has come.
    pub fn of((media, coding): (Option<Box<str>>, Option<Box<str>>)) -> Self {
        Self { media, coding, ..Self::default() }
    }

    /// Takes the body's next bytes, as far as they are among the first `max`.
    pub fn feed(&mut self, chunk: &[u8], max: usize) {
        self.total += chunk.len() as u64;
        let room = max.saturating_sub(self.bytes.len());
        let taken = &chunk[..chunk.len().min(room)];
        let needed = self.bytes.len() + taken.len();
        if needed > self.bytes.capacity() {
            // Doubles as usual, but never beyond `max`.
            let target = needed.max((2 * self.bytes.capacity()).min(max));
            self.bytes.reserve_exact(target - self.bytes.len());
        }
        self.bytes.extend_from_slice(taken);
    }

    /// So many bytes came in all, also such as were read before anything could be kept of them.
    pub fn came(&mut self, total: u64) {
        self.total = self.total.max(total);
    }

    /// Whether there was more than is kept.
    pub(super) fn is_cut(&self) -> bool {
        self.total > self.bytes.len() as u64
    }
}

/// One request and its answer.
#[derive(Debug)]
pub struct Capture {
    /// When the request came.
    pub at: Timestamp,
    /// The request's id.
    pub request_id: RequestId,
    /// Its session.
    pub session_id: SessionId,
    /// The session's incarnation.
    pub uid: Uid,
    /// The method.
    pub method: Box<str>,
    /// The path, without a query.
    pub path: Box<str>,
    /// The backend that served it.
    pub backend: Option<BackendName>,
    /// The model that was asked for.
    pub model: Option<Box<str>>,
    /// The status sent to the client.
    pub status: Option<u16>,
    /// `ok`, or the code of its failure.
    pub outcome: &'static str,
    /// From the end of the request's head to the first attempt at a backend; `None` when none was asked.
    pub queue: Option<Duration>,
    /// Whether secrets are taken out of what is stored.
    pub redact: bool,
    /// Bytes that are kept of each body, also of one that is decoded.
    pub max_body: usize,
    /// As the client sent it.
    pub request: Body,
    /// As it was sent to the client.
    pub answer: Body,
}

impl Capture {
    /// The memory that it takes, in bytes.
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
