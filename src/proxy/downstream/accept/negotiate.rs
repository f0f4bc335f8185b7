//! What a new connection speaks: TLS or not, HTTP/1.1 or HTTP/2.
//!
//! Behind TLS the client chooses by ALPN (RFC 9113, 3.2). On a plain listener it may begin with HTTP/2 at once (3.3):
//! then its first bytes are the preface. They are looked at without being taken from the socket, so HTTP/1.1 costs one
//! system call more for a connection.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use pingora_core::protocols::Stream;
use pingora_rustls::{ServerTlsStream, TlsAcceptor};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::buffered::Buffered;
use crate::proxy::downstream::h2_budget::H2Budget;
use crate::proxy::runtime_settings::RuntimeSettings;

/// What every HTTP/2 connection of a client begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// So many bytes of it tell: no method of HTTP/1.1 is called `PRI` (RFC 9113, 11.6).
const TELLING: usize = 4;

/// A connection that is ready for HTTP.
pub(super) struct Negotiated {
    pub(super) stream: Stream,
    /// It came over TLS.
    pub(super) is_secure: bool,
    /// Present when the connection uses HTTP/2.
    pub(super) h2_budget: Option<Arc<H2Budget>>,
}

/// Finds out what a connection speaks.
///
/// # Errors
/// The TLS handshake failed, or the client is gone.
pub(super) async fn negotiate(
    mut tcp: TcpStream,
    client: IpAddr,
    settings: &RuntimeSettings,
) -> io::Result<Negotiated> {
    let budget = || {
        let is_trusted = settings.forwarding.trusts(client.to_canonical());
        Arc::new(H2Budget::new(settings.limits.max_cancelled_streams, is_trusted))
    };
    if let Some(tls) = &settings.tls {
        let accepted = Box::pin(TlsAcceptor::from(tls.config()).accept(tcp)).await?;
        let h2_budget = is_http2(&accepted).then(budget);
        let stream = Box::new(Buffered::new(accepted, Vec::new(), h2_budget.clone()));
        return Ok(Negotiated { stream, is_secure: true, h2_budget });
    }
    let mut ahead = Vec::new();
    let h2_budget = match settings.h2c {
        true => begins_http2(&mut tcp, &mut ahead).await?.then(budget),
        false => None,
    };
    let stream = Box::new(Buffered::new(tcp, ahead, h2_budget.clone()));
    Ok(Negotiated { stream, is_secure: false, h2_budget })
}

fn is_http2(accepted: &ServerTlsStream<TcpStream>) -> bool {
    accepted.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// Whether the first bytes are the preface; what has to be read for that goes into `ahead`.
async fn begins_http2(tcp: &mut TcpStream, ahead: &mut Vec<u8>) -> io::Result<bool> {
    let mut first = [0; TELLING];
    let length = tcp.peek(&mut first).await?;
    if let Some(told) = judge(&first[..length]) {
        return Ok(told);
    }
    // A client that sends its first letters one by one: they must be taken to wait for more.
    loop {
        if tcp.read_buf(ahead).await? == 0 {
            return Ok(false);
        }
        if let Some(told) = judge(ahead) {
            return Ok(told);
        }
    }
}

/// Whether these first bytes begin the preface; `None` when they may still do. The end of the client is no preface.
fn judge(first: &[u8]) -> Option<bool> {
    match PREFACE.starts_with(&first[..first.len().min(TELLING)]) {
        true if (1..TELLING).contains(&first.len()) => None,
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
            assert_eq!(judge(first.as_bytes()), told, "{first:?}");
        }
    }
}
