//! The settings that apply to a request. It takes them once, when it is received, so that a reload does not change them
//! meanwhile.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::forwarded::Forwarding;
use super::http_settings::HttpSettings;
use super::settings::{Discovery, Limits, Timeouts};
use super::tls::Tls;
use crate::cache::Cache;
use crate::capture;
use crate::forward;
use crate::identity;
use crate::limits as caller_limits;
use crate::notify::services::Services;
use crate::policy::approvals::ApprovalRules;
use crate::policy::ruleset::RuleSet;
use crate::pricing::Prices;
use crate::protocol::request::RequestPaths;
use crate::routing::Table;
use crate::upstream::backend::Backend;

/// The settings in force; a reload swaps them as a whole.
pub(crate) type SharedSettings = Arc<ArcSwap<RuntimeSettings>>;

/// One consistent set of settings.
pub(crate) struct RuntimeSettings {
    /// Which backend serves what.
    pub(crate) routes: Table,
    /// The backends, in the order in which `routes` counts them.
    pub(crate) backends: Vec<Arc<Backend>>,
    /// The keys of callers.
    pub(crate) auth: Arc<identity::Auth>,
    /// How sessions are identified.
    pub(crate) identity: identity::Settings,
    /// The body fields to look for: the model, and what `identity` wants to see.
    pub(crate) call_paths: Arc<RequestPaths>,
    /// Where the hints of `call_paths` for the length of the answer begin; they are absent without limits and budgets.
    pub(crate) output_hints: usize,
    /// How fast callers may be, with the levels of all counters.
    pub(crate) caller_limits: caller_limits::Limits,
    /// How requests are admitted when there is no room for all.
    pub(crate) admission: caller_limits::AdmissionRules,
    /// How much callers may spend.
    pub(crate) budgets: caller_limits::budgets::Budgets,
    /// Rules for requests, answers and tool calls.
    pub(crate) rules: Arc<RuleSet>,
    /// The services that decide besides them.
    pub(crate) services: Arc<Services>,
    /// How held calls are approved.
    pub(crate) approvals: ApprovalRules,
    /// Certificate and key of the listener; `None` for a plain one.
    pub(crate) tls: Option<Tls>,
    /// Whether a listener without TLS accepts HTTP/2.
    pub(crate) h2c: bool,
    /// Timeouts.
    pub(crate) timeouts: Timeouts,
    /// Sizes and counts.
    pub(crate) limits: Limits,
    /// Which bodies are captured.
    pub(crate) capture: capture::Settings,
    /// The HTTP cache; `None` if it is off.
    pub(crate) cache: Option<Arc<Cache>>,
    /// Prices of models.
    pub(crate) prices: Prices,
    /// How many tenants have metrics of their own.
    pub(crate) max_tenants: u16,
    /// Which model list `GET /v1/models` returns.
    pub(crate) discovery: Discovery,
    /// Which proxies are trusted to report the client's address.
    pub(crate) forwarding: Forwarding,
    /// Where clients of the forward proxy may be connected to.
    pub(crate) forward: Arc<forward::Settings>,
    /// Opens tunnels; `None` if none is opened.
    pub(crate) intercept: Option<Arc<forward::Interceptor>>,
    /// Web pages that may open WebSockets.
    pub(crate) allow_origins: Arc<Vec<String>>,
    /// Security headers, compression, and whose requests are accepted.
    pub(crate) http: HttpSettings,
}
