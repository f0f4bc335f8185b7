//! Which backend a request goes to.
//!
//! Compiles the `routing:` section and the backends' `models` patterns, and decides with them, also on fallbacks.
//! Neighbours: `proxy` calls [`Table::decide`] once per request; `config` compiles the table. Invariants: pure (no IO, no
//! clock, no state); a decision depends only on the table, the backend header, the path, the model and the facts that `routing.rules` ask for.

mod checks;
mod decision;
mod request_match;
mod rules;
mod server_paths;
mod settings;
mod table;

pub use crate::telemetry::metrics::RouteMethod;
pub use decision::{Choice, Decision, RouteError, RuleDecision, forwarded};
pub use request_match::MatchConfig;
pub use settings::{ForwardConfig, RouteRuleConfig, RoutingConfig};
pub use table::{BackendRule, Table};
