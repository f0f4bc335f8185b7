//! The bytes of a client whose request has taken its connection over, or its stream of an HTTP/2 connection (CONNECT).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::{HeaderMap, Response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::h2_budget::H2Budget;
use super::http1::{Connection, Wire};
use super::session::StreamEnds;

/// The most bytes of one write to an HTTP/2 stream.
const WRITE: usize = 16 << 10;

/// The head of the answer over HTTP/1.1, before its fields.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection Established\r\n";

/// The client's side of a tunnel.
pub(crate) struct ClientStream(Inner);

enum Inner {
    Http1 {
        wire: Wire,
        /// Bytes that were read behind the head.
        ahead: BytesMut,
    },
    Http2(Box<Http2>),
}

struct Http2 {
    ends: StreamEnds,
    /// `None` before the answer.
    writer: Option<SendStream<Bytes>>,
    /// The rest of what was received.
    ahead: Bytes,
    has_ended: bool,
    budget: Arc<H2Budget>,
}

impl ClientStream {
    pub(super) fn http1(connection: Connection) -> Self {
        let (wire, ahead) = connection.into_parts();
        Self(Inner::Http1 { wire, ahead })
    }

    pub(super) fn http2(ends: StreamEnds, budget: Arc<H2Budget>) -> Self {
        let http2 = Http2 { ends, writer: None, ahead: Bytes::new(), has_ended: false, budget };
        Self(Inner::Http2(Box::new(http2)))
    }

    /// Answers the CONNECT with 200 and these fields.
    ///
    /// # Errors
    /// The client has gone.
    pub(crate) async fn establish(&mut self, fields: &HeaderMap) -> io::Result<()> {
        if let Inner::Http2(http2) = &mut self.0 {
            let mut response = Response::new(());
            *response.headers_mut() = fields.clone();
            let writer = http2.ends.respond.send_response(response, false);
            http2.writer = Some(writer.map_err(io::Error::other)?);
            return Ok(());
        }
        let mut head = ESTABLISHED.to_vec();
        for (name, value) in fields {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        head.extend_from_slice(b"\r\n");
        self.write_all(&head).await?;
        self.flush().await
    }

    /// Returns the socket below; `None` for a stream of an HTTP/2 connection.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        if let Inner::Http1 { wire, .. } = &self.0 { wire.tcp() } else { None }
    }

    /// Lets the client see that the tunnel was broken, not ended.
    pub(crate) fn reset(&mut self) {
        match &mut self.0 {
            Inner::Http1 { wire, .. } => wire.reset_on_drop(),
            Inner::Http2(http2) => match &mut http2.writer {
                // RFC 9113, 8.5: the connection to the host was reset, or abnormally closed.
                Some(writer) => writer.send_reset(Reason::CONNECT_ERROR),
                None => http2.ends.respond.send_reset(Reason::CONNECT_ERROR),
            },
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Http1 { ahead, .. } if !ahead.is_empty() => {
                take(ahead, into);
                if ahead.is_empty() {
                    *ahead = BytesMut::new();
                }
                Poll::Ready(Ok(()))
            }
            Inner::Http1 { wire, .. } => wire.poll_read_buf(cx, into),
            Inner::Http2(http2) => http2.poll_read(cx, into),
        }
    }
}

impl AsRawFd for ClientStream {
    /// Pingora identifies a connection by it; a stream has none.
    fn as_raw_fd(&self) -> RawFd {
        self.tcp().map_or(-1, AsRawFd::as_raw_fd)
    }
}

/// Moves bytes from `from` to `into`.
fn take(from: &mut impl Buf, into: &mut ReadBuf<'_>) -> usize {
    let length = from.remaining().min(into.remaining());
    into.put_slice(&from.chunk()[..length]);
    from.advance(length);
    length
}

impl Http2 {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.ahead.is_empty() && !self.has_ended {
            match ready!(self.ends.body.poll_data(cx)) {
                Some(Ok(data)) => self.ahead = data,
                Some(Err(error)) => return Poll::Ready(Err(reset(error))),
                None => self.has_ended = true,
            }
        }
        let length = take(&mut self.ahead, into);
        if length > 0 {
            self.budget.useful(length);
            // It fails when the client has reset the stream, which the next read tells.
            let _ = self.ends.body.flow_control().release_capacity(length);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        writer.reserve_capacity(bytes.len().min(WRITE));
        while writer.capacity() == 0 {
            match ready!(writer.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(reset(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let length = writer.capacity().min(bytes.len());
        writer.send_data(Bytes::copy_from_slice(&bytes[..length]), false).map_err(reset)?;
        self.budget.useful(length);
        Poll::Ready(Ok(length))
    }

    fn poll_shutdown(&mut self) -> Poll<io::Result<()>> {
        let Some(writer) = &mut self.writer else { return Poll::Ready(Ok(())) };
        Poll::Ready(writer.send_data(Bytes::new(), true).map_err(reset))
    }
}

/// Returns the error of a socket that is as this one of a stream.
fn reset(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::Http1 { wire, .. } => wire.poll_write(cx, bytes),
            Inner::Http2(http2) => http2.poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Http1 { wire, .. } => wire.poll_flush(cx),
            Inner::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Http1 { wire, .. } => wire.poll_shutdown(cx),
            Inner::Http2(http2) => http2.poll_shutdown(),
        }
    }
}
