//! Our own session of an HTTP/2 stream, in place of Pingora's, which drops informational responses.
//!
//! It is only the stream: limits, cut, replay and budget are added by `DownstreamSession`, which wraps it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Request, Response};
use parking_lot::Mutex;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::protocols::http::v1::client::http_req_header_to_wire;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::forward::{without_messages, without_replay};
use super::http2_head::{has_one_authority, is_target};

/// Fields that belong to a connection of HTTP/1.1 (RFC 9113, 8.2.2).
const OF_HTTP1: [HeaderName; 5] = [
    TRANSFER_ENCODING,
    CONNECTION,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Both ends of a stream.
pub(crate) struct StreamEnds {
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
}

/// Takes the ends of a stream that nothing was sent on.
pub(crate) type ReturnedEnds = Arc<Mutex<Option<StreamEnds>>>;

/// A stream of an HTTP/2 connection.
pub(crate) struct Http2Session {
    head: RequestHeader,
    /// `None` only in `drop`.
    ends: Option<StreamEnds>,
    /// Where the ends of an unanswered stream go when this is dropped.
    returned: Option<ReturnedEnds>,
    /// Writes the body of the response; `None` until its final head was sent.
    writer: Option<SendStream<Bytes>>,
    /// The final head of the response.
    response: Option<Box<ResponseHeader>>,
    /// What of the body is still to be sent: the rest of a write that was cancelled.
    unsent: Bytes,
    /// END_STREAM was sent.
    ended: bool,
    /// The body of the request was read to its end. `RecvStream` does not know it while trailers wait.
    has_read_all: bool,
    /// Bytes of the bodies.
    read: usize,
    sent: usize,
    digest: Digest,
}

impl Http2Session {
    /// Takes a stream that the client has opened; `None` when its head is malformed: it is answered then.
    pub(crate) fn accept(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<Self> {
        let (head, body) = request.into_parts();
        let head = RequestHeader::from(head);
        if !is_target(head.raw_path()) {
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return None;
        }
        if !has_one_authority(&head) {
            let mut refusal = Response::new(());
            *refusal.status_mut() = http::StatusCode::BAD_REQUEST;
            // It fails when the client has reset the stream.
            let _ = respond.send_response(refusal, true);
            return None;
        }
        Some(Self {
            head,
            ends: Some(StreamEnds { body, respond }),
            returned: None,
            writer: None,
            response: None,
            unsent: Bytes::new(),
            ended: false,
            has_read_all: false,
            read: 0,
            sent: 0,
            digest: Digest::default(),
        })
    }

    /// Returns where the ends of the stream will be when this is dropped before anything was sent.
    pub(crate) fn return_ends(&mut self) -> ReturnedEnds {
        Arc::clone(self.returned.get_or_insert_default())
    }

    #[expect(clippy::expect_used, reason = "only `drop` takes the ends out")]
    fn ends(&self) -> &StreamEnds {
        self.ends.as_ref().expect("the stream is here until this is dropped")
    }

    #[expect(clippy::expect_used, reason = "only `drop` takes the ends out")]
    fn ends_mut(&mut self) -> &mut StreamEnds {
        self.ends.as_mut().expect("the stream is here until this is dropped")
    }

    /// Returns whether the client has reset the stream.
    pub(crate) fn is_reset(&mut self) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        self.poll_reset(&mut context).is_ready()
    }

    /// Resets the stream, unless its response is complete.
    pub(crate) fn reset(&mut self, reason: Reason) {
        if !self.ended {
            self.ends_mut().respond.send_reset(reason);
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        match &mut self.writer {
            Some(writer) => writer.poll_reset(cx),
            None => self.ends_mut().respond.poll_reset(cx),
        }
    }

    /// Sends a head; nothing after the end of the response, or for a second final head.
    fn send_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.ended || self.response.is_some() {
            return Ok(());
        }
        for name in &OF_HTTP1 {
            head.remove_header(name);
        }
        if head.status.is_informational() {
            let interim = Response::from_parts(head.as_owned_parts(), ());
            return self
                .ends_mut()
                .respond
                .send_informational(interim)
                .or_err(ErrorType::WriteError, "while an informational response was sent");
        }
        head.insert_header(DATE, get_cached_date())?;
        let response = Response::from_parts(head.as_owned_parts(), ());
        let writer = self.ends_mut().respond.send_response(response, end);
        self.writer = Some(writer.or_err(ErrorType::WriteError, "while the head was sent")?);
        self.response = Some(head);
        self.ended = end;
        Ok(())
    }

    /// Sends a part of the body. If this is cancelled, the next write sends its rest first.
    async fn send_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.unsent = match self.unsent.is_empty() {
            true => data,
            false => [&*self.unsent, &data].concat().into(),
        };
        match self.unsent.is_empty() {
            true if end => self.end(),
            true => Ok(()),
            false => self.send_rest(end).await,
        }
    }

    /// Sends what is still to be sent of the body, as the client makes room for it.
    async fn send_rest(&mut self, end: bool) -> Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else {
            return Error::e_explain(ErrorType::H2Error, "a body without a head");
        };
        while !self.unsent.is_empty() {
            writer.reserve_capacity(self.unsent.len());
            let room = match poll_fn(|cx| writer.poll_capacity(cx)).await {
                Some(room) => room.or_err(ErrorType::H2Error, "while room was waited for")?,
                None => return Error::e_explain(ErrorType::H2Error, "the client has closed the stream"),
            };
            let part = self.unsent.split_to(room.min(self.unsent.len()));
            self.sent += part.len();
            let is_last = end && self.unsent.is_empty();
            writer.send_data(part, is_last).or_err(ErrorType::WriteError, "while the body was sent")?;
            self.ended = is_last;
        }
        Ok(())
    }

    fn send_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else {
            return Error::e_explain(ErrorType::H2Error, "trailers without a head");
        };
        writer.send_trailers(trailers).or_err(ErrorType::WriteError, "while trailers were sent")?;
        self.ended = true;
        Ok(())
    }

    /// Ends a response that has begun. One that has not is reset when this session is dropped.
    fn end(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.ended) {
            writer.send_data(Bytes::new(), true).or_err(ErrorType::WriteError, "while the end was sent")?;
            self.ended = true;
        }
        Ok(())
    }

    /// Does one task of the proxy. Returns whether the response is complete.
    async fn perform(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => self.send_head(head, end).map(|()| end),
            HttpTask::Body(Some(data), end) if !data.is_empty() => {
                self.send_body(data, end).await.map(|()| end)
            }
            HttpTask::Body(_, end) => self.send_rest(false).await.map(|()| end),
            HttpTask::UpgradedBody(..) => Error::e_explain(ErrorType::InternalError, "no stream is upgraded"),
            HttpTask::Trailer(Some(trailers)) => {
                self.send_rest(false).await?;
                self.send_trailers(*trailers).map(|()| true)
            }
            HttpTask::Trailer(None) | HttpTask::Done => self.send_rest(false).await.map(|()| true),
            HttpTask::Failed(error) => Err(error),
        }
    }
}

