//! Step 9: accounts for a request exactly once, however it ended.
//!
//! The [`RequestSummary`] is built here; metrics, session, access line, capture and span take what they need from it.

use std::thread;

use tracing::warn;

use super::error_response::status;
use super::request_ctx::{Outcome, RequestCtx, Stage};
use super::state::ProxyState;
use super::usage::{Priceable, count_tokens, priced};
use super::{capture, govern, identify, mcp, spending, trace, upgrade, verdict};
use crate::capture::redact_text;
use crate::error::ErrorKind;
use crate::ids::BackendName;
use crate::session::CutReason;
use crate::summary::{OK, RequestSummary};
use crate::telemetry::metrics::{BackendMetrics, Metrics, Served};

/// The backend of an answer from the cache, in the access line and in records.
const CACHE: &str = "cache";
/// Reason label of token counts that are negative or above 10^9.
const FALSE_COUNT: &str = "false_count";

impl Drop for RequestCtx {
    /// Accounts for the request here and not in a phase of Pingora, because a hard cut skips the phases.
    fn drop(&mut self) {
        finish(self);
    }
}

/// Accounts for the request: metrics, the session's totals, the access line, capture and span.
fn finish(ctx: &mut RequestCtx) {
    let RequestCtx { app, stage, outcome, admission, reservation, .. } = ctx;
    if let Some(tap) = &mut outcome.answer.tap {
        tap.end();
    }
    let error = failure(stage, outcome);
    if error == Some(ErrorKind::Internal) && outcome.answer.status.is_none() {
        // After a panic the connection task sends the response.
        outcome.answer.status = Some(status(ErrorKind::Internal).as_u16());
    }
    let Some(mut summary) = summary(app, stage, outcome, error) else { return };
    let counted = summary.usage;
    let charged =
        reservation.is_some().then(|| spending::charge(app, stage, outcome, &mut summary)).flatten();
    // What comes from the cache says nothing of a backend.
    let route = stage.route().filter(|_| !outcome.answer.is_cached);
    count(route.map_or(&app.unrouted, |route| route.backend.metrics()), stage, outcome, &summary);
    if !outcome.answer.is_cached {
        verdict::judge(stage, outcome, error, app.clock.now());
    }
    kill_latency(&app.metrics, stage, error);
    if summary.socket.is_none() {
        govern::correct(admission, outcome, counted);
    }
    spending::settle(app, reservation, charged, &summary);
    if let Some(leg) = stage.leg_mut() {
        leg.settle(&summary);
    }
    summary.access_line(|line| app.log.access(line));
    capture::finish(app, stage, outcome, &summary);
    trace::finish(app, stage, &summary);
}

/// Builds the summary; `None` when no head was read.
pub(super) fn summary(
    app: &ProxyState,
    stage: &Stage,
    outcome: &Outcome,
    error: Option<ErrorKind>,
) -> Option<RequestSummary> {
    let received = stage.received()?;
    let (who, route) = (stage.identified(), stage.route());
    let answer = &outcome.answer;
    let (tap, socket) = (answer.tap.as_ref(), stage.routed().and_then(|routed| routed.socket.as_deref()));
    let tools = tap.and_then(|tap| tap.tools()).or_else(|| socket?.tools());
    let stop_reason = tap.and_then(|tap| tap.stop_reason()).or_else(|| socket?.stop_reason());
    let session_id = stage.leg().map(|leg| leg.session().key().id.clone());
    let mut summary = RequestSummary {
        request_id: received.request_id.clone(),
        session_id: session_id.or_else(|| outcome.named.clone()),
        principal: who.map(|who| who.caller.principal.clone()),
        membership: who.and_then(|who| who.caller.membership().cloned()),
        client: who.and_then(|who| who.caller.client.name.clone()),
        client_addr: received.client,
        method: received.method.clone(),
        uri: received.uri.clone(),
        is_forward: received.forward.is_some(),
        backend: match answer.is_cached {
            true => Some(BackendName::new(CACHE)),
            false => route.map(|route| route.backend.settings().name().clone()),
        },
        failover_from: route.and_then(|route| route.failed_over_from.clone()),
        attempts: route.filter(|_| !answer.is_cached).map_or(0, |route| route.asked),
        model: who.and_then(|who| who.call.model.clone()),
        answered_by: tap.and_then(|tap| tap.model()).map(str::to_owned),
        operation: operation(stage),
        status: answer.status,
        error,
        outcome: error.map_or(OK, ErrorKind::code),
        usage: verdict::usage(&app.awaited, stage, outcome),
        stop_reason: stop_reason.map(Box::from),
        tools: tools.cloned().unwrap_or_default(),
        queue: outcome.queue,
        ttfb: answer.first_byte,
        duration: received.handle.arrived.elapsed(),
        bytes_in: received.handle.upload.bytes(),
        bytes_out: answer.sent,
        stream: answer.is_stream,
        socket: socket.map(upgrade::report),
    };
    if let (Some(route), Some(usage)) = (route, summary.usage) {
        let answer = Priceable {
            asked: summary.model.as_deref(),
            answered: summary.answered_by.as_deref(),
            tier: tap.and_then(|tap| tap.service_tier()),
        };
        summary.usage = Some(priced(received, route, &answer, usage));
    }
    Some(summary)
}

/// Returns the operation of an MCP or A2A request.
fn operation(stage: &Stage) -> Option<String> {
    let speaks_rpc = stage.dialect().is_json_rpc();
    stage.identified()?.call.rpc.as_ref().filter(|_| speaks_rpc)?.summary()
}

