//! What all requests share: sessions, metrics, log, history and the clock.

use std::sync::{Arc, OnceLock};

use pingora_core::connectors::http::Connector;

use super::awaited::AwaitedAnswers;
use super::endpoints::Endpoints;
use super::load::Load;
use super::runtime_settings::SharedSettings;
use crate::clock::Clock;
use crate::forward::{OpenTunnels, OwnListeners, Resolver, Shared};
use crate::history::Archive;
use crate::identity::Key;
use crate::limits::fleet::FleetBudgets;
use crate::limits::fleet_rates::FleetRates;
use crate::limits::ledger::{AccountKey, Ledger};
use crate::policy::approvals::Approvals;
use crate::policy::ruleset::RuleSet;
use crate::policy::scan::Judged;
use crate::policy::suppressions::Suppressions;
use crate::session::{Event, LegKind, Manager};
use crate::telemetry::log::Log;
use crate::telemetry::metrics::{BackendMetrics, Gauge, Metrics, TunnelBytes};
use crate::telemetry::otlp::export::Exporter;
use crate::telemetry::readiness::Readiness;
use crate::upstream::settings::FORWARD;

/// What requests to the forward proxy share; it outlives a reload.
pub(crate) struct ForwardState {
    /// The open tunnels.
    pub(crate) tunnels: Arc<OpenTunnels>,
    /// Finds the addresses of hosts.
    pub(crate) resolver: Resolver,
    /// Where this gateway listens.
    pub(crate) own: Arc<OwnListeners>,
    /// Metrics of hosts that no backend serves.
    pub(crate) metrics: BackendMetrics,
    /// Counts open legs of tunnels.
    pub(crate) open_legs: Gauge,
    /// Counts open tunnels.
    pub(crate) open: Gauge,
    /// Counts the bytes in tunnels.
    pub(crate) bytes: TunnelBytes,
}

impl ForwardState {
    pub(crate) fn new(metrics: &Metrics, Shared { tunnels, own }: Shared) -> Self {
        Self {
            tunnels,
            resolver: Resolver::default(),
            own,
            metrics: metrics.backend(FORWARD),
            open_legs: metrics.open_legs("tunnel"),
            open: metrics.tunnels_open(),
            bytes: metrics.tunnel_bytes(),
        }
    }
}

/// State shared by all requests.
pub(crate) struct ProxyState {
    /// The sessions.
    pub(crate) sessions: Arc<Manager>,
    /// Key that derives principals from credentials.
    pub(crate) principals: Key,
    /// All metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// Metrics of requests that reach no backend.
    pub(crate) unrouted: BackendMetrics,
    /// Counts open legs without sockets.
    pub(crate) open_legs: Gauge,
    /// Counts open sockets.
    pub(crate) open_sockets: Gauge,
    pub(crate) log: Arc<Log>,
    pub(crate) clock: Clock,
    /// Readiness of this instance.
    pub(crate) readiness: Arc<Readiness>,
    /// Exports spans; `None` without a collector.
    pub(crate) exporter: Option<Arc<Exporter>>,
    /// Stores captures; `None` without a history.
    pub(crate) history: Option<Arc<Archive>>,
    /// Targets that MCP servers have announced to their clients.
    pub(crate) endpoints: Arc<Endpoints>,
    /// Findings that count for nothing.
    pub(crate) suppressions: Arc<Suppressions>,
    /// What was spent of budgets.
    pub(crate) ledger: Arc<Ledger>,
    /// What other instances spend and hold of budgets; `None` without a fleet.
    pub(crate) fleet_budgets: Option<Arc<FleetBudgets>>,
    /// What other instances take of limits; `None` without a fleet.
    pub(crate) fleet_rates: Option<Arc<FleetRates>>,
    /// What was found clean by the rules; made when they first ask for it.
    pub(crate) judged: OnceLock<Judged>,
    /// What operators answer to calls that are held.
    pub(crate) approvals: Arc<Approvals>,
    /// The settings in force, for what outlives a reload.
    pub(crate) live: SharedSettings,
    /// How many requests are open and wait.
    pub(crate) load: Load,
    /// Answers whose tokens are still to be counted.
    pub(crate) awaited: AwaitedAnswers,
    /// What requests to the forward proxy share.
    pub(crate) forward: ForwardState,
    /// Connects to backends for requests of the gateway itself.
    pub(crate) connector: Connector,
}

impl ProxyState {
    /// Returns the table of what was found clean. Its size is that of the first rules which ask for it.
    pub(super) fn judged(&self, rules: &RuleSet) -> &Judged {
        self.judged.get_or_init(|| Judged::new(usize::try_from(rules.judged()).unwrap_or(usize::MAX)))
    }

    /// Returns the gauge that counts an open leg of this kind.
    pub(super) fn open(&self, kind: LegKind) -> &Gauge {
        match kind {
            LegKind::Request => &self.open_legs,
            LegKind::Socket => &self.open_sockets,
            LegKind::Tunnel => &self.forward.open_legs,
        }
    }
}

impl ProxyState {
    /// Publishes the budgets whose soft limits are passed.
    pub(super) fn soft_limits_passed(&self, passed: &[AccountKey]) {
        for AccountKey { budget, name, .. } in passed {
            let (budget, name) = (budget.to_string(), name.to_string());
            self.sessions.publish(Event::SoftLimit { budget, name });
        }
    }
}
