//! Reads from the client, for [`DownstreamSession`]: each wait also waits for the cut and for the limits of time.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType, Result};
use tokio::task::coop::unconstrained;

use super::client_session::ClientSession;
use super::downstream_session::DownstreamSession;
use super::h2_stream::next_chunk;
use super::write::cut;
use crate::proxy::downstream::handle::Upstream;
use crate::proxy::downstream::timing::Due;
use crate::upstream::http1::Room;

/// The error with which a wait ends when the backend was idle for too long.
pub(crate) const UPSTREAM_IDLE: ErrorType = ErrorType::Custom("backend_silent");

/// What ends a wait for an HTTP/1.1 client.
enum Event {
    /// Bytes of the body, or its end.
    Chunk(Option<Bytes>),
    /// A keep-alive comment is due.
    Comment,
    /// A part of the response that was held back may leave.
    Gate,
}

impl DownstreamSession {
    /// Reads body bytes; with `idle`, waits for the client to disconnect once the body has ended, at once if it is true.
    pub(super) async fn read(&mut self, idle: Option<bool>) -> Result<Option<Bytes>> {
        let chunk = match self.inner() {
            ClientSession::Http1(_) => self.read_http1(idle).await,
            // Boxed, so that reads over HTTP/1.1 do not carry the size of its future.
            ClientSession::Http2(_) => Box::pin(self.read_http2(idle)).await,
        };
        let Some(chunk) = chunk? else {
            self.replay.finish();
            return Ok(None);
        };
        let done = self.inner_mut().is_body_done();
        self.handle.upload.add(chunk.len());
        self.handle.activity.record();
        if self.handle.upload.is_buffered() {
            let left = self.inner().body_left();
            self.replay.push(&chunk, left);
            if done {
                self.replay.finish();
            }
        } else {
            // Not all of the body can be replayed any more.
            self.replay.release();
        }
        // Pingora issue 935: an empty last chunk would end an HTTP/1.1 upstream body twice.
        if chunk.is_empty() && done {
            return Ok(None);
        }
        Ok(Some(chunk))
    }

    async fn read_http1(&mut self, idle: Option<bool>) -> Result<Option<Bytes>> {
        loop {
            self.half_close.begin(idle);
            match poll_fn(|cx| self.poll_http1(idle, cx)).await? {
                Event::Chunk(chunk) => return Ok(chunk),
                Event::Comment => {
                    self.limits.restart_comments();
                    self.respond_comment().await?;
                }
                Event::Gate => Box::pin(self.pass_gate()).await?,
            }
        }
    }

    fn poll_http1(&mut self, idle: Option<bool>, cx: &mut Context<'_>) -> Poll<Result<Event>> {
        let Some(ClientSession::Http1(http1)) = &mut self.inner else {
            return Poll::Ready(Error::e_explain(ErrorType::InternalError, "the session is not HTTP/1.1"));
        };
        let handle = &*self.handle;
        if handle.cut.reason().is_some() {
            return Poll::Ready(cut());
        }
        let is_body = idle != Some(true) && !(idle.is_some() && http1.is_body_done());
        self.half_close.polled();
        let room = handle.upstream.poll(cx);
        let has_room = matches!(room, Ok(Room::Free));
        let polled = match room {
            Err(error) => Poll::Ready(Err(error)),
            Ok(Room::Full | Room::Failed) if self.is_answered && idle == Some(false) => {
                self.is_abandoned = true;
                handle.upstream.abandon();
                return Poll::Ready(Ok(Event::Chunk(None)));
            }
            Ok(Room::Full | Room::Failed) if idle == Some(false) => {
                self.limits.restart_read();
                http1.poll_leave(cx)
            }
            Ok(_) if is_body => http1.poll_body(cx),
            // The client has its response: that it leaves now ends nothing.
            Ok(_) if self.is_answered => Poll::Pending,
            // Without a budget left (`backpressure`), the first poll would not see what is there.
            Ok(_) if idle == Some(true) => pin!(unconstrained(poll_fn(|cx| http1.poll_end(cx)))).poll(cx),
            Ok(_) => http1.poll_end(cx),
        };
        match polled {
            Poll::Ready(Err(_)) if has_room && self.is_answered && idle == Some(false) => {
                // The client has its response, and does not send the rest of its request.
                self.is_abandoned = true;
                handle.upstream.abandon();
                return Poll::Ready(Ok(Event::Chunk(None)));
            }
            Poll::Ready(Err(error)) if self.half_close.is_half(&error, http1, handle.arrived) => {
                http1.ignore_end();
                if let Poll::Ready(Err(error)) = http1.poll_end(cx) {
                    return Poll::Ready(Err(error));
                }
            }
            Poll::Ready(chunk) => {
                self.limits.restart_read();
                return Poll::Ready(chunk.map(Event::Chunk));
            }
            Poll::Pending => {}
        }
        // A client whose bytes there is no room for does not keep anyone waiting.
        let read_limit = self.read_limit.filter(|_| is_body && (has_room || idle != Some(false)));
        self.poll_limits(read_limit, cx)
    }

