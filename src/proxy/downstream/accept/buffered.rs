//! The stream of an HTTP/2 connection, with a write buffer, so that small writes are sent together.
//!
//! Pingora gives the streams of its own listeners a write buffer with a private function. A stream of this accept loop
//! has none; without one, each frame would cost a system call and a segment. The buffer is written when Pingora flushes or
//! next waits for the client, whichever comes first, so no data is delayed.
//!
//! It wraps the bare socket or the TLS stream over it. Pingora's own stream has a read buffer of 64 KiB per connection,
//! which `h2` does not need, since it reads into a buffer of its own.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::proxy::downstream::h2_budget::H2Budget;

/// Larger writes are not copied: they are written at once, together with the buffer.
const MAX_COPIED: usize = 4 << 10;

/// Capacity that an empty buffer keeps for the next head or event.
const KEPT_CAPACITY: usize = 2 << 10;

/// What a buffer can be put over.
pub(super) trait Inner: AsyncRead + AsyncWrite + AsRawFd + Send + Sync + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + AsRawFd + Send + Sync + Unpin + 'static> Inner for S {}

/// A stream with a write buffer.
pub(super) struct Buffered<S> {
    inner: S,
    waiting: Vec<u8>,
    /// Bytes that `negotiate` has read; returned by the first reads.
    ahead: BytesMut,
    /// Counts what the client sends.
    budget: Arc<H2Budget>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Buffered<S> {
    pub(super) fn new(inner: S, ahead: BytesMut, budget: Arc<H2Budget>) -> Self {
        Self { inner, waiting: Vec::new(), ahead, budget }
    }

    /// Writes the whole buffer.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.waiting))?;
            self.written(written)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Removes written bytes from the buffer.
    fn written(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.waiting.drain(..written);
        if self.waiting.is_empty() {
            self.waiting.shrink_to(KEPT_CAPACITY);
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.waiting.len() + bytes.len() <= MAX_COPIED {
            this.waiting.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        loop {
            let parts = [IoSlice::new(&this.waiting), IoSlice::new(bytes)];
            let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &parts))?;
            let waited = this.waiting.len();
            if waited > 0 {
                this.written(written.min(waited))?;
            }
            if written > waited || waited == 0 {
                return Poll::Ready(Ok(written - waited));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // `h2` reads from the client when it has nothing more to write for now.
        if let Poll::Ready(Err(error)) = self.as_mut().poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        let before = into.filled().len();
        if self.ahead.is_empty() {
            ready!(Pin::new(&mut self.inner).poll_read(cx, into))?;
        } else {
            let length = self.ahead.len().min(into.remaining());
            into.put_slice(&self.ahead[..length]);
            self.ahead.advance(length);
        }
        self.budget.read(into.filled().len() - before)?;
        Poll::Ready(Ok(()))
    }
}

impl<S> fmt::Debug for Buffered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffered").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Shutdown for Buffered<S> {
    async fn shutdown(&mut self) {
        // Fails when the peer has disconnected, which needs no handling.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl<S: AsRawFd> UniqueID for Buffered<S> {
    fn id(&self) -> UniqueIDType {
        self.inner.as_raw_fd()
    }
}

impl<S> Ssl for Buffered<S> {}

#[async_trait]
impl<S> Peek for Buffered<S> {}

// Pingora's digests serve its own access log, which is not used here.
impl<S> GetTimingDigest for Buffered<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl<S> GetProxyDigest for Buffered<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl<S> GetSocketDigest for Buffered<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn buffered(inner: TcpStream, ahead: &[u8]) -> Buffered<TcpStream> {
        Buffered::new(inner, BytesMut::from(ahead), Arc::new(H2Budget::new(100, true)))
    }

    async fn pair() -> (Buffered<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, client) = tokio::join!(listener.accept(), client);
        (buffered(accepted.unwrap().0, b""), client.unwrap())
    }

    #[tokio::test]
    async fn small_writes_leave_together_when_they_are_flushed() {
        let (mut ours, theirs) = pair().await;
        for part in ["3\r\n", "abc", "\r\n"] {
            ours.write_all(part.as_bytes()).await.unwrap();
        }
        let mut seen = [0; 64];
        assert_eq!(theirs.try_read(&mut seen).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        ours.flush().await.unwrap();
        theirs.readable().await.unwrap();
        assert_eq!(theirs.try_read(&mut seen).unwrap(), 8);
        assert_eq!(&seen[..8], b"3\r\nabc\r\n");
    }

    #[tokio::test]
    async fn what_waits_leaves_before_a_wait_for_the_client() {
        let (mut ours, mut theirs) = pair().await;
        ours.write_all(b"half an answer").await.unwrap();
        let reading = tokio::spawn(async move { ours.read(&mut [0]).await });
        let mut seen = [0; 14];
        theirs.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"half an answer");
        drop(theirs);
        assert_eq!(reading.await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_once() {
        let (accepted, mut theirs) = pair().await;
        theirs.write_all(b" rest").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut ours = buffered(accepted.inner, b"first");
        let mut seen = [0; 3];
        ours.read_exact(&mut seen).await.unwrap();
        let mut rest = String::new();
        ours.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&seen, rest.as_str()), (b"fir", "st rest"));
    }

    #[tokio::test]
    async fn every_byte_comes_in_order_whatever_the_sizes() {
        let (mut ours, mut theirs) = pair().await;
        let sizes = [1, 5000, MAX_COPIED - 1, MAX_COPIED, MAX_COPIED + 1, 3, 4 << 20, 7, 100_000, 1];
        let sent: Vec<Vec<u8>> = sizes.iter().zip(1u8..).map(|(size, mark)| [mark].repeat(*size)).collect();
        let expected = sent.concat();
        let reading = tokio::spawn(async move {
            let mut seen = Vec::new();
            theirs.read_to_end(&mut seen).await.unwrap();
            seen
        });
        for part in &sent {
            ours.write_all(part).await.unwrap();
        }
        Shutdown::shutdown(&mut ours).await;
        assert!(reading.await.unwrap() == expected);
        assert!(ours.waiting.is_empty() && ours.waiting.capacity() <= KEPT_CAPACITY);
    }
}
