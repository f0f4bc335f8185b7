//! A request of a session: what it brings, what it reports at its end, and why it is refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::cut::Cut;
use crate::ids::{Membership, PrincipalId, RequestId, SessionKey, Validity};
use crate::limits::Refused;
use crate::session::store::StoreError;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::request_line::LegKind;
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
    /// Its tenant and groups; `None` if it has neither.
    pub membership: Option<Arc<Membership>>,
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
    /// For how long its caller is accepted, who may be another one than the session's.
    pub validity: Arc<Validity>,
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
    /// A limit of `limits` on sessions is used up.
    #[error(transparent)]
    Limited(#[from] Refused),
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
