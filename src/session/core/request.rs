//! A request on its way into a session: what it brings, what it reports at its end, and why it is refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::cut::Cut;
use crate::error::ErrorKind;
use crate::ids::{BackendName, PrincipalId, RequestId, SessionKey};
use crate::protocol::tools::ToolCounts;
use crate::protocol::usage::Usage;
use crate::session::store::StoreError;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::request_line::{LegKind, SocketReport};
use crate::session::views::state::Identity;

/// Who comes with which session id.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// The session.
    pub key: SessionKey,
    /// How it was recognised.
    pub identity: Identity,
    /// Who calls.
    pub principal: PrincipalId,
    /// The principals that the credentials of the request would be alone, when it carries several; else empty.
    pub accounts: Box<[PrincipalId]>,
    /// Where from.
    pub client_addr: IpAddr,
    /// The address whose new sessions are counted (`session.starts_per_address`); `None` counts nothing.
    pub counted_from: Option<IpAddr>,
    /// A derived id: after so long a silence the same id is a new incarnation.
    pub idle_gap: Option<Duration>,
}

/// What the leg is going to do.
#[derive(Clone, Debug)]
pub struct LegStart {
    /// What it is.
    pub kind: LegKind,
    /// The request's method.
    pub method: Box<str>,
    /// The request's path; a query is dropped and 256 bytes are kept.
    pub path: String,
    /// The request's id.
    pub request_id: RequestId,
    /// What a kill cuts.
    pub cut: Arc<Cut>,
}

/// What the leg did. Bytes of the session's totals are counted as they pass
/// (`Session::add_bytes_in`, `Session::add_bytes_out`); those here are for the request's own line.
#[derive(Clone, Debug, Default)]
pub struct LegReport {
    /// The backend that served it; `None` is the one of `Leg::routed`, if any.
    pub backend: Option<BackendName>,
    /// The backend that failed before, when another one took its place.
    pub failover_from: Option<BackendName>,
    /// How many backends were asked.
    pub attempts: u32,
    /// The model, as the request or the answer names it; `None` is the one of `Leg::routed`, if any.
    pub model: Option<String>,
    /// What a JSON-RPC request asked for: `tools/call get_weather`.
    pub operation: Option<String>,
    /// The status sent to the client.
    pub status: Option<u16>,
    /// Why it was refused or failed.
    pub error: Option<ErrorKind>,
    /// The provider's own token counts.
    pub usage: Option<Usage>,
    /// Why the model stopped, in the provider's word.
    pub stop_reason: Option<Box<str>>,
    /// The tools it called.
    pub tools: ToolCounts,
    /// From the request to the first byte of the backend's answer.
    pub ttfb: Option<Duration>,
    /// From the request to the end.
    pub duration: Duration,
    /// Bytes received from the client by this leg.
    pub bytes_in: u64,
    /// Bytes sent to the client by this leg.
    pub bytes_out: u64,
    /// True when the answer was a stream.
    pub stream: bool,
    /// What passed, when it was an upgraded connection.
    pub socket: Option<Box<SocketReport>>,
    /// How it ended, in a word: `completed`, `killed`, `client_gone`.
    pub outcome: &'static str,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `session.max_active`.
    Active,
    /// `session.max_active_per_principal`.
    ActivePerPrincipal,
}

impl Limit {
    /// All limits.
    pub const ALL: [Limit; 2] = [Limit::Active, Limit::ActivePerPrincipal];

    /// The configuration key that sets it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Active => "session.max_active",
            Self::ActivePerPrincipal => "session.max_active_per_principal",
        }
    }
}

/// Why a leg was not admitted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Denied {
    /// A kill order stands against the session or the agent.
    #[error("{}", .order.notice())]
    Killed {
        /// The order.
        order: Arc<KillOrder>,
    },
    /// A new session would be one too many, and all others have open requests.
    #[error("{} is reached: {limit} sessions, all of them with open requests", .what.key())]
    Capacity {
        /// Which limit.
        what: Limit,
        /// How many sessions it allows.
        limit: usize,
    },
    /// The client's address starts sessions too fast.
    #[error(
        "too many new sessions from this address (session.starts_per_address); send the id of a session that \
         exists, or wait"
    )]
    StartRate {
        /// Until it may start another one.
        wait: Duration,
    },
    /// The instance goes away.
    #[error("this instance is shutting down")]
    ShuttingDown,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the store holds of the session cannot be read.
    #[error("the session cannot be admitted: {key} holds what cannot be read; an operator must delete it")]
    Unreadable {
        /// The key.
        key: String,
    },
}
