//! Plain data about sessions: what the control API, the history and the event feed show.

pub mod latency;
pub mod record;
pub mod session_view;
pub mod state;
pub mod stats;
