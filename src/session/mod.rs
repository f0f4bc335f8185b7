//! Sessions: the state of an agent's run, admission of its requests, kill orders and how a session ends.
//!
//! * [`core`]: active sessions, their legs, admission, kill, timeouts. [`Manager`] is the only writer.
//! * [`views`]: plain data about sessions: the view that the control API shows, the record, totals.
//! * [`store`]: views of sessions that are not active in this process.
//! * [`replication`]: several instances that share sessions and kill orders through Redis.
//!
//! Neighbors: `proxy` admits and settles legs, `control` lists and kills, `app` calls [`Manager::reap`] every
//! second and connects listeners to [`Event`]. Nothing here knows HTTP.
//!
//! Invariants: a kill order is recorded before a leg is cut. After `kill` has returned, no leg of the killed
//! session, or of the killed agent and its descendants, is admitted. Each incarnation has exactly one record.
//! Locks are taken in this order: registry shard, closing shard, kill orders, active counts or the session's own
//! mutex. None is held across an await.

pub mod core;
pub mod replication;
pub mod settings;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod views;

pub use self::core::active_counts::Capacity;
pub use self::core::client_keys::ClientKeyStore;
pub use self::core::cut::{Cut, CutReason};
pub use self::core::event::{Event, Listener, ServedLeg};
pub use self::core::kill::{KillError, KillRequest, Killed, ResumeError, Resumed};
pub use self::core::leg::Leg;
pub use self::core::lookup::{NamedBy, SessionRef};
pub use self::core::manager::Manager;
pub use self::core::request::{Denied, LegStart, Limit, SessionRequest};
pub use self::core::session::Session;
pub use settings::{Block, SessionConfig, Settings};
pub use store::{Filter, Page};
pub use views::agent_view::AgentView;
pub use views::finding::FindingEvent;
pub use views::instance_view::InstanceView;
pub use views::kill_order::{BY_BUDGET, BY_POLICY, BlockMode, KillOrder};
pub use views::record::{Record, SCHEMA as RECORD_SCHEMA};
pub use views::request_line::{LegKind, RequestLine};
pub use views::session_facts::SessionFacts;
pub use views::session_view::SessionView;
pub use views::state::{EndReason, Identity, SessionKind, SessionState};
pub use views::stats::Stats;
