//! The `routing:` section as it is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::telemetry::metrics::RouteMethod;

/// The `routing:` section; the patterns themselves stand with the backends (`backends.NAME.models`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Routing")]
pub struct RoutingConfig {
    /// The ways to find a backend, tried in this order.
    pub methods: Vec<RouteMethod>,
    /// The request header that names a backend.
    pub header: String,
    /// True: a model that no pattern matches is refused, never sent to the default backend.
    pub strict_models: bool,
    /// Patterns of models that nobody may call, however the backend was chosen.
    pub blocked_models: Vec<String>,
    /// The name of the backend that takes what nothing else matched; empty for none.
    pub default_backend: String,
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            methods: vec![RouteMethod::Header, RouteMethod::Model, RouteMethod::Path, RouteMethod::Default],
            header: "X-Backend".into(),
            strict_models: false,
            blocked_models: Vec::new(),
            default_backend: String::new(),
        }
    }
}
