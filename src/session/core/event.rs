//! Session events for listeners (log, metrics, history) and the event feed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::packed_requests::PackedRequest;
use crate::ids::Uid;
use crate::policy::approval::Approval;
use crate::protocol::facts::usage::Usage;
use crate::session::views::finding::FindingEvent;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::record::Record;
use crate::session::views::request_line::RequestLine;
use crate::session::views::session_view::SessionView;

/// Receives every event of this instance.
pub trait Listener: Send + Sync {
    /// Called on the thread where the event occurs: must be quick and must not block.
    fn on_event(&self, event: &Event);

    /// True while a burst of events would overflow the queue of the listener. Bulk operations then wait.
    fn is_behind(&self) -> bool {
        false
    }

    /// True if [`Listener::on_leg`] shall be called; asked once.
    fn wants_legs(&self) -> bool {
        false
    }

    /// Called when a leg has ended. Must be quick and must not block.
    fn on_leg(&self, _: ServedLeg) {}

    /// Called when an order that applied here was lifted elsewhere. The instance that lifted it publishes the event. Must be
    /// quick and must not block.
    fn on_lifted_elsewhere(&self, _: &Arc<KillOrder>) {}

    /// Called when this order, given elsewhere, replaced one that applied here. The instance that gave it publishes the
    /// event. Must be quick and must not block.
    fn on_replaced_elsewhere(&self, _: &Arc<KillOrder>) {}
}

impl<F: Fn(&Event) + Send + Sync> Listener for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

/// A session event. Concurrent events of one session may arrive in any order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A new incarnation.
    Started(Box<SessionView>),
    /// An incarnation ended, with its record. Published exactly once for each incarnation.
    Ended(Arc<Record>),
    /// A kill order against a session or an agent was recorded, and legs were cut.
    Killed {
        /// The order.
        order: Arc<KillOrder>,
        /// Legs that were open.
        legs_cut: usize,
    },
    /// An operator lifted a kill order.
    Resumed {
        /// The order that was lifted.
        order: Arc<KillOrder>,
        /// Who lifted it.
        by: String,
    },
    /// A rule holds.
    Finding(Arc<FindingEvent>),
    /// A held call asks for an approval.
    ApprovalRequested(Arc<Approval>),
    /// An operator has answered; the last decision is the new one.
    ApprovalDecided(Arc<Approval>),
    /// The soft limit of a budget is passed; once a period on each instance.
    SoftLimit {
        /// The budget.
        budget: String,
        /// The name that its `by` gives.
        name: String,
    },
    /// The shared store does not answer: this instance continues alone.
    StoreLost {
        /// The error.
        why: String,
    },
    /// The shared store answers again and has received the changes of this instance.
    StoreBack,
}

impl Event {
    /// The name in logs and in the feed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started(_) => "session_started",
            Self::Ended(_) => "session_ended",
            Self::Killed { order, .. } if order.agent.is_some() => "agent_killed",
            Self::Killed { .. } => "session_killed",
            Self::Resumed { order, .. } if order.agent.is_some() => "agent_resumed",
            Self::Resumed { .. } => "session_resumed",
            Self::Finding(_) => "policy_finding",
            Self::ApprovalRequested(_) => "approval_requested",
            Self::ApprovalDecided(_) => "approval_decided",
            Self::SoftLimit { .. } => "budget_soft_limit",
            Self::StoreLost { .. } => "store_lost",
            Self::StoreBack => "store_back",
        }
    }
}

/// A leg that has ended.
#[derive(Clone, Debug)]
pub struct ServedLeg {
    /// The incarnation it belongs to.
    pub uid: Uid,
    pub(in crate::session) kept: PackedRequest,
    pub(in crate::session) usage: Option<Usage>,
}

impl ServedLeg {
    /// The request line of the leg.
    pub fn line(&self) -> RequestLine {
        self.kept.line()
    }

    /// The provider's token counts; for a socket, of all its responses.
    pub fn usage(&self) -> Option<Usage> {
        self.usage.or_else(|| self.kept.socket_usage())
    }
}
