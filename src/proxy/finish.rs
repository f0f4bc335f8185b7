//! Step 9: the books of a request are closed, once, however it ended.

use std::borrow::Cow;
use std::thread;
use std::time::Duration;

use tracing::warn;

use super::dispatch::Route;
use super::receive::Received;
use super::request_ctx::RequestCtx;
use super::{capture, mcp, refuse, trace, upgrade};
use crate::capture::redact_text;
use crate::clock::millis;
use crate::error::ErrorKind;
use crate::protocol::Dialect;
use crate::protocol::facts::usage::Usage;
use crate::routing::Method;
use crate::session::CutReason;
use crate::session::LegReport;
use crate::telemetry::access::AccessLine;
use crate::telemetry::metrics::{self, BackendMetrics, TokenKind};

/// The label of tokens for which neither the request nor the answer names a model.
const NO_MODEL: &str = "unknown";
/// Why a token count is not read: it is negative, or above 10^9.
const FALSE_COUNT: &str = "false_count";

/// Closes the books: metrics, the session's tally, the line in the log.
pub(crate) fn finish(ctx: &mut RequestCtx) {
    let Some(received) = &ctx.received else {
        return;
    };
    let duration = received.handle.arrived.elapsed();
    if let Some(tap) = &mut ctx.answer.tap {
        tap.end();
    }
    let failure = failure(ctx);
    if failure == Some(ErrorKind::Internal) && ctx.answer.status.is_none() {
        // After a panic it is the connection that answers.
        ctx.answer.status = Some(refuse::status(ErrorKind::Internal).as_u16());
    }
    let usage = ctx.answer.tap.as_ref().and_then(|tap| tap.usage());
    let usage = usage.map(|usage| match &ctx.route {
        Some(route) => priced(received, route, model(ctx), usage),
        None => usage,
    });
    count(ctx, duration, failure, usage);
    let stream = ctx.answer.is_stream;
    let operation = operation(ctx);
    let socket = upgrade::report(ctx);
    let (tap, frames) = (ctx.answer.tap.as_ref(), ctx.socket.as_ref());
    let tools = tap.and_then(|tap| tap.tools()).or_else(|| frames?.tools()).cloned().unwrap_or_default();
    let stop = tap.and_then(|tap| tap.stop_reason()).or_else(|| frames?.stop_reason()).map(Box::from);
    if let Some(leg) = &mut ctx.leg {
        leg.settle(LegReport {
            backend: ctx.route.as_ref().map(|route| route.backend.settings().name().clone()),
            failover_from: ctx.route.as_ref().and_then(|route| route.failed_over_from.clone()),
            attempts: ctx.route.as_ref().map_or(0, |route| route.asked),
            model: ctx.call.model.as_deref().map(|model| redact_text(model).into_owned()),
            operation: operation.clone(),
            status: ctx.answer.status,
            error: failure,
            usage,
            stop_reason: stop,
            tools,
            ttfb: ctx.answer.first_byte,
            duration,
            bytes_in: ctx.received.as_ref().map_or(0, |received| received.handle.upload.bytes()),
            bytes_out: ctx.answer.sent,
            stream,
            socket,
            outcome: failure.map_or("ok", ErrorKind::code),
        });
    }
    log(ctx, duration, failure, operation.as_deref());
    capture::finish(ctx, failure);
    trace::finish(ctx, duration, failure, usage, operation);
}

/// What an MCP or A2A request asked for.
fn operation(ctx: &RequestCtx) -> Option<String> {
    let speaks_rpc = matches!(ctx.dialect(), Dialect::Mcp | Dialect::A2a);
    ctx.call.rpc.as_ref().filter(|_| speaks_rpc)?.summary()
}

/// What went wrong, if anything. After a hard cut no phase has said so, but the leg knows; and a
/// client that hangs up after the dialect's last event has its whole answer, as has one that has listened.
fn failure(ctx: &RequestCtx) -> Option<ErrorKind> {
    if thread::panicking() {
        return Some(ErrorKind::Internal);
    }
    let told = ctx.failure.as_ref().map(|refusal| refusal.kind);
    let complete = ctx.answer.tap.as_ref().is_some_and(|tap| tap.is_complete());
    if told == Some(ErrorKind::ClientGone) && (complete || listens(ctx)) {
        return None;
    }
    if told.is_none() && upgrade::broke_off(ctx) {
        return Some(ErrorKind::BackendUnavailable);
    }
    if told.is_some() || ctx.answer.whole {
        return told;
    }
    let received = ctx.received.as_ref()?;
    if received.handle.tunnel.was_abandoned() {
        return Some(ErrorKind::BackendTimeout);
    }
    Some(match received.handle.cut.reason() {
        Some(CutReason::Killed) => ErrorKind::SessionKilled,
        Some(CutReason::AgentKilled) => ErrorKind::AgentKilled,
        Some(CutReason::TimedOut) => ErrorKind::SessionTimedOut,
        Some(CutReason::Shutdown) => ErrorKind::ShuttingDown,
        None => return None,
    })
}

/// Whether the answer has no end but the client's leaving.
fn listens(ctx: &RequestCtx) -> bool {
    match (&ctx.received, &ctx.route) {
        (Some(received), Some(route)) => mcp::is_server_stream(received, route, &ctx.call),
        _ => false,
    }
}

