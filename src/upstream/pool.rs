//! `backends.NAME.pool`: how connections to a backend are used.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::units::DurationText;

/// How long an idle connection is kept without `pool.idle_timeout`: less than the 5 s of uvicorn and Node.
const PLAIN_IDLE: Duration = Duration::from_secs(4);

/// The same with TLS, which providers and load balancers offer: less than the 60 s after which many of those close it.
const SECURE_IDLE: Duration = Duration::from_secs(50);

/// `backends.NAME.pool`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "BackendPool")]
pub struct BackendPoolConfig {
    /// When HTTP/2 is used.
    pub http2: Http2,
    /// How long an idle connection is kept for further requests; 0 for not at all. Without it 4s for `http` URLs, since
    /// model servers behind uvicorn or Node close idle connections after 5s, and 50s for `https` URLs, since load balancers
    /// close them after 60s.
    pub idle_timeout: Option<DurationText>,
    /// Which requests are sent again when a kept connection turns out to be closed.
    pub resend: Resend,
}

/// `backends.NAME.pool.resend`: which requests are sent again, once and on a new connection, when a kept connection ends
/// before the first byte of the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Resend {
    /// Those that the backend cannot have processed, because they were not written completely, and those with an idempotent
    /// method (RFC 9110, 9.2.2).
    #[default]
    Unprocessed,
    /// All. The backend may process a request twice if it failed while it processed the first one.
    Always,
}

/// `backends.NAME.pool.http2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Http2 {
    /// Over TLS if the backend selects it (ALPN); never without TLS.
    #[default]
    Auto,
    /// Always; without TLS with prior knowledge (h2c; RFC 9113, 3.3).
    Always,
    /// Never: HTTP/1.1 only.
    Never,
}

impl BackendPoolConfig {
    /// Returns how long an idle connection is kept; `secure` if the URL is `https`.
    pub(super) fn idle(&self, secure: bool) -> Duration {
        self.idle_timeout.map_or(if secure { SECURE_IDLE } else { PLAIN_IDLE }, |idle| idle.0)
    }
}
