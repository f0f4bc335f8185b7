//! The downstream session that Pingora sees; it wraps Pingora's own session of the request.
//!
//! It adds four things: request bodies, or their beginnings, are buffered for replay while the handle asks for it (Pingora's own buffer ends at
//! 64 KiB, its issues 349 and 575), every wait for the client also waits for the cut, idle time of the backend is
//! limited, and the wrapped session returns to the connection. It also works around two bugs of Pingora 0.9.1 (its
//! issues 935 and 946).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Version};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::timeout;

use super::forward::{MessageReader, forward_to_inner};
use super::h2_stream::{H2Stream, next_chunk};
use super::half_close::HalfClose;
use super::replay_buffer::ReplayBuffer;
use super::write::{STUCK_WRITE, complete_comment, cut, write, write_comment};
use crate::proxy::downstream::h2_budget::H2Budget;
use crate::proxy::downstream::handle::{RequestHandle, Upstream};
use crate::proxy::downstream::timing::{IdleTimer, KeepAlive};
use crate::upstream::http1::Room;

/// The error with which a wait ends when the backend was idle for too long.
pub(crate) const UPSTREAM_IDLE: ErrorType = ErrorType::Custom("backend_silent");

/// Tasks of the proxy are written together up to this many bytes of body. Pingora would join all queued tasks (four
/// chunks of 64 KiB) in a buffer that it never frees.
const BATCH: usize = 16 << 10;

pub(crate) struct DownstreamSession {
    /// Pingora's own session; `None` only in `drop`.
    inner: Option<Box<ServerSession>>,
    handle: Arc<RequestHandle>,
    replay: ReplayBuffer,
    idle_timer: IdleTimer,
    keep_alive: KeepAlive,
    /// The last call of the proxy was a successful `finish`.
    finished: bool,
    /// A write was abandoned halfway, so nothing can be written after it.
    broken: bool,
    /// The next call is the one of [`Session::is_body_empty`] when the proxy loop starts.
    pump_starts: bool,
    /// Whether the client has only closed its half of the connection.
    half_close: HalfClose,
    /// The response was written to its end.
    is_answered: bool,
    /// The response ended before the request, whose rest the backend does not read.
    is_abandoned: bool,
    /// Present for a stream of an HTTP/2 connection.
    stream: Option<H2Stream>,
}

/// Returns the number of body bytes in a task.
fn body_length(task: &HttpTask) -> usize {
    match task {
        HttpTask::Body(Some(body), _) | HttpTask::UpgradedBody(Some(body), _) => body.len(),
        _ => 0,
    }
}

impl DownstreamSession {
    pub(crate) fn new(inner: Box<ServerSession>, handle: Arc<RequestHandle>) -> Self {
        Self {
            inner: Some(inner),
            keep_alive: KeepAlive::new(handle.arrived),
            handle,
            replay: ReplayBuffer::default(),
            idle_timer: IdleTimer::default(),
            finished: false,
            broken: false,
            pump_starts: false,
            half_close: HalfClose::default(),
            is_answered: false,
            is_abandoned: false,
            stream: None,
        }
    }

    /// Wraps the session of an HTTP/2 stream.
    pub(crate) fn of_stream(
        inner: Box<ServerSession>,
        handle: Arc<RequestHandle>,
        budget: Arc<H2Budget>,
    ) -> Self {
        let stream = H2Stream::new(handle.settings.timeouts.read, budget);
        let mut session = Self::new(inner, handle);
        session.stream = Some(stream);
        session
    }

    #[expect(clippy::expect_used, reason = "only `drop` takes the inner session out")]
    fn inner(&self) -> &ServerSession {
        self.inner.as_deref().expect("the session is here until it is dropped")
    }

    #[expect(clippy::expect_used, reason = "only `drop` takes the inner session out")]
    fn inner_mut(&mut self) -> &mut ServerSession {
        self.inner.as_deref_mut().expect("the session is here until it is dropped")
    }

    /// Borrows the wrapped session, the handle and the `broken` flag at once.
    #[expect(clippy::expect_used, reason = "only `drop` takes the inner session out")]
    fn writer(&mut self) -> (&mut ServerSession, &RequestHandle, &mut bool) {
        let inner = self.inner.as_deref_mut().expect("the session is here until it is dropped");
        (inner, &self.handle, &mut self.broken)
    }