fn count(ctx: &RequestCtx, duration: Duration, failure: Option<ErrorKind>, usage: Option<Usage>) {
    let Some(received) = &ctx.received else {
        return;
    };
    let app = &ctx.app;
    let metrics = ctx.route.as_ref().map_or(&app.unrouted, |route| route.backend.metrics());
    let code = ctx.answer.status.unwrap_or(0);
    metrics.finished(route_label(ctx), received.method.as_str(), code, duration);
    metrics.bytes_in(received.handle.upload.bytes());
    metrics.bytes_out(ctx.answer.sent);
    if let Some(after) = ctx.answer.first_byte {
        metrics.first_byte(after);
    }
    if let Some(kind @ (ErrorKind::BackendUnavailable | ErrorKind::BackendTimeout)) = failure {
        metrics.error(kind.code());
    }
    if let Some(usage) = usage {
        count_tokens(metrics, model(ctx), usage);
    }
    if let Some(unread) = ctx.answer.tap.as_ref().and_then(|tap| tap.unread()) {
        metrics.unread(unread.name());
    }
    let is_false = ctx.answer.tap.as_ref().is_some_and(|tap| tap.has_false_count())
        || ctx.socket.as_ref().is_some_and(|socket| socket.has_false_count());
    if is_false {
        metrics.unread(FALSE_COUNT);
        warn!(request_id = %received.request_id, "the answer has a token count that cannot be true; it is not counted");
    }
    let is_killed = matches!(failure, Some(ErrorKind::SessionKilled | ErrorKind::AgentKilled));
    if let Some(since) = received.handle.cut.since().filter(|_| is_killed) {
        app.metrics.kill_latency(since);
    }
}

/// The same with what it costs at this backend.
pub(crate) fn priced(received: &Received, route: &Route, model: Option<&str>, usage: Usage) -> Usage {
    let backend = route.backend.settings().name().as_str();
    let prices = &received.handle.settings.prices;
    let cost =
        model.and_then(|model| prices.cost(backend, model, &usage.billed(route.dialect.token_counts())));
    Usage { cost: cost.unwrap_or_default(), ..usage }
}

/// Counts the provider's own tokens of one answer, and their cost; those of an answer without a model too, so that
/// metrics and records agree.
pub(crate) fn count_tokens(metrics: &BackendMetrics, model: Option<&str>, usage: Usage) {
    let model = model.map_or(Cow::Borrowed(NO_MODEL), redact_text);
    let model = &*model;
    metrics.cost(model, usage.cost.as_usd());
    metrics.tokens(
        model,
        &[
            (TokenKind::Input, usage.input_tokens),
            (TokenKind::Output, usage.output_tokens),
            (TokenKind::CacheRead, usage.cache_read_tokens),
            (TokenKind::CacheWrite, usage.cache_write_tokens),
            (TokenKind::Reasoning, usage.reasoning_tokens),
        ],
    );
}

fn route_label(ctx: &RequestCtx) -> metrics::Route {
    match ctx.route.as_ref().map(|route| route.via) {
        Some(Method::Header) => metrics::Route::Header,
        Some(Method::Model) => metrics::Route::Model,
        Some(Method::Path) => metrics::Route::Path,
        Some(Method::Default) => metrics::Route::Default,
        None if ctx.failure.is_some() => metrics::Route::Refused,
        None => metrics::Route::Local,
    }
}

/// The model as asked for, else as answered.
fn model(ctx: &RequestCtx) -> Option<&str> {
    let answered = || ctx.answer.tap.as_ref().and_then(|tap| tap.model());
    ctx.call.model.as_deref().or_else(answered)
}

fn log(ctx: &RequestCtx, duration: Duration, failure: Option<ErrorKind>, operation: Option<&str>) {
    let Some(received) = &ctx.received else {
        return;
    };
    let target = received.uri.path_and_query().map_or("", |target| target.as_str());
    let url = match (redact_text(received.uri.path()), received.uri.query()) {
        (Cow::Borrowed(_), _) => Cow::Borrowed(target),
        (path, None) => path,
        (path, Some(query)) => Cow::Owned(format!("{path}?{query}")),
    };
    let model = model(ctx).map(redact_text);
    let session = ctx.leg.as_ref().map(|leg| leg.session().key().id.as_str());
    ctx.app.log.access(&AccessLine {
        client_ip: received.client,
        method: received.method.as_str(),
        url: &url,
        status: ctx.answer.status,
        duration_ms: millis(duration),
        session_id: session.or(ctx.named.as_ref().map(|id| id.as_str())),
        request_id: received.request_id.as_str(),
        principal: ctx.caller.as_ref().map(|caller| caller.principal.as_str()),
        backend: ctx.route.as_ref().map(|route| route.backend.settings().name().as_str()),
        attempts: ctx.route.as_ref().map_or(0, |route| route.asked),
        failover_from: ctx
            .route
            .as_ref()
            .and_then(|route| route.failed_over_from.as_ref())
            .map(|name| name.as_str()),
        model: model.as_deref(),
        operation,
        bytes_in: received.handle.upload.bytes(),
        bytes_out: ctx.answer.sent,
        ttfb_ms: ctx.answer.first_byte.map(millis),
        stream: ctx.answer.is_stream,
        client: ctx.caller.as_ref().and_then(|caller| caller.client.name.as_deref()),
        outcome: failure.map_or("ok", ErrorKind::code),
    });
}
