//! One connection of the control listener, with deadlines.
//!
//! axum has no deadline for a request head or a response, and an idle timeout does not limit a peer that sends a byte now
//! and then. So the stream keeps deadlines of its own: `auth` reports when a request was received and when its response
//! starts, and the stream sees the bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection_limit::ConnectionLimit;

/// How long a peer may take for each step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// From accepting the connection, or the first byte of a later request, to the end of the head.
    pub(super) head: Duration,
    /// From the start of a response of known length to the next request: for reading it and for being idle afterwards.
    pub(super) answer: Duration,
    /// Between two reads of a streamed response.
    pub(super) stall: Duration,
}

/// The deadlines of the control listener.
pub(super) const DEADLINES: Deadlines = Deadlines {
    head: Duration::from_secs(10),
    answer: Duration::from_secs(60),
    stall: Duration::from_secs(60),
};

/// Maximum of bytes received before a head is complete, including those of a body behind it.
const HEAD_MAX: usize = 256 << 10;

/// The phase of a connection.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Reading a head, of which `came` bytes were received.
    Head { until: Instant, came: usize },
    /// A handler runs.
    Handling,
    /// Writing a response of known length, then idle.
    Answering { until: Instant },
    /// Writing a streamed response.
    Streaming { since: Instant },
}

#[derive(Debug)]
struct ConnectionState {
    phase: Phase,
    /// The last request had the token, or none is configured.
    is_authenticated: bool,
    /// The connection is closed for another one.
    is_evicted: bool,
}

/// The state of a connection, shared by its stream, the connection limit and the handlers.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) address: SocketAddr,
    /// Sequence number: older connections have smaller ones.
    pub(super) number: u64,
    deadlines: Deadlines,
    state: Mutex<ConnectionState>,
    waker: AtomicWaker,
}

impl Connection {
    pub(super) fn new(address: SocketAddr, number: u64, deadlines: Deadlines) -> Arc<Self> {
        let phase = Phase::Head { until: Instant::now() + deadlines.head, came: 0 };
        let state = Mutex::new(ConnectionState { phase, is_authenticated: false, is_evicted: false });
        Arc::new(Self { address, number, deadlines, state, waker: AtomicWaker::new() })
    }

    /// Records that the head of a request is complete.
    pub(super) fn request_received(&self) {
        let mut state = self.state();
        (state.phase, state.is_authenticated) = (Phase::Handling, false);
    }

    /// Records that the request has the token, or that none is configured.
    pub(super) fn mark_authenticated(&self) {
        self.state().is_authenticated = true;
    }

    /// Records the start of a response of known length, or the end of a streamed one.
    pub(super) fn response_ready(&self) {
        self.state().phase = Phase::Answering { until: Instant::now() + self.deadlines.answer };
    }

    /// Records the start of a streamed response.
    pub(super) fn response_streaming(&self) {
        self.state().phase = Phase::Streaming { since: Instant::now() };
    }

    /// Cost of closing this connection: 0 without the token, 1 while it is idle; `None` when it must not be closed.
    pub(super) fn eviction_cost(&self) -> Option<u8> {
        let state = self.state();
        match (state.is_authenticated, state.phase) {
            (false, _) => Some(0),
            (true, Phase::Head { .. } | Phase::Answering { .. }) => Some(1),
            (true, Phase::Handling | Phase::Streaming { .. }) => None,
        }
    }

    /// Closes the connection.
    pub(super) fn evict(&self) {
        self.state().is_evicted = true;
        self.waker.wake();
    }

    /// Records received bytes.
    ///
    /// # Errors
    /// The connection was evicted, or the head took too long or was too large.
    fn read(&self, bytes: usize) -> io::Result<()> {
        let mut state = self.state();
        if state.is_evicted {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match &mut state.phase {
            Phase::Head { until, came } => {
                *came += bytes;
                if *came > HEAD_MAX || Instant::now() > *until {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            phase @ Phase::Answering { .. } if bytes > 0 => {
                *phase = Phase::Head { until: Instant::now() + self.deadlines.head, came: bytes };
            }
            Phase::Handling | Phase::Answering { .. } | Phase::Streaming { .. } => {}
        }
        Ok(())
    }

    /// Returns when the connection times out; `None` while the peer has nothing to do.
    fn due(&self, last_write: Instant) -> io::Result<Option<Instant>> {
        let state = self.state();
        if state.is_evicted {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(match state.phase {
            Phase::Head { until, .. } | Phase::Answering { until } => Some(until),
            Phase::Handling => None,
            Phase::Streaming { since } => Some(since.max(last_write) + self.deadlines.stall),
        })
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock()
    }
}

/// The stream of a connection.
pub(super) struct ConnectionStream {
    stream: TcpStream,
    connection: Arc<Connection>,
    connection_limit: Arc<ConnectionLimit>,
    last_write: Instant,
    timer: Pin<Box<Sleep>>,
}

impl ConnectionStream {
    pub(super) fn new(
        stream: TcpStream,
        connection: Arc<Connection>,
        connection_limit: Arc<ConnectionLimit>,
    ) -> Self {
        let now = Instant::now();
        Self { stream, connection, connection_limit, last_write: now, timer: Box::pin(sleep_until(now)) }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits for the stream, but no longer than the deadline.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        // First, so that no eviction is missed.
        self.connection.waker.register(context.waker());
        let Some(due) = self.connection.due(self.last_write)? else { return Poll::Pending };
        self.timer.as_mut().reset(due);
        ready!(self.timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn wrote<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_pending() {
            return self.wait(context);
        }
        self.last_write = Instant::now();
        progress
    }
}

impl Drop for ConnectionStream {
    fn drop(&mut self) {
        self.connection_limit.closed(&self.connection);
    }
}

impl AsyncRead for ConnectionStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(self.connection.read(buffer.filled().len() - before)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.wait(context),
        }
    }
}

impl AsyncWrite for ConnectionStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A streamed body; reports its end to the connection.
pub(super) struct TrackedBody<S> {
    pub(super) pieces: S,
    pub(super) connection: Arc<Connection>,
}

impl<S: Stream + Unpin> Stream for TrackedBody<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.pieces).poll_next(context)
    }
}

