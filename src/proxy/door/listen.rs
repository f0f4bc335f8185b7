//! The accept loop: our own, so that ports can be 0 or come from another process, connections are counted,
//! and draining stops it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_proxy::ProxyHttp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::warn;

use super::Door;

/// How long accepting rests when the machine has no descriptor or memory left for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// The most connections that wait to be accepted when draining begins; Linux' own default limit.
const QUEUE: usize = 4096;

/// While accepting fails, it is told this often, not each time.
const TROUBLE_TOLD: Duration = Duration::from_secs(10);

/// Accepting fails: too many open files, no memory.
#[derive(Default)]
struct Trouble {
    told: Option<Instant>,
    failures: u64,
}

impl Trouble {
    fn tell(&mut self, error: &io::Error) {
        self.failures += 1;
        if self.told.is_some_and(|told| told.elapsed() < TROUBLE_TOLD) {
            return;
        }
        self.told = Some(Instant::now());
        let failures = std::mem::take(&mut self.failures);
        warn!(%error, failures, "cannot accept connections, trying again (ulimit -n, server.limits.max_connections)");
    }
}

/// Serves `listener` until `draining` becomes true. Connections then still open live on by themselves.
pub(crate) async fn serve<P>(listener: TcpListener, door: Arc<Door<P>>, mut draining: watch::Receiver<bool>)
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    let mut trouble = Trouble::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|draining| *draining) => break,
        };
        match accepted {
            Ok((tcp, client)) => let_in(&door, tcp, client, &draining),
            Err(error) => {
                trouble.tell(&error);
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
    // For their clients those in the queue are connected; closing it would reset them.
    let Ok(listener) = listener.into_std() else { return };
    for (tcp, client) in std::iter::from_fn(|| listener.accept().ok()).take(QUEUE) {
        let tcp = tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp));
        if let Ok(tcp) = tcp {
            let_in(&door, tcp, client, &draining);
        }
    }
}

/// Gives a connection a task of its own.
fn let_in<P>(door: &Arc<Door<P>>, tcp: TcpStream, client: SocketAddr, draining: &watch::Receiver<bool>)
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    // Over the limit the connection is closed at once: a queue would only hide the overload.
    let Some(place) = door.take_place() else {
        return;
    };
    // Small events must leave at once; a socket that refuses the option is about to fail anyway.
    let _ = tcp.set_nodelay(true);
    let (door, draining) = (Arc::clone(door), draining.clone());
    tokio::spawn(async move {
        door.welcome(tcp, client, draining).await;
        drop(place);
    });
}
