//! The `routing:` section as it is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::request_match::MatchConfig;
use crate::telemetry::metrics::RouteMethod;

/// The `routing:` section; the patterns themselves stand with the backends (`backends.NAME.models`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Routing")]
pub struct RoutingConfig {
    /// The ways to find a backend, tried in this order.
    pub methods: Vec<RouteMethod>,
    /// Conditions that decide on the backend; the first that holds does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RouteRuleConfig>,
    /// The request header that names a backend.
    pub header: String,
    /// True: a model that no pattern matches is refused, never sent to the default backend.
    pub strict_models: bool,
    /// Patterns of models that nobody may call, however the backend was chosen.
    pub blocked_models: Vec<String>,
    /// The name of the backend that takes what nothing else matched; empty for none.
    pub default_backend: String,
}

/// A condition that decides on the backend: `match`, `when` or both, which then must both hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RoutingRule")]
pub struct RouteRuleConfig {
    /// What the head of the request must be.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<MatchConfig>,
    /// An expression over the facts that are known before the backend is chosen; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub when: String,
    /// Where the request goes then.
    pub forward: ForwardConfig,
}

/// Where a request goes: a backend or a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "RoutingForward")]
pub struct ForwardConfig {
    /// The name of the backend.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub backend: String,
    /// The URL of a server that is no backend of its own; it becomes one of type `http` that only rules lead to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// The beginning of the path that is not forwarded, such as `/files`; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub strip_prefix: String,
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            methods: vec![
                RouteMethod::Header,
                RouteMethod::Rule,
                RouteMethod::Model,
                RouteMethod::Path,
                RouteMethod::Default,
            ],
            rules: Vec::new(),
            header: "X-Backend".into(),
            strict_models: false,
            blocked_models: Vec::new(),
            default_backend: String::new(),
        }
    }
}
