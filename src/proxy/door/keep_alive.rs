//! Comments in an event stream while its backend is silent (`server.timeouts.stream_keep_alive`, ADR 12), so
//! that nobody between here and the client takes the connection for dead.
//!
//! One is written only where the ticket allows it: between two events of an answer whose head is out. It is
//! no byte of the provider's, does not count as activity of the session, and leaves the backend's silence as
//! long as it is.

use std::task::{Context, Poll};

use bytes::Bytes;
use pingora_core::Result;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use tokio::time::Instant;

use super::silence::Silence;
use super::ticket::Ticket;
use super::write::write;

/// A line that begins with a colon is for nobody (HTML, section 9.2.6); the blank line ends no event.
const COMMENT: &[u8] = b": keep-alive\n\n";

/// When a comment is due.
pub(super) struct KeepAlive {
    timer: Silence,
    /// When the last one was.
    last: Instant,
}

impl KeepAlive {
    pub(super) fn new(ticket: &Ticket) -> Self {
        Self { timer: Silence::default(), last: ticket.arrived }
    }

    /// Ready when the client has heard nothing for as long as the ticket bears.
    pub(super) fn poll_due(&mut self, ticket: &Ticket, cx: &mut Context<'_>) -> Poll<()> {
        let Self { timer, last } = self;
        timer.poll_past(|| ticket.comment_due(*last), cx)
    }

    /// Writes a comment. Pingora's HTTP/2 sessions cannot take up a write that was broken off, and have PING.
    pub(super) async fn comment(
        &mut self,
        inner: &mut ServerSession,
        ticket: &Ticket,
        broken: &mut bool,
    ) -> Result<()> {
        self.last = Instant::now();
        let has_begun = inner.response_written().is_some_and(|head| !head.status.is_informational());
        if !has_begun || inner.as_http1().is_none() {
            return Ok(());
        }
        inner.send_downstream_proxy_task(HttpTask::Body(Some(Bytes::from_static(COMMENT)), false));
        complete(inner, ticket, broken).await
    }
}

/// Writes the rest of a comment. The proxy gives a wait for the client up, and a comment in it, when the backend
/// has sent something; that is written behind the whole comment.
pub(super) async fn complete(inner: &mut ServerSession, ticket: &Ticket, broken: &mut bool) -> Result<()> {
    if inner.has_pending_downstream_proxy_tasks() {
        write(ticket, broken, inner.write_downstream_proxy_tasks()).await?;
    }
    Ok(())
}
