//! Writes to the client, for [`DownstreamSession`]. Over HTTP/1.1 a response is added to what is to be sent and then sent, so
//! that a head leaves with the first bytes of its body; the session of an HTTP/2 stream does both at once.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::client_session::ClientSession;
use super::downstream_session::DownstreamSession;
use super::write::{cut, write};
use crate::protocol::wire::sse::COMMENT;
use crate::proxy::downstream::handle::RequestHandle;
use crate::proxy::downstream::http1::Exchange;

/// Tasks of the proxy are written together up to this many bytes of body. Pingora would join all queued tasks (four
/// chunks of 64 KiB) in a buffer that it never frees.
const BATCH: usize = 16 << 10;

/// Returns the number of body bytes in a task.
fn body_length(task: &HttpTask) -> usize {
    match task {
        HttpTask::Body(Some(body), _) | HttpTask::UpgradedBody(Some(body), _) => body.len(),
        _ => 0,
    }
}

/// What a task of the proxy added to the response.
struct Added {
    /// It is sent at once; otherwise it leaves with what follows.
    is_urgent: bool,
    /// It was the last task of the response.
    end: bool,
}

impl DownstreamSession {
    fn http1_mut(&mut self) -> Option<&mut Exchange> {
        match self.inner.as_mut()? {
            ClientSession::Http1(http1) => Some(http1),
            ClientSession::Http2(_) => None,
        }
    }

    /// Borrows the session of an HTTP/2 stream, the handle and the `broken` flag at once.
    fn http2_mut(&mut self) -> Result<(&mut ServerSession, &RequestHandle, &mut bool)> {
        match &mut self.inner {
            Some(ClientSession::Http2(http2)) => Ok((http2, &self.handle, &mut self.broken)),
            _ => Error::e_explain(ErrorType::InternalError, "the session is not HTTP/2"),
        }
    }

    /// Sends what was added to an HTTP/1.1 response, within the limit of a write. Returns whether the client had to be
    /// waited for.
    async fn send(&mut self) -> Result<bool> {
        if self.broken {
            return cut();
        }
        let Some(ClientSession::Http1(http1)) = &mut self.inner else { return Ok(false) };
        // Most writes do not wait, and need no limit.
        if let Poll::Ready(sent) = poll_fn(|cx| Poll::Ready(http1.poll_send(cx))).await {
            return sent.map(|()| false);
        }
        let sending = poll_fn(|cx| http1.poll_send(cx));
        Box::pin(write(&self.handle, &mut self.broken, sending)).await.map(|()| true)
    }

    pub(super) async fn respond_head(&mut self, head: Box<ResponseHeader>) -> Result<()> {
        // A refusal takes the place of an answer that was held back.
        self.held_head = None;
        self.before_response(&head);
        let Some(http1) = self.http1_mut() else {
            let (http2, handle, broken) = self.http2_mut()?;
            return write(handle, broken, http2.write_response_header(head)).await;
        };
        http1.add_head(head)?;
        if http1.is_head_urgent() { self.send().await.map(drop) } else { Ok(()) }
    }

