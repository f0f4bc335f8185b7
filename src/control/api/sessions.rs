//! The list of sessions.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::params::{Limit, NO_CURSOR, Time};
use crate::ids::Uid;
use crate::session::{Filter, SessionKind, SessionState, SessionView};

/// Items on a page of sessions: 100, at most 1000.
pub type SessionLimit = Limit<100, 1000>;

/// Query of `GET /control/sessions`; each absent parameter matches every session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SessionsQuery {
    /// Sessions in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<SessionState>,
    /// Sessions of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<SessionKind>,
    /// Sessions of this principal, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Sessions that used this backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Sessions of this client program, such as `claude-code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Sessions in which a byte has moved since this time: a time, or an age such as `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_since: Option<Time>,
    /// A part of the id, uid, principal or client; case is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// Sessions on this page.
    pub limit: SessionLimit,
    /// `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "cursor")]
    pub cursor: Option<String>,
}

fn cursor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    match Uid::parse(&text) {
        Some(_) => Ok(Some(text.into_owned())),
        None => Err(de::Error::custom(NO_CURSOR)),
    }
}

impl From<SessionsQuery> for Filter {
    fn from(query: SessionsQuery) -> Self {
        let SessionsQuery { state, kind, principal, backend, client, active_since, q, limit, cursor } = query;
        let active_since = active_since.map(|Time(at)| at);
        // The tenants are those that the caller may see.
        let tenants = Vec::new();
        Self { state, kind, principal, backend, client, tenants, active_since, q, limit: limit.get(), cursor }
    }
}

/// Answer of `GET /control/sessions`: sessions, newest first. The command line reads the sessions as plain JSON
/// where it prints JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SessionPage")]
pub struct SessionPage<S = SessionView> {
    /// The sessions, without `agents`, `legs` and `requests`.
    pub sessions: Vec<S>,
    /// Cursor of the next page; null on the last one.
    pub next_cursor: Option<String>,
    /// Number of sessions that match; null unless this page holds them all.
    pub total: Option<usize>,
    /// True when sessions may be missing: the search stopped at its bound and goes on at `next_cursor`, or, without
    /// a cursor, Redis did not answer.
    pub truncated: bool,
}
