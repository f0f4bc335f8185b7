//! The two ends of a tunnel: they count what passes, and the client's first bytes wait until the server that they ask for is
//! permitted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwap;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::downstream::{ClientStream, RequestHandle};
use super::runtime_settings::RuntimeSettings;
use crate::error::{ErrorKind, Refusal};
use crate::forward::server_name::{self, FirstBytes};
use crate::forward::{Host, OpenTunnel};
use crate::session::Session;
use crate::telemetry::metrics::TunnelBytes;

/// Why a tunnel broke.
const CLIENT: u8 = 1;
const HOST: u8 = 2;
const BLOCKED: u8 = 3;

/// Counts what passes through a tunnel, and knows which side has failed.
pub(super) struct Meter {
    handle: Arc<RequestHandle>,
    session: Arc<Session>,
    bytes: TunnelBytes,
    sent: AtomicU64,
    fault: AtomicU8,
}

impl Meter {
    pub(super) fn new(handle: Arc<RequestHandle>, session: Arc<Session>, bytes: TunnelBytes) -> Self {
        Self { handle, session, bytes, sent: AtomicU64::new(0), fault: AtomicU8::new(0) }
    }

    /// Returns how many bytes the client was sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    fn came(&self, bytes: usize) {
        self.handle.activity.record();
        self.handle.upload.add(bytes);
        self.session.add_bytes_in(bytes as u64);
        self.bytes.add_in(bytes);
    }

    fn went(&self, bytes: usize) {
        self.handle.activity.record();
        self.sent.fetch_add(bytes as u64, Relaxed);
        self.session.add_bytes_out(bytes as u64);
        self.bytes.add_out(bytes);
    }

    fn failed(&self, side: u8) {
        // The first one is the cause.
        let _ = self.fault.compare_exchange(0, side, Relaxed, Relaxed);
    }

    pub(super) fn client_failed(&self) {
        self.failed(CLIENT);
    }

    /// Returns why the tunnel broke.
    pub(super) fn fault(&self) -> Refusal {
        match self.fault.load(Relaxed) {
            BLOCKED => {
                let message =
                    "the server that the client asks for is not permitted (security.filtering.domains)";
                Refusal::new(ErrorKind::DomainBlocked, message)
            }
            HOST => Refusal::new(ErrorKind::BackendUnavailable, "the host broke the connection"),
            _ => Refusal::new(ErrorKind::ClientGone, "the client has gone"),
        }
    }

    fn noted<T>(&self, side: u8, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|_| self.failed(side))
    }
}

/// The client's first bytes, until it is decided whether they may pass.
struct NameCheck<'a> {
    /// The host of the CONNECT.
    host: Host,
    tunnel: &'a OpenTunnel,
    /// The rules may change while the tunnel is open.
    live: &'a ArcSwap<RuntimeSettings>,
}

impl NameCheck<'_> {
    /// Returns whether these first bytes may pass; `None` if more are needed.
    fn judge(&self, bytes: &[u8]) -> Option<bool> {
        match server_name::read(bytes) {
            FirstBytes::Unknown => None,
            FirstBytes::NotTls => Some(true),
            FirstBytes::Unreadable => Some(false),
            // An address is no server name (RFC 6066, 3).
            FirstBytes::Tls(None) => Some(matches!(self.host, Host::Address(_))),
            FirstBytes::Tls(Some(name)) if name == self.host => Some(true),
            FirstBytes::Tls(Some(name)) => {
                self.tunnel.asks_for(name.clone());
                Some(self.live.load().forward.permits(&name))
            }
        }
    }
}

/// What a [`FromClient`] checks: the host of the CONNECT, its entry among the tunnels, and the settings in force.
pub(super) type Check<'a> = (Host, &'a OpenTunnel, &'a ArcSwap<RuntimeSettings>);

/// The client's end.
pub(super) struct FromClient<'a> {
    inner: &'a mut ClientStream,
    meter: &'a Meter,
    check: Option<NameCheck<'a>>,
    /// The first bytes: undecided while there is a `check`, and then to be read before any other.
    first: BytesMut,
}

impl<'a> FromClient<'a> {
    pub(super) fn new(inner: &'a mut ClientStream, meter: &'a Meter, check: Option<Check<'a>>) -> Self {
        let check = check.map(|(host, tunnel, live)| NameCheck { host, tunnel, live });
        Self { inner, meter, check, first: BytesMut::new() }
    }

    /// Reads first bytes until they may pass.
    fn poll_first(&mut self, cx: &mut Context<'_>, check: &NameCheck<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut room = [0; 2048];
            let mut into = ReadBuf::new(&mut room);
            let read = ready!(Pin::new(&mut *self.inner).poll_read(cx, &mut into));
            self.meter.noted(CLIENT, read)?;
            let came = into.filled();
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.meter.came(came.len());
            self.first.extend_from_slice(came);
            match check.judge(&self.first) {
                None => {}
                Some(true) => return Poll::Ready(Ok(())),
                Some(false) => {
                    self.meter.failed(BLOCKED);
                    return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
                }
            }
        }
    }
}

impl AsyncRead for FromClient<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(check) = self.check.take() {
            let checked = self.poll_first(cx, &check);
            if checked.is_pending() {
                self.check = Some(check);
            }
            ready!(checked)?;
        }
        if !self.first.is_empty() {
            let length = self.first.len().min(into.remaining());
            into.put_slice(&self.first[..length]);
            self.first.advance(length);
            if self.first.is_empty() {
                self.first = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut *self.inner).poll_read(cx, into));
        self.meter.noted(CLIENT, read)?;
        let came = into.filled().len() - before;
        if came > 0 {
            self.meter.came(came);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FromClient<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.inner).poll_write(cx, bytes));
        let written = self.meter.noted(CLIENT, written)?;
        self.meter.went(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut *self.inner).poll_flush(cx));
        Poll::Ready(self.meter.noted(CLIENT, flushed))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(Pin::new(&mut *self.inner).poll_shutdown(cx));
        Poll::Ready(self.meter.noted(CLIENT, ended))
    }
}

/// The host's end.
pub(super) struct FromHost<'a> {
    inner: &'a mut TcpStream,
    meter: &'a Meter,
}

impl<'a> FromHost<'a> {
    pub(super) fn new(inner: &'a mut TcpStream, meter: &'a Meter) -> Self {
        Self { inner, meter }
    }
}

impl AsyncRead for FromHost<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut *self.inner).poll_read(cx, into));
        Poll::Ready(self.meter.noted(HOST, read))
    }
}

impl AsyncWrite for FromHost<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.inner).poll_write(cx, bytes));
        Poll::Ready(self.meter.noted(HOST, written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(Pin::new(&mut *self.inner).poll_shutdown(cx));
        Poll::Ready(self.meter.noted(HOST, ended))
    }
}
