//! Determines what a new connection uses: TLS or not, HTTP/1.1 or HTTP/2.
//!
//! Over TLS the client chooses by ALPN (RFC 9113, 3.2). On a plain listener it may start with HTTP/2 at once (3.3), and
//! then its first bytes are the connection preface. They are peeked at without reading, so a connection with HTTP/1.1
//! costs one more system call.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::BytesMut;
use pingora_core::protocols::Stream;
use pingora_rustls::{ServerTlsStream, TlsAcceptor};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::buffered::{Buffered, Inner};
use crate::proxy::downstream::h2_budget::H2Budget;
use crate::proxy::downstream::http1::Wire;
use crate::proxy::runtime_settings::RuntimeSettings;
use crate::proxy::tls::subject_names;

/// The connection preface of HTTP/2 clients (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many bytes of the preface suffice: `PRI` is reserved, so no HTTP/1.1 request starts with it (RFC 9113, 11.6).
const DETECT_LEN: usize = 4;

/// A connection that is ready for HTTP.
pub(super) struct Negotiated {
    pub(super) protocol: Protocol,
    /// The connection uses TLS.
    pub(super) is_secure: bool,
    /// The names of the client's certificate, which was verified; empty without one.
    pub(super) names: Arc<[Box<str>]>,
}

/// The version of HTTP that a connection uses.
pub(super) enum Protocol {
    /// HTTP/1.1, with the bytes that were read.
    Http1(Wire, BytesMut),
    /// HTTP/2, with the budget that counts what the client sends.
    Http2(Stream, Arc<H2Budget>),
}

impl Protocol {
    fn http2<S: Inner>(inner: S, ahead: BytesMut, budget: Arc<H2Budget>) -> Self {
        Self::Http2(Box::new(Buffered::new(inner, ahead, Arc::clone(&budget))), budget)
    }
}

/// Makes the TLS handshake, if configured, and detects the HTTP version.
///
/// # Errors
/// The TLS handshake failed, or the client disconnected.
pub(super) async fn negotiate(
    mut tcp: TcpStream,
    client: IpAddr,
    settings: &RuntimeSettings,
) -> io::Result<Negotiated> {
    let is_trusted = settings.forwarding.trusts(client.to_canonical());
    let budget = || Arc::new(H2Budget::new(settings.limits.max_cancelled_streams, is_trusted));
    if let Some(tls) = &settings.tls {
        let accepted = Box::pin(TlsAcceptor::from(tls.config()).accept(tcp)).await?;
        let certificate = accepted.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let names = certificate.map(subject_names).unwrap_or_default();
        let protocol = match is_http2(&accepted) {
            true => Protocol::http2(accepted, BytesMut::new(), budget()),
            false => Protocol::Http1(Wire::Tls(Box::new(accepted)), BytesMut::new()),
        };
        return Ok(Negotiated { protocol, is_secure: true, names });
    }
    let mut ahead = BytesMut::new();
    let protocol = match settings.h2c && begins_http2(&mut tcp, &mut ahead).await? {
        true => Protocol::http2(tcp, ahead, budget()),
        false => Protocol::Http1(Wire::Plain(tcp), ahead),
    };
    Ok(Negotiated { protocol, is_secure: false, names: Arc::default() })
}

/// Returns whether the client has chosen HTTP/2.
pub(super) fn is_http2<S>(accepted: &ServerTlsStream<S>) -> bool {
    accepted.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// Whether the connection starts with the preface. Bytes that had to be read are appended to `ahead`.
async fn begins_http2(tcp: &mut TcpStream, ahead: &mut BytesMut) -> io::Result<bool> {
    let mut first = [0; DETECT_LEN];
    let length = tcp.peek(&mut first).await?;
    if let Some(known) = starts_preface(&first[..length]) {
        return Ok(known);
    }
    // The client sends its first bytes one by one; to wait for more, they must be read.
    loop {
        if tcp.read_buf(ahead).await? == 0 {
            return Ok(false);
        }
        if let Some(known) = starts_preface(ahead) {
            return Ok(known);
        }
    }
}

/// Whether these first bytes start the preface; `None` when more are needed to decide. An empty slice means that the
/// client closed the connection.
fn starts_preface(first: &[u8]) -> Option<bool> {
    match PREFACE.starts_with(&first[..first.len().min(DETECT_LEN)]) {
        true if (1..DETECT_LEN).contains(&first.len()) => None,
        told => Some(told && !first.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_letters_tell_http2_from_any_request() {
        for (first, told) in [
            ("", Some(false)),
            ("P", None),
            ("PR", None),
            ("PRI", None),
            ("PRI ", Some(true)),
            ("PRI * HTTP/2.0", Some(true)),
            ("G", Some(false)),
            ("PO", Some(false)),
            ("PROPFIND /", Some(false)),
            ("PRIX", Some(false)),
            ("\r\n", Some(false)),
        ] {
            assert_eq!(starts_preface(first.as_bytes()), told, "{first:?}");
        }
    }
}