/// Returns how the request failed; `None` when it did not. A hard cut skips the phases, so the reason is taken from the
/// leg. A client that hangs up after the dialect's last event has its whole response, and so has one that only listened.
fn failure(stage: &Stage, outcome: &Outcome) -> Option<ErrorKind> {
    if thread::panicking() {
        return Some(ErrorKind::Internal);
    }
    // A response that was complete before the request was refused ends without `refuse`.
    let known = outcome.failure.as_ref().or(outcome.refusal.as_ref()).map(|refusal| refusal.kind);
    if known.is_none_or(|kind| kind == ErrorKind::ClientGone) && has_reported_error(stage, outcome) {
        // Clients hang up after an error, too.
        return Some(ErrorKind::BackendError);
    }
    let complete = outcome.answer.tap.as_ref().is_some_and(|tap| tap.is_complete());
    if known == Some(ErrorKind::ClientGone) && (complete || listens(stage)) {
        return None;
    }
    if known.is_none() && upgrade::broke_off(stage, outcome) {
        return Some(ErrorKind::BackendUnavailable);
    }
    if known.is_some() || outcome.answer.whole {
        return known.or_else(|| verdict::fault(stage, outcome));
    }
    let handle = &stage.received()?.handle;
    if handle.tunnel.was_abandoned() {
        return Some(ErrorKind::BackendTimeout);
    }
    // A connection in a tunnel is cut with all requests in it.
    let of_connection = || handle.peer.within.as_ref()?.cut.reason();
    Some(match handle.cut.reason().or_else(of_connection)? {
        CutReason::Killed => ErrorKind::SessionKilled,
        CutReason::AgentKilled => ErrorKind::AgentKilled,
        CutReason::TimedOut => ErrorKind::SessionTimedOut,
        CutReason::Shutdown => ErrorKind::ShuttingDown,
        CutReason::HostBlocked => ErrorKind::DomainBlocked,
        CutReason::KeyRevoked => {
            identify::no_longer_accepted(stage.identified().map(|who| (&*who.caller, &who.received))).kind
        }
    })
}

/// Returns whether the provider has reported an error in the response, over a WebSocket in the last one.
fn has_reported_error(stage: &Stage, outcome: &Outcome) -> bool {
    let socket = stage.routed().and_then(|routed| routed.socket.as_ref());
    socket.is_some_and(|socket| socket.has_failed()) || verdict::reported(stage, outcome).is_some()
}

/// Returns whether the response ends only when the client leaves.
fn listens(stage: &Stage) -> bool {
    match (stage.identified(), stage.route()) {
        (Some(who), Some(route)) => mcp::is_server_stream(&who.received, route, &who.call),
        _ => false,
    }
}

fn count(metrics: &BackendMetrics, stage: &Stage, outcome: &Outcome, summary: &RequestSummary) {
    let status = summary.status.unwrap_or(0);
    let max = stage.received().map_or(0, |received| received.handle.settings.max_tenants);
    let tenant = summary.tenant().map(|name| (name, max));
    if let Some((name, max)) = tenant {
        metrics.tenant_request(name, max);
    }
    metrics.finished(served(stage, outcome), summary.method.as_str(), status, summary.duration);
    metrics.bytes_in(summary.bytes_in);
    metrics.bytes_out(summary.bytes_out);
    if let Some(after) = summary.ttfb {
        metrics.first_byte(after);
    }
    let socket = stage.routed().and_then(|routed| routed.socket.as_ref());
    match summary.error {
        // Each failed answer of a socket was counted when it failed.
        Some(ErrorKind::BackendError) if socket.is_some() => {}
        Some(
            kind @ (ErrorKind::BackendUnavailable
            | ErrorKind::BackendTimeout
            | ErrorKind::BackendError
            | ErrorKind::ResponseIncomplete),
        ) => {
            metrics.error(kind.code());
            report(stage, outcome, summary, kind);
        }
        _ => {}
    }
    if let Some(usage) = summary.usage {
        count_tokens(metrics, summary.any_model(), tenant, usage);
    }
    let tap = outcome.answer.tap.as_ref();
    if let Some(unread) = tap.and_then(|tap| tap.unread()) {
        metrics.unread(unread.name());
    }
    let is_false =
        tap.is_some_and(|tap| tap.has_false_count()) || socket.is_some_and(|socket| socket.has_false_count());
    if is_false {
        metrics.unread(FALSE_COUNT);
        let request_id = &summary.request_id;
        warn!(%request_id, "the answer has a token count that cannot be true; it is not counted");
    }
}

/// Logs how a response failed after its head; `gateway` logs other failures of backends.
fn report(stage: &Stage, outcome: &Outcome, summary: &RequestSummary, kind: ErrorKind) {
    let request_id = &summary.request_id;
    let backend = summary.backend.as_ref().map_or("", |name| name.as_str());
    match kind {
        ErrorKind::BackendError => {
            let word = verdict::reported(stage, outcome).unwrap_or_default();
            warn!(%request_id, backend, error = %redact_text(word), "the backend reported an error inside its response");
        }
        ErrorKind::ResponseIncomplete => {
            warn!(%request_id, backend, "the backend ended its response before the last event");
        }
        _ => {}
    }
}

fn kill_latency(metrics: &Metrics, stage: &Stage, error: Option<ErrorKind>) {
    let is_killed = matches!(error, Some(ErrorKind::SessionKilled | ErrorKind::AgentKilled));
    let since = stage.received().and_then(|received| received.handle.cut.since());
    if let Some(since) = since.filter(|_| is_killed) {
        metrics.kill_latency(since);
    }
}

fn served(stage: &Stage, outcome: &Outcome) -> Served {
    match stage.route() {
        Some(_) if outcome.answer.is_cached => Served::Cache,
        Some(route) if route.is_direct => Served::Forward,
        Some(route) => Served::Backend(route.via),
        None if outcome.failure.is_some() => Served::Refused,
        None => Served::Builtin,
    }
}