    /// Waits for the cut and for the limits of time.
    fn poll_limits(&mut self, read_limit: Option<Duration>, cx: &mut Context<'_>) -> Poll<Result<Event>> {
        let (Some(ClientSession::Http1(http1)), handle) = (&mut self.inner, &*self.handle) else {
            return Poll::Pending;
        };
        if pin!(handle.cut.soft()).poll(cx).is_ready() {
            return Poll::Ready(cut());
        }
        let watched = (&handle.activity, &handle.gate);
        self.limits.poll_due(http1.timer(), watched, read_limit, cx).map(|due| match due {
            Due::BackendIdle => idle_backend(),
            Due::Comment => Ok(Event::Comment),
            Due::Gate => Ok(Event::Gate),
            Due::ReadLimit => Error::e_explain(ErrorType::ReadTimedout, "the body does not come"),
        })
    }

    async fn read_http2(&mut self, idle: Option<bool>) -> Result<Option<Bytes>> {
        loop {
            match self.next_http2(idle).await? {
                Event::Chunk(chunk) => return Ok(chunk),
                Event::Gate => self.pass_gate().await?,
                Event::Comment => {}
            }
        }
    }

    async fn next_http2(&mut self, idle: Option<bool>) -> Result<Event> {
        let (Some(ClientSession::Http2(inner)), Some(stream)) = (&mut self.inner, &mut self.stream) else {
            return Error::e_explain(ErrorType::InternalError, "the session is not HTTP/2");
        };
        let (handle, limits, limit) = (&*self.handle, &mut self.limits, self.read_limit);
        let chunk = {
            let is_body = idle != Some(true) && !(idle.is_some() && inner.is_body_done());
            let next = async {
                if self.is_answered && !is_body {
                    // The client has its response: that it leaves now ends nothing.
                    return std::future::pending().await;
                }
                loop {
                    match with_room(&handle.upstream, idle, next_chunk(inner, idle, limit)).await? {
                        None | Some(Err(_)) if self.is_answered && idle == Some(false) => return Ok(None),
                        Some(chunk) => return chunk.map(Some),
                        None => room(&handle.upstream, inner).await?,
                    }
                }
            };
            let mut next = pin!(next);
            loop {
                tokio::select! {
                    biased;
                    _ = handle.cut.soft() => return cut(),
                    due = poll_fn(|cx| limits.poll_due(&mut stream.timer, (&handle.activity, &handle.gate), None, cx)) => match due {
                        Due::BackendIdle => return idle_backend(),
                        Due::Gate => return Ok(Event::Gate),
                        // A cancelled write to a stream cannot be resumed, and HTTP/2 has PING.
                        Due::Comment | Due::ReadLimit => limits.restart_comments(),
                    },
                    chunk = &mut next => match chunk.transpose() {
                        Some(chunk) => break chunk,
                        None => {
                            self.is_abandoned = true;
                            handle.upstream.abandon();
                            return Ok(Event::Chunk(None));
                        }
                    },
                }
            }
        };
        stream.on_read(&chunk, inner.response_written().is_some());
        chunk.map(Event::Chunk)
    }
}

/// Waits for the client, but for the body only while the backend reads what came before. Returns `None` when it does not.
///
/// # Errors
/// The request was stopped.
async fn with_room<T>(
    upstream: &Upstream,
    idle: Option<bool>,
    wait: impl Future<Output = T>,
) -> Result<Option<T>> {
    let mut wait = pin!(wait);
    poll_fn(|cx| match upstream.poll(cx) {
        Err(error) => Poll::Ready(Err(error)),
        Ok(Room::Full | Room::Failed) if idle == Some(false) => Poll::Ready(Ok(None)),
        Ok(Room::Free | Room::Full | Room::Failed) => wait.as_mut().poll(cx).map(|chunk| Ok(Some(chunk))),
    })
    .await
}

/// Waits until the backend reads what came before; meanwhile the client of a stream is only watched for its end.
///
/// # Errors
/// The client has reset the stream, or the request was stopped.
async fn room(upstream: &Upstream, stream: &mut ServerSession) -> Result<()> {
    let mut end = pin!(stream.read_body_or_idle(true));
    poll_fn(|cx| match upstream.poll(cx) {
        Err(error) => Poll::Ready(Err(error)),
        Ok(Room::Free) => Poll::Ready(Ok(())),
        Ok(Room::Full | Room::Failed) => end.as_mut().poll(cx).map(|ended| ended.map(drop)),
    })
    .await
}

fn idle_backend<T>() -> Result<T> {
    Error::e_explain(UPSTREAM_IDLE, "the backend was silent for too long")
}
