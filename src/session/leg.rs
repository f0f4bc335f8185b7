//! One leg: how it arrives, the guard that counts it, and what it reports when it is done.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::book::KillOrder;
use super::cut::Cut;
use super::live::Live;
use super::manager::Manager;
use super::model::Identity;
use super::store::StoreError;
use crate::ids::{BackendName, LegId, PrincipalId, RequestId, SessionKey};
use crate::protocol::facts::tools_offered::ToolsOffered;
use crate::protocol::facts::usage::Usage;
use crate::summary::RequestSummary;

/// What a leg is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegKind {
    /// A request and its answer, streamed or not.
    #[default]
    Request,
    /// An upgraded connection.
    Socket,
}

/// Who comes with which session id.
#[derive(Clone, Debug)]
pub struct Arrival {
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

/// An open leg. It counts until it is settled or dropped, whichever comes first; a future that is
/// dropped in mid-air therefore still leaves its session in order.
#[derive(Debug)]
pub struct Leg {
    session: Arc<Live>,
    manager: Arc<Manager>,
    id: LegId,
    open: bool,
}

impl Leg {
    pub(super) fn new(session: Arc<Live>, manager: Arc<Manager>, id: LegId) -> Self {
        Self { session, manager, id, open: true }
    }

    /// The session it belongs to.
    pub fn session(&self) -> &Arc<Live> {
        &self.session
    }

    /// Its id in this process.
    pub fn id(&self) -> LegId {
        self.id
    }

    /// The order that cut it, against its agent or its session.
    pub fn kill_order(&self) -> Option<Arc<KillOrder>> {
        self.session.order_against(self.id, self.manager.clock.now())
    }

    /// Notes where the leg goes, for whoever looks at it while it is open.
    pub fn routed(&self, backend: &BackendName, model: Option<&str>) {
        self.session.routed(self.id, backend, model);
    }

    /// Notes what the request of the leg offers the model.
    pub fn offers(&self, offer: &ToolsOffered) {
        self.session.offers(self.id, offer);
    }

    /// Notes that another backend took the place of the one it went to.
    pub fn rerouted(&self, backend: &BackendName) {
        self.session.rerouted(self.id, backend);
    }

    /// Counts the tokens of an answer inside the leg, which goes on: a socket carries many.
    pub fn add_usage(&self, model: Option<&str>, usage: Usage) {
        self.session.add_usage(self.id, model, usage);
    }

    /// Closes the leg with the summary of its request; a second one changes nothing. Bytes of the session's totals are
    /// counted as they pass ([`Live::add_bytes_in`], [`Live::add_bytes_out`]).
    pub fn settle(&mut self, summary: &RequestSummary) {
        self.close(Some(summary));
    }

    /// Takes the leg out of its session as if it had never been there, with the bytes it brought: it has
    /// turned out to belong to another one.
    pub fn withdraw(mut self, bytes_in: u64) {
        self.open = false;
        self.manager.withdraw(&self.session, self.id, bytes_in);
    }

    fn close(&mut self, summary: Option<&RequestSummary>) {
        if std::mem::take(&mut self.open) {
            self.manager.close(&self.session, self.id, summary);
        }
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.close(None);
    }
}
