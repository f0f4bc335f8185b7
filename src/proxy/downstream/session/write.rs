//! Writes to the client: each has a time limit, and none blocks after a cut.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::{Error, ErrorType, Result};
use tokio::time::{sleep, timeout};

use crate::proxy::downstream::handle::RequestHandle;

/// The error with which every wait ends when the leg is cut.
pub(crate) const LEG_CUT: ErrorType = ErrorType::Custom("leg_cut");

/// A write that is still blocked this long after the cut is abandoned; shorter than the hard cut, so that the gateway
/// can still record the request.
pub(super) const STUCK_WRITE: Duration = Duration::from_millis(20);

/// A line that begins with a colon is ignored by clients (HTML, section 9.2.6); the blank line ends no event.
const COMMENT: &[u8] = b": keep-alive\n\n";

/// Returns the error of a leg that was cut.
pub(super) fn cut<T>() -> Result<T> {
    Error::e_explain(LEG_CUT, "the leg was cut")
}

/// Runs a write within `server.timeouts.write`. A cut does not refuse it, since the closing frames are written then,
/// but ends it after [`STUCK_WRITE`].
///
/// Sets `broken` when the write was abandoned: the response is then incomplete, and further writes fail.
pub(super) async fn write<T>(
    handle: &RequestHandle,
    broken: &mut bool,
    write: impl Future<Output = Result<T>>,
) -> Result<T> {
    if *broken {
        return cut();
    }
    let stuck = async {
        handle.cut.soft().await;
        sleep(STUCK_WRITE).await;
    };
    let ended = async {
        tokio::select! {
            biased;
            written = timeout(handle.settings.timeouts.write, write) => written.unwrap_or_else(|_| {
                *broken = true;
                Err(Error::explain(ErrorType::WriteTimedout, "the client does not read").into_down())
            }),
            () = stuck => {
                *broken = true;
                cut()
            }
        }
    };
    handle.backpressure.hold(ended).await
}

/// Writes a keep-alive comment if the response has begun. Does nothing over HTTP/2: Pingora's HTTP/2 session cannot
/// resume a cancelled write, and HTTP/2 has PING.
pub(super) async fn write_comment(
    inner: &mut ServerSession,
    handle: &RequestHandle,
    broken: &mut bool,
) -> Result<()> {
    let has_begun = inner.response_written().is_some_and(|head| !head.status.is_informational());
    if !has_begun || inner.as_http1().is_none() {
        return Ok(());
    }
    inner.send_downstream_proxy_task(HttpTask::Body(Some(Bytes::from_static(COMMENT)), false));
    complete_comment(inner, handle, broken).await
}

/// Writes the rest of a comment, if any. The proxy cancels a wait for the client, and a comment being written in it,
/// when the backend has sent something; that must follow the whole comment.
pub(super) async fn complete_comment(
    inner: &mut ServerSession,
    handle: &RequestHandle,
    broken: &mut bool,
) -> Result<()> {
    if inner.has_pending_downstream_proxy_tasks() {
        write(handle, broken, inner.write_downstream_proxy_tasks()).await?;
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
