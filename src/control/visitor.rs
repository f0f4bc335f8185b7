//! One connection of the control listener: what it is doing, and until when it may.
//!
//! The framework knows no deadline for a head or an answer, and a limit of silence is no limit for a peer that sends
//! a byte now and then. So the stream keeps deadlines: `auth` tells when a request has arrived and when its answer
//! begins, the stream sees the bytes.

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

use super::admission::Admission;

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// From the connection, or the first byte of a later request, to the end of the head.
    pub(super) head: Duration,
    /// From the answer's beginning to the next request: for taking a whole answer, and for being idle after it.
    pub(super) answer: Duration,
    /// For taking a piece of an answer without a known end.
    pub(super) stall: Duration,
}

/// The deadlines of the control listener.
pub(super) const DEADLINES: Deadlines = Deadlines {
    head: Duration::from_secs(10),
    answer: Duration::from_secs(60),
    stall: Duration::from_secs(60),
};

/// Bytes that may come before a head is complete, those of a body behind it included.
const HEAD_MAX: usize = 256 << 10;

/// What a connection is doing.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// A head is awaited, of which so many bytes came.
    Head { until: Instant, came: usize },
    /// A handler works.
    Handling,
    /// A whole answer goes out, and then nothing happens.
    Answering { until: Instant },
    /// An answer without a known end goes out.
    Streaming { since: Instant },
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// The last request showed the token, or there is none to show.
    is_trusted: bool,
    /// It is to make room for another connection.
    is_evicted: bool,
}

/// A connection, seen by those who do not own its stream.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) address: SocketAddr,
    /// Counts up: a smaller one came earlier.
    pub(super) number: u64,
    deadlines: Deadlines,
    state: Mutex<State>,
    waker: AtomicWaker,
}

impl Visitor {
    pub(super) fn new(address: SocketAddr, number: u64, deadlines: Deadlines) -> Arc<Self> {
        let phase = Phase::Head { until: Instant::now() + deadlines.head, came: 0 };
        let state = Mutex::new(State { phase, is_trusted: false, is_evicted: false });
        Arc::new(Self { address, number, deadlines, state, waker: AtomicWaker::new() })
    }

    /// The head of a request is complete.
    pub(super) fn arrived(&self) {
        let mut state = self.state();
        (state.phase, state.is_trusted) = (Phase::Handling, false);
    }

    /// The request showed the token, or there is none to show.
    pub(super) fn trust(&self) {
        self.state().is_trusted = true;
    }

    /// A whole answer goes out, or the last piece of one.
    pub(super) fn answered(&self) {
        self.state().phase = Phase::Answering { until: Instant::now() + self.deadlines.answer };
    }

    /// An answer begins whose end is not known.
    pub(super) fn streams(&self) {
        self.state().phase = Phase::Streaming { since: Instant::now() };
    }

    /// How much is lost when this connection is closed: nothing (0) while it has not shown the token, a handshake (1)
    /// while it is idle; `None` when it may not be closed.
    pub(super) fn worth(&self) -> Option<u8> {
        let state = self.state();
        match (state.is_trusted, state.phase) {
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

    /// Bytes came.
    ///
    /// # Errors
    /// The connection is to be closed.
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

    /// When the connection ends if nothing happens; `None` while it is not its peer who is waited for.
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// The stream of a connection.
pub(super) struct Visit {
    stream: TcpStream,
    visitor: Arc<Visitor>,
    admission: Arc<Admission>,
    last_write: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Visit {
    pub(super) fn new(stream: TcpStream, visitor: Arc<Visitor>, admission: Arc<Admission>) -> Self {
        let now = Instant::now();
        Self { stream, visitor, admission, last_write: now, timer: Box::pin(sleep_until(now)) }
    }

    pub(super) fn visitor(&self) -> &Arc<Visitor> {
        &self.visitor
    }

    /// Waits for the stream, but no longer than the peer may take.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        // First, so that an eviction from now on is heard.
        self.visitor.waker.register(context.waker());
        let Some(due) = self.visitor.due(self.last_write)? else { return Poll::Pending };
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

impl Drop for Visit {
    fn drop(&mut self) {
        self.admission.left(&self.visitor);
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(self.visitor.read(buffer.filled().len() - before)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.wait(context),
        }
    }
}

impl AsyncWrite for Visit {
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

/// Pieces of an answer without a known end; tells the visitor when they have ended.
pub(super) struct Pieces<S> {
    pub(super) pieces: S,
    pub(super) visitor: Arc<Visitor>,
}

impl<S: Stream + Unpin> Stream for Pieces<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.pieces).poll_next(context)
    }
}

impl<S> Drop for Pieces<S> {
    fn drop(&mut self) {
        self.visitor.answered();
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

    async fn connection(deadlines: Deadlines) -> (Visit, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, peer) = tokio::join!(listener.accept(), TcpStream::connect(address));
        let admission = Admission::new(16, deadlines, Metrics::new().unwrap());
        let (stream, address) = accepted.unwrap();
        let visitor = admission.admit(address).unwrap();
        (Visit::new(stream, visitor, admission), peer.unwrap())
    }

    /// Sends a byte now and then until the other side is gone.
    async fn drip(mut there: TcpStream) {
        while there.write_u8(b'x').await.is_ok() {
            tokio::time::sleep(SHORT / 6).await;
        }
    }

    async fn ending(here: &mut Visit) -> io::ErrorKind {
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
        here.visitor().arrived();
        here.visitor().answered();
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
            here.visitor().arrived();
            match whole {
                true => here.visitor().answered(),
                false => here.visitor().streams(),
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
        here.visitor().arrived();
        let waiting = tokio::time::timeout(SHORT * 3, here.read_u8()).await;
        assert!(waiting.is_err(), "a handler works: {waiting:?}");
        here.visitor().streams();
        for _ in 0..4 {
            here.write_u8(1).await.unwrap();
            let waiting = tokio::time::timeout(SHORT / 2, here.read_u8()).await;
            assert!(waiting.is_err(), "pieces come: {waiting:?}");
            there.read_u8().await.unwrap();
        }
        assert_eq!(ending(&mut here).await, io::ErrorKind::TimedOut);
    }
}
