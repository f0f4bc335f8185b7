//! Killing all sessions that a selector fits.

use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kills::BlockBody;
use crate::ids::{PrincipalId, SessionId, Uid};
use crate::session::SessionView;
use crate::settings::units::DurationText;

/// Which active sessions to kill: those that fit every member that is given, at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KillWhere {
    /// Of this principal, such as `key:ci`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Whose caller is in this group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// In which this agent has sent requests; the whole session is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Of this client program, such as `claude-code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// That used this backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// That used a model which this pattern fits, such as `gpt-*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// In which no byte has moved for longer than this, such as `10m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_over: Option<DurationText>,
    /// That began longer ago than this, such as `2h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_over: Option<DurationText>,
    /// For which this expression is true, such as `session.requests > 100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Only lists the sessions.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Why, at most 1024 bytes; the clients see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long the session ids stay refused; `session.kill_block` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockBody>,
}

impl KillWhere {
    /// Whether it would select every session.
    pub fn is_empty(&self) -> bool {
        let Self { principal, group, agent, client, backend, model, idle_over, running_over, when, .. } =
            self;
        let texts = [principal, group, agent, client, backend, model, when];
        texts.iter().all(|text| text.is_none()) && idle_over.is_none() && running_over.is_none()
    }
}

/// A session that a selector fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SelectedSession {
    /// The id.
    pub session_id: SessionId,
    /// The uid of the incarnation.
    pub uid: Uid,
    /// The principal.
    pub principal: PrincipalId,
    /// The client program.
    pub client: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// The time of the last byte that moved.
    pub last_activity: Timestamp,
    /// Legs that were open.
    pub open_legs: usize,
    /// What became of it; absent with `dry_run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<KillResult>,
}

/// What became of a session that was to be killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KillResult {
    /// The order is in force.
    Killed,
    /// It ended by itself before.
    Ended,
    /// It could not be killed, and why.
    Failed(String),
}

impl SelectedSession {
    /// A session that a selector fits.
    pub fn of(session: &SessionView) -> Self {
        Self {
            session_id: session.id.clone(),
            uid: session.uid,
            principal: session.principal.id.clone(),
            client: session.identity.client.as_deref().map(str::to_owned),
            started_at: session.started_at,
            last_activity: session.last_activity,
            open_legs: session.open_legs,
            result: None,
        }
    }
}

/// Answer to a kill by selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KillWhereReply {
    /// Nothing was killed.
    pub dry_run: bool,
    /// Sessions that the selector fits.
    pub matched: usize,
    /// Sessions that were killed.
    pub killed: usize,
    /// Legs cut on this instance.
    pub legs_cut: usize,
    /// The first 1000 of them, newest first.
    pub sessions: Vec<SelectedSession>,
    /// Sessions may be missing: there were more than 10,000, or the shared store did not answer. Ask again.
    pub truncated: bool,
    /// What has not received all of the orders yet, and why. This instance keeps trying.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_reached: Vec<String>,
    /// Why, as the clients see it.
    pub reason: Arc<str>,
}
