//! The accept loop: our own, so that ports can be 0, connections are counted, and draining stops it.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as TcpStream;
use pingora_proxy::ProxyHttp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

use super::Door;
use super::buffered::Buffered;

/// How long accepting rests when the machine has no descriptor or memory left for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Serves `listener` until `draining` becomes true. Connections then still open live on by themselves.
pub(crate) async fn serve<P>(listener: TcpListener, door: Arc<Door<P>>, mut draining: watch::Receiver<bool>)
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|draining| *draining) => return,
        };
        let (tcp, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection, trying again");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
        };
        // Over the limit the connection is closed at once: a queue would only hide the overload.
        let Some(place) = door.take_place() else {
            continue;
        };
        // Small events must leave at once; a socket that refuses the option is about to fail anyway.
        let _ = tcp.set_nodelay(true);
        let (door, draining) = (Arc::clone(&door), draining.clone());
        tokio::spawn(async move {
            let stream: Stream = Box::new(Buffered::new(TcpStream::from(tcp)));
            door.converse(stream, client, draining).await;
            drop(place);
        });
    }
}
