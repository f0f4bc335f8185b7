//! Builds Pingora's peer for a backend: address, timeouts, TLS, protocol and pool key.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use h2::Reason;
use http::HeaderValue;
use http::header::PROXY_AUTHORIZATION;
use pingora_core::connectors::http::Connector;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::tls::{ALPN, CaType, CustomALPN};
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy, Scheme};
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use pingora_core::{Error, ErrorType, OrErr, Result, RetryType};
use pingora_http::RequestHeader;
use pingora_rustls::{CertificateDer, RootCertStore};
use rustls_pki_types::pem::PemObject;

use super::backend::Backend;
use super::egress::ProxyServer;
use super::pool::Http2;
use super::settings::Settings;
use super::tunnel::{self, ProxyFailure, Tunnel};

/// Certificate authorities that replace those of the system.
pub(super) type CustomCa = Arc<CaType>;

/// Keepalive probes that detect a backend that has vanished: the first after a minute without a byte, the connection is
/// closed a minute later. Unacknowledged bytes have no limit (0 is the kernel's default, about 15 minutes), because a
/// backend may be slow to read a large body; one that does not respond is caught by the read timeouts.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(15),
    count: 4,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::ZERO,
};

/// The same for HTTP/2, where all new requests would use a dead connection: unacknowledged bytes close it sooner. An HTTP/2
/// peer always reads its connection, so this does not hit a slow one.
const SHARED_KEEPALIVE: TcpKeepalive = TcpKeepalive {
    #[cfg(target_os = "linux")]
    user_timeout: Duration::from_secs(120),
    ..KEEPALIVE
};

/// Maximum concurrent requests on one HTTP/2 connection, if the backend allows as many.
const STREAMS: usize = 100;

/// HTTP/2 flow-control windows in bytes, of a stream and of a connection. The connection has room for all streams, so that
/// one slow client does not block the others.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = STREAMS as u32 * STREAM_WINDOW;

/// Parses `tls.ca_file` of a backend. Returns `None` if it uses the authorities of the system.
///
/// # Errors
/// A sentence on why the text contains no usable certificate.
pub(super) fn custom_ca(settings: &Settings) -> std::result::Result<Option<CustomCa>, String> {
    settings.tls().and_then(|tls| tls.ca_pem.as_deref()).map(authorities).transpose()
}

/// Parses the certificates of a PEM text.
///
/// # Errors
/// A sentence on why the text contains no usable certificate.
pub(super) fn authorities(pem: &[u8]) -> std::result::Result<CustomCa, String> {
    let mut store = RootCertStore::empty();
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let der = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        // Pingora's parser panics on an invalid certificate, so check it first.
        store.add(der.clone()).map_err(|error| format!("it holds no usable certificate: {error}"))?;
        certificates.push(WrappedX509::new(der.to_vec(), parse_x509));
    }
    if certificates.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok(certificates.into())
}

/// Returns the peer for one attempt at `backend`.
pub fn peer(backend: &Backend, address: SocketAddr, connect_limit: Duration) -> HttpPeer {
    let tls = backend.settings().tls();
    let name = tls.map(|tls| tls.server_name.clone()).unwrap_or_default();
    let verify = tls.is_none_or(|tls| tls.verify);
    // `address` is resolved: with a name, Pingora would block the thread, and panic on failure.
    let mut peer = HttpPeer::new(address, tls.is_some(), name);
    peer.group_key = backend.pool_key();
    let shared = may_be_shared(backend.settings());
    let options = &mut peer.options;
    match backend.settings().http2() {
        Http2::Always => options.set_http_version(2, 2),
        Http2::Auto if shared => options.set_http_version(2, 1),
        Http2::Auto | Http2::Never => options.set_http_version(1, 1),
    }
    // `proxy/upstream_fields` removes the fields of the client's connection.
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    options.max_h2_streams = STREAMS;
    options.h2_stream_window_size = Some(STREAM_WINDOW);
    options.h2_connection_window_size = Some(CONNECTION_WINDOW);
    options.connection_timeout = Some(connect_limit);
    options.total_connection_timeout = Some(connect_limit);
    // `proxy/downstream` measures the idle time, because it can distinguish a silent backend from a slow client.
    options.read_timeout = None;
    options.write_timeout = None;
    options.idle_timeout = Some(backend.settings().pool_idle());
    options.tcp_keepalive = Some(if shared { SHARED_KEEPALIVE } else { KEEPALIVE });
    options.verify_cert = verify;
    options.verify_hostname = verify;
    options.ca = backend.custom_ca().cloned();
    connect_through_proxy(&mut peer, backend, false);
    peer
}

