//! One request and its response, as Pingora's proxy runs them.

use std::future::poll_fn;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::client::Session;
use pingora_core::protocols::http::custom::{BodyWrite, CustomMessageWrite};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};

use super::body_reader::{BodyReader, Part};
use super::connection::Connection;
use super::request_writer::{QueueingBodyWriter, RequestWriter};
use super::response_head::{HeadReader, keeps_alive};

/// A request on a connection, and its response.
pub struct Http1Session {
    /// `None` after it was closed.
    connection: Option<Connection>,
    writer: RequestWriter,
    /// The request is HEAD.
    is_head: bool,
    head: HeadReader,
    /// The last head that was read, perhaps of an informational response.
    response: Option<ResponseHeader>,
    /// The body of the final response; `None` before its head.
    body: Option<BodyReader>,
    keeps_alive: bool,
}

impl Http1Session {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            writer: RequestWriter::of(&connection.write_half),
            connection: Some(connection),
            is_head: false,
            head: HeadReader::default(),
            response: None,
            body: None,
            keeps_alive: false,
        }
    }

    /// Returns the connection if another request can follow on it: request and response are complete, neither side wants
    /// to close it, and nothing follows the response.
    pub(super) fn into_idle(mut self) -> Option<Connection> {
        let connection = self.connection.take()?;
        let is_read = self.body.as_ref().is_some_and(BodyReader::is_done) && connection.input.is_empty();
        (is_read && self.keeps_alive && connection.write_half.end_request()).then_some(connection)
    }

    /// Reads more; returns false at the end of the connection.
    async fn read(&mut self) -> io::Result<bool> {
        let Some(connection) = &mut self.connection else { return Ok(false) };
        Ok(poll_fn(|cx| connection.poll_read(cx)).await? > 0)
    }

    async fn read_head(&mut self) -> Result<()> {
        loop {
            let connection =
                self.connection.as_mut().ok_or_else(|| Error::new(ErrorType::ConnectionClosed))?;
            if let Some(head) = self.head.next(&mut connection.input)? {
                return self.begin_response(head);
            }
            let read = connection.input.len();
            match self.read().await {
                Ok(true) => {}
                Ok(false) => return Err(self.unanswered(read, None)),
                Err(error) => return Err(self.unanswered(read, Some(error))),
            }
        }
    }

    fn begin_response(&mut self, head: ResponseHeader) -> Result<()> {
        if !head.status.is_informational() || head.status == 101 {
            self.keeps_alive = keeps_alive(&head) && head.status != 101;
            self.body = Some(BodyReader::of(head.status, &head.headers, self.is_head)?);
        }
        let mut head = head;
        if head.headers.contains_key(http::header::TRANSFER_ENCODING) {
            // RFC 9112, 6.3.
            head.remove_header(&http::header::CONTENT_LENGTH);
        }
        self.response = Some(head);
        Ok(())
    }

    /// Returns the error of a connection that ended before a whole head. `read` bytes of one were there.
    fn unanswered(&self, read: usize, cause: Option<io::Error>) -> Box<Error> {
        let failure = self.connection.as_ref().and_then(|connection| connection.write_half.failure());
        let context = format!("while reading response headers, bytes already read: {read}");
        if let Some(failure) = failure.filter(|_| read == 0) {
            return Error::because(
                ErrorType::WriteError,
                "while writing the request",
                io::Error::from(failure),
            );
        }
        let mut error = match cause {
            Some(cause) => Error::because(ErrorType::ReadError, context, cause),
            None => Error::explain(ErrorType::ConnectionClosed, context),
        };
        error.retry = RetryType::ReusedOnly;
        error
    }

    /// Reads the next bytes of the body; `None` at its end.
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        loop {
            let (Some(connection), Some(body)) = (&mut self.connection, &mut self.body) else {
                return Error::e_explain(ErrorType::InternalError, "a body is read before its head");
            };
            match body.next(&mut connection.input)? {
                Part::Data(data) => return Ok(Some(data)),
                Part::End => return Ok(None),
                Part::Partial => {}
            }
            match self.read().await {
                Ok(true) => {}
                Ok(false) if matches!(self.body, Some(BodyReader::UntilClose)) => {
                    self.body = Some(BodyReader::NONE);
                    self.keeps_alive = false;
                    return Ok(None);
                }
                Ok(false) => {
                    return Error::e_explain(
                        ErrorType::ConnectionClosed,
                        "the backend closed the connection before the end of the body",
                    );
                }
                Err(error) => return Error::e_because(ErrorType::ReadError, "while reading the body", error),
            }
        }
    }
}

#[async_trait]
impl Session for Http1Session {
    async fn write_request_header(&mut self, mut head: Box<RequestHeader>, end: bool) -> Result<()> {
        self.is_head = head.method == Method::HEAD;
        self.writer.write_head(&mut head, !end)
    }

    /// Not called: Pingora writes bodies with the writer that it has taken.
    async fn write_request_body(&mut self, _data: Bytes, _end: bool) -> Result<()> {
        Error::e_explain(ErrorType::InternalError, "the body has its own writer")
    }

    async fn finish_request_body(&mut self) -> Result<()> {
        Error::e_explain(ErrorType::InternalError, "the body has its own writer")
    }

    /// The downstream session measures silence, because it can distinguish a silent backend from a slow client.
    fn set_read_timeout(&mut self, _limit: Option<Duration>) {}

    fn set_write_timeout(&mut self, _limit: Option<Duration>) {}

    async fn read_response_header(&mut self) -> Result<()> {
        self.read_head().await
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        self.read_body().await
    }

    fn response_finished(&self) -> bool {
        self.body.as_ref().is_some_and(BodyReader::is_done)
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.connection = None;
    }

    fn response_header(&self) -> Option<&ResponseHeader> {
        self.response.as_ref()
    }

    fn was_upgraded(&self) -> bool {
        false
    }

    fn digest(&self) -> Option<&Digest> {
        self.connection.as_ref().map(|connection| &connection.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.connection.as_mut().map(|connection| &mut connection.digest)
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.connection.as_ref().map(|connection| &connection.address)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    /// Trailers of HTTP/1.1 are discarded.
    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        Ok(None)
    }

    fn fd(&self) -> RawFd {
        self.connection.as_ref().map_or(-1, Connection::fd)
    }

    async fn check_response_end_or_error(&mut self, _headers: bool) -> Result<bool> {
        Ok(self.response_finished())
    }

    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        Some(Box::new(QueueingBodyWriter(self.writer.clone())))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    /// HTTP has no messages beside the body.
    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn futures::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(futures::stream::empty()))
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }
}
