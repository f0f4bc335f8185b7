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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use pingora_http::ResponseHeader;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// What this file takes from Pingora: a comment that was given up half written is taken up again.
    #[tokio::test]
    async fn a_comment_given_up_halfway_is_completed_later() {
        let (mut client, ours) = duplex(256);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut session = ServerSession::new_http1(Box::new(ours));
        assert!(session.read_request().await.unwrap());
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("transfer-encoding", "chunked").unwrap();
        session.write_response_header(Box::new(head)).await.unwrap();
        // The head and this piece leave room for a few bytes of the comment's chunk.
        let mut seen = vec![0; 4096];
        let head_length = client.read(&mut seen).await.unwrap();
        assert!(head_length > 0 && seen[..head_length].ends_with(b"\r\n\r\n"));
        let event = Bytes::from(vec![b'x'; 240]);
        session.write_response_body(event, false).await.unwrap();
        session.send_downstream_proxy_task(HttpTask::Body(Some(Bytes::from_static(COMMENT)), false));
        assert!(session.write_downstream_proxy_tasks().now_or_never().is_none(), "there is no room for it");
        assert!(session.has_pending_downstream_proxy_tasks());

        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all
        });
        session.write_downstream_proxy_tasks().await.unwrap();
        assert!(!session.has_pending_downstream_proxy_tasks());
        session.write_response_body(Bytes::from_static(b"next"), true).await.unwrap();
        drop(session);
        let all = String::from_utf8(reading.await.unwrap()).unwrap();
        let event = "x".repeat(240);
        assert_eq!(all, format!("F0\r\n{event}\r\nE\r\n: keep-alive\n\n\r\n4\r\nnext\r\n0\r\n\r\n"));
    }
}
