//! A backend's address as Pingora wants it: timeouts, TLS and the pool's key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::ALPN;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use pingora_rustls::{CertificateDer, RootCertStore};
use rustls_pki_types::pem::PemObject;

use super::backend::Backend;
use super::settings::Settings;

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

/// The parsed `tls.ca_file` of a backend; `None` when it trusts the machine's authorities.
///
/// # Errors
/// A sentence that says why the text holds no usable certificate.
pub(super) fn custom_ca(settings: &Settings) -> Result<Option<CustomCa>, String> {
    let Some(pem) = settings.tls().and_then(|tls| tls.ca_pem.as_deref()) else {
        return Ok(None);
    };
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
    Ok(Some(certificates.into()))
}

/// The peer for one attempt at `backend`.
pub fn peer(backend: &Backend, address: SocketAddr, connect_limit: Duration) -> HttpPeer {
    let tls = backend.settings().tls();
    let name = tls.map(|tls| tls.server_name.clone()).unwrap_or_default();
    let verify = tls.is_none_or(|tls| tls.verify);
    // `address` is resolved already: with a name, Pingora would block the thread and panic on failure.
    let mut peer = HttpPeer::new(address, tls.is_some(), name);
    peer.group_key = backend.pool_key();
    let options = &mut peer.options;
    options.alpn = ALPN::H1;
    options.connection_timeout = Some(connect_limit);
    options.total_connection_timeout = Some(connect_limit);
    // Silence is measured at the door, where it can be told from a slow reader.
    options.read_timeout = None;
    options.write_timeout = None;
    options.idle_timeout = Some(POOL_IDLE);
    options.tcp_keepalive = Some(KEEPALIVE);
    options.verify_cert = verify;
    options.verify_hostname = verify;
    options.ca = backend.custom_ca().cloned();
    peer
}
