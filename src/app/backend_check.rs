//! Checks that backends are reachable, as the proxy would connect to them: name, connection, TLS handshake.
//! The only request it sends is the probe of a `health.path`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::ALPN;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::health_checks::probe;
use crate::config::Config;
use crate::redis::{self, ProbeResult};
use crate::telemetry::metrics::Metrics;
use crate::upstream::backend::Backend;
use crate::upstream::peer::{peer, proxy_failure};
use crate::upstream::settings::Settings;

/// Result of checking one backend.
#[derive(Debug)]
pub struct BackendCheck {
    /// Name of the backend.
    pub backend: String,
    /// A sentence that says where and how it answered, or why it did not.
    pub outcome: Result<String, Unreachable>,
}

/// Why a backend cannot be reached.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Checks the Redis of `session.store: redis`; `None` without one.
pub fn check_redis(config: &Config) -> Option<Result<ProbeResult, Unreachable>> {
    let settings = config.session.redis()?;
    let failed = |message: String| Unreachable {
        message: format!("{}: {message}", settings.shown()),
        remedy: "start Redis, or correct session.redis".to_owned(),
    };
    let probe = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        runtime.block_on(redis::probe(settings)).map_err(|error| failed(error.to_string()))
    };
    Some(probe())
}

/// Checks all backends concurrently; each step may take `server.timeouts.upstream_connect`.
///
/// # Errors
/// The runtime or the metrics cannot be created.
pub fn check_backends(config: &Config) -> anyhow::Result<Vec<BackendCheck>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let metrics = Metrics::new().context("cannot register the metrics")?;
    let connector = Arc::new(TransportConnector::new(None));
    let limit = config.server.timeouts().upstream_connect;
    let checks: Vec<_> = config
        .backends
        .iter()
        .map(|settings| {
            let (settings, connector) = (settings.clone(), Arc::clone(&connector));
            let backend = Backend::new(settings.clone(), metrics.backend(settings.name().as_str()));
            let name = settings.name().to_string();
            (name, runtime.spawn(async move { check_backend(&settings, backend, &connector, limit).await }))
        })
        .collect();
    checks
        .into_iter()
        .map(|(backend, task)| Ok(BackendCheck { backend, outcome: runtime.block_on(task)? }))
        .collect()
}

async fn check_backend(
    settings: &Settings,
    backend: Result<Arc<Backend>, String>,
    connector: &TransportConnector,
    limit: Duration,
) -> Result<String, Unreachable> {
    let name = settings.name();
    let backend = backend.map_err(|why| {
        let remedy = format!("give a PEM file with the authorities to trust in backends.{name}.tls.ca_file");
        Unreachable { message: why, remedy }
    })?;
    let begun = Instant::now();
    let address = connect(settings, limit).await?;
    check_health(&backend, limit).await?;
    let (url, way, took) = (settings.url(), settings.egress().described(), || begun.elapsed().as_millis());
    let checked = match (settings.tls(), &settings.egress().proxy) {
        (None, None) => return Ok(format!("{url} answers at {address} in {} ms, {way}", took())),
        (None, Some(proxy)) if settings.forward_proxy(false).is_some() => {
            let unknown = "whether the backend answers behind it only a request shows (health.path)";
            let took = took();
            return Ok(format!(
                "{url}: the proxy {proxy} answers at {address} in {took} ms; {unknown}; {way}"
            ));
        }
        (None, Some(_)) => "no TLS",
        (Some(tls), _) if tls.verify => "certificate checked",
        (Some(_), _) => "certificate not checked",
    };
    let peer = peer(&backend, address, limit);
    match timeout(limit, connector.new_stream(&peer)).await {
        Ok(Ok(stream)) => {
            let http = if stream.selected_alpn_proto() == Some(ALPN::H2) { "HTTP/2" } else { "HTTP/1.1" };
            Ok(format!("{url} answers at {address} in {} ms, {checked}, {http}, {way}", took()))
        }
        Ok(Err(error)) => Err(match proxy_failure(&error) {
            Some(failure) => behind_proxy(settings, failure.to_string()),
            None => handshake(settings, &error.to_string()),
        }),
        Err(_) => Err(handshake(settings, &format!("no answer in {limit:?}"))),
    }
}

/// The proxy in front of the backend does not lead to it.
fn behind_proxy(settings: &Settings, message: String) -> Unreachable {
    let (name, because) = (settings.name(), &settings.egress().because);
    let remedy = format!(
        "correct the proxy in {because}, let it through to {}, or set backends.{name}.proxy to none",
        settings.target()
    );
    Unreachable { message, remedy }
}

/// HealthChecks `health.path` as the health checks do; does nothing when none is configured.
async fn check_health(backend: &Backend, limit: Duration) -> Result<(), Unreachable> {
    let settings = backend.settings();
    if settings.health().path.is_none() {
        return Ok(());
    }
    let probed = timeout(limit, probe(backend, &Connector::new(None), limit)).await;
    probed.unwrap_or_else(|_| Err(format!("no answer in {limit:?}"))).map_err(|message| Unreachable {
        message: format!("a probe fails: {message}"),
        remedy: format!("start the backend, or correct backends.{}.health.path", settings.name()),
    })
}

/// Resolves the host and connects to the first address that accepts.
async fn connect(settings: &Settings, limit: Duration) -> Result<SocketAddr, Unreachable> {
    let ((host, port), name) = (settings.dial(), settings.name());
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {limit:?}"));
    let found = timeout(limit, lookup_host((host, port))).await.map_err(late).and_then(|found| found);
    let found = found.map_err(|error| {
        let message = format!("the name {host} cannot be resolved: {error}");
        if let Some(proxy) = &settings.egress().proxy {
            return behind_proxy(settings, format!("the proxy {proxy} cannot be reached: {message}"));
        }
        let remedy = format!("correct backends.{name}.url, or the name server of this machine");
        Unreachable { message, remedy }
    })?;
    let mut faults = Vec::new();
    for address in found {
        match timeout(limit, TcpStream::connect(address)).await.map_err(late).and_then(|stream| stream) {
            Ok(_) => return Ok(address),
            Err(error) => faults.push(format!("{address}: {error}")),
        }
    }
    let message = format!("no connection to {host} ({})", faults.join("; "));
    if let Some(proxy) = &settings.egress().proxy {
        return Err(behind_proxy(settings, format!("the proxy {proxy} cannot be reached: {message}")));
    }
    Err(Unreachable {
        message,
        remedy: format!("start the backend, correct backends.{name}.url, or let this machine through to it"),
    })
}

fn handshake(settings: &Settings, why: &str) -> Unreachable {
    let name = settings.name();
    Unreachable {
        message: format!("no TLS with {}: {why}", settings.url()),
        remedy: format!(
            "name the certificate's authority in backends.{name}.tls.ca_file, or the name it holds in \
             tls.server_name"
        ),
    }
}
