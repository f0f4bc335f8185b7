//! Active health checks: probes each backend that has a `health.interval`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use pingora_core::connectors::http::Connector;
use pingora_http::RequestHeader;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::proxy::runtime_settings::SharedSettings;
use crate::routing::forwarded;
use crate::upstream::backend::Backend;
use crate::upstream::credentials::Auth;
use crate::upstream::peer::{self, address_to_proxy, unresolved};

/// How often the running probes are compared with the settings in force.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Probes the backends of the settings in force.
pub(super) struct HealthChecks {
    pub(super) live: SharedSettings,
    /// Made at the start, because Pingora reads the system's authorities for it and panics without a free descriptor.
    pub(super) connector: Arc<Connector>,
}

#[async_trait]
impl BackgroundService for HealthChecks {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let mut running: Vec<(Arc<Backend>, JoinHandle<()>)> = Vec::new();
        loop {
            let wanted: Vec<Arc<Backend>> = self.live.load().backends.clone();
            running.retain(|(backend, task)| {
                let stays = !task.is_finished() && wanted.iter().any(|one| Arc::ptr_eq(one, backend));
                if !stays {
                    task.abort();
                }
                stays
            });
            for backend in wanted {
                let Some(pause) = backend.settings().health().interval else { continue };
                if !running.iter().any(|(known, _)| Arc::ptr_eq(known, &backend)) {
                    let probing = probe_repeatedly(Arc::clone(&backend), Arc::clone(&self.connector), pause);
                    running.push((backend, tokio::spawn(probing)));
                }
            }
            sleep(SYNC_INTERVAL).await;
        }
    }
}

async fn probe_repeatedly(backend: Arc<Backend>, connector: Arc<Connector>, pause: Duration) {
    let mut tick = interval(pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let limit = backend.settings().health().timeout;
        let outcome = match timeout(limit, probe(&backend, &connector, limit)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer in {limit:?}")),
        };
        backend.probed(outcome);
    }
}

/// HealthChecks a backend once: by connecting, or with a GET of `health.path`, which any status below 500 passes.
///
/// # Errors
/// A sentence that says what failed.
pub(super) async fn probe(backend: &Backend, connector: &Connector, limit: Duration) -> Result<(), String> {
    let settings = backend.settings();
    let Some(path) = &settings.health().path else {
        return match settings.egress().proxy {
            // A connection to the proxy says nothing about the backend.
            Some(_) => peer::connect(connector, backend, limit).await.map(drop),
            None => connect(backend, limit).await,
        };
    };
    let target = forwarded(settings.base_path(), path.as_bytes(), 0..0);
    let mut session = peer::connect(connector, backend, limit).await?;
    let status: pingora_core::Result<Option<u16>> = async {
        let mut head = RequestHeader::build("GET", &target, Some(3))?;
        head.insert_header("host", settings.authority())?;
        head.insert_header("user-agent", concat!("elida/", env!("CARGO_PKG_VERSION")))?;
        if let Auth::Inject { header, value } = settings.auth() {
            head.insert_header(header.clone(), value.clone())?;
        }
        address_to_proxy(&mut head, settings, false)?;
        session.write_request_header(Box::new(head)).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let status = session.response_header().map(|head| head.status.as_u16());
        session.shutdown().await;
        Ok(status)
    }
    .await;
    match status {
        Ok(Some(407)) if settings.forward_proxy(false).is_some() => Err("its proxy answers 407".to_owned()),
        Ok(Some(..500)) => Ok(()),
        Ok(Some(status)) => Err(format!("it answers {status} to {path}")),
        Ok(None) => Err(format!("no answer to {path}")),
        Err(error) => Err(format!("no answer to {path}: {}", error.etype().as_str())),
    }
}

/// Connects to the first address that accepts; each has an equal part of `limit`.
async fn connect(backend: &Backend, limit: Duration) -> Result<(), String> {
    let mut addresses = backend.addresses().await.map_err(unresolved)?;
    let limit = limit / addresses.left() as u32;
    let mut failed = "its name has no address".to_owned();
    while let Some(address) = addresses.current() {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => failed = format!("{address}: {error}"),
            Err(_) => failed = format!("{address}: no answer in {limit:?}"),
        }
        addresses.try_next();
    }
    Err(failed)
}
