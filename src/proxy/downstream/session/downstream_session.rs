//! The downstream session that Pingora sees; it wraps the session with the client.
//!
//! It adds four things: request bodies, or their beginnings, are buffered for replay while the handle asks for it (Pingora's own buffer ends at
//! 64 KiB, its issues 349 and 575), every wait for the client also waits for the cut, idle time of the backend is
//! limited, and the wrapped session returns to the connection. It also works around two bugs of Pingora 0.9.1 (its
//! issues 935 and 946). `read` has its waits, `respond` its writes.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Version};
use pingora_core::Result;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::timeout;

use super::client_session::ClientSession;
use super::forward::{MessageReader, forward_to_inner};
use super::h2_stream::H2Stream;
use super::half_close::HalfClose;
use super::replay_buffer::ReplayBuffer;
use super::write::STUCK_WRITE;
use crate::proxy::downstream::h2_budget::H2Budget;
use crate::proxy::downstream::handle::RequestHandle;
use crate::proxy::downstream::timing::WaitLimits;

pub(crate) struct DownstreamSession {
    /// The session with the client; `None` only in `drop`.
    pub(super) inner: Option<ClientSession>,
    pub(super) handle: Arc<RequestHandle>,
    pub(super) replay: ReplayBuffer,
    pub(super) limits: WaitLimits,
    /// The longest wait for the next bytes of the request body; `None` for no limit.
    pub(super) read_limit: Option<Duration>,
    /// The last call of the proxy was a successful `finish`.
    finished: bool,
    /// A write was abandoned halfway, so nothing can be written after it.
    pub(super) broken: bool,
    /// The next call is the one of [`Session::is_body_empty`] when the proxy loop starts.
    pump_starts: bool,
    /// Whether the client has only closed its half of the connection.
    pub(super) half_close: HalfClose,
    /// The head of a response of which nothing may leave yet.
    pub(super) held_head: Option<Box<ResponseHeader>>,
    /// The response was written to its end.
    pub(super) is_answered: bool,
    /// The response ended before the request, whose rest the backend does not read.
    pub(super) is_abandoned: bool,
    /// Present for a stream of an HTTP/2 connection.
    pub(super) stream: Option<H2Stream>,
}

impl DownstreamSession {
    pub(crate) fn new(inner: ClientSession, handle: Arc<RequestHandle>) -> Self {
        Self {
            inner: Some(inner),
            limits: WaitLimits::new(handle.arrived),
            read_limit: Some(handle.settings.timeouts.read),
            handle,
            replay: ReplayBuffer::default(),
            finished: false,
            broken: false,
            pump_starts: false,
            half_close: HalfClose::default(),
            held_head: None,
            is_answered: false,
            is_abandoned: false,
            stream: None,
        }
    }

    /// Wraps the session of an HTTP/2 stream.
    pub(crate) fn of_stream(inner: ClientSession, handle: Arc<RequestHandle>, budget: Arc<H2Budget>) -> Self {
        let mut session = Self::new(inner, handle);
        session.stream = Some(H2Stream::new(budget));
        session
    }

    #[expect(clippy::expect_used, reason = "only `drop` takes the inner session out")]
    pub(super) fn inner(&self) -> &ClientSession {
        self.inner.as_ref().expect("the session is here until it is dropped")
    }

    #[expect(clippy::expect_used, reason = "only `drop` takes the inner session out")]
    pub(super) fn inner_mut(&mut self) -> &mut ClientSession {
        self.inner.as_mut().expect("the session is here until it is dropped")
    }

    /// Prepares for the head of a response that is forwarded.
    pub(super) fn before_forwarded(&mut self, response: &mut ResponseHeader) {
        if self.req_header().version < Version::HTTP_11 {
            // Pingora adds it, but HTTP/1.0 has no transfer codings (RFC 9112, 6.1).
            response.remove_header(&TRANSFER_ENCODING);
            if !response.headers.contains_key(CONTENT_LENGTH) {
                self.handle.reuse.forbid();
            }
        }
        self.before_response(response);
    }

    /// Prepares for a final response head: releases the replay buffer and decides on keep-alive.
    pub(super) fn before_response(&mut self, response: &ResponseHeader) {
        if !response.status.is_informational() || response.status == 101 {
            self.replay.release();
            if !self.handle.reuse.is_allowed() {
                self.inner_mut().close_after();
            }
            if response.status == 101 {
                // A WebSocket may be idle for longer than a body; `Tunnel` limits its idle time.
                self.read_limit = None;
                self.handle.tunnel.open();
            }
        }
    }
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
        } else if let Some(ClientSession::Http1(http1)) = &self.inner {
            http1.break_off();
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
        while self.read(None).await?.is_some() {}
        Ok(())
    }

    async fn write_response_header(&mut self, response: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.respond_head(response).await
    }

    async fn write_response_header_ref(&mut self, response: &ResponseHeader, _end: bool) -> Result<()> {
        self.respond_head(Box::new(response.clone())).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.respond_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.respond_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.respond(tasks).await
    }

    fn set_read_timeout(&mut self, limit: Option<Duration>) {
        self.read_limit = limit;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_limit
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
        if self.handle.is_taken_over() {
            // Nothing is written: the connection is no longer the proxy's.
            self.finished = true;
            return Ok(());
        }
        let ended = self.respond_end().await;
        self.finished = ended.is_ok();
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
        (self.is_answered, self.is_abandoned, self.held_head) = (false, false, None);
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

    fn take_custom_message_reader(&mut self) -> Option<MessageReader> {
        self.handle.upstream.no_messages()
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
