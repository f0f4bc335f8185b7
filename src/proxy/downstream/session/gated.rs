//! Writes of an answer that is judged before it leaves, for [`DownstreamSession`]: what the gate of the request
//! (`timing/gate.rs`) holds back is written when it may leave, with keep-alives while it waits.
//!
//! Every step can be cancelled, since the proxy cancels a wait for the client when the backend has sent something: what was
//! taken out of the gate has been added to the response in the same poll.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use pingora_core::protocols::http::HttpTask;
use pingora_core::{Error, Result};
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

use super::client_session::ClientSession;
use super::downstream_session::DownstreamSession;
use super::write::cut;
use crate::proxy::downstream::timing::{KeepAlive, Next};
use crate::proxy::error_response::REFUSED;

/// What ends a wait at the gate.
enum Waited {
    /// The answer may go on, or not.
    Opened(bool),
    KeepAlive,
}

impl DownstreamSession {
    /// Writes tasks of the proxy as far as they may leave. Returns whether the response is complete.
    ///
    /// The bytes in all of the tasks precede what is in the gate: once it is closed, the gateway puts everything there.
    pub(super) async fn respond_gated(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let (mut end, mut ending) = (false, None);
        for task in tasks {
            match task {
                HttpTask::Header(head, false)
                    if !head.status.is_informational() && self.handle.gate.holds_head() =>
                {
                    self.held_head = Some(head);
                }
                HttpTask::Body(data, last) | HttpTask::UpgradedBody(data, last) => {
                    if let Some(data) = data.filter(|data| !data.is_empty()) {
                        self.leave(data).await?;
                    }
                    if last {
                        ending = Some(self.body_task(None, true));
                    }
                }
                other @ (HttpTask::Trailer(_) | HttpTask::Done) => ending = Some(other),
                other @ (HttpTask::Header(..) | HttpTask::Failed(_)) => {
                    end = self.respond_now(vec![other]).await?;
                }
            }
        }
        self.pass_gate().await?;
        if let Some(ending) = ending {
            let tasks = self.with_head(ending);
            end = self.respond_now(tasks).await?;
        }
        Ok(end)
    }

    /// Writes what may leave of what the gate holds back, and waits where it has to be waited.
    ///
    /// # Errors
    /// The client cannot be written to or has left, the leg was cut, or the answer must not go on.
    pub(super) async fn pass_gate(&mut self) -> Result<()> {
        while let Some(next) = self.handle.gate.next() {
            match next {
                Next::Write(bytes) => self.leave(bytes).await?,
                Next::Nothing => break,
                Next::Wait(keep_alive) => match self.wait_at_gate(keep_alive).await? {
                    Waited::Opened(true) => self.handle.activity.record(),
                    Waited::Opened(false) => return Error::e_explain(REFUSED, "the answer must not go on"),
                    Waited::KeepAlive => {
                        if let Some(keep_alive) = keep_alive.filter(|_| self.held_head.is_none()) {
                            self.leave(Bytes::from_static(keep_alive.bytes)).await?;
                        }
                    }
                },
            }
        }
        Ok(())
    }

    /// Writes a part of the body, behind the head if that was held back.
    async fn leave(&mut self, data: Bytes) -> Result<()> {
        let tasks = self.with_head(self.body_task(Some(data), false));
        self.respond_now(tasks).await.map(drop)
    }

    fn body_task(&self, data: Option<Bytes>, end: bool) -> HttpTask {
        match self.inner().was_upgraded() {
            true => HttpTask::UpgradedBody(data, end),
            false => HttpTask::Body(data, end),
        }
    }

    fn with_head(&mut self, task: HttpTask) -> Vec<HttpTask> {
        let head = self.held_head.take().map(|head| HttpTask::Header(head, false));
        head.into_iter().chain([task]).collect()
    }

    /// Waits until the wait at the gate is over, or a keep-alive is due. Nothing is read from the backend meanwhile.
    ///
    /// # Errors
    /// The leg was cut, or the client has left.
    async fn wait_at_gate(&mut self, keep_alive: Option<KeepAlive>) -> Result<Waited> {
        let handle = Arc::clone(&self.handle);
        // The end of the client's side that was not there during an earlier wait is no half-close.
        self.half_close.begin(Some(true));
        let opened = poll_fn(|cx| handle.gate.poll_wait(cx));
        let due = async {
            match keep_alive {
                Some(keep_alive) => sleep(keep_alive.every).await,
                None => pending().await,
            }
        };
        let waited = async {
            tokio::select! {
                biased;
                _ = handle.cut.soft() => cut(),
                opened = opened => Ok(Waited::Opened(opened)),
                error = self.client_left() => Err(error),
                () = due => Ok(Waited::KeepAlive),
            }
        };
        // Boxed: most answers never wait.
        handle.backpressure.hold(Box::pin(waited)).await
    }

    /// Ready when the client has left. One whose request is still on its way is not watched.
    async fn client_left(&mut self) -> Box<Error> {
        let left = match &mut self.inner {
            Some(ClientSession::Http1(_)) => poll_fn(|cx| self.poll_left(cx)).await,
            Some(ClientSession::Http2(http2)) => match http2.is_body_done() && !http2.was_upgraded() {
                true => http2.read_body_or_idle(true).await.map(drop),
                false => Ok(()),
            },
            None => Ok(()),
        };
        match left {
            Err(error) => error.into_down(),
            Ok(()) => pending().await,
        }
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(ClientSession::Http1(http1)) = &mut self.inner else { return Poll::Ready(Ok(())) };
        if http1.is_upgraded() || !http1.is_body_done() {
            return Poll::Ready(Ok(()));
        }
        self.half_close.polled();
        // The task has no budget left while a wait is pending (`backpressure`).
        let mut poll_end = |http1: &mut crate::proxy::downstream::http1::Exchange| {
            pin!(unconstrained(poll_fn(|cx| http1.poll_end(cx)))).poll(cx)
        };
        match poll_end(http1) {
            Poll::Ready(Err(error)) if self.half_close.is_half(&error, http1, self.handle.arrived) => {
                http1.ignore_end();
                poll_end(http1).map(|ended| ended.map(drop))
            }
            ended => ended.map(|ended| ended.map(drop)),
        }
    }
}
