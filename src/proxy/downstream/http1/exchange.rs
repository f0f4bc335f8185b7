//! A request and its response on a [`Connection`].
//!
//! The methods that begin with `poll_` can be cancelled at any time; nothing is lost. Those that add to a response send
//! nothing themselves, [`Exchange::poll_send`] does; a wait for the client sends first what can be sent.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, UPGRADE};
use http::{StatusCode, Version};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::{Instant, Sleep, sleep};
use tracing::warn;

use super::connection::{Connection, READ};
use super::head::Head;
use super::outgoing::OwnFields;
use crate::protocol::wire::http1::body::{Body, Fault};
use crate::proxy::downstream::timing::IdleTimer;

/// How long a client that has left may go unnoticed while nothing is read from it.
const LOOK: Duration = Duration::from_millis(500);

/// A request that was read from a connection, and its response.
pub(crate) struct Exchange {
    connection: Connection,
    head: Head,
    body: Body,
    /// Bytes of the body so far.
    body_bytes: usize,
    /// The last response head; without its fields if it has no `Content-Length`.
    response: Option<Box<ResponseHeader>>,
    /// The connection may carry another request after this one.
    keeps_open: bool,
    /// The connection has changed to another protocol.
    is_upgraded: bool,
    /// The client has ended its side after the request.
    has_ended: bool,
    /// The first bytes of the next request were seen, so nothing more is read.
    saw_next: bool,
    /// When to look next whether the client has left, while nothing is read from it.
    look: Option<Pin<Box<Sleep>>>,
    /// The end of the client's side is no reason to give up the request.
    ignores_end: bool,
}

impl Exchange {
    /// The request with this head.
    pub(crate) fn new(mut connection: Connection, head: Head) -> Self {
        connection.out.restart();
        Self {
            connection,
            body: Body::new(head.framing),
            body_bytes: 0,
            response: None,
            keeps_open: head.keeps_open,
            is_upgraded: false,
            has_ended: false,
            saw_next: false,
            look: None,
            ignores_end: false,
            head,
        }
    }

