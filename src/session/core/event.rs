//! What happens to sessions, as typed events for listeners (log, metrics, history) and the live feed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::packed_requests::PackedRequest;
use crate::ids::Uid;
use crate::protocol::usage::Usage;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::record::Record;
use crate::session::views::request_line::RequestLine;
use crate::session::views::session_view::SessionView;

/// Whoever is told of each event.
pub trait Listener: Send + Sync {
    /// Called on the thread where it happens: it must be quick and must not block.
    fn on_event(&self, event: &Event);

    /// True while many more events than have come would be lost. Whoever ends sessions in bulk waits then.
    fn is_behind(&self) -> bool {
        false
    }

    /// True when each leg that ends is to be told, too; asked once.
    fn wants_legs(&self) -> bool {
        false
    }

    /// Called when a leg has ended, under the same terms.
    fn on_leg(&self, _: ServedLeg) {}
}

impl<F: Fn(&Event) + Send + Sync> Listener for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

/// One happening. Events of one session may overtake each other when they happen at the same time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A new incarnation.
    Started(Box<SessionView>),
    /// An incarnation ended; its record. Published exactly once for each incarnation.
    Ended(Arc<Record>),
    /// A kill order was written, against a session or an agent in it, and legs were cut.
    Killed {
        /// The order.
        order: Arc<KillOrder>,
        /// Legs that were open.
        legs_cut: usize,
    },
    /// An operator lifted a kill order.
    Resumed {
        /// The order that no longer stands.
        order: Arc<KillOrder>,
        /// Who lifted it.
        by: String,
    },
    /// The shared store does not answer: this instance goes on by itself.
    StoreLost {
        /// What happened.
        why: String,
    },
    /// The shared store answers, and knows what this instance did meanwhile.
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
    /// What is told of it.
    pub fn line(&self) -> RequestLine {
        self.kept.line()
    }

    /// The provider's own token counts; of a socket those of all its answers.
    pub fn usage(&self) -> Option<Usage> {
        self.usage.or_else(|| self.kept.socket_usage())
    }
}
