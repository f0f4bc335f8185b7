//! The harness: a real gateway, scripted backends, clients that time each byte.

pub mod agent;
pub mod authority;
pub mod backend;
pub mod call;
pub mod collector;
pub mod control;
pub mod demo;
pub mod forward_proxy;
pub mod gateway;
pub mod http2;
pub mod json_schema;
pub mod kernel;
pub mod openapi;
pub mod process;
pub mod program;
pub mod quiet;
pub mod recording;
pub mod redis;
pub mod redis_cluster;
pub mod relay;
pub mod socket;
pub mod switch;
pub mod timing;
pub mod tripwire;
pub mod tunnel;
pub mod wire;

use std::time::Duration;

pub use backend::{Connection, RawBackend};
pub use call::{Call, RawClient};
pub use demo::Demo;
pub use gateway::Gateway;

/// The longest that the harness waits for ELIDA itself: a test that needs more has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Something a gateway can send requests to.
pub trait Backend {
    /// Its URL, without a path.
    fn url(&self) -> String;
}

/// The Redis that a fleet shares.
pub trait Shared {
    /// Its URL for gateways.
    fn url(&self) -> &str;
}

/// Waits for `future`; fails the test with the name of what it waited for after [`DEADLINE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_time(DEADLINE, what, future).await
}

/// The same with another limit: only for programs that wait before they retry.
pub async fn within_time<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {limit:?} in vain for {what}"),
    }
}

/// Parses JSON; panics with the text when it is not JSON.
pub fn json(text: &[u8]) -> serde_json::Value {
    serde_json::from_slice(text)
        .unwrap_or_else(|error| panic!("not JSON ({error}): {}", String::from_utf8_lossy(text)))
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
