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

use super::connection::Connection;
use super::request_writer::{Messages, QueueingBodyWriter, RequestWriter};
use super::response_reader::ResponseReader;

/// A request on a connection, and its response.
pub struct Http1Session {
    /// `None` after it was closed.
    connection: Option<Connection>,
    writer: RequestWriter,
    reader: ResponseReader,
    /// The last head that was read, perhaps of an informational response; `None` once the body is read.
    response: Option<ResponseHeader>,
}

impl Http1Session {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            writer: RequestWriter::of(&connection.write_half),
            connection: Some(connection),
            reader: ResponseReader::default(),
            response: None,
        }
    }

    /// Returns the connection if another request can follow on it: request and response are complete, neither side wants
    /// to close it, and nothing follows the response.
    pub(super) fn into_idle(mut self) -> Option<Connection> {
        let connection = self.connection.take()?;
        let is_read = self.reader.is_reusable() && connection.input.is_empty();
        (is_read && connection.write_half.end_request()).then_some(connection)
    }

    async fn read_head(&mut self) -> Result<()> {
        let Some(connection) = &mut self.connection else {
            return Err(Error::new(ErrorType::ConnectionClosed));
        };
        loop {
            if let Some(head) = self.reader.next_head(&mut connection.input)? {
                self.response = Some(head);
                self.writer.answered();
                return Ok(());
            }
            match poll_fn(|cx| connection.poll_read(cx)).await {
                Ok(1..) => {}
                Ok(0) => return Err(unanswered(connection, self.response.is_some(), None)),
                Err(error) => return Err(unanswered(connection, self.response.is_some(), Some(error))),
            }
        }
    }

    /// Reads the next bytes of the body; `None` at its end.
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        let Some(connection) = &mut self.connection else {
            return Err(Error::new(ErrorType::ConnectionClosed));
        };
        // The proxy has its copy; a stream would keep this one to its end.
        self.response = None;
        loop {
            let data = self.reader.next_data(&mut connection.input)?;
            if data.is_some() || self.reader.is_done() {
                return Ok(data);
            }
            match poll_fn(|cx| connection.poll_read(cx)).await {
                Ok(1..) => {}
                Ok(0) => self.reader.close()?,
                Err(error) => return Error::e_because(ErrorType::ReadError, "while reading the body", error),
            }
        }
    }
}

/// Returns the error of a connection that ended before the whole head of the response. After an informational one the
/// backend is at work, so that the request may not be sent again.
fn unanswered(connection: &Connection, has_responded: bool, cause: Option<io::Error>) -> Box<Error> {
    let read = connection.input.len();
    let is_silent = read == 0 && !has_responded;
    if let Some(failure) = connection.write_half.failure().filter(|_| is_silent) {
        return Error::because(ErrorType::WriteError, "while writing the request", io::Error::from(failure));
    }
    // `peer::ended_unanswered` reads the number.
    let context = format!("while reading response headers, bytes already read: {read}");
    let mut error = match cause {
        Some(cause) => Error::because(ErrorType::ReadError, context, cause),
        None => Error::explain(ErrorType::ConnectionClosed, context),
    };
    if !has_responded {
        error.retry = RetryType::ReusedOnly;
    }
    error
}

#[async_trait]
impl Session for Http1Session {
    async fn write_request_header(&mut self, mut head: Box<RequestHeader>, end: bool) -> Result<()> {
        self.reader = ResponseReader::new(head.method == Method::HEAD);
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
        self.reader.is_done()
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

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        Some(self.writer.no_messages())
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }
}
