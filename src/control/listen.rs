//! Accepts connections and closes those on which nothing moves, so that silent peers hold nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, Patience>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Patience>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// A listener whose connections end after `idle` without a byte in either direction. The event feed lives
/// on, since it writes a comment more often than that.
pub(super) struct Patience {
    listener: TcpListener,
    idle: Duration,
}

impl Patience {
    pub(super) fn new(listener: TcpListener, idle: Duration) -> Self {
        Self { listener, idle }
    }
}

impl Listener for Patience {
    type Io = Patient;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Patient, SocketAddr) {
        // axum's own accept waits and tries again when the process is out of file descriptors.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        // An event is small and must not wait for the next one.
        let _ = stream.set_nodelay(true);
        (Patient { stream, idle: self.idle, timer: Box::pin(sleep(self.idle)) }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with an end to its patience.
pub(super) struct Patient {
    stream: TcpStream,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Patient {
    /// Passes progress on and starts the wait anew; fails when the wait was too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.timer.as_mut().reset(Instant::now() + self.idle);
            return progress;
        }
        ready!(self.timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watch(context, progress)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, progress)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const IDLE: Duration = Duration::from_millis(200);

    async fn connection() -> (Patient, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = Patience::new(listener, IDLE);
        let (accepted, peer) = tokio::join!(listener.accept(), TcpStream::connect(address));
        (accepted.0, peer.unwrap())
    }

    #[tokio::test]
    async fn a_silent_peer_is_closed() {
        let (mut here, _there) = connection().await;
        let fault = here.read_u8().await.unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_byte_in_either_direction_starts_the_wait_anew() {
        let (mut here, mut there) = connection().await;
        let begun = Instant::now();
        for _ in 0..3 {
            tokio::time::sleep(IDLE * 2 / 3).await;
            there.write_u8(1).await.unwrap();
            assert_eq!(here.read_u8().await.unwrap(), 1);
            tokio::time::sleep(IDLE * 2 / 3).await;
            here.write_u8(2).await.unwrap();
        }
        assert!(begun.elapsed() > IDLE * 3);
    }
}
