//! Gives Pingora's proxy a session with a backend, on an idle connection or a new one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::http::custom::{Connection as Connected, Connector};
use pingora_core::protocols::l4::ext::{connect, set_tcp_keepalive};
use pingora_core::upstreams::peer::Peer;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_timeout::timeout;

use super::connection::Connection;
use super::idle_connections::IdleConnections;
use super::session::Http1Session;

/// Connects to backends over HTTP/1.1 without TLS.
pub struct Http1Connector {
    idle: Arc<IdleConnections>,
}

impl Http1Connector {
    /// Creates a connector that keeps up to `capacity` idle connections.
    pub fn new(capacity: usize) -> Self {
        Self { idle: IdleConnections::new(capacity) }
    }
}

#[async_trait]
impl Connector for Http1Connector {
    type Session = Http1Session;

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Connected<Http1Session>, bool)> {
        let connection = dial(peer).await?;
        Ok((Connected::Session(Http1Session::new(connection)), false))
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Option<Http1Session> {
        self.idle.take(peer.reuse_hash(), peer.address()).map(Http1Session::new)
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        session: Http1Session,
        peer: &P,
        idle_timeout: Option<Duration>,
    ) {
        if let Some(connection) = session.into_idle() {
            self.idle.put(peer.reuse_hash(), connection, idle_timeout.unwrap_or_default());
        }
    }
}

/// Opens a connection to the peer, with the errors of Pingora's connector.
async fn dial<P: Peer>(peer: &P) -> Result<Connection> {
    let Some(address) = peer.address().as_inet() else {
        return Error::e_explain(ErrorType::InternalError, "the backend's address is no socket address");
    };
    let limit = peer.connection_timeout().unwrap_or(Duration::MAX);
    let stream = match timeout(limit, connect(address, None)).await {
        Ok(connected) => {
            connected.map_err(|error| error.more_context(format!("Fail to connect to {peer}")))?
        }
        Err(_) => {
            let context = format!("timeout {limit:?} connecting to server {peer}");
            return Error::e_explain(ErrorType::ConnectTimedout, context);
        }
    };
    if let Some(keepalive) = peer.tcp_keepalive() {
        set_tcp_keepalive(&stream, keepalive)?;
    }
    stream.set_nodelay(true).or_err(ErrorType::ConnectError, "failed to set TCP_NODELAY")?;
    Connection::new(stream, peer.address().clone())
}
