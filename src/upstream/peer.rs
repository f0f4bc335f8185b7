//! A backend's address as Pingora wants it: timeouts, TLS and the pool's key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{WrappedX509, parse_x509};

use super::backend::Backend;
use super::settings::Settings;

/// The certificates that are trusted instead of the machine's own.
pub(super) type CustomCa = Arc<CaType>;

/// How long an unused connection to a backend is kept.
const POOL_IDLE: Duration = Duration::from_secs(90);

/// The parsed `tls.ca_file` of a backend. The settings have checked that each certificate parses.
pub(super) fn custom_ca(settings: &Settings) -> Option<CustomCa> {
    let certificates: Vec<WrappedX509> =
        settings.ca_certificates().iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect();
    (!certificates.is_empty()).then(|| certificates.into())
}

/// The peer for one attempt at `backend`.
pub fn peer(backend: &Backend, address: SocketAddr, connect_limit: Duration) -> HttpPeer {
    let settings = backend.settings();
    // `address` is resolved already: with a name, Pingora would block the thread and panic on failure.
    let mut peer = HttpPeer::new(address, settings.is_https(), settings.server_name().to_owned());
    peer.group_key = backend.pool_key();
    let options = &mut peer.options;
    options.alpn = ALPN::H1;
    options.connection_timeout = Some(connect_limit);
    options.total_connection_timeout = Some(connect_limit);
    // Silence is measured at the door, where it can be told from a slow reader.
    options.read_timeout = None;
    options.write_timeout = None;
    options.idle_timeout = Some(POOL_IDLE);
    options.verify_cert = settings.verifies();
    options.verify_hostname = settings.verifies();
    options.ca = backend.custom_ca().cloned();
    peer
}