    /// Returns the next bytes of the body; `None` when it has ended.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            match self.body.take(&mut self.connection.ahead) {
                Ok(Some(data)) => {
                    self.body_bytes += data.len();
                    return Poll::Ready(Ok(Some(data)));
                }
                Ok(None) if self.body.is_done() => return Poll::Ready(Ok(None)),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Err(rejected(fault))),
            }
            let read = match self.body.left() {
                Some(left) => self.connection.poll_fill_body(cx, left),
                None => self.connection.poll_fill(cx, READ),
            };
            let read = ready!(read)
                .map_err(|error| Error::because(ErrorType::ReadError, "when reading body", error))?;
            if read == 0 {
                self.body.close().map_err(rejected)?;
            }
        }
    }

    /// Waits for the end of the client's side after a request. Of the next request the first byte is kept, and no more is
    /// read.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if !self.has_ended && !self.saw_next {
            // One byte, so that a client cannot fill memory with further requests.
            let read = ready!(self.connection.poll_fill(cx, 1)).map_err(|error| {
                Error::because(ErrorType::ReadError, "during HTTP body-or-idle state", error)
            })?;
            (self.has_ended, self.saw_next) = (read == 0, read > 0);
            self.keeps_open &= !self.has_ended;
        }
        if self.ignores_end {
            ready!(self.poll_look(cx, |exchange| exchange.connection.is_reset()));
            return Poll::Ready(Error::e_explain(
                ErrorType::ReadError,
                "the client has reset the connection",
            ));
        }
        if !self.has_ended {
            ready!(self.poll_look(cx, |exchange| exchange.connection.has_ended()));
        }
        let context = match self.response {
            None => "Prematurely before response header is sent",
            Some(_) => "Prematurely before response body is complete",
        };
        Poll::Ready(Error::e_explain(ErrorType::ConnectionClosed, context))
    }

    /// Waits until a client leaves before it has sent the whole body, of which nothing is read meanwhile.
    pub(crate) fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        self.poll_look(cx, |exchange| exchange.connection.ends_within(exchange.body.left()))
            .map(|()| Err(rejected(Fault::CutShort)))
    }

    /// Waits until the client `has_left`. Bytes that are not read keep the runtime from reporting what follows them, so that
    /// it is asked again and again.
    fn poll_look(&mut self, cx: &mut Context<'_>, has_left: impl Fn(&Self) -> bool) -> Poll<()> {
        if self.look.is_none() && has_left(self) {
            return Poll::Ready(());
        }
        loop {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            ready!(look.as_mut().poll(cx));
            look.as_mut().reset(Instant::now() + LOOK);
            if has_left(self) {
                return Poll::Ready(());
            }
        }
    }

    /// Takes the end of the client's side as no reason to give up its request. From here on [`Self::poll_end`] waits for a
    /// reset, with which the kernel of a client that has gone replies to the first bytes that are sent to it.
    pub(crate) fn ignore_end(&mut self) {
        self.ignores_end = true;
    }

    /// Adds the head of a response, which may be an interim one. Does nothing after a final head.
    ///
    /// # Errors
    /// The head cannot be written as HTTP/1.
    pub(crate) fn add_head(&mut self, mut head: Box<ResponseHeader>) -> Result<()> {
        if self.response.as_ref().is_some_and(|sent| !sent.status.is_informational() || self.is_upgraded) {
            warn!("the response head was sent already");
            return Ok(());
        }
        if !self.body.is_done() {
            // The rest of the body could be taken for a request.
            self.keeps_open = false;
        }
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let own = (!head.status.is_informational()).then(|| OwnFields {
            date: get_cached_date(),
            connection: if self.keeps_open { "keep-alive" } else { "close" },
        });
        if switches || !head.status.is_informational() {
            let is_upgrade = switches && head.version == Version::HTTP_11 && self.is_upgrade_request();
            if is_upgrade {
                (self.is_upgraded, self.body) = (true, Body::Raw);
            }
            self.connection.out.begin_body(&head, &self.head.header.method, is_upgrade);
        }
        self.keeps_open &= !switches && !self.connection.out.is_until_close();
        self.connection.out.add_head(&head, own)?;
        if !head.headers.contains_key(CONTENT_LENGTH) {
            // A stream would keep the fields to its end; only the status is asked for.
            *head = ResponseHeader::build_no_case(head.status, Some(0))?;
        }
        self.response = Some(head);
        Ok(())
    }

    /// Whether the head that was added last is sent at once: an interim one, one of a response without a length, which
    /// may be an event stream, and one without a body. Others leave with the first bytes of the body.
    pub(crate) fn is_head_urgent(&self) -> bool {
        let is_urgent = |head: &ResponseHeader| {
            head.status.is_informational() || !head.headers.contains_key(CONTENT_LENGTH)
        };
        self.connection.out.is_finished() || self.response.as_deref().is_some_and(is_urgent)
    }

    /// Adds bytes to the body of the response.
    pub(crate) fn add_body(&mut self, data: Bytes) {
        self.connection.out.add_body(data);
    }

    /// Ends the body of the response. A connection that was upgraded is not read any further.
    ///
    /// # Errors
    /// The body is shorter than its head says.
    pub(crate) fn end_body(&mut self) -> Result<()> {
        self.connection.out.end_body()?;
        if self.is_upgraded {
            self.body = Body::Done;
        }
        Ok(())
    }

    /// Sends everything that was added.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.connection
            .poll_send(cx)
            .map_err(|error| Error::because(ErrorType::WriteError, "writing the response", error).into_down())
    }

    /// Ends the response; returns the connection if it can carry another request, and closes it otherwise.
    pub(crate) async fn finish(mut self: Box<Self>) -> Option<Connection> {
        self.end_body().ok()?;
        poll_fn(|cx| self.poll_send(cx)).await.ok()?;
        if self.keeps_open && self.body.is_done() {
            return Some(self.connection);
        }
        self.connection.shutdown().await;
        None
    }

    /// Returns the connection, which carries no other request.
    pub(crate) fn into_connection(self) -> Connection {
        self.connection
    }

    /// Prepares for the end of a response that is not complete: if the end of the connection would complete it, the
    /// connection is reset instead. Returns whether that is so.
    pub(crate) fn break_off(&self) -> bool {
        let is_until_close = self.connection.out.is_until_close() && !self.is_upgraded;
        if is_until_close {
            self.connection.reset_on_drop();
        }
        is_until_close
    }

    /// Ends the proxy's side of the connection after everything that was added.
    pub(crate) async fn shutdown(&mut self) {
        if self.break_off() {
            return;
        }
        self.connection.shutdown().await;
    }

    /// Closes the connection after this request.
    pub(crate) fn close_after(&mut self) {
        self.keeps_open = false;
    }

    /// Returns the timer of the connection.
    pub(crate) fn timer(&mut self) -> &mut IdleTimer {
        &mut self.connection.timer
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    pub(crate) fn header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head.header
    }

    pub(crate) fn response(&self) -> Option<&ResponseHeader> {
        self.response.as_deref()
    }

    /// Whether the body of the request was read to its end.
    pub(crate) fn is_body_done(&self) -> bool {
        self.body.is_done()
    }

    /// How many bytes of the body of the request are still to come; 0 if that is not known.
    pub(crate) fn body_left(&self) -> u64 {
        self.body.left().unwrap_or(0)
    }

    /// Whether the request has no body.
    pub(crate) fn is_body_empty(&self) -> bool {
        self.body.is_done() && self.body_bytes == 0
    }

    /// Whether the body of the response needs no further bytes.
    pub(crate) fn is_response_finished(&self) -> bool {
        self.connection.out.is_finished()
    }

    /// Whether the client asks to change to another protocol.
    pub(crate) fn is_upgrade_request(&self) -> bool {
        let header = &self.head.header;
        header.version == Version::HTTP_11 && header.headers.contains_key(UPGRADE)
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.is_upgraded
    }

    /// Bytes of the request's body that were read, and of the response's body that were added.
    pub(crate) fn body_bytes(&self) -> (usize, usize) {
        (self.body_bytes, self.connection.out.body_bytes)
    }
}

/// Returns the error of a body that is rejected.
fn rejected(fault: Fault) -> Box<Error> {
    match fault {
        Fault::CutShort => {
            Error::explain(ErrorType::ConnectionClosed, "the connection ended before the body did")
        }
        Fault::Chunk(why) => Error::explain(ErrorType::Custom("InvalidChunk"), why),
    }
}