    pub(super) async fn respond_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        let Some(http1) = self.http1_mut() else {
            let (http2, handle, broken) = self.http2_mut()?;
            return write(handle, broken, http2.write_response_body(data, end)).await;
        };
        http1.add_body(data);
        if end {
            http1.end_body()?;
        }
        self.send().await.map(drop)
    }

    /// Over HTTP/1.1 a response has no trailers here.
    pub(super) async fn respond_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.http1_mut().is_some() {
            return Ok(());
        }
        let (http2, handle, broken) = self.http2_mut()?;
        write(handle, broken, http2.write_response_trailers(trailers)).await
    }

    /// Ends the body of the response.
    pub(super) async fn respond_end(&mut self) -> Result<()> {
        if let Some(http1) = self.http1_mut() {
            http1.end_body()?;
            return self.send().await.map(drop);
        }
        let (http2, handle, broken) = self.http2_mut()?;
        write(handle, broken, http2.finish_body()).await?;
        if let Some(stream) = &mut self.stream {
            stream.answered();
        }
        Ok(())
    }

    /// Writes a keep-alive comment if the response has begun. The proxy cancels a wait for the client, and a comment being
    /// written in it, when the backend has sent something; that then follows the whole comment.
    pub(super) async fn respond_comment(&mut self) -> Result<()> {
        let has_begun = self.inner().response_written().is_some_and(|head| !head.status.is_informational());
        let Some(http1) = self.http1_mut().filter(|_| has_begun) else { return Ok(()) };
        http1.add_body(Bytes::from_static(COMMENT));
        self.send().await.map(drop)
    }

    /// Writes tasks of the proxy, in batches. Returns whether the response is complete.
    pub(super) async fn respond(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        if self.handle.gate.is_on() {
            // Boxed, as below.
            return Box::pin(self.respond_gated(tasks)).await;
        }
        self.respond_now(tasks).await
    }

    /// Writes tasks of the proxy that may leave now, in batches. Returns whether the response is complete.
    pub(super) async fn respond_now(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        if self.stream.is_some() {
            // Boxed, so that responses over HTTP/1.1 do not carry the size of its future.
            return Box::pin(self.respond_http2(tasks)).await;
        }
        let (mut end, mut is_urgent, mut weight) = (false, false, 0);
        self.check_cut()?;
        for task in tasks {
            let length = body_length(&task);
            if length > BATCH {
                self.handle.backpressure.expect_large_chunks();
            }
            if weight > 0 && weight + length > BATCH {
                self.send_batch().await?;
                self.check_cut()?;
                weight = 0;
            }
            weight += length;
            let added = match task {
                HttpTask::Failed(error) => {
                    self.send_batch().await?;
                    return Err(error);
                }
                task => self.add(task).map_err(Error::into_down)?,
            };
            end = added.end;
            is_urgent |= added.is_urgent;
        }
        if is_urgent {
            self.send_batch().await?;
        }
        end |= self.http1_mut().is_some_and(|http1| http1.is_response_finished());
        self.is_answered |= end;
        Ok(end)
    }

    async fn send_batch(&mut self) -> Result<()> {
        if self.send().await? {
            // A slow client does not make the backend idle.
            self.handle.activity.record();
        }
        Ok(())
    }

    /// After an upgrade, frames that were read are written completely even after a cut, so that the closing frame follows a
    /// whole frame; the time limit of writes still applies.
    fn check_cut(&self) -> Result<()> {
        if self.handle.cut.reason().is_some() && !self.inner().was_upgraded() { cut() } else { Ok(()) }
    }

    /// Adds a task to an HTTP/1.1 response.
    fn add(&mut self, mut task: HttpTask) -> Result<Added> {
        if let HttpTask::Header(head, _) = &mut task {
            self.before_forwarded(head);
        }
        let Some(http1) = self.http1_mut() else {
            return Error::e_explain(ErrorType::InternalError, "the session is not HTTP/1.1");
        };
        let (is_urgent, end) = match task {
            HttpTask::Header(head, end) => {
                http1.add_head(head)?;
                (http1.is_head_urgent(), end)
            }
            // Both sides of the proxy see the 101 before anything that follows it.
            HttpTask::Body(..) if http1.is_upgraded() => return wrong_protocol(),
            HttpTask::UpgradedBody(..) if !http1.is_upgraded() => return wrong_protocol(),
            HttpTask::Body(data, end) | HttpTask::UpgradedBody(data, end) => {
                http1.add_body(data.unwrap_or_default());
                (true, end)
            }
            HttpTask::Trailer(_) | HttpTask::Done => (true, true),
            HttpTask::Failed(error) => return Err(error),
        };
        if end {
            http1.end_body()?;
        }
        Ok(Added { is_urgent: is_urgent || end, end })
    }

    async fn respond_http2(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut end = false;
        let mut tasks = tasks.into_iter().peekable();
        while let Some(first) = tasks.next() {
            self.check_cut()?;
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
                    self.before_forwarded(response);
                }
            }
            let (http2, handle, broken) = self.http2_mut()?;
            let has_answer = http2.response_written().is_some();
            let written = write(handle, broken, http2.response_duplex_vec(batch)).await;
            let is_cut = self.handle.cut.reason().is_some();
            if let Some(stream) = &mut self.stream {
                // A cut is not caused by the client.
                stream.on_written(&written, weight, has_answer || is_cut);
            }
            end = written?;
            self.is_answered |= end;
            // A slow client does not make the backend idle.
            self.handle.activity.record();
        }
        Ok(end)
    }
}

fn wrong_protocol<T>() -> Result<T> {
    Error::e_explain(ErrorType::InternalError, "a body of another protocol than that of the connection")
}
