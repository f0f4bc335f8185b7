//! The bytes below HTTP/1.1: a socket, or the TLS stream over one.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use futures::FutureExt;
use pingora_rustls::ServerTlsStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;

use crate::proxy::downstream::client_stream::ClientStream;

/// The most bytes of one read.
const MAX_READ: usize = 64 << 10;

thread_local! {
    /// Where bytes are read before they are copied to where they belong, so that a connection has no buffer while it
    /// waits for its client.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_READ].into_boxed_slice());
}

/// What a connection reads from and writes to.
pub(in crate::proxy::downstream) enum Wire {
    Plain(TcpStream),
    Tls(Box<ServerTlsStream<TcpStream>>),
    /// TLS in a tunnel.
    Tunnel(Box<ServerTlsStream<ClientStream>>),
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

/// Calls a method of what is inside.
macro_rules! with {
    ($wire:expr, $inner:ident => $call:expr) => {
        match $wire {
            Wire::Plain($inner) => $call,
            Wire::Tls($inner) => $call,
            Wire::Tunnel($inner) => $call,
            #[cfg(test)]
            Wire::Memory($inner) => $call,
        }
    };
}

impl Wire {
    /// Reads up to `most` bytes, and passes them to `take`; none means that the client has ended its side.
    pub(super) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        most: u64,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<T>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let most = usize::try_from(most).map_or(MAX_READ, |most| most.min(MAX_READ));
            let mut into = ReadBuf::new(&mut scratch[..most]);
            ready!(with!(self, inner => Pin::new(inner).poll_read(cx, &mut into)))?;
            Poll::Ready(Ok(take(into.filled())))
        })
    }

    /// Reads into `into`, as [`AsyncRead`] does.
    pub(in crate::proxy::downstream) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with!(self, inner => Pin::new(inner).poll_read(cx, into))
    }

    /// Reads up to `most` bytes behind those in `into`, without a copy; returns how many. While nothing comes, `into` has no
    /// memory.
    pub(super) fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        into: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        into.reserve(most);
        let mut room = (&mut *into).limit(most);
        let read = with!(self, inner => pin!(inner.read_buf(&mut room)).poll(cx));
        if read.is_pending() && into.is_empty() {
            *into = BytesMut::new();
        }
        read
    }

    /// Writes the beginning of `bytes`; returns how many of them.
    pub(in crate::proxy::downstream) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        with!(self, inner => Pin::new(inner).poll_write(cx, bytes))
    }

    /// Writes the beginning of these parts in one system call; returns how many bytes of them.
    pub(super) fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with!(self, inner => Pin::new(inner).poll_write_vectored(cx, parts))
    }

    /// Sends what the TLS stream holds back.
    pub(in crate::proxy::downstream) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self, inner => Pin::new(inner).poll_flush(cx))
    }

    /// Makes the kernel reset the connection when it is closed, and discard what was not sent.
    pub(in crate::proxy::downstream) fn reset_on_drop(&self) {
        // It fails on a socket that is no longer connected, which needs no reset.
        let _ = self.tcp().map(TcpStream::set_zero_linger);
    }

    /// Whether the client has ended its side, or is gone, perhaps behind bytes that have not been read.
    pub(super) fn has_ended(&self) -> bool {
        self.is_known_to_be(Interest::READABLE, Ready::is_read_closed)
    }

    /// Whether the client has reset the connection.
    pub(super) fn is_reset(&self) -> bool {
        self.is_known_to_be(Interest::WRITABLE, Ready::is_write_closed)
    }

    /// Returns how many bytes of the client can be read; `None` when that is not known.
    pub(super) fn readable(&self) -> Option<u64> {
        // Of bytes that TLS has decrypted nothing is known.
        let Self::Plain(tcp) = self else { return None };
        rustix::io::ioctl_fionread(tcp).ok()
    }

    /// Asks the runtime what the kernel has reported of the socket.
    fn is_known_to_be(&self, interest: Interest, closed: fn(Ready) -> bool) -> bool {
        let Some(tcp) = self.tcp() else { return false };
        tcp.ready(interest).now_or_never().is_some_and(|ready| ready.is_ok_and(closed))
    }

    pub(in crate::proxy::downstream) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.get_ref().0),
            Self::Tunnel(tls) => tls.get_ref().0.tcp(),
            #[cfg(test)]
            Self::Memory(_) => None,
        }
    }

    /// Ends the side of this proxy.
    pub(in crate::proxy::downstream) fn poll_shutdown(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        with!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}
