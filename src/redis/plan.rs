//! Creates connections, and collects what they report.

use std::sync::Arc;

use fred::clients::SubscriberClient;
use fred::prelude::*;
use fred::rustls::crypto::ring as provider;
use fred::rustls::pki_types::CertificateDer;
use fred::rustls::{ClientConfig, RootCertStore};
use fred::types::config::{ReconnectError, Server, ServerConfig, TlsConnector};
use parking_lot::Mutex;
use rustls_pki_types::pem::PemObject;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;

use super::connect::{ANSWER, LinkError, UNRESPONSIVE, explained};
use super::settings::Settings;

/// Delay between attempts to connect, in milliseconds.
const RETRY: (u32, u32) = (50, 1000);
/// Messages that wait for their reader; when there are more, the reader learns that some are lost.
const MESSAGES: usize = 1024;

/// Creates connections according to the settings.
#[derive(Clone)]
pub(super) struct Plan {
    config: Config,
    /// Connections for commands, to each server.
    connections: usize,
}

impl Plan {
    pub(super) fn new(settings: &Settings) -> Result<Self, LinkError> {
        let mut config = Config::from_url(settings.url.reveal())?;
        // The first connection is retried like all others.
        config.fail_fast = false;
        if let Some(username) = &settings.username {
            config.username = Some(username.clone());
        }
        if let Some(password) = &settings.password {
            config.password = Some(password.reveal().to_owned());
        }
        if let Some(pem) = &settings.ca_pem {
            config.tls = Some(trusting(pem).map_err(LinkError::Refused)?.into());
        }
        Ok(Self { config, connections: settings.pool })
    }

    /// The user of the connections.
    pub(super) fn user(&self) -> &str {
        self.config.username.as_deref().unwrap_or("default")
    }

    /// The servers of a cluster in the settings; `None` without a cluster.
    pub(super) fn cluster(&self) -> Option<Vec<Server>> {
        match &self.config.server {
            ServerConfig::Clustered { hosts, .. } => Some(hosts.clone()),
            _ => None,
        }
    }

    /// Connections for commands, to this server, or with `None` to the one in the settings.
    pub(super) fn pool(&self, server: Option<&Server>) -> Result<Pool, Error> {
        self.builder(server).build_pool(self.connections)
    }

    /// A single connection for commands to this server.
    pub(super) fn single(&self, server: &Server) -> Result<Pool, Error> {
        self.builder(Some(server)).build_pool(1)
    }

    /// A connection for messages.
    pub(super) fn subscriber(&self, server: Option<&Server>) -> Result<SubscriberClient, Error> {
        self.builder(server).build_subscriber_client()
    }

    fn builder(&self, server: Option<&Server>) -> Builder {
        let mut config = self.config.clone();
        if let Some(server) = server {
            config.server = ServerConfig::Centralized { server: server.clone() };
        }
        let mut builder = Builder::from_config(config);
        builder
            .set_policy(ReconnectPolicy::new_exponential(0, RETRY.0, RETRY.1, 2))
            .with_performance_config(|performance| {
                performance.default_command_timeout = ANSWER;
                performance.broadcast_channel_capacity = MESSAGES;
            })
            .with_connection_config(|connection| {
                connection.connection_timeout = UNRESPONSIVE;
                connection.internal_command_timeout = UNRESPONSIVE;
                connection.max_command_attempts = 1;
                connection.unresponsive.max_timeout = Some(UNRESPONSIVE);
                connection.unresponsive.interval = UNRESPONSIVE / 4;
                connection.reconnect_on_auth_error = true;
                connection.tcp.nodelay = Some(true);
                // After a failover the old master is read-only; its sentinel knows the new one.
                connection.reconnect_errors =
                    vec![ReconnectError::ReadOnly, ReconnectError::Loading, ReconnectError::ClusterDown];
            });
        builder
    }
}

/// What connections report.
#[derive(Default)]
pub(super) struct Notices {
    renewed: Notify,
    /// Why there is no connection.
    fault: Mutex<Option<String>>,
}

impl Notices {
    /// Connects, on the current runtime, and records reconnects and errors.
    pub(super) fn connect(self: &Arc<Self>, pool: &Pool) {
        // The tasks end with the runtime, or with the client.
        for client in pool.clients() {
            let (mut made, mut errors) = (client.reconnect_rx(), client.error_rx());
            let notices = Arc::clone(self);
            tokio::spawn(async move {
                let mut is_first = true;
                loop {
                    tokio::select! {
                        made = made.recv() => match made {
                            Err(RecvError::Closed) => return,
                            // The first connection replaces none.
                            _ if std::mem::take(&mut is_first) => {}
                            _ => notices.renew(),
                        },
                        Ok((error, _)) = errors.recv() => notices.fail(&error),
                    }
                }
            });
        }
        drop(pool.connect_pool());
    }

    /// Commands use another connection, or another server, than before.
    pub(super) fn renew(&self) {
        self.renewed.notify_one();
    }

    /// Waits until [`Notices::renew`] has been called since the last time.
    pub(super) async fn renewed(&self) {
        self.renewed.notified().await;
    }

    pub(super) fn fail(&self, error: &Error) {
        *self.fault.lock() = Some(explained(error));
    }

    pub(super) fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }
}

/// The key below `session.redis` with which no connection can be made, and why; `None` if one can be tried.
pub(super) fn unusable(settings: &Settings) -> Option<(&'static str, String)> {
    if let Some(why) = settings.ca_pem.as_deref().and_then(|pem| trusting(pem).err()) {
        return Some(("tls.ca_file", why));
    }
    let error = Config::from_url(settings.url.reveal()).err()?;
    Some(("url", error.details().to_owned()))
}

/// TLS that trusts only these CA certificates.
fn trusting(pem: &[u8]) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|why| why.to_string())?).map_err(|why| why.to_string())?;
    }
    if roots.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config.into())
}
