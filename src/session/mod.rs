//! Sessions: what an agent's run is here, who may still add to it, and how it ends.
//!
//! The [`manager`](manager::Manager) is the only writer. A live session is a handle of atomics
//! ([`live::Live`]) whose open legs can be cut ([`cut::Cut`]); its end is a durable order
//! ([`book::KillOrder`]) or a clock; its memory is a snapshot in a [`store::SessionStore`] and one
//! record ([`record::Record`]). The [`agents`] inside it stand in a tree, of which a kill may take a part.
//!
//! Neighbours: `proxy` admits and settles legs, `control` lists and kills, `app` calls the reaper
//! each second and wires listeners to [`event::Event`]. Nothing here knows HTTP.
//!
//! Invariants: a kill order is in the book before a leg is cut; no leg is admitted to a killed
//! session after `kill` has returned, nor of a killed agent or one below it; each incarnation has exactly one record, ever; locks are
//! taken in the order registry shard, then closing shard, book, principals or the session's own
//! mutex, and none is held across an await.

mod admit;
pub mod agents;
pub mod book;
mod census;
pub mod cut;
mod doc;
pub mod event;
pub mod fleet;
mod kept;
mod kill;
mod latency;
pub mod leg;
pub mod live;
mod lookup;
pub mod manager;
pub mod model;
mod open;
mod query;
mod reaper;
pub mod record;
mod registry;
pub mod settings;
mod sibling;
pub mod snapshot;
pub mod starts;
pub mod stats;
pub mod store;
mod tally;
#[cfg(test)]
pub(crate) mod testing;

pub use agents::AgentView;
pub use book::{BlockMode, KillOrder};
pub use census::Capacity;
pub use cut::{Cut, CutReason};
pub use event::{Event, Listener, Served};
pub use kill::{KillError, KillRequest, Killed, ResumeError, Resumed};
pub use leg::{Arrival, Denied, Leg, LegKind, LegStart, Limit};
pub use live::Live;
pub use lookup::{NamedBy, SessionRef};
pub use manager::Manager;
pub use model::{EndReason, Identity, Kind, State};
pub use record::Record;
pub use settings::{Block, Settings, Written};
pub use snapshot::{Filter, Page, Snapshot};
pub use stats::Stats;
pub use tally::RequestLine;
