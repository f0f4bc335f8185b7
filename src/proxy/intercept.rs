//! A CONNECT to a host whose tunnels are opened: the client makes a TLS handshake with the gateway, and what it sends then is served
//! as if it had come to the listener. The CONNECT itself ends with the handshake; each request in the tunnel is a leg of its own.

use std::io;
use std::sync::Arc;

use pingora_rustls::{ServerConfig, ServerTlsStream, TlsAcceptor};
use tokio::time::timeout;
use tracing::warn;

use super::downstream::{ClientStream, Opened, Peer, Within};
use super::request_ctx::RequestCtx;
use super::tunnel::fields;
use crate::error::{ErrorKind, Refusal};
use crate::forward::OpenTunnel;

/// Answers the CONNECT and makes the handshake. Returns the connection, unless the client refuses the certificate or leaves.
pub(super) async fn open(
    mut ctx: Box<RequestCtx>,
    tunnel: OpenTunnel,
    server: Arc<ServerConfig>,
    client: ClientStream,
) -> Option<Box<Opened>> {
    let routed = ctx.stage.routed()?;
    let (handle, caller) = (Arc::clone(&routed.who.received.handle), Arc::clone(&routed.who.caller));
    let forward = routed.who.received.forward.as_ref()?;
    let within = Within {
        target: forward.target.clone(),
        caller,
        user: forward.user.clone(),
        cut: Arc::clone(&handle.cut),
    };
    let fields = fields(&ctx);
    ctx.outcome.answer.status = Some(200);
    let opening = timeout(handle.settings.timeouts.read, handshake(client, &fields, server));
    let opened = tokio::select! {
        biased;
        // The reason is known to the handle.
        _ = handle.cut.hard() => return None,
        opened = opening => opened.unwrap_or_else(|late| Err(late.into())),
    };
    match opened {
        Ok(stream) => {
            ctx.outcome.answer.whole = true;
            let within = Some(Arc::new(within));
            let peer = Peer { is_secure: true, within, last_caller: Arc::default(), ..handle.peer.clone() };
            let cut = Arc::clone(&handle.cut);
            Some(Box::new(Opened { stream: Box::new(stream), peer, cut, tunnel }))
        }
        Err(error) => {
            ctx.outcome.failure = Some(Box::new(refused(&ctx, &within, &error)));
            None
        }
    }
}

async fn handshake(
    mut client: ClientStream,
    fields: &http::HeaderMap,
    server: Arc<ServerConfig>,
) -> io::Result<ServerTlsStream<ClientStream>> {
    client.establish(fields).await?;
    TlsAcceptor::from(server).accept(client).await
}

/// Returns why a tunnel was not opened. That the clients of a host refuse the certificate is logged once.
fn refused(ctx: &RequestCtx, within: &Within, error: &io::Error) -> Refusal {
    let host = &within.target.host;
    if error.kind() != io::ErrorKind::InvalidData {
        return Refusal::new(ErrorKind::ClientGone, "the client has gone before its handshake");
    }
    let interceptor = ctx.app.live.load().intercept.clone();
    if interceptor.is_some_and(|interceptor| interceptor.was_refused(host)) {
        warn!(%host, %error, "intercept_refused_by_client: its clients do not trust the authority, or know the certificate of the host");
    }
    Refusal::new(ErrorKind::InterceptRefused, "the client does not accept the certificate of the gateway")
}
