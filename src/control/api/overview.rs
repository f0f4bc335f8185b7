//! What the dashboard starts with: the last hour, the instances, and who has logged in.

use std::borrow::Cow;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::secret::Secret;
use crate::telemetry::series::Point;

/// Answer of `GET /control/series`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RecentSeries {
    /// Seconds of a step.
    pub step_s: u64,
    /// The steps of the last hour, the oldest first; the last one has not ended.
    pub points: Vec<RecentPoint>,
}

/// One step of the last hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RecentPoint {
    /// When the step began.
    pub at: Timestamp,
    /// Requests answered.
    pub requests: u64,
    /// Requests with a status of 400 or above, or without an answer.
    pub errors: u64,
    /// Tokens.
    pub tokens: u64,
    /// Cost in US dollars.
    pub cost_usd: f64,
    /// Kills.
    pub kills: u64,
    /// Milliseconds in ELIDA that 95 of 100 requests did not exceed; null without a request.
    pub overhead_p95_ms: Option<f64>,
}

impl From<Point> for RecentPoint {
    fn from(point: Point) -> Self {
        let Point { at_ms, requests, errors, tokens, cost_usd, kills, overhead_p95 } = point;
        Self {
            at: Timestamp::from_millisecond(at_ms).unwrap_or_default(),
            requests,
            errors,
            tokens,
            cost_usd,
            kills,
            overhead_p95_ms: overhead_p95.map(|seconds| seconds * 1000.0),
        }
    }
}

/// Answer of `GET /control/instances`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceList {
    /// The instances, the one that answers first.
    pub instances: Vec<Instance>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Its name in a fleet; `local` without Redis.
    pub name: String,
    /// The version of its program.
    pub version: Cow<'static, str>,
    /// Seconds since its control API started.
    pub uptime_s: u64,
    /// Active sessions.
    pub sessions: usize,
    /// Open legs.
    pub legs: usize,
    /// The session store: `memory` or `redis`.
    pub store: Cow<'static, str>,
    /// Whether the session store answers.
    pub store_up: bool,
    /// Whether it is the instance that answers.
    pub here: bool,
}

/// Body of `POST /control/login`: a token, or a name and a password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CookieLogin {
    /// The control token, a key whose principal has a role, or an access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub token: Option<Secret>,
    /// The name of an account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub password: Option<Secret>,
}

/// Answer of `POST /control/login`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CookieReply {
    /// The principal, such as `key:ada`; `token` for the control token, `local` where none is required.
    pub id: String,
    /// Seconds for which the cookie is valid.
    pub expires_in: u64,
}

/// Answer of `POST /control/logout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CookieEnd {
    /// Whether there was a cookie, which is not valid any more.
    pub ended: bool,
}
