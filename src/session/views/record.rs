//! The call detail record (CDR): written once, when an incarnation has ended.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::session::core::kill_orders::KillOrder;
use super::latency::Quantiles;
use crate::session::core::session::{End, Inner, Session};
use super::state::{EndReason, SessionKind, SessionState};
use crate::session::core::totals::{BackendUse, ModelUse, RequestLine};
use crate::clock::{Clock, millis};
use crate::ids::{AgentId, BackendName, PrincipalId, SessionId, Uid};
use crate::protocol::tools::ToolCounts;
use crate::protocol::usage::Usage;

/// The version of the record's form. Up to `elida.cdr/1` the digest of a record's chain was not of the form of RFC 8785.
pub const SCHEMA: &str = "elida.cdr/2";

/// One record. The first eight keys are the seed's, in its order; later ones are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The external id.
    pub session_id: SessionId,
    /// The final state.
    pub state: SessionState,
    /// Milliseconds it lived.
    pub duration_ms: u64,
    /// Legs admitted.
    pub request_count: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// The backend that served most requests, by its address when that is known; empty when none did.
    pub backend: Arc<str>,
    /// Where it was opened from.
    pub client_addr: IpAddr,
    /// Always [`SCHEMA`].
    #[serde(skip_deserializing, default = "version")]
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    /// The incarnation.
    pub uid: Uid,
    /// 1 for the first incarnation of its id.
    pub incarnation: u32,
    /// The incarnation before this one.
    pub previous_id: Option<Uid>,
    /// What ran in it.
    pub kind: SessionKind,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Why it ended.
    pub end_reason: EndReason,
    /// Who ended it; `None` when a clock did.
    pub ended_by: Option<String>,
    /// Whose it was.
    pub principal: PrincipalId,
    /// The program and its version: `claude-code/2.1.197`.
    pub client: Option<String>,
    /// How it was recognised.
    pub identity_source: Arc<str>,
    /// The agents inside the client, in the order in which they came; `main` has no id of its own.
    pub agents: Vec<AgentId>,
    /// Requests by backend, most used first.
    pub backends: Vec<BackendUse>,
    /// Requests that another backend took over before their answer began.
    pub failovers: u64,
    /// The provider's own token counts.
    pub usage: UsageRecord,
    /// Calls by tool.
    #[schemars(with = "BTreeMap<String, u64>")]
    pub tools: ToolCounts,
    /// Legs that failed.
    pub error_count: u64,
    /// Failed answers by status, or by our code when there was no status.
    pub errors: BTreeMap<String, u64>,
    /// Time to the first byte of the answers; `None` when there was none.
    pub ttfb_ms: Option<Quantiles>,
    /// Findings of policies; none are made yet.
    pub flags: Vec<String>,
    /// The order that killed it.
    pub kill: Option<Arc<KillOrder>>,
    /// The last order against each of its agents that was killed, also those lifted since.
    pub agent_kills: Vec<Arc<KillOrder>>,
    /// Its last requests, newest first; beside the record, not in it.
    #[serde(skip)]
    pub requests: Vec<RequestLine>,
}

fn version() -> &'static str {
    SCHEMA
}

/// Token counts: in total and by model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageRecord {
    /// By model.
    pub models: Vec<ModelUse>,
    /// In total, also of answers that named no model.
    #[serde(flatten)]
    pub total: Usage,
}

impl Session {
    /// The record of this session, the first time it is asked for after its end. `shown_as` gives the
    /// address a backend is shown as.
    pub(in crate::session) fn record(
        &self,
        clock: &Clock,
        shown_as: impl FnOnce(&BackendName) -> Arc<str>,
    ) -> Option<Record> {
        self.record_once(|inner, end| self.describe(inner, end, clock, shown_as))
    }

    fn describe(
        &self,
        inner: &Inner,
        end: &End,
        clock: &Clock,
        shown_as: impl FnOnce(&BackendName) -> Arc<str>,
    ) -> Record {
        let backends = inner.tally.backends();
        let identity = self.identity();
        Record {
            session_id: self.key().id.clone(),
            state: inner.state,
            duration_ms: millis(end.at.since(self.started())),
            request_count: self.requests(),
            bytes_in: self.bytes_in(),
            bytes_out: self.bytes_out(),
            backend: backends.first().map(|used| shown_as(&used.name)).unwrap_or_default(),
            client_addr: self.client_addr(),
            schema: SCHEMA,
            uid: self.uid(),
            incarnation: self.incarnation(),
            previous_id: self.previous(),
            kind: self.kind(),
            started_at: clock.wall(self.started()),
            ended_at: clock.wall(end.at),
            end_reason: end.reason,
            ended_by: end.order.as_ref().map(|order| order.by.clone()),
            principal: self.principal().clone(),
            client: identity.program(),
            identity_source: identity.source.clone(),
            agents: inner.agent_names(),
            backends,
            failovers: inner.tally.failovers(),
            usage: UsageRecord { models: inner.tally.models().to_vec(), total: inner.tally.usage() },
            tools: inner.tally.tools(),
            error_count: self.errors(),
            errors: inner.tally.errors(),
            ttfb_ms: inner.tally.ttfb(),
            flags: Vec::new(),
            kill: end.order.clone(),
            agent_kills: inner.agent_kills(),
            requests: inner.tally.lines(),
        }
    }
}