impl Drop for Http2Session {
    fn drop(&mut self) {
        if let Some(returned) = self.returned.take().filter(|_| self.response.is_none()) {
            *returned.lock() = self.ends.take();
        }
    }
}

#[async_trait]
impl Session for Http2Session {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let data = self.ends_mut().body.data().await.transpose();
        let data = data.or_err(ErrorType::ReadError, "while the request body was read")?;
        if let Some(data) = &data {
            self.read += data.len();
            // It fails when the client has reset the stream, which the next read reports.
            let _ = self.ends_mut().body.flow_control().release_capacity(data.len());
        }
        self.has_read_all |= data.is_none();
        Ok(data)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        while !self.is_body_done() && self.read_body_bytes().await?.is_some() {}
        Ok(())
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.send_head(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.send_head(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.send_body(data, end).await.map_err(Error::into_down)
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.send_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut is_complete = false;
        for task in tasks {
            is_complete |= self.perform(task).await.map_err(Error::into_down)?;
        }
        if is_complete {
            self.end().map_err(Error::into_down)?;
        }
        Ok(is_complete)
    }

    // Reads and writes are limited by `DownstreamSession`.
    fn set_read_timeout(&mut self, _limit: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _limit: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _limit: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.head.method, self.head.uri)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.response.as_deref()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.reset(Reason::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.has_read_all || self.is_body_empty() || self.ends().body.is_end_stream()
    }

    async fn finish(&mut self) -> Result<()> {
        if !self.ended {
            self.send_rest(false).await?;
        }
        self.end()
    }

    fn is_body_empty(&mut self) -> bool {
        let declares_none =
            || self.head.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
        self.read == 0 && (self.has_read_all || self.ends().body.is_end_stream() || declares_none())
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && !self.is_body_done() {
            return self.read_body_bytes().await;
        }
        let reason = poll_fn(|cx| self.poll_reset(cx)).await;
        let reason = reason.or_err(ErrorType::H2Error, "while the client was waited for")?;
        Error::e_explain(ErrorType::H2Error, format!("the client has closed the stream: {reason}"))
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent
    }

    fn body_bytes_read(&self) -> usize {
        self.read
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Some(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        http_req_header_to_wire(&self.head).map(bytes::BytesMut::freeze).unwrap_or_default()
    }

    without_messages!();

    without_replay!();
}