    /// Reads body bytes; with `idle`, waits for the client to disconnect once the body has ended.
    #[expect(clippy::expect_used, reason = "only `drop` takes the inner session out")]
    async fn read(&mut self, idle: Option<bool>) -> Result<Option<Bytes>> {
        let inner = self.inner.as_deref_mut().expect("the session is here until it is dropped");
        let (handle, idle_timer, keep_alive) = (&*self.handle, &mut self.idle_timer, &mut self.keep_alive);
        let half_close = &mut self.half_close;
        // Once the response has ended, nobody waits for a request that the backend does not read (RFC 9112, 7.5).
        let is_answered = self.is_answered && idle == Some(false);
        let limit = self.stream.as_ref().and_then(H2Stream::read_limit);
        let chunk = loop {
            tokio::select! {
                biased;
                _ = handle.cut.soft() => return cut(),
                () = poll_fn(|cx| idle_timer.poll_idle(&handle.activity, cx)) =>
                    return Error::e_explain(UPSTREAM_IDLE, "the backend was silent for too long"),
                () = poll_fn(|cx| keep_alive.poll_due(&handle.activity, cx)) => {}
                chunk = half_close.watch(
                    idle,
                    with_room(&handle.upstream, idle, is_answered, next_chunk(inner, idle, limit)),
                ) => match chunk {
                    Some(Err(error)) if half_close.is_half(&error, inner, handle.arrived) => {
                        // From here on the wait for the client is pending; a failed write tells that it has gone.
                        inner.set_abort_on_close(false);
                        continue;
                    }
                    Some(chunk) => break chunk,
                    None => {
                        self.is_abandoned = true;
                        return Ok(None);
                    }
                },
            }
            keep_alive.restart();
            write_comment(inner, handle, &mut self.broken).await?;
        };
        let done = inner.is_body_done();
        if let Some(stream) = &mut self.stream {
            stream.on_read(&chunk, inner.response_written().is_some());
        }
        let Some(chunk) = chunk? else {
            self.replay.finish();
            return Ok(None);
        };
        self.handle.upload.add(chunk.len());
        self.handle.activity.record();
        if self.handle.upload.is_buffered() {
            self.replay.push(&chunk);
            if done {
                self.replay.finish();
            }
        } else {
            // Not all of the body can be replayed any more.
            self.replay.release();
        }
        // Pingora issue 935: an empty last chunk would end an HTTP/1.1 upstream body twice.
        if chunk.is_empty() && done {
            return Ok(None);
        }
        Ok(Some(chunk))
    }

    /// Prepares for a final response head: releases the replay buffer and decides on keep-alive.
    fn before_response(&mut self, response: &ResponseHeader) {
        if !response.status.is_informational() || response.status == 101 {
            self.replay.release();
            if !self.handle.reuse.is_allowed() {
                self.inner_mut().set_keepalive(None);
            }
            if response.status == 101 {
                // A WebSocket may be idle for longer than a body; `Tunnel` limits its idle time.
                self.inner_mut().set_read_timeout(None);
                self.handle.tunnel.open();
            }
        }
    }
}

/// Waits for the client, but only while the backend reads what came before; while it does not, the client is only watched
/// for its end. Returns `None` when the rest of the request is not wanted any more: the backend does not read it, and has
/// answered.
async fn with_room<T>(
    upstream: &Upstream,
    idle: Option<bool>,
    is_answered: bool,
    wait: impl Future<Output = Result<T>>,
) -> Option<Result<T>> {
    let mut wait = pin!(wait);
    poll_fn(|cx| match upstream.poll(cx) {
        Err(error) => Poll::Ready(Some(Err(error))),
        Ok(Room::Full | Room::Failed) if is_answered => Poll::Ready(None),
        Ok(Room::Full | Room::Failed) if idle == Some(false) => Poll::Pending,
        Ok(Room::Free | Room::Full | Room::Failed) => wait.as_mut().poll(cx).map(Some),
    })
    .await
}

impl Drop for DownstreamSession {
    fn drop(&mut self) {
        // A finished session returns for the next request or for lingering; after a panic, one without a response
        // returns for its 500.
        let unanswered = || self.inner().response_written().is_none();
        if !self.broken
            && (self.finished || (thread::panicking() && unanswered()))
            && let Some(inner) = self.inner.take()
        {
            self.handle.return_session(inner);
        }
    }
}

#[async_trait]
impl Session for DownstreamSession {
    fn req_header(&self) -> &RequestHeader {
        self.inner().req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner_mut().req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.read(None).await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner_mut().drain_request_body().await
    }

    async fn write_response_header(&mut self, response: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.before_response(&response);
        let (inner, handle, broken) = self.writer();
        write(handle, broken, inner.write_response_header(response)).await
    }

    async fn write_response_header_ref(&mut self, response: &ResponseHeader, _end: bool) -> Result<()> {
        self.before_response(response);
        let (inner, handle, broken) = self.writer();
        write(handle, broken, inner.write_response_header_ref(response)).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        let (inner, handle, broken) = self.writer();
        complete_comment(inner, handle, broken).await?;
        write(handle, broken, inner.write_response_body(data, end)).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        let (inner, handle, broken) = self.writer();
        write(handle, broken, inner.write_response_trailers(trailers)).await
    }

