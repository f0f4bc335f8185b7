//! A stream of an HTTP/2 connection: what Pingora does by itself for HTTP/1.1 only.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType, Result};
use tokio::time::timeout;

use crate::proxy::downstream::h2_budget::H2Budget;

/// What an HTTP/2 stream needs beside its session.
pub(super) struct H2Stream {
    /// How long the client may leave between two pieces of its body.
    read_limit: Option<Duration>,
    /// Told of what moves, and of the stream's end.
    budget: Arc<H2Budget>,
    /// Its end was told.
    has_ended: bool,
}

impl H2Stream {
    pub(super) fn new(read_limit: Duration, budget: Arc<H2Budget>) -> Self {
        Self { read_limit: Some(read_limit), budget, has_ended: false }
    }

    pub(super) fn read_limit(&self) -> Option<Duration> {
        self.read_limit
    }

    pub(super) fn set_read_limit(&mut self, limit: Option<Duration>) {
        self.read_limit = limit;
    }

    /// Bytes of its bodies have moved.
    fn moved(&mut self, bytes: usize) {
        self.budget.useful(bytes);
    }

    /// A piece of the request came, or did not.
    pub(super) fn read(&mut self, chunk: &Result<Option<Bytes>>, has_answer: bool) {
        match chunk {
            Ok(chunk) => self.moved(chunk.as_ref().map_or(0, Bytes::len)),
            Err(_) => self.failed(has_answer),
        }
    }

    /// So many bytes of the answer went out, or did not; `is_excused` when a failure is not the client's.
    pub(super) fn wrote(&mut self, written: &Result<bool>, bytes: usize, is_excused: bool) {
        match written {
            Ok(end) => {
                self.moved(bytes);
                if *end {
                    self.answered();
                }
            }
            Err(_) => self.failed(is_excused),
        }
    }

    /// It was given up by the client, or for a fault of the client's. A client that has seen its answer begin has
    /// waited for the backend, so this is no way to make much work for little.
    fn failed(&mut self, has_answer: bool) {
        if !std::mem::replace(&mut self.has_ended, true) && !has_answer {
            self.budget.cancelled();
        }
    }

    /// The client has its whole answer.
    pub(super) fn answered(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.budget.answered();
        }
    }
}

/// The next piece of the body; with `idle`, waits for the client to leave once the body has ended. With a `limit`,
/// which Pingora knows for HTTP/1.1 only, a piece must come in time.
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
        // An empty piece that is not the last one is no end: HTTP/1.1 would take it for one.
        if !chunk.as_ref().is_some_and(Bytes::is_empty) || inner.is_body_done() {
            return Ok(chunk);
        }
    }
}