impl<S> Drop for TrackedBody<S> {
    fn drop(&mut self) {
        self.connection.response_ready();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(20);

    async fn connection(deadlines: Deadlines) -> (ConnectionStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, peer) = tokio::join!(listener.accept(), TcpStream::connect(address));
        let connection_limit = ConnectionLimit::new(16, deadlines, Metrics::new().unwrap());
        let (stream, address) = accepted.unwrap();
        let connection = connection_limit.admit(address).unwrap();
        (ConnectionStream::new(stream, connection, connection_limit), peer.unwrap())
    }

    /// Sends a byte now and then until the other side is gone.
    async fn drip(mut there: TcpStream) {
        while there.write_u8(b'x').await.is_ok() {
            tokio::time::sleep(SHORT / 6).await;
        }
    }

    async fn ending(here: &mut ConnectionStream) -> io::ErrorKind {
        loop {
            if let Err(error) = here.read_u8().await {
                return error.kind();
            }
        }
    }

    #[tokio::test]
    async fn bytes_now_and_then_do_not_prolong_a_head() {
        let deadlines = Deadlines { head: SHORT, answer: LONG, stall: LONG };
        let begun = Instant::now();
        let (mut here, there) = connection(deadlines).await;
        tokio::spawn(drip(there));
        assert_eq!(ending(&mut here).await, io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= SHORT);
        // The next head has its time from its first byte on.
        let (mut here, mut there) = connection(deadlines).await;
        here.connection().request_received();
        here.connection().response_ready();
        tokio::time::sleep(SHORT * 2).await;
        there.write_u8(b'x').await.unwrap();
        here.read_u8().await.unwrap();
        tokio::spawn(drip(there));
        assert_eq!(ending(&mut here).await, io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_head_without_end_is_not_kept() {
        let (mut here, mut there) = connection(Deadlines { head: LONG, answer: LONG, stall: LONG }).await;
        let writing = tokio::spawn(async move {
            let mut sent = 0;
            while there.write_all(&[b'x'; 4096]).await.is_ok() {
                sent += 4096;
            }
            sent
        });
        assert_eq!(ending(&mut here).await, io::ErrorKind::TimedOut);
        drop(here);
        // What was sent and not read lies in the buffers of the sockets.
        assert!(writing.await.unwrap() < 16 << 20);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_ends() {
        for whole in [true, false] {
            let deadlines = match whole {
                true => Deadlines { head: LONG, answer: SHORT, stall: LONG },
                false => Deadlines { head: LONG, answer: LONG, stall: SHORT },
            };
            let (mut here, there) = connection(deadlines).await;
            here.connection().request_received();
            match whole {
                true => here.connection().response_ready(),
                false => here.connection().response_streaming(),
            }
            let much = vec![0; 64 << 20];
            let error = here.write_all(&much).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "whole: {whole}");
            drop(there);
        }
    }

    #[tokio::test]
    async fn a_handler_has_its_time_and_a_stream_goes_on() {
        let (mut here, mut there) = connection(Deadlines { head: SHORT, answer: SHORT, stall: SHORT }).await;
        here.connection().request_received();
        let waiting = tokio::time::timeout(SHORT * 3, here.read_u8()).await;
        assert!(waiting.is_err(), "a handler works: {waiting:?}");
        here.connection().response_streaming();
        for _ in 0..4 {
            here.write_u8(1).await.unwrap();
            let waiting = tokio::time::timeout(SHORT / 2, here.read_u8()).await;
            assert!(waiting.is_err(), "pieces come: {waiting:?}");
            there.read_u8().await.unwrap();
        }
        assert_eq!(ending(&mut here).await, io::ErrorKind::TimedOut);
    }
}
