//! Totals since this instance started: ended sessions plus active ones.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::Record;
use super::state::SessionState;

/// Distinct clients that are counted separately, because the client chooses its name; further ones count as
/// `other`.
const CLIENTS: usize = 256;
const OTHER: &str = "other";
const UNKNOWN: &str = "unknown";

/// Totals since this instance started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// Active sessions.
    pub active: usize,
    /// Open legs.
    pub open_legs: usize,
    /// Sessions by state: active ones now, ended ones since startup.
    pub by_state: BTreeMap<SessionState, u64>,
    /// Requests by backend.
    pub by_backend: BTreeMap<String, u64>,
    /// Sessions by client program.
    pub by_client: BTreeMap<String, u64>,
    /// Legs admitted.
    pub requests: u64,
    /// Legs that failed.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Kill orders given.
    pub kills: u64,
    /// Kill orders in force now.
    pub kills_in_force: usize,
}

impl Stats {
    /// Adds an ended session.
    pub(in crate::session) fn add_ended(&mut self, record: &Record, client: Option<&str>) {
        *self.by_state.entry(record.state).or_default() += 1;
        self.add_client(client);
        for used in &record.backends {
            self.add_backend(used.name.as_str(), used.requests);
        }
        self.requests += record.request_count;
        self.errors += record.error_count;
        self.bytes_in += record.bytes_in;
        self.bytes_out += record.bytes_out;
    }

    /// Adds requests of a backend.
    pub(in crate::session) fn add_backend(&mut self, name: &str, requests: u64) {
        match self.by_backend.get_mut(name) {
            Some(count) => *count += requests,
            None => {
                self.by_backend.insert(name.to_owned(), requests);
            }
        }
    }

    /// Adds a session of a client.
    pub(in crate::session) fn add_client(&mut self, client: Option<&str>) {
        let client = client.unwrap_or(UNKNOWN);
        let known = self.by_client.contains_key(client);
        let client = if known || self.by_client.len() < CLIENTS { client } else { OTHER };
        *self.by_client.entry(client.to_owned()).or_default() += 1;
    }
}
