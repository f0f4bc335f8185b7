//! A CONNECT, from the connection to its host to the last byte. The request keeps its context until then, so that it is accounted
//! for as any other; the connection of the client is no longer HTTP (`downstream/client_stream`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use pingora_core::Error;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::downstream::{ClientStream, LEG_CUT, RequestHandle};
use super::error_response::{INTERNAL_MESSAGE, Reject};
use super::intercept;
use super::request_ctx::{RequestCtx, Routed, reached};
use super::tunnel_ends::{FromClient, FromHost, Meter};
use crate::error::{ErrorKind, Refusal};
use crate::forward::{Host, OpenTunnel};
use crate::ids::REQUEST_ID;
use crate::session::CutReason;

/// Bytes that are copied at once, in each direction.
const BUFFER: usize = 16 << 10;

/// Connects to the host of a CONNECT, and lets the tunnel have the connection of the client.
///
/// # Errors
/// There are too many tunnels, the host is not reached or blocked since, or the leg was cut.
pub(super) async fn open(ctx: &mut RequestCtx) -> Result<(), Reject> {
    let app = Arc::clone(&ctx.app);
    let routed = ctx.stage.routed_mut()?;
    let handle = Arc::clone(&routed.who.received.handle);
    let settings = &handle.settings.forward;
    let host = reached(routed.who.received.forward.as_ref())?.target.host.clone();
    let cut = Arc::clone(&handle.cut);
    let entered = app.forward.tunnels.enter(host.clone(), settings.max_tunnels(), move || {
        cut.cut(CutReason::HostBlocked);
    });
    let Some(tunnel) = entered else {
        let most = settings.max_tunnels();
        let message = format!("{most} tunnels are open, which is the limit (forward_proxy.max_tunnels)");
        return Err(Refusal::new(ErrorKind::TunnelsFull, message).into());
    };
    // A reload that came before the tunnel was counted has not cut it.
    if !app.live.load().forward.permits(&host) {
        handle.cut.cut(CutReason::HostBlocked);
    }
    let interceptor = handle.settings.intercept.as_ref().filter(|_| settings.intercept().contains(&host));
    if let Some(interceptor) = interceptor {
        let server = interceptor.server(&host);
        let server = server.ok_or_else(|| Refusal::new(ErrorKind::Internal, INTERNAL_MESSAGE))?;
        let ctx = Box::new(std::mem::replace(ctx, RequestCtx::new(app)));
        handle.take_over(Box::new(move |client| Box::pin(intercept::open(ctx, tunnel, server, client))));
        return Ok(());
    }
    ctx.outcome.queue = Some(handle.arrived.elapsed());
    let stream = connect(routed, &handle, settings.connect_timeout()).await?;
    let ctx = Box::new(std::mem::replace(ctx, RequestCtx::new(app)));
    handle.take_over(Box::new(move |client| {
        Box::pin(async move {
            run(ctx, tunnel, host, client, stream).await;
            None
        })
    }));
    Ok(())
}

/// Connects to the first address that accepts a connection, within `limit`.
async fn connect(routed: &mut Routed, handle: &RequestHandle, limit: Duration) -> Result<TcpStream, Reject> {
    let shown = routed.route.backend.settings().authority().to_owned();
    let addresses = reached(routed.route.addresses.as_mut())?;
    let mut failed = "it has no address".to_owned();
    let dial = async {
        while let Some(address) = addresses.current() {
            match TcpStream::connect(address).await {
                Ok(stream) => return Some(stream),
                Err(error) => failed = why(address, &error),
            }
            addresses.try_next();
        }
        None
    };
    let dialled = tokio::select! {
        biased;
        _ = handle.cut.soft() => return Err(Error::new(LEG_CUT).into()),
        dialled = timeout(limit, dial) => dialled,
    };
    match dialled {
        Ok(Some(stream)) => {
            // What is small must be sent at once; a socket that refuses the option is about to fail anyway.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(None) => {
            let message = format!("{shown} cannot be reached: {failed}");
            Err(Refusal::new(ErrorKind::BackendUnavailable, message).into())
        }
        Err(_) => {
            let message =
                format!("{shown} did not accept the connection in time (forward_proxy.connect_timeout)");
            Err(Refusal::new(ErrorKind::BackendTimeout, message).into())
        }
    }
}

