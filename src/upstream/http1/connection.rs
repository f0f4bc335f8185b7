//! A connection to a backend, and bytes that were read from it.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use http::StatusCode;
use pingora_core::Result;
use pingora_core::protocols::Digest;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::ResponseHeader;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::coop::unconstrained;

use super::request_writer::{RequestWriter, WriteHalf};

/// Size of the buffer that all connections of a thread read into. A connection that waits holds no buffer of its own.
const SHARED_BUFFER: usize = 16 << 10;

/// Size of a read after one that filled the shared buffer: a large body, which is worth a buffer of its own.
const LARGE_READ: usize = 48 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SHARED_BUFFER].into());
}

/// A connection. Dropping it closes it.
pub(super) struct Connection {
    pub(super) address: SocketAddr,
    read_half: OwnedReadHalf,
    pub(super) write_half: Arc<WriteHalf>,
    /// What was read and not consumed.
    pub(super) input: BytesMut,
    /// The last read filled the shared buffer.
    is_large: bool,
    /// Leads the gateway to the write half, by [`request_writer`].
    pub(super) digest: Digest,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, address: SocketAddr) -> Result<Self> {
        let (read_half, write_half) = stream.into_split();
        let write_half = WriteHalf::new(write_half);
        // Without room for fields, since it has none.
        let response = Box::new(ResponseHeader::build_no_case(StatusCode::OK, Some(0))?);
        let shared = Box::new(Arc::clone(&write_half));
        let proxy_digest = Some(Arc::new(ProxyDigest::new(response, Some(shared))));
        let digest =
            Digest { ssl_digest: None, timing_digest: Vec::new(), proxy_digest, socket_digest: None };
        Ok(Self { address, read_half, write_half, input: BytesMut::new(), is_large: false, digest })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.read_half.as_ref().as_raw_fd()
    }

    /// Reads what is there and returns how many bytes; 0 when the backend has closed the connection.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.is_large {
            // Asked before a buffer is taken, so that a silent stream has none.
            ready!(self.read_half.as_ref().poll_read_ready(cx))?;
            self.input.reserve(LARGE_READ);
            let read = ready!(pin!(self.read_half.read_buf(&mut self.input)).poll(cx))?;
            self.is_large = read >= SHARED_BUFFER;
            return Poll::Ready(Ok(read));
        }
        let (read_half, input) = (&mut self.read_half, &mut self.input);
        let read = BUFFER.with_borrow_mut(|shared| {
            let mut buffer = ReadBuf::new(shared);
            ready!(Pin::new(read_half).poll_read(cx, &mut buffer))?;
            input.extend_from_slice(buffer.filled());
            Poll::Ready(io::Result::Ok(buffer.filled().len()))
        });
        let read = ready!(read)?;
        self.is_large = read == SHARED_BUFFER;
        Poll::Ready(Ok(read))
    }

    /// Returns whether the backend has been silent since the last response. It has not if it closed the connection, or
    /// sent what nobody asked for.
    pub(super) fn is_silent(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // A task without budget would find every connection silent.
        let ready = unconstrained(poll_fn(|cx| self.read_half.as_ref().poll_read_ready(cx)));
        self.input.is_empty() && pin!(ready).poll(&mut cx).is_pending()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The gateway may still hold the write half.
        self.write_half.close();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Returns the writer of the request that was just given this connection; `None` for connections of Pingora's clients.
pub fn request_writer(digest: &Digest) -> Option<RequestWriter> {
    let shared = digest.proxy_digest.as_ref()?.user_data.as_ref()?;
    shared.downcast_ref::<Arc<WriteHalf>>().map(RequestWriter::of)
}
