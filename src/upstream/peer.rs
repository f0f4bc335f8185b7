//! A backend's address as Pingora wants it: timeouts, TLS, protocol and the pool's key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use pingora_core::Error;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use pingora_rustls::{CertificateDer, RootCertStore};
use rustls_pki_types::pem::PemObject;

use super::backend::Backend;
use super::settings::{Http2, Settings};

/// The certificates that are trusted instead of the machine's own.
pub(super) type CustomCa = Arc<CaType>;

/// How long an unused connection to a backend is kept.
const POOL_IDLE: Duration = Duration::from_secs(90);

/// How a backend that vanished without a word is noticed: asked after a minute without a byte, given up a
/// minute later. Unacknowledged bytes have no limit of their own (0 is the kernel's, about 15 minutes): a
/// backend that is slow to read a large body is not dead, and one that answers nothing is silent.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(15),
    count: 4,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::ZERO,
};

/// The same for a connection that may carry many requests. All new ones would go to a dead one, too, so bytes that
/// are not acknowledged end it; and an HTTP/2 peer always reads its connection.
const SHARED_KEEPALIVE: TcpKeepalive = TcpKeepalive {
    #[cfg(target_os = "linux")]
    user_timeout: Duration::from_secs(120),
    ..KEEPALIVE
};

/// Requests at a time on one connection, if the backend allows as many.
const STREAMS: usize = 100;

/// Bytes of an answer that wait here while its client does not read, and room for as many on all streams: else one
/// slow reader would hold up the others of its connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = STREAMS as u32 * STREAM_WINDOW;

/// The parsed `tls.ca_file` of a backend; `None` when it trusts the machine's authorities.
///
/// # Errors
/// A sentence that says why the text holds no usable certificate.
pub(super) fn custom_ca(settings: &Settings) -> Result<Option<CustomCa>, String> {
    settings.tls().and_then(|tls| tls.ca_pem.as_deref()).map(authorities).transpose()
}

/// The certificates of a PEM text.
///
/// # Errors
/// A sentence that says why the text holds no usable certificate.
pub(super) fn authorities(pem: &[u8]) -> Result<CustomCa, String> {
    let mut store = RootCertStore::empty();
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let der = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        // Pingora's own parser panics on what is not a certificate, so it is checked here first.
        store.add(der.clone()).map_err(|error| format!("it holds no usable certificate: {error}"))?;
        certificates.push(WrappedX509::new(der.to_vec(), parse_x509));
    }
    if certificates.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok(certificates.into())
}

/// The peer for one attempt at `backend`.
pub fn peer(backend: &Backend, address: SocketAddr, connect_limit: Duration) -> HttpPeer {
    let tls = backend.settings().tls();
    let name = tls.map(|tls| tls.server_name.clone()).unwrap_or_default();
    let verify = tls.is_none_or(|tls| tls.verify);
    // `address` is resolved already: with a name, Pingora would block the thread and panic on failure.
    let mut peer = HttpPeer::new(address, tls.is_some(), name);
    peer.group_key = backend.pool_key();
    let shared = may_be_shared(backend.settings());
    let options = &mut peer.options;
    match backend.settings().http2() {
        Http2::Always => options.set_http_version(2, 2),
        Http2::Auto if shared => options.set_http_version(2, 1),
        Http2::Auto | Http2::Never => options.set_http_version(1, 1),
    }
    options.max_h2_streams = STREAMS;
    options.h2_stream_window_size = Some(STREAM_WINDOW);
    options.h2_connection_window_size = Some(CONNECTION_WINDOW);
    options.connection_timeout = Some(connect_limit);
    options.total_connection_timeout = Some(connect_limit);
    // `proxy/downstream` measures the idle time, because it can distinguish a silent backend from a slow client.
    options.read_timeout = None;
    options.write_timeout = None;
    options.idle_timeout = Some(POOL_IDLE);
    options.tcp_keepalive = Some(if shared { SHARED_KEEPALIVE } else { KEEPALIVE });
    options.verify_cert = verify;
    options.verify_hostname = verify;
    options.ca = backend.custom_ca().cloned();
    peer
}

/// Whether a connection to this backend may speak HTTP/2.
fn may_be_shared(settings: &Settings) -> bool {
    match settings.http2() {
        Http2::Always => true,
        Http2::Auto => settings.tls().is_some(),
        Http2::Never => false,
    }
}

/// Makes `peer` one for an upgrade, which HTTP/2 has not: Pingora keeps its connections apart from those of HTTP/2.
pub fn for_upgrade(peer: &mut HttpPeer) {
    peer.options.set_http_version(1, 1);
}

/// Returns whether the backend has said that it did not process this request: any method may be sent again
/// (RFC 9113, 6.8 and 8.7).
pub fn is_unprocessed(error: &Error) -> bool {
    error.root_cause().downcast_ref::<h2::Error>().is_some_and(|error| {
        error.is_remote()
            && (error.is_go_away()
                || matches!(error.reason(), Some(Reason::REFUSED_STREAM | Reason::HTTP_1_1_REQUIRED)))
    })
}