/// Makes the peer connect through the backend's proxy, if there is one. `address` of the peer is the proxy's.
fn connect_through_proxy(peer: &mut HttpPeer, backend: &Backend, is_upgrade: bool) {
    let settings = backend.settings();
    let Some(proxy) = &settings.egress().proxy else { return };
    let is_tunnel = settings.forward_proxy(is_upgrade).is_none();
    // A tunnel to a backend without TLS must not get requests for the proxy itself, and the other way round.
    peer.group_key = backend.pool_key() ^ u64::from(is_tunnel);
    let tunnel_to = is_tunnel.then(|| settings.target());
    peer.options.custom_l4 = Some(Arc::new(ThroughProxy { proxy: proxy.clone(), tunnel_to }));
}

/// Connects to a proxy and, unless the proxy is sent whole URLs, through it to a backend.
#[derive(Debug)]
struct ThroughProxy {
    proxy: ProxyServer,
    tunnel_to: Option<String>,
}

#[async_trait]
impl Connect for ThroughProxy {
    async fn connect(&self, address: &PeerAddress) -> Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "the address of a proxy is no socket address");
        };
        let tunnel = match &self.tunnel_to {
            Some(target) => tunnel::open(&self.proxy, *address, target).await,
            None => {
                let stream = tunnel::dial(&self.proxy, *address).await;
                stream.map(|stream| Tunnel { stream, early: Vec::new() })
            }
        };
        let failed = |failure: ProxyFailure| {
            Error::because(ErrorType::ConnectProxyFailure, failure.to_string(), failure).into_up()
        };
        let Tunnel { stream, early } = tunnel.map_err(failed)?;
        let mut stream = Stream::from(stream);
        stream.rewind(&early);
        Ok(stream)
    }
}

/// Returns what the proxy of a backend did, if that is why the connection failed.
pub fn proxy_failure(error: &Error) -> Option<&ProxyFailure> {
    error.root_cause().downcast_ref()
}

/// Addresses a request to the backend's proxy, if that is sent whole URLs: call it when the head is complete.
///
/// # Errors
/// The target cannot be written, which would be a bug.
pub fn address_to_proxy(head: &mut RequestHeader, settings: &Settings, is_upgrade: bool) -> Result<()> {
    let Some(proxy) = settings.forward_proxy(is_upgrade) else { return Ok(()) };
    let mut target = format!("http://{}", settings.authority()).into_bytes();
    target.extend_from_slice(head.raw_path());
    head.set_raw_path(&target).or_err(ErrorType::InternalError, "writing the URL for the proxy")?;
    // The client's own is not forwarded.
    if let Some(value) = proxy.authorization() {
        head.insert_header(PROXY_AUTHORIZATION, HeaderValue::clone(value))?;
    }
    Ok(())
}

/// Opens a session with `backend` on a new connection for a request of the gateway itself, at the first address that accepts
/// one; each has an equal part of `limit`.
///
/// # Errors
/// A sentence on why there is no connection.
pub async fn connect(
    connector: &Connector,
    backend: &Backend,
    limit: Duration,
) -> std::result::Result<HttpSession, String> {
    let mut addresses = backend.addresses().await.map_err(unresolved)?;
    let limit = limit / addresses.left() as u32;
    let mut failed = "its name has no address".to_owned();
    while let Some(address) = addresses.current() {
        let mut peer = peer(backend, address, limit);
        use_new_connection(&mut peer);
        match connector.get_http_session(&peer).await {
            Ok((session, _)) => return Ok(session),
            Err(error) => failed = why_not(address, &error),
        }
        addresses.try_next();
    }
    Err(failed)
}