fn why(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{address} refuses the connection"),
        kind => format!("{address}: {kind}"),
    }
}

/// How a tunnel ended.
enum End {
    /// Both sides have ended it.
    Whole,
    /// One side is gone.
    Broken,
    /// It was silent for too long.
    Idle,
    /// Its leg was cut.
    Cut,
}

/// Copies bytes in both directions until the tunnel ends.
async fn run(
    mut ctx: Box<RequestCtx>,
    tunnel: OpenTunnel,
    host: Host,
    mut client: ClientStream,
    mut stream: TcpStream,
) {
    let _counted = ctx.app.forward.open.enter();
    let Some((handle, session)) = parts(&ctx) else { return };
    let meter = Meter::new(Arc::clone(&handle), session, ctx.app.forward.bytes.clone());
    ctx.outcome.answer.status = Some(200);
    handle.tunnel.open();
    handle.activity.limit_idle(handle.settings.forward.idle_timeout());
    let end = {
        let fields = fields(&ctx);
        let check = handle.settings.forward.checks_server_name().then(|| (host, &tunnel, &*ctx.app.live));
        let copying = async {
            client.establish(&fields).await.inspect_err(|_| meter.client_failed())?;
            let mut from_client = FromClient::new(&mut client, &meter, check);
            let mut from_host = FromHost::new(&mut stream, &meter);
            copy_bidirectional_with_sizes(&mut from_client, &mut from_host, BUFFER, BUFFER).await
        };
        tokio::select! {
            biased;
            _ = handle.cut.hard() => End::Cut,
            copied = copying => if copied.is_ok() { End::Whole } else { End::Broken },
            () = handle.tunnel.idle(&handle.activity) => End::Idle,
        }
    };
    if matches!(end, End::Broken | End::Cut) {
        // Neither side may take this for an end.
        client.reset();
        let _ = stream.set_zero_linger();
    }
    settle(&mut ctx, &end, &meter);
}

/// Returns the handle of the request and the session of its leg.
fn parts(ctx: &RequestCtx) -> Option<(Arc<RequestHandle>, Arc<crate::session::Session>)> {
    let routed = ctx.stage.routed()?;
    Some((Arc::clone(&routed.who.received.handle), Arc::clone(routed.leg.session())))
}

/// Returns the fields of the answer: the ids of request and session.
pub(super) fn fields(ctx: &RequestCtx) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let Some(routed) = ctx.stage.routed() else { return fields };
    let received = &routed.who.received;
    let ids = [
        (http::HeaderName::from_static(REQUEST_ID), received.request_id.as_str()),
        (received.handle.settings.identity.header().clone(), routed.leg.session().key().id.as_str()),
    ];
    for (name, id) in ids {
        if let Ok(value) = HeaderValue::from_str(id) {
            fields.insert(name, value);
        }
    }
    fields
}

/// Notes how the tunnel ended; dropping the context accounts for it.
fn settle(ctx: &mut RequestCtx, end: &End, meter: &Meter) {
    ctx.outcome.answer.sent = meter.sent();
    let refusal = match end {
        End::Whole => {
            ctx.outcome.answer.whole = true;
            return;
        }
        // The reason of the cut is known to the handle.
        End::Cut => None,
        End::Idle => {
            let message = "no byte has moved for longer than forward_proxy.idle_timeout";
            Some(Refusal::new(ErrorKind::BackendTimeout, message))
        }
        End::Broken => Some(meter.fault()),
    };
    let blocked = match refusal.as_ref().map(|refusal| refusal.kind) {
        Some(kind @ ErrorKind::DomainBlocked) => Some(kind),
        _ => matches!(ctx.cut_reason(), Some(CutReason::HostBlocked)).then_some(ErrorKind::DomainBlocked),
    };
    if let Some(kind) = blocked {
        ctx.app.metrics.filtered(kind.code());
    }
    ctx.outcome.failure = refusal.map(Box::new);
}

impl RequestCtx {
    fn cut_reason(&self) -> Option<CutReason> {
        self.stage.received()?.handle.cut.reason()
    }
}