    /// Writes in batches, see [`BATCH`].
    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut end = false;
        let mut tasks = tasks.into_iter().peekable();
        while let Some(first) = tasks.next() {
            // After an upgrade, frames that were read are written completely even after a cut, so that the closing
            // frame follows a whole frame; the time limit of writes still applies.
            if self.handle.cut.reason().is_some() && !self.was_upgraded() {
                return cut();
            }
            let mut weight = body_length(&first);
            if weight > BATCH {
                self.handle.backpressure.expect_large_chunks();
            }
            let mut batch = vec![first];
            while let Some(task) = tasks.next_if(|task| weight + body_length(task) <= BATCH) {
                weight += body_length(&task);
                batch.push(task);
            }
            for task in &mut batch {
                if let HttpTask::Header(response, _) = task {
                    if self.req_header().version < Version::HTTP_11 {
                        // Pingora adds it, but HTTP/1.0 has no transfer codings (RFC 9112, 6.1).
                        response.remove_header(&TRANSFER_ENCODING);
                        if !response.headers.contains_key(CONTENT_LENGTH) {
                            self.handle.reuse.forbid();
                        }
                    }
                    self.before_response(response);
                }
            }
            let (inner, handle, broken) = self.writer();
            let has_answer = inner.response_written().is_some();
            complete_comment(inner, handle, broken).await?;
            let written = write(handle, broken, inner.response_duplex_vec(batch)).await;
            if let Some(stream) = &mut self.stream {
                // A cut is not caused by the client.
                stream.on_written(&written, weight, has_answer || self.handle.cut.reason().is_some());
            }
            end = written?;
            self.is_answered |= end;
            // A slow client does not make the backend idle.
            self.handle.activity.record();
        }
        Ok(end)
    }

    fn set_read_timeout(&mut self, limit: Option<Duration>) {
        if let Some(stream) = &mut self.stream {
            stream.set_read_limit(limit);
        }
        self.inner_mut().set_read_timeout(limit);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.inner().get_read_timeout()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner().response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.broken = true;
        // Sends buffered bytes first, which blocks when the client does not read.
        let _ = timeout(STUCK_WRITE, self.inner_mut().shutdown()).await;
    }

    fn is_body_done(&mut self) -> bool {
        self.is_abandoned || self.inner_mut().is_body_done()
    }

    /// Pingora calls it to end the body and again to end the session.
    async fn finish(&mut self) -> Result<()> {
        let (inner, handle, broken) = self.writer();
        complete_comment(inner, handle, broken).await?;
        let ended = write(handle, broken, inner.finish_body()).await;
        self.finished = ended.is_ok();
        if let Some(stream) = self.stream.as_mut().filter(|_| self.finished) {
            stream.answered();
        }
        ended
    }

    /// Works around Pingora issue 946: the proxy loop sends the empty body of an upgrade request when it starts, which
    /// closes the tunnel if the 101 arrives first. So the first call after `enable_retry_buffering` returns false for
    /// an upgrade request.
    fn is_body_empty(&mut self) -> bool {
        if std::mem::take(&mut self.pump_starts) && self.is_upgrade_req() && !self.was_upgraded() {
            return false;
        }
        self.inner_mut().is_body_empty()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        self.read(Some(no_body_expected)).await
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner().to_h1_raw()
    }

    fn enable_retry_buffering(&mut self) {
        self.replay.finish();
        self.pump_starts = true;
        (self.is_answered, self.is_abandoned) = (false, false);
    }

    fn retry_buffer_truncated(&self) -> bool {
        // A body that was not buffered cannot be replayed.
        self.replay.is_released() || (self.replay.whole().is_none() && self.handle.upload.bytes() > 0)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.replay.whole().cloned()
    }

    fn is_upgrade_req(&self) -> bool {
        self.inner().is_upgrade_req()
    }

    fn was_upgraded(&self) -> bool {
        self.inner().was_upgraded()
    }

    forward_to_inner!();

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    /// HTTP has no messages beside the body. Beside our own upstream client Pingora wants a stream of them all the same.
    fn take_custom_message_reader(&mut self) -> Option<MessageReader> {
        self.handle.upstream.is_ours().then(|| Box::new(futures::stream::empty()) as MessageReader)
    }

    fn restore_custom_message_reader(&mut self, _reader: MessageReader) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        self.handle.upstream.is_ours().then(|| Box::new(()) as Box<dyn CustomMessageWrite>)
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
