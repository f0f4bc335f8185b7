//! Probes, health, backends and totals.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer of the liveness probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Liveness {
    /// Always `alive`.
    pub status: LivenessStatus,
}

/// Status of the liveness probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LivenessStatus {
    /// The control API answers.
    Alive,
}

/// Answer of the startup probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Startup {
    /// Whether the instance was ready once.
    pub status: StartupStatus,
    /// Why it has not started; absent once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
}

/// Status of the startup probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartupStatus {
    /// The instance was ready at least once.
    Started,
    /// It has not been ready yet.
    Starting,
}

/// Answer of the readiness probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadinessReport {
    /// Whether requests may be sent to this instance.
    pub status: ReadinessStatus,
    /// The session store: `memory` or `redis`.
    pub store: Cow<'static, str>,
    /// Why it is not ready, such as `starting` or `draining`; absent when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What an operator should know although it is ready, such as an unreachable Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Status of the readiness probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadinessStatus {
    /// Requests may be sent here.
    Ready,
    /// They may not.
    NotReady,
}

/// Answer of `GET /control/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ControlHealth {
    /// Whether requests may be sent to this instance.
    pub status: HealthStatus,
    /// The version of this program.
    pub version: Cow<'static, str>,
    /// Seconds since the control API started.
    pub uptime_s: u64,
    /// The session store: `memory` or `redis`.
    pub store: Cow<'static, str>,
    /// Why it is not ready; absent when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What an operator should know although it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// The backends by name; absent when a token is set and the request does not show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends: Option<BTreeMap<String, BackendStatus>>,
}

/// Status in `GET /control/health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Ready.
    Healthy,
    /// Starting or draining.
    NotReady,
}

/// Answer of `GET /control/backends`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendList {
    /// The backends by name.
    pub backends: BTreeMap<String, BackendStatus>,
}

/// A backend and its health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendStatus {
    /// The provider, such as `openai`.
    pub r#type: Cow<'static, str>,
    /// The URL.
    pub url: String,
    /// How requests to it are authenticated, such as `passthrough`.
    pub auth: Cow<'static, str>,
    /// False while failed requests, `Retry-After` or probes keep requests away from it.
    pub healthy: bool,
    /// Whether an operator keeps new requests away from it.
    pub drained: bool,
    /// Milliseconds until requests are sent to it again; null when it is healthy or when probes decide.
    pub rests_for_ms: Option<u64>,
    /// Callers whose requests are kept away from it, because only theirs failed or only they got `Retry-After`.
    pub callers_kept_away: usize,
    /// Open requests.
    pub open: usize,
}
