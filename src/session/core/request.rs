//! A request of a session: what it brings, what it reports at its end, and why it is refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::cut::Cut;
use crate::error::ErrorKind;
use crate::ids::{BackendName, PrincipalId, RequestId, SessionKey};
use crate::protocol::facts::tools::ToolCounts;
use crate::protocol::facts::usage::Usage;
use crate::session::store::StoreError;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::request_line::{LegKind, SocketReport};
use crate::session::views::state::Identity;

/// A request for a session.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// The session.
    pub key: SessionKey,
    /// How the session was recognised, and the client program.
    pub identity: Identity,
    /// The caller.
    pub principal: PrincipalId,
    /// The principals that the single credentials of the request would have, if it carries several; otherwise
    /// empty.
    pub accounts: Box<[PrincipalId]>,
    /// The address of the client.
    pub client_addr: IpAddr,
    /// The address that new sessions count against (`session.starts_per_address`); `None` counts nothing.
    pub counted_from: Option<IpAddr>,
    /// For a derived id: after this idle time the same id is a new incarnation.
    pub idle_gap: Option<Duration>,
}

/// What the leg is about to do.
#[derive(Clone, Debug)]
pub struct LegStart {
    /// Request or socket.
    pub kind: LegKind,
    /// The request's method.
    pub method: Box<str>,
    /// The path of the request; the query is dropped and 256 bytes are kept.
    pub path: String,
    /// The request's id.
    pub request_id: RequestId,
    /// The slot that a kill cuts.
    pub cut: Arc<Cut>,
}

/// What the leg did. The byte totals of the session are counted as bytes pass (`Session::add_bytes_in`,
/// `Session::add_bytes_out`); the values here are for the request line.
#[derive(Clone, Debug, Default)]
pub struct LegReport {
    /// The backend that served it; `None` keeps the one of `Leg::routed`.
    pub backend: Option<BackendName>,
    /// The backend that failed first, if the request failed over.
    pub failover_from: Option<BackendName>,
    /// Number of backends tried.
    pub attempts: u32,
    /// The model, as the request or the response names it; `None` keeps the one of `Leg::routed`.
    pub model: Option<String>,
    /// The operation of a JSON-RPC request: `tools/call get_weather`.
    pub operation: Option<String>,
    /// The status sent to the client.
    pub status: Option<u16>,
    /// Why it was refused or failed.
    pub error: Option<ErrorKind>,
    /// The provider's token counts.
    pub usage: Option<Usage>,
    /// Why the model stopped, in the provider's terms.
    pub stop_reason: Option<Box<str>>,
    /// Tools that the model called.
    pub tools: ToolCounts,
    /// From the request to the first byte of the response.
    pub ttfb: Option<Duration>,
    /// From the request to its end.
    pub duration: Duration,
    /// Bytes received from the client by this leg.
    pub bytes_in: u64,
    /// Bytes sent to the client by this leg.
    pub bytes_out: u64,
    /// True if the response was a stream.
    pub stream: bool,
    /// Traffic of an upgraded connection; `None` for other requests.
    pub socket: Option<Box<SocketReport>>,
    /// The outcome in one word: `completed`, `killed`, `client_gone`.
    pub outcome: &'static str,
}

/// A limit on active sessions.
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
    /// The session or the agent is killed.
    #[error("{}", .order.notice())]
    Killed {
        /// The order.
        order: Arc<KillOrder>,
    },
    /// A limit on active sessions is reached, and all of them have open legs.
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
        /// Time until it may start another one.
        wait: Duration,
    },
    /// This instance is shutting down.
    #[error("this instance is shutting down")]
    ShuttingDown,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store holds a value that cannot be read.
    #[error(
        "the session cannot be admitted: {key} holds a value that cannot be read; an operator must delete it"
    )]
    Unreadable {
        /// The key.
        key: String,
    },
}
