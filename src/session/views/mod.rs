//! Plain data about sessions: what the control API, the history, the event feed and the store show of them.

pub mod agent_view;
pub mod finding;
pub mod instance_view;
pub mod kill_order;
pub mod latency;
pub mod record;
pub mod request_line;
pub mod session_facts;
pub mod session_view;
pub mod state;
pub mod stats;
