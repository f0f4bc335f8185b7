//! The HTTP client for webhooks and services: it follows no redirects, which could lead to a private address, and uses no proxy.

use std::sync::Arc;
use std::time::Duration;

use rustls_native_certs::load_native_certs;
use ureq::Agent;
use ureq::config::Config;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Idle connections that a client keeps.
pub(super) const IDLE: usize = 3;

/// Returns the settings of a client for this URL. Each attempt may take this long.
pub(super) fn config(url: &str, timeout: Duration) -> Config {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .max_idle_connections(IDLE)
        .max_idle_connections_per_host(IDLE)
        .timeout_global(Some(timeout))
        .user_agent(concat!("elida/", env!("CARGO_PKG_VERSION")));
    match url.starts_with("https:") {
        true => config.tls_config(tls()).build(),
        false => config.build(),
    }
}

fn tls() -> TlsConfig {
    let found = load_native_certs().certs;
    let roots: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}
