//! A session at one moment, as the control API shows it, and the questions one can ask for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::session::core::agents::AgentView;
use crate::session::core::kill_orders::KillOrder;
use crate::session::core::leg::LegKind;
use crate::session::core::session::{Session, OpenLeg};
use super::state::{EndReason, Identity, SessionKind, SessionState};
use crate::session::core::totals::RequestLine;
use crate::clock::{Clock, Moment, millis};
use crate::ids::{AgentId, BackendName, LegId, PrincipalId, RequestId, Scope, SessionId, SessionKey, Uid};
use crate::protocol::tools::ToolCounts;
use crate::protocol::usage::Usage;

/// Who calls, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrincipalView {
    /// The principal.
    pub id: PrincipalId,
    /// What the id was made from: `credential` or `address`.
    pub via: &'static str,
}

impl<'de> Deserialize<'de> for PrincipalView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Written {
            id: PrincipalId,
        }
        let Written { id } = Written::deserialize(deserializer)?;
        Ok(Self { via: via(&id), id })
    }
}

/// A leg that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegView {
    /// Its id in this process.
    pub id: LegId,
    /// What it is.
    pub kind: LegKind,
    /// The request's id.
    pub request_id: RequestId,
    /// The request's method.
    pub method: Box<str>,
    /// The request's path.
    pub path: Box<str>,
    /// The agent that sent it; `None` is the main one.
    pub agent: Option<AgentId>,
    /// Where it goes.
    pub backend: Option<BackendName>,
    /// The model, when it is known already.
    pub model: Option<Arc<str>>,
    /// The tools its request offers, the first 128.
    pub tools_offered: Box<[Box<str>]>,
    /// About how many tokens its request has: the bytes of its body by four.
    pub input_tokens_estimate: u64,
    /// When it came.
    pub started_at: Timestamp,
    /// Milliseconds it has been open.
    pub duration_ms: u64,
}

/// A session at one moment (`GET /control/sessions/{id}`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// The external id.
    pub id: SessionId,
    /// The incarnation.
    pub uid: Uid,
    /// What runs in it.
    pub kind: SessionKind,
    /// Its state.
    pub state: SessionState,
    /// 1 for the first incarnation of its id.
    pub incarnation: u32,
    /// The incarnation before this one.
    pub previous_id: Option<Uid>,
    /// How it was recognised.
    pub identity: Identity,
    /// Whose it is.
    pub principal: PrincipalView,
    #[serde(skip, default = "no_key")]
    pub(in crate::session) key: SessionKey,
    /// When it began.
    pub started_at: Timestamp,
    /// When something moved last.
    pub last_activity: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// The order that killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill: Option<Arc<KillOrder>>,
    /// Milliseconds it has lived, or lived.
    pub duration_ms: u64,
    /// Milliseconds since something moved; 0 after the end.
    pub idle_ms: u64,
    /// Legs admitted.
    pub request_count: u64,
    /// Legs that failed.
    pub error_count: u64,
    /// Legs open now.
    pub open_legs: usize,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Requests by backend.
    pub backends: BTreeMap<BackendName, u64>,
    /// Requests by model.
    pub models: BTreeMap<Arc<str>, u64>,
    /// The provider's own token counts, summed.
    pub usage: Usage,
    /// Calls by tool.
    pub tools: ToolCounts,
    /// Findings of policies; none are made yet.
    pub flags: Vec<String>,
    /// Where it was opened from.
    pub client_addr: IpAddr,
    /// The agents, each before those it started, the main one first; in the detail view only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<AgentView>>,
    /// The open legs; in the detail view only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legs: Option<Vec<LegView>>,
    /// The last 20 requests that ended, newest first; in the detail view only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Vec<RequestLine>>,
}

impl SessionView {
    /// The scope and id.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The same without the detail view's lists.
    pub fn brief(&self) -> Self {
        Self { agents: None, legs: None, requests: None, ..self.clone() }
    }

    /// When it counts as gone for the retention: its end.
    pub(in crate::session) fn gone_at(&self) -> Timestamp {
        self.ended_at.unwrap_or(self.last_activity)
    }
}

impl Session {
    /// What it looks like now.
    pub(in crate::session) fn snapshot(&self, clock: &Clock, detail: bool) -> SessionView {
        let now = clock.now();
        let inner = self.inner();
        let end = inner.end.as_deref();
        let until = end.map_or(now, |end| end.at);
        let last_activity = self.last_activity();
        SessionView {
            id: self.key().id.clone(),
            uid: self.uid(),
            kind: self.kind(),
            state: inner.state,
            incarnation: self.incarnation(),
            previous_id: self.previous(),
            identity: Identity::clone(self.identity()),
            principal: PrincipalView { id: self.principal().clone(), via: via(self.principal()) },
            key: self.key().clone(),
            started_at: clock.wall(self.started()),
            last_activity: clock.wall(last_activity),
            ended_at: end.map(|end| clock.wall(end.at)),
            end_reason: end.map(|end| end.reason),
            kill: end.and_then(|end| end.order.clone()),
            duration_ms: millis(until.since(self.started())),
            idle_ms: if end.is_some() { 0 } else { millis(now.since(last_activity)) },
            request_count: self.requests(),
            error_count: self.errors(),
            open_legs: inner.legs.len(),
            bytes_in: self.bytes_in(),
            bytes_out: self.bytes_out(),
            backends: inner.tally.backends().into_iter().map(|used| (used.name, used.requests)).collect(),
            models: inner.tally.models().iter().map(|used| (used.model.clone(), used.requests)).collect(),
            usage: inner.tally.usage(),
            tools: inner.tally.tools(),
            flags: Vec::new(),
            client_addr: self.client_addr(),
            agents: detail.then(|| inner.agent_views(self, clock, now)),
            legs: detail.then(|| inner.legs.iter().map(|leg| leg.view(now)).collect()),
            requests: detail.then(|| inner.tally.lines()),
        }
    }
}

