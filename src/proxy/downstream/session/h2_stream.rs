//! A stream of an HTTP/2 connection: read timeout and budget, which Pingora does not have.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType, Result};
use tokio::time::timeout;

use crate::proxy::downstream::h2_budget::H2Budget;
use crate::proxy::downstream::timing::IdleTimer;

/// State of an HTTP/2 stream besides its session.
pub(super) struct H2Stream {
    /// Counts body bytes, and whether the stream was answered or cancelled.
    budget: Arc<H2Budget>,
    /// The end of the stream was counted.
    has_ended: bool,
    /// For all waits on this stream.
    pub(super) timer: IdleTimer,
}

impl H2Stream {
    pub(super) fn new(budget: Arc<H2Budget>) -> Self {
        Self { budget, has_ended: false, timer: IdleTimer::default() }
    }

    fn count(&mut self, bytes: usize) {
        self.budget.useful(bytes);
    }

    /// Counts the result of reading from the request body.
    pub(super) fn on_read(&mut self, chunk: &Result<Option<Bytes>>, has_answer: bool) {
        match chunk {
            Ok(chunk) => self.count(chunk.as_ref().map_or(0, Bytes::len)),
            Err(_) => self.failed(has_answer),
        }
    }

    /// Counts the result of writing to the response body; `is_excused` when the client did not cause a failure.
    pub(super) fn on_written(&mut self, written: &Result<bool>, bytes: usize, is_excused: bool) {
        match written {
            Ok(end) => {
                self.count(bytes);
                if *end {
                    self.answered();
                }
            }
            Err(_) => self.failed(is_excused),
        }
    }

    /// Counts a stream that was cancelled by the client or failed because of it. One whose response had begun does not
    /// count: its client has waited for the backend, so it cannot cause much work this way.
    fn failed(&mut self, has_answer: bool) {
        if !std::mem::replace(&mut self.has_ended, true) && !has_answer {
            self.budget.cancelled();
        }
    }

    /// Counts a complete response.
    pub(super) fn answered(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.budget.answered();
        }
    }
}

/// Returns the next chunk of the body. With `idle`, waits for the client to disconnect once the body has ended. `limit` is
/// the longest time between two chunks of the body.
pub(super) async fn next_chunk(
    inner: &mut ServerSession,
    idle: Option<bool>,
    limit: Option<Duration>,
) -> Result<Option<Bytes>> {
    let is_awaited = idle != Some(true) && !inner.is_body_done();
    loop {
        let next = async {
            match idle {
                Some(no_body) => inner.read_body_or_idle(no_body).await,
                None => inner.read_request_body().await,
            }
        };
        let chunk = match limit.filter(|_| is_awaited) {
            None => next.await,
            Some(limit) => timeout(limit, next).await.unwrap_or_else(|_| {
                Err(Error::explain(ErrorType::ReadTimedout, "the body does not come").into_down())
            }),
        }?;
        // Skips an empty chunk in the middle, which an HTTP/1.1 upstream would take for the end.
        if !chunk.as_ref().is_some_and(Bytes::is_empty) || inner.is_body_done() {
            return Ok(chunk);
        }
    }
}