/// Says why there is no connection to this address; what a proxy did is said in full.
pub fn why_not(address: SocketAddr, error: &Error) -> String {
    match proxy_failure(error) {
        Some(failure) => failure.to_string(),
        None => format!("{address}: {}", error.etype().as_str()),
    }
}

/// Says that the name of a backend has no address.
pub fn unresolved(error: io::Error) -> String {
    format!("its name cannot be resolved: {error}")
}

/// Returns whether a connection to this backend may use HTTP/2.
fn may_be_shared(settings: &Settings) -> bool {
    match settings.http2() {
        Http2::Always => true,
        Http2::Auto => settings.tls().is_some(),
        Http2::Never => false,
    }
}

/// Lets the gateway's own client (`http1`) send the request, if it can: HTTP/1.1 without TLS and without a proxy. Only for
/// requests that Pingora's proxy sends, since others have no such connector.
pub fn use_own_client(peer: &mut HttpPeer) {
    static OWN_CLIENT: LazyLock<CustomALPN> = LazyLock::new(|| CustomALPN::new(b"elida-http/1.1".to_vec()));
    if peer.scheme == Scheme::HTTP && peer.options.alpn == ALPN::H1 && peer.options.custom_l4.is_none() {
        peer.options.alpn = ALPN::Custom(OWN_CLIENT.clone());
    }
}

/// Restricts `peer` to HTTP/1.1 for an upgrade. Pingora pools its connections apart from those of HTTP/2. A proxy is
/// asked for a tunnel, since one that is sent whole URLs does not forward upgrades.
pub fn for_upgrade(peer: &mut HttpPeer, backend: &Backend) {
    peer.options.set_http_version(1, 1);
    connect_through_proxy(peer, backend, true);
}

/// Gives `peer` a connection of its own, which is not kept afterwards.
pub fn use_new_connection(peer: &mut HttpPeer) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Pingora looks for kept connections by this key.
    let number = NEXT.fetch_add(1, Relaxed);
    // Far from the other keys of the backend.
    peer.group_key = peer.group_key.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    peer.options.idle_timeout = Some(Duration::ZERO);
}

/// Says in `error` what has happened when the backend closed the connection before Pingora could pass on the request's body,
/// even an empty one: Pingora then reports an error of its own.
pub fn name_early_end(error: &mut Error) {
    let is_early = *error.etype() == ErrorType::InternalError
        && error.context.as_ref().is_some_and(|context| context.as_str() == "reserving body pipe");
    if is_early {
        error.etype = ErrorType::ConnectionClosed;
        error.retry = RetryType::ReusedOnly;
        error.as_up();
    }
}

/// Returns whether the connection ended before the first byte of the response. A kept one was most often closed by the
/// backend while it was idle.
pub fn ended_unanswered(error: &Error) -> bool {
    // Pingora's marks include a head of which a part was read.
    let has_begun = error.context.as_ref().is_some_and(|context| {
        context.as_str().split_once("bytes already read: ").is_some_and(|(_, read)| read != "0")
    });
    // rustls reports so that the backend closed the connection without a close_notify.
    let is_cut = || {
        let cause = error.root_cause().downcast_ref::<io::Error>();
        cause.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
    };
    !has_begun
        && (matches!(error.retry, RetryType::ReusedOnly)
            || *error.etype() == ErrorType::ReadError && is_cut())
}

/// Returns whether an HTTP/1.1 request could not be written completely.
pub fn is_half_written(error: &Error) -> bool {
    // Over HTTP/2 the backend may have reset the stream after it had processed the request.
    *error.etype() == ErrorType::WriteError && error.root_cause().downcast_ref::<h2::Error>().is_none()
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
