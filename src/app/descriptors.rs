//! The file descriptors of the process (`RLIMIT_NOFILE`): raises the soft limit to the hard one and divides it.
//!
//! Each proxied request takes two descriptors, one towards the client and one towards the backend. Under the default limit
//! of 1,024 in shells and systemd, a few hundred streams would exhaust them, and the kill switch could not be reached.
//! So the proxy gets a fixed share and accepts no more clients than fit; the rest is reserved for the control listener
//! and the process itself.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::config::Config;
use crate::notify::services;
use crate::proxy::downstream::DescriptorBudget;

/// Descriptors for runtimes, log, history, Redis, collector and name lookups: an eighth of the limit, within these
/// bounds. An idle process has about 45.
const OWN: (usize, usize) = (48, 128);

/// Descriptors for services that decide and for webhooks get at most this part of the limit.
const ASKED_SHARE: usize = 4;

/// Operator connections get at most an eighth of the limit, but no fewer than this.
const OPERATORS_MIN: usize = 8;

/// One idle backend connection is kept for this many descriptors of clients and backends.
const SHARE_OF_IDLE: usize = 16;

/// The most idle backend connections, for HTTP/1.1 and HTTP/2 each; with fewer than are in use, each request would pay
/// for a handshake.
const IDLE_MAX: usize = 4096;

/// The proxy serves at least this many clients under any limit.
const CLIENTS_MIN: usize = 4;

/// How the descriptors of a process are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `None` when unlimited.
    limit: Option<usize>,
    /// The previous limit, if it was raised.
    raised_from: Option<u64>,
    /// `server.limits.max_connections`.
    wanted: usize,
    /// `control.limits.max_connections`.
    wanted_operators: usize,
    /// Connections to services that decide and to webhooks.
    asked: usize,
    /// Descriptors of one request besides the client's: one, and one more when the backend is in this process.
    per_request: usize,
}

impl Plan {
    /// Plans for a process with this limit.
    pub fn new(limit: Option<u64>, config: &Config) -> Self {
        Self {
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            raised_from: None,
            wanted: config.server.limits().max_connections,
            wanted_operators: config.control.max_connections(),
            asked: services::connections(config.services.len()) + config.receivers.connections(),
            per_request: 1,
        }
    }

    /// Raises the soft limit to the hard one and plans with it. `backends_inside` is the number of backends in this
    /// process (`elida demo`), whose ends of the connections count, too.
    pub(super) fn raise(config: &Config, backends_inside: usize) -> Self {
        let before = getrlimit(Resource::Nofile).current;
        let limit = raise();
        let raised_from = before.filter(|before| limit != Some(*before));
        let per_request = 1 + backends_inside.min(1);
        Self { raised_from, per_request, ..Self::new(limit, config) }
    }

    /// Plans after a reload, under the current limit.
    pub(super) fn after_reload(config: &Config) -> Self {
        Self::new(getrlimit(Resource::Nofile).current, config)
    }

    /// Returns how many clients fit, each with a request to a backend; at most `server.limits.max_connections`.
    pub fn connections(&self) -> usize {
        let fits = self.descriptors() / self.per_connection();
        fits.max(CLIENTS_MIN).min(self.wanted)
    }

    /// Returns the limit under which `server.limits.max_connections` fits.
    pub fn needed(&self) -> usize {
        let clients = self.wanted.saturating_mul(self.per_connection());
        let idle = (clients / (SHARE_OF_IDLE - 1) + 1).min(2 * IDLE_MAX);
        clients.saturating_add(idle + OWN.1 + self.wanted_operators + self.asked)
    }

    /// Returns the maximum number of operator connections.
    pub(super) fn operators(&self) -> usize {
        match self.limit {
            None => self.wanted_operators,
            Some(limit) => self.wanted_operators.min((limit / 8).max(OPERATORS_MIN)),
        }
    }

    /// Returns how many idle backend connections each of Pingora's two pools keeps.
    pub(super) fn idle(&self) -> usize {
        self.idle_together() / 2
    }

    /// Returns the share of the proxy.
    pub(super) fn proxy_budget(&self) -> DescriptorBudget {
        let least = CLIENTS_MIN * self.per_connection();
        DescriptorBudget { descriptors: self.descriptors().max(least), per_request: self.per_request }
    }

