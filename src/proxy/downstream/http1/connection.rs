//! A connection that speaks HTTP/1.1, between requests and below them.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::head::{self, Fault, Head};
use super::outgoing::Outgoing;
use super::wire::Wire;
use crate::protocol::wire::http1::head_end::HeadEnd;
use crate::proxy::downstream::timing::IdleTimer;

/// The most bytes of a read of a head, and of a body whose length is not known.
pub(super) const READ: u64 = 64 << 10;

/// After a read of this many bytes the next one of the same body gets a buffer of its own, which is not copied.
const LARGE: usize = 16 << 10;

/// The most bytes of empty lines in front of a request.
const MAX_EMPTY: usize = 16;

/// Why no request could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// The connection has ended, or the time has passed.
    Closed,
    /// The head is rejected.
    Head(Fault),
}

/// A connection to a client.
pub(crate) struct Connection {
    wire: Wire,
    /// Bytes that were read and not used: of a body, or of the next request.
    pub(super) ahead: BytesMut,
    /// The last read was [`LARGE`].
    is_large: bool,
    /// What is known of the next head.
    head_end: HeadEnd,
    pub(super) out: Outgoing,
    /// For all waits on this connection.
    pub(super) timer: IdleTimer,
}

impl Connection {
    /// A connection on which `ahead` was read already.
    pub(in crate::proxy::downstream) fn new(wire: Wire, ahead: BytesMut) -> Self {
        Self {
            wire,
            ahead,
            is_large: false,
            head_end: HeadEnd::default(),
            out: Outgoing::new(),
            timer: IdleTimer::default(),
        }
    }

    /// Returns what it reads from and writes to, and the bytes that were read and not used.
    pub(in crate::proxy::downstream) fn into_parts(self) -> (Wire, BytesMut) {
        (self.wire, self.ahead)
    }

    /// Reads the head of the next request, which must be complete at `deadline`; `None` for no limit.
    ///
    /// # Errors
    /// The connection has ended, the time has passed, or the head is rejected; nothing can be read after that.
    pub(crate) async fn read_request(&mut self, deadline: Option<Instant>) -> Result<Head, Unread> {
        if !self.ahead.is_empty() {
            // Pipelined requests must not keep the thread from other tasks.
            consume_budget().await;
        }
        poll_fn(|cx| match self.poll_head(cx) {
            Poll::Pending => self.timer.poll_past(|| deadline, cx).map(|()| Err(Unread::Closed)),
            read => read,
        })
        .await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Unread>> {
        loop {
            // The parser skips them, from the first one each time (RFC 9112, 2.2).
            let empty =
                self.ahead.iter().take(MAX_EMPTY + 1).take_while(|byte| matches!(byte, b'\r' | b'\n'));
            if empty.count() > MAX_EMPTY {
                return Poll::Ready(Err(Unread::Head(Fault::Invalid)));
            }
            if !self.ahead.is_empty() && self.head_end.is_worth_parsing(&self.ahead) {
                match head::take(&mut self.ahead) {
                    Ok(Some(head)) => {
                        self.head_end = HeadEnd::default();
                        return Poll::Ready(Ok(head));
                    }
                    Ok(None) => {}
                    Err(fault) => return Poll::Ready(Err(Unread::Head(fault))),
                }
            }
            match ready!(self.poll_fill(cx, READ)) {
                Ok(read) if read > 0 => {}
                _ => return Poll::Ready(Err(Unread::Closed)),
            }
        }
    }

    /// Reads up to `most` bytes behind those that wait; returns how many. Sends first what can be sent, since a response
    /// with a known length is not sent before its end even if the backend sends it slowly.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        let ahead = &mut self.ahead;
        let read = ready!(self.wire.poll_read(cx, most, |bytes| {
            ahead.extend_from_slice(bytes);
            bytes.len()
        }));
        self.is_large = read.as_ref().is_ok_and(|read| *read >= LARGE);
        Poll::Ready(read)
    }

    /// Reads up to `left` bytes, the rest of a body, as [`Connection::poll_fill`] does.
    pub(super) fn poll_fill_body(&mut self, cx: &mut Context<'_>, left: u64) -> Poll<io::Result<usize>> {
        let most = usize::try_from(left.min(READ)).unwrap_or(LARGE);
        if !self.is_large || most < LARGE {
            return self.poll_fill(cx, left);
        }
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        let read = ready!(self.wire.poll_read_into(cx, most, &mut self.ahead));
        self.is_large = read.as_ref().is_ok_and(|read| *read >= LARGE);
        Poll::Ready(read)
    }

    /// Sends everything that waits.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.poll_send(&mut self.wire, cx)
    }

    /// Whether the client has ended its side behind bytes that have not been read.
    pub(super) fn has_ended(&self) -> bool {
        self.wire.has_ended()
    }

    /// Whether the client has reset the connection.
    pub(super) fn is_reset(&self) -> bool {
        self.wire.is_reset()
    }

    /// Whether the client has left before it sent `left` further bytes; `None` when it is not known how many are missing.
    pub(super) fn ends_within(&self, left: Option<u64>) -> bool {
        let is_short = |left: u64| {
            let unread = self.wire.readable().map(|unread| unread.saturating_add(self.ahead.len() as u64));
            unread.is_some_and(|unread| unread < left)
        };
        self.wire.is_reset() || (self.wire.has_ended() && left.is_some_and(is_short))
    }

    /// Lets the connection be reset when it is dropped, so that its end is not taken for the end of a response.
    pub(super) fn reset_on_drop(&self) {
        self.wire.reset_on_drop();
    }

    /// Ends this side of the connection after everything that waits.
    pub(crate) async fn shutdown(&mut self) {
        // Fails when the client has disconnected, which needs no handling.
        let _ = poll_fn(|cx| self.poll_send(cx)).await;
        let _ = poll_fn(|cx| self.wire.poll_shutdown(cx)).await;
    }

    /// Reads and discards until the client ends its side.
    pub(crate) async fn discard(&mut self) {
        self.ahead = BytesMut::new();
        while poll_fn(|cx| self.wire.poll_read(cx, READ, <[u8]>::len)).await.is_ok_and(|read| read > 0) {}
    }
}
