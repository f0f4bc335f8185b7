//! The whole configuration file, as serde reads it.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::session_section::SessionSection;
use crate::{
    cache, capture, control, forward, history, identity, limits, notify, policy, pricing, proxy, routing,
    telemetry, upstream,
};

/// The only supported `version`.
pub(super) const VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Elida")]
pub(super) struct ConfigFile {
    /// Format of this file; 1 is the only one.
    pub(super) version: u32,
    /// Address of the proxy listener; `:8080` listens on all addresses. Needs a restart.
    pub(super) listen: String,
    /// URL of a single backend of type ollama, used while `backends` is empty.
    pub(super) backend: String,
    /// Threads, timeouts and limits of the proxy listener.
    pub(super) server: proxy::settings::ServerConfig,
    /// Compression of answers for clients.
    pub(super) compression: proxy::compression_settings::CompressionConfig,
    /// The control API.
    pub(super) control: control::settings::ControlConfig,
    /// Who may call, and with which key.
    pub(super) auth: identity::AuthConfig,
    /// Lifetimes and limits of sessions, and how the session of a request is found.
    pub(super) session: SessionSection,
    /// The backends by name.
    pub(super) backends: Backends,
    /// How a backend is chosen.
    pub(super) routing: routing::RoutingConfig,
    /// How fast callers may be: requests and tokens in a time, and open requests.
    pub(super) limits: Vec<limits::LimitConfig>,
    /// What happens when there is no room for all requests: how long they wait, which go first, and which are refused.
    pub(super) admission: limits::AdmissionConfig,
    /// How much callers may spend, in US dollars or tokens.
    pub(super) budgets: Vec<limits::BudgetConfig>,
    /// Rules for requests, answers and tool calls.
    pub(super) policy: policy::settings::PolicyConfig,
    /// How calls that rules hold are approved.
    pub(super) approvals: policy::approvals::ApprovalsConfig,
    /// The webhooks that receive events.
    pub(super) webhooks: Vec<notify::settings::WebhookConfig>,
    /// Where events are written in the form of OCSF.
    pub(super) ocsf: notify::settings::OcsfConfig,
    /// The forward proxy: programs that only know `HTTPS_PROXY`.
    pub(super) forward_proxy: forward::ForwardConfig,
    /// What may be reached and what may pass.
    pub(super) security: forward::SecurityConfig,
    /// The HTTP cache.
    pub(super) cache: cache::CacheConfig,
    /// The list of models.
    pub(super) models: proxy::settings::ModelsConfig,
    /// Storage of ended sessions.
    pub(super) history: history::HistoryConfig,
    /// Capture of bodies into the history.
    pub(super) capture: capture::CaptureConfig,
    /// Prices of models.
    pub(super) usage: pricing::PricingConfig,
    /// The log.
    pub(super) logging: telemetry::settings::LoggingConfig,
    /// Export to an OpenTelemetry collector. Needs a restart.
    pub(super) telemetry: telemetry::otlp::settings::TelemetryConfig,
    /// Directory for keys and other state. Needs a restart.
    pub(super) data_dir: String,
    /// How to treat settings that let strangers spend an injected key.
    pub(super) startup_guard: Guard,
}

/// How to treat settings that let strangers spend an injected key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Guard {
    /// As an error.
    #[default]
    Enforce,
    /// As a warning.
    Warn,
}

impl Default for ConfigFile {
    fn default() -> Self {
        Self {
            version: VERSION,
            listen: "0.0.0.0:8080".into(),
            backend: "http://localhost:11434".into(),
            server: Default::default(),
            compression: Default::default(),
            control: Default::default(),
            auth: Default::default(),
            session: Default::default(),
            backends: Backends::default(),
            routing: Default::default(),
            limits: Vec::new(),
            admission: limits::AdmissionConfig::default(),
            budgets: Vec::new(),
            policy: Default::default(),
            approvals: Default::default(),
            webhooks: Vec::new(),
            ocsf: Default::default(),
            forward_proxy: Default::default(),
            security: Default::default(),
            cache: Default::default(),
            models: Default::default(),
            history: Default::default(),
            capture: Default::default(),
            usage: Default::default(),
            logging: Default::default(),
            telemetry: Default::default(),
            data_dir: "/var/lib/elida".into(),
            startup_guard: Guard::default(),
        }
    }
}

impl JsonSchema for Backends {
    fn schema_name() -> Cow<'static, str> {
        "Backends".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let backend = generator.subschema_for::<upstream::settings::BackendConfig>();
        json_schema!({"type": "object", "additionalProperties": backend})
    }
}

/// `backends` in the order of the file, which breaks ties in routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Backends(pub(super) Vec<(String, upstream::settings::BackendConfig)>);

impl Serialize for Backends {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, backend)| (name, backend)))
    }
}

impl<'de> Deserialize<'de> for Backends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Backends;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("backends by name")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Backends, A::Error> {
                let mut backends = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    backends.push(entry);
                }
                Ok(Backends(backends))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}
