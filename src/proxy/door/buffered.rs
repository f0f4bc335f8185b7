//! A connection whose small writes leave together.
//!
//! Pingora gives the streams of its own listeners a write buffer, by a function that others cannot call;
//! a stream from our accept loop has none, so that head and body of an answer, and the size, data and end
//! of each chunk, would be a system call and a segment each. What waits leaves when Pingora flushes, or when
//! it next waits for the client, whichever comes first: nothing is held back.
//!
//! It stands on the bare socket: Pingora's own stream has a read buffer of 64 KiB for each connection, which its
//! HTTP/1 reader does not need, since that reads into buffers of its own.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// More bytes than this are not copied: they go out at once, together with what was waiting.
const COPIED: usize = 4 << 10;

/// An empty buffer keeps this much memory, for the next head or event.
const KEPT: usize = 2 << 10;

/// A TCP stream with a write buffer.
pub(super) struct Buffered {
    inner: TcpStream,
    waiting: Vec<u8>,
}

impl Buffered {
    pub(super) fn new(inner: TcpStream) -> Self {
        Self { inner, waiting: Vec::new() }
    }

    /// Writes all that waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.waiting))?;
            self.written(written)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes out what was written of `waiting`.
    fn written(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.waiting.drain(..written);
        if self.waiting.is_empty() {
            self.waiting.shrink_to(KEPT);
        }
        Ok(())
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.waiting.len() + bytes.len() <= COPIED {
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

impl AsyncRead for Buffered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Who waits for the client has written what there is for now: an answer of known length that
        // trickles is not flushed by Pingora before its end.
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl fmt::Debug for Buffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffered").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for Buffered {
    async fn shutdown(&mut self) {
        // The peer may be gone, and then there is nobody to tell.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Buffered {
    fn id(&self) -> UniqueIDType {
        self.inner.as_raw_fd()
    }
}

impl Ssl for Buffered {}

#[async_trait]
impl Peek for Buffered {}

// Pingora's digests are for its own access logs; ours tells what it needs by itself.
impl GetTimingDigest for Buffered {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Buffered {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Buffered {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Buffered, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, client) = tokio::join!(listener.accept(), client);
        (Buffered::new(accepted.unwrap().0), client.unwrap())
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
    async fn every_byte_comes_in_order_whatever_the_sizes() {
        let (mut ours, mut theirs) = pair().await;
        let sizes = [1, 5000, COPIED - 1, COPIED, COPIED + 1, 3, 4 << 20, 7, 100_000, 1];
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
        assert!(ours.waiting.is_empty() && ours.waiting.capacity() <= KEPT);
    }
}
