//! An instance of a fleet, as the others see it.

use serde::{Deserialize, Serialize};

/// What an instance says of itself with each heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceView {
    /// Its name.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// When it started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Sessions that are active there.
    pub sessions: usize,
    /// Legs that are open there.
    pub legs: usize,
}