impl OpenLeg {
    fn view(&self, now: Moment) -> LegView {
        let line = &self.line;
        LegView {
            id: self.id,
            kind: line.kind,
            request_id: line.request_id.clone(),
            method: line.method.clone(),
            path: line.path.clone(),
            agent: line.agent.clone(),
            backend: line.backend.clone(),
            model: line.model.clone(),
            tools_offered: self.offered.clone(),
            input_tokens_estimate: line.input_tokens_estimate,
            started_at: line.started_at,
            duration_ms: millis(now.since(self.started)),
        }
    }
}

/// Stands in for the key until it is known: what is written of a snapshot does not hold it.
fn no_key() -> SessionKey {
    SessionKey { scope: Scope::new(""), id: SessionId::new("") }
}

fn via(principal: &PrincipalId) -> &'static str {
    if principal.as_str().starts_with("anon:") { "address" } else { "credential" }
}

/// Which sessions to list. An absent part asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// In this state.
    pub state: Option<SessionState>,
    /// Of this kind.
    pub kind: Option<SessionKind>,
    /// Of this principal.
    pub principal: Option<String>,
    /// That used this backend.
    pub backend: Option<String>,
    /// Of this client program.
    pub client: Option<String>,
    /// With this text in the id, uid, principal or client; case does not matter.
    pub q: Option<String>,
    /// At most so many: 1 to 1000; absent or 0 is 100.
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// What a list can be filtered by, without the session itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::session) struct ListLabels {
    state: SessionState,
    kind: SessionKind,
    principal: PrincipalId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    backends: Vec<BackendName>,
}

impl ListLabels {
    pub(in crate::session) fn of(session: &SessionView) -> Self {
        Self {
            state: session.state,
            kind: session.kind,
            principal: session.principal.id.clone(),
            client: session.identity.client.as_deref().map(Box::from),
            backends: session.backends.keys().cloned().collect(),
        }
    }
}

/// Some sessions, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The sessions, without the detail view's lists.
    pub sessions: Vec<SessionView>,
    /// The cursor of the next page; `None` on the last one.
    pub next_cursor: Option<String>,
    /// True when sessions may be missing: the search stopped at its bound and goes on at `next_cursor`, or, without
    /// one, the shared store did not answer.
    pub truncated: bool,
}

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

impl Filter {
    /// A filter for one state.
    pub fn in_state(state: SessionState) -> Self {
        Self { state: Some(state), ..Self::default() }
    }

    /// How many sessions make a page.
    pub fn page_len(&self) -> usize {
        if self.limit == 0 { DEFAULT_LIMIT } else { self.limit.min(MAX_LIMIT) }
    }

    /// The uid below which the page begins; a cursor that is no uid is as if absent.
    pub fn before(&self) -> Option<Uid> {
        self.cursor.as_deref().and_then(Uid::parse)
    }

    /// True when the snapshot is asked for, wherever the page begins.
    pub fn matches(&self, session: &SessionView) -> bool {
        self.state.is_none_or(|state| state == session.state)
            && self.matches_labels(
                &session.id,
                session.uid,
                session.kind,
                &session.principal.id,
                session.identity.client.as_deref(),
            )
            && self.backend.as_deref().is_none_or(|name| session.backends.contains_key(name))
    }

    /// The same for a live session, without making a snapshot of it.
    pub(in crate::session) fn matches_live(&self, live: &Session) -> bool {
        let client = live.identity().client.as_deref();
        self.matches_labels(&live.key().id, live.uid(), live.kind(), live.principal(), client)
            && (self.state.is_none() && self.backend.is_none() || {
                let inner = live.inner();
                self.state.is_none_or(|state| state == inner.state)
                    && self.backend.as_deref().is_none_or(|name| inner.tally.used(name))
            })
    }

    /// False when the labels of an ended session say that it is not asked for.
    pub(in crate::session) fn matches_listed(&self, key: &SessionKey, uid: Uid, labels: &ListLabels) -> bool {
        self.state.is_none_or(|state| state == labels.state)
            && self.matches_labels(&key.id, uid, labels.kind, &labels.principal, labels.client.as_deref())
            && self
                .backend
                .as_deref()
                .is_none_or(|asked| labels.backends.iter().any(|name| name.as_str() == asked))
    }

    /// False when the scope of a session says that it is not asked for: a scope that is not empty is the
    /// principal.
    pub(in crate::session) fn matches_scope(&self, key: &SessionKey) -> bool {
        let scope = key.scope.as_str();
        scope.is_empty() || self.principal.as_deref().is_none_or(|asked| asked == scope)
    }

    fn matches_labels(
        &self,
        id: &SessionId,
        uid: Uid,
        kind: SessionKind,
        principal: &PrincipalId,
        client: Option<&str>,
    ) -> bool {
        let client = client.unwrap_or_default();
        self.kind.is_none_or(|asked| asked == kind)
            && self.principal.as_deref().is_none_or(|asked| asked == principal.as_str())
            && self.client.as_deref().is_none_or(|asked| asked == client)
            && self.q.as_deref().is_none_or(|text| {
                let text = text.to_ascii_lowercase();
                let holds = |field: &str| field.to_ascii_lowercase().contains(&text);
                holds(id.as_str()) || holds(principal.as_str()) || holds(client) || holds(&uid.to_string())
            })
    }
}
