//! Step 4: opens a leg in the session, atomically with respect to kills.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::capture::redact_text;
use crate::error::{ErrorKind, Refusal};
use crate::identity::FoundSession;
use crate::ids::SessionKey;
use crate::session::{self, Denied, Identity, Leg, LegKind, LegStart};

use super::facts::RequestFacts;
use super::govern;
use super::identify::Caller;
use super::receive::Received;
use super::request_ctx::Identified;
use super::state::ProxyState;

/// Opens a leg for this request in the session `found`.
///
/// # Errors
/// The session was killed, or there is no room for another one.
pub(crate) async fn admit(
    app: &ProxyState,
    who: &Identified,
    headers: &HeaderMap,
    found: FoundSession,
) -> Result<Leg, Refusal> {
    let (request, leg) = request(&who.received, &who.caller, found);
    let limits = &who.received.handle.settings.caller_limits;
    if !limits.count_sessions() {
        return app.sessions.admit(request, leg).await.map_err(denied);
    }
    let facts = RequestFacts::new(who, headers, &app.clock);
    let counted = || limits.of_sessions(&facts);
    let admitted = app.sessions.admit_within(request, leg, &counted).await;
    admitted.map_err(|why| {
        if let Denied::Limited(refused) = &why {
            app.metrics.rate_limited(&refused.limit, refused.unit.name());
        }
        denied(why)
    })
}

/// Returns what kind of leg a request is.
pub(crate) fn kind(received: &Received) -> LegKind {
    match received.socket {
        true => LegKind::Socket,
        false if received.is_tunnel() => LegKind::Tunnel,
        false => LegKind::Request,
    }
}

fn request(received: &Received, caller: &Caller, found: FoundSession) -> (session::SessionRequest, LegStart) {
    let identity = &received.handle.settings.identity;
    let who = session::SessionRequest {
        key: SessionKey { scope: identity.scope(&caller.principal), id: found.id },
        identity: Identity {
            source: found.source,
            client: found.client.or_else(|| caller.client.name.clone()),
            client_version: caller.client.version.clone(),
            agent_id: found.agent_id,
            parent_agent_id: found.parent_agent_id,
        },
        principal: caller.principal.clone(),
        membership: caller.membership().cloned(),
        accounts: caller.accounts.clone(),
        client_addr: caller.address,
        counted_from: received.handle.settings.forwarding.counts(caller.address),
        idle_gap: found.idle_gap,
    };
    let leg = LegStart {
        kind: kind(received),
        method: received.method.as_str().into(),
        path: match &received.forward {
            None => redact_text(received.uri.path()).into_owned(),
            Some(forward) => redact_text(&forward.shown(received.uri.path())).into_owned(),
        },
        request_id: received.request_id.clone(),
        cut: received.handle.cut.clone(),
        validity: Arc::clone(caller.validity(received)),
    };
    (who, leg)
}

/// `Retry-After` when the instance has no room for another session.
const FULL: Duration = Duration::from_secs(5);
/// `Retry-After` when this instance cannot serve for the moment; another one may.
const ELSEWHERE: Duration = Duration::from_secs(1);

fn denied(denied: Denied) -> Refusal {
    if let Denied::Limited(refused) = &denied {
        return govern::refusal(refused);
    }
    let retry_after = match &denied {
        Denied::Capacity { .. } => Some(FULL),
        Denied::StartRate { wait } => Some(*wait),
        Denied::ShuttingDown | Denied::Store(_) => Some(ELSEWHERE),
        Denied::Killed { .. } | Denied::Unreadable { .. } | Denied::Limited(_) => None,
    };
    let kind = match &denied {
        Denied::Killed { order } if order.agent.is_some() => ErrorKind::AgentKilled,
        Denied::Killed { .. } => ErrorKind::SessionKilled,
        Denied::Capacity { .. } => ErrorKind::SessionCapacity,
        Denied::StartRate { .. } => ErrorKind::SessionStartRate,
        Denied::Limited(_) => ErrorKind::RateLimited,
        Denied::ShuttingDown => ErrorKind::ShuttingDown,
        Denied::Store(_) => ErrorKind::StoreUnavailable,
        Denied::Unreadable { .. } => ErrorKind::SessionUnreadable,
    };
    Refusal { retry_after, ..Refusal::new(kind, denied.to_string()) }
}