    /// Logs that the limit was raised, and warns when `server.limits.max_connections` does not fit.
    pub(super) fn log(&self) {
        if let Some(from) = self.raised_from {
            info!(from, to = self.limit, "raised the limit of open files");
        }
        let (fits, wanted) = (self.connections(), self.wanted);
        if fits < wanted {
            let needed = self.needed();
            warn!(
                path = "server.limits.max_connections",
                limit = self.limit,
                connections = fits,
                hint = format!(
                    "raise the hard limit of open files to {needed} (LimitNOFILE={needed} in a systemd unit), or \
                     lower the key"
                ),
                "{wanted} connections do not fit into the open files of this process: at most {fits} are accepted"
            );
        }
    }

    fn per_connection(&self) -> usize {
        1 + self.per_request
    }

    /// Descriptors for clients and backends, without those of the process and of operators.
    fn for_proxy(&self) -> usize {
        let Some(limit) = self.limit else { return usize::MAX };
        let own = (limit / 8).clamp(OWN.0, OWN.1);
        limit.saturating_sub(own + self.asked.min(limit / ASKED_SHARE) + self.operators())
    }

    fn idle_together(&self) -> usize {
        (self.for_proxy() / SHARE_OF_IDLE).clamp(2, 2 * IDLE_MAX)
    }

    /// Descriptors for connections in use, from clients and to backends.
    fn descriptors(&self) -> usize {
        self.for_proxy().saturating_sub(self.idle_together())
    }
}

/// Raises the soft limit to the hard one, and returns the limit in force afterwards. A failure leaves it unchanged; the
/// plan then uses the lower limit.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Sources};

    fn plan(limit: Option<u64>, yaml: &str) -> Plan {
        Plan::new(limit, &Sources::of_text(yaml.to_owned(), Flags::default()).load().unwrap())
    }

    #[test]
    fn everybody_together_stays_below_the_limit() {
        for limit in [200_u64, 256, 1024, 4096, 20_000, 43_000, 1 << 20] {
            let plan = plan(Some(limit), "");
            let together = plan.proxy_budget().descriptors + 2 * plan.idle() + plan.operators();
            assert!(together as u64 + OWN.0 as u64 <= limit, "{limit}: {plan:?}");
            assert!(plan.connections() * 2 <= plan.proxy_budget().descriptors, "{limit}: {plan:?}");
        }
        assert_eq!(plan(Some(1024), "").connections(), 360);
        assert_eq!(plan(Some(64), "").connections(), CLIENTS_MIN);
        assert_eq!(plan(None, "").connections(), 20_000);
        assert_eq!((plan(None, "").idle(), plan(None, "").operators()), (IDLE_MAX, 256));
    }

    #[test]
    fn the_needed_limit_is_enough() {
        for yaml in ["", "server: { limits: { max_connections: 500 } }"] {
            let needed = plan(Some(1024), yaml).needed() as u64;
            let with = plan(Some(needed), yaml);
            assert_eq!(with.connections(), with.wanted, "{with:?}");
            assert!(needed < 50_000);
        }
    }

    #[test]
    fn services_that_decide_have_descriptors_of_their_own() {
        let yaml = "policy: { external: [ { name: opa, url: 'http://127.0.0.1:8181/v1/data/elida', on: [request], on_error: closed } ] }";
        let (without, with) = (plan(Some(1024), ""), plan(Some(1024), yaml));
        assert!(with.asked > 64, "{with:?}");
        let used = |plan: &Plan| plan.proxy_budget().descriptors + 2 * plan.idle() + plan.operators();
        assert!((used(&with) + with.asked).abs_diff(used(&without)) <= 2, "{with:?}, without {without:?}");
        assert_eq!(plan(Some(with.needed() as u64), yaml).connections(), with.wanted);
        assert!(plan(Some(200), yaml).connections() >= CLIENTS_MIN);
    }

    #[test]
    fn a_backend_in_the_same_process_counts() {
        let plan = Plan { per_request: 2, ..plan(Some(1024), "") };
        assert_eq!(plan.connections(), 240);
    }
}
