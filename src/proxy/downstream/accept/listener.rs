//! The accept loop. Pingora's own cannot listen on a port that is 0 or inherited from another process, does not count
//! connections, and does not stop when the process drains.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_proxy::ProxyHttp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::warn;

use super::connection::Downstream;

/// How long accepting pauses when the machine is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// The most connections accepted from the queue of the kernel when draining begins; Linux' default for its length.
const QUEUE: usize = 4096;

/// The shortest time between two log lines about failures to accept, and between two about denied addresses.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Failures to accept: too many open files, no memory.
#[derive(Default)]
struct AcceptFailures {
    logged: Option<Instant>,
    /// Failures since the last log line.
    count: u64,
}

impl AcceptFailures {
    fn record(&mut self, error: &io::Error) {
        self.count += 1;
        if self.logged.is_some_and(|logged| logged.elapsed() < LOG_INTERVAL) {
            return;
        }
        self.logged = Some(Instant::now());
        let failures = std::mem::take(&mut self.count);
        warn!(%error, failures, "cannot accept connections, trying again (ulimit -n, server.limits.max_connections)");
    }
}

/// Connections that `auth.acl` denies.
#[derive(Default)]
struct Denied {
    logged: Option<Instant>,
    /// Connections since the last log line.
    count: u64,
}

impl Denied {
    fn record(&mut self, client: IpAddr) {
        self.count += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            let connections = std::mem::take(&mut self.count);
            warn!(%client, connections, "connections are closed, because auth.acl does not permit their address");
        }
    }
}

/// Accepts connections from `listener` until `draining` becomes true. Open connections outlive this call.
pub(crate) async fn serve<P>(
    listener: TcpListener,
    downstream: Arc<Downstream<P>>,
    mut draining: watch::Receiver<bool>,
) where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    let (mut failures, mut denied) = (AcceptFailures::default(), Denied::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|draining| *draining) => break,
        };
        match accepted {
            Ok((tcp, client)) if downstream.admits(client.ip()) => {
                spawn_connection(&downstream, tcp, client, &draining);
            }
            Ok((tcp, client)) => {
                drop(tcp);
                denied.record(client.ip());
            }
            Err(error) => {
                failures.record(&error);
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
    // Clients see connections in the queue as established; closing the listener would reset them.
    let Ok(listener) = listener.into_std() else { return };
    let queue = std::iter::from_fn(|| listener.accept().ok()).take(QUEUE);
    for (tcp, client) in queue.filter(|(_, client)| downstream.admits(client.ip())) {
        let tcp = tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp));
        if let Ok(tcp) = tcp {
            spawn_connection(&downstream, tcp, client, &draining);
        }
    }
}

/// Serves a connection in a task of its own; closes it when there is no permit for it.
fn spawn_connection<P>(
    downstream: &Arc<Downstream<P>>,
    tcp: TcpStream,
    client: SocketAddr,
    draining: &watch::Receiver<bool>,
) where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    // Over the limit the connection is closed at once: a queue would only hide the overload.
    let Some(permit) = downstream.connection_permit() else {
        return;
    };
    // Small events must be sent at once; a socket that refuses the option is about to fail anyway.
    let _ = tcp.set_nodelay(true);
    let (downstream, draining) = (Arc::clone(downstream), draining.clone());
    tokio::spawn(async move {
        downstream.serve_connection(tcp, client, draining).await;
        drop(permit);
    });
}
