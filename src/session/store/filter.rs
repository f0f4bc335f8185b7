//! Which sessions a list asks for, and one page of the result.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{BackendName, PrincipalId, SessionId, SessionKey, Uid};
use crate::session::views::session_view::SessionView;
use crate::session::views::state::{SessionKind, SessionState};

/// Which sessions to list; an absent field does not filter.
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
    /// Of callers of these tenants; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
    /// With this text in the id, uid, principal or client; case does not matter.
    pub q: Option<String>,
    /// In which a byte has moved since this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_since: Option<Timestamp>,
    /// Page size, 1 to 1000; absent or 0 means 100.
    pub limit: usize,
    /// The cursor of the previous page.
    pub cursor: Option<String>,
}

/// The labels of an ended session that a filter needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::session) struct ListLabels {
    state: SessionState,
    kind: SessionKind,
    principal: PrincipalId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<Arc<str>>,
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
            tenant: session.principal.tenant.clone(),
            client: session.identity.client.as_deref().map(Box::from),
            backends: session.backends.keys().cloned().collect(),
        }
    }
}

/// One page of sessions, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The sessions, without the detail view's lists.
    pub sessions: Vec<SessionView>,
    /// The cursor of the next page; `None` on the last one.
    pub next_cursor: Option<String>,
    /// True if sessions may be missing: the search stopped at its bound and continues at `next_cursor`, or, without
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

    /// The page size.
    pub fn page_len(&self) -> usize {
        if self.limit == 0 { DEFAULT_LIMIT } else { self.limit.min(MAX_LIMIT) }
    }

    /// The uid below which the page begins; a cursor that is not a uid is ignored.
    pub fn before(&self) -> Option<Uid> {
        self.cursor.as_deref().and_then(Uid::parse)
    }

    /// True if the filter asks for this view, whatever the cursor.
    pub fn matches(&self, session: &SessionView) -> bool {
        self.state.is_none_or(|state| state == session.state)
            && self.matches_labels(
                &session.id,
                session.uid,
                session.kind,
                &session.principal.id,
                session.identity.client.as_deref(),
            )
            && self.covers(session.principal.tenant.as_deref())
            && self.backend.as_deref().is_none_or(|name| session.backends.contains_key(name))
            && self.active_since.is_none_or(|since| session.last_activity >= since)
    }

    /// False if the labels of an ended session rule it out.
    pub(in crate::session) fn matches_listed(&self, key: &SessionKey, uid: Uid, labels: &ListLabels) -> bool {
        self.state.is_none_or(|state| state == labels.state)
            && self.matches_labels(&key.id, uid, labels.kind, &labels.principal, labels.client.as_deref())
            && self.covers(labels.tenant.as_deref())
            && self
                .backend
                .as_deref()
                .is_none_or(|asked| labels.backends.iter().any(|name| name.as_str() == asked))
    }

    /// Returns whether a session of this tenant is asked for.
    pub(in crate::session) fn covers(&self, tenant: Option<&str>) -> bool {
        self.tenants.is_empty()
            || tenant.is_some_and(|tenant| self.tenants.iter().any(|asked| asked == tenant))
    }

    /// False if the scope of a session rules it out: a non-empty scope is the principal.
    pub(in crate::session) fn matches_scope(&self, key: &SessionKey) -> bool {
        let scope = key.scope.as_str();
        scope.is_empty() || self.principal.as_deref().is_none_or(|asked| asked == scope)
    }

    pub(in crate::session) fn matches_labels(
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
