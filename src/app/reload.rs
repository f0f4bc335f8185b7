//! Reloads the configuration under running streams: read, compile, compare, swap. An invalid file changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use tracing::{error, info, warn};

use super::components::{Components, name_backends, runtime_settings};
use super::descriptors::Plan;
use super::made_keys;
use crate::cache::Cache;
use crate::clock::millis;
use crate::config::{Config, Sources, changed_restart_keys, in_force};
use crate::control;
use crate::control::api::health::BackendStatus;
use crate::control::service::{ReloadReport, Runtime};
use crate::identity::Auth;
use crate::limits::amount::CostUnit;
use crate::limits::budgets::BudgetAccount;
use crate::policy::ruleset::RuleSet;
use crate::policy::trial::{Trial, TrialReport};
use crate::settings::fault::Faults;
use crate::upstream::backend::Backend;

/// Reloads the configuration on SIGHUP and on request of the control API.
pub(super) struct Reload {
    sources: Sources,
    /// The configuration at the start; keys that need a restart keep its values.
    started: Config,
    /// The configuration of the last successful reload.
    pub(super) current: ArcSwap<Config>,
    /// Settings of the control API.
    pub(super) control: Arc<ArcSwap<control::settings::Settings>>,
    shared: Components,
    /// Held during a reload.
    turn: Mutex<()>,
}

impl Reload {
    pub(super) fn new(sources: Sources, config: Config, shared: Components) -> Self {
        let control = Arc::new(ArcSwap::from_pointee(config.control.clone()));
        let (started, current) = (config.clone(), ArcSwap::from_pointee(config));
        Self { sources, started, current, control, shared, turn: Mutex::default() }
    }

    /// Reloads on SIGHUP; logs the outcome.
    pub(super) async fn by_signal(self: &Arc<Self>) {
        let reload = Arc::clone(self);
        // Reading files blocks.
        if let Err(error) = tokio::task::spawn_blocking(move || reload.now()).await {
            error!(%error, "the reload failed");
        }
    }

    /// Reloads now. Returns the changed keys that need a restart.
    ///
    /// # Errors
    /// All faults of the new configuration; the old one stays in force.
    pub(super) fn now(&self) -> Result<ReloadReport, Faults> {
        let _turn = self.turn.lock();
        let outcome = self.swap();
        self.shared.metrics.config_reloaded(outcome.is_ok());
        match &outcome {
            Ok(report) => info!(restart_required = ?report.restart_required, "configuration reloaded"),
            Err(faults) => error!(%faults, "the new configuration is faulty, the old one stays in force"),
        }
        outcome
    }

    /// Refuses a configuration without token and roles while the listener of the start can be reached from other machines: it
    /// stays until a restart, whatever `control.listen` says now.
    fn check_control(&self, config: &Config) -> Result<(), Faults> {
        let listen = self.started.control.listen();
        if listen.ip().is_loopback() || !config.control.is_open() {
            return Ok(());
        }
        let mut faults = Faults::default();
        let message =
            format!("the control API listens on {listen} until a restart, and would need no credential");
        faults.add(
            "control.auth",
            message,
            "keep the token or the roles, and restart with the new control.listen",
        );
        Err(faults)
    }

    /// Cuts the tunnels to hosts that the new settings block.
    fn cut_blocked_tunnels(&self) {
        let forward = Arc::clone(&self.shared.live.load().forward);
        let tunnels = self.shared.forward.tunnels.cut_unless(|host| forward.is_on() && forward.permits(host));
        if tunnels > 0 {
            info!(tunnels, "tunnels are cut, because their hosts are blocked now");
        }
    }

    fn swap(&self) -> Result<ReloadReport, Faults> {
        let config = self.sources.load()?;
        let before = self.shared.live.load_full();
        let Components { metrics, overrides, ledger, answers, .. } = &self.shared;
        let (made, shared) = (self.shared.made(), (overrides.additions(), ledger, answers.as_ref()));
        let settings = runtime_settings(&config, metrics, Some(&before), &made, shared)?;
        self.check_control(&config)?;
        log_warnings(&config);
        Plan::after_reload(&config).log();
        let restart = changed_restart_keys(&self.started, &config);
        for former in &before.backends {
            let name = former.settings().name();
            match settings.backends.iter().find(|backend| backend.settings().name() == name) {
                Some(backend) => backend.health().set_drained(former.health().is_drained()),
                None => self.shared.metrics.forget_backend(name.as_str()),
            }
        }
        settings.auth.take_over(&before.auth);
        settings.caller_limits.take_over(&before.caller_limits);
        let revoked = settings.auth.revoke_others(&before.auth);
        self.shared.live.store(Arc::new(settings));
        self.cut_blocked_tunnels();
        made_keys::declare((&self.shared.keys, &self.shared.people), &config);
        let legs_cut = self.shared.sessions.cut_invalid_legs();
        if !revoked.is_empty() || legs_cut > 0 {
            info!(principals = ?revoked, legs_cut, "keys are revoked or narrowed");
        }
        self.shared.sessions.share_declared_keys(made_keys::written(&config));
        self.control.store(Arc::new(config.control.clone()));
        self.shared.sessions.reconfigure(config.session.clone());
        name_backends(&self.shared.sessions, &config);
        if let Some(history) = &self.shared.history {
            history.reconfigure(config.history.clone());
        }
        self.shared.notifier.reconfigure(&config.receivers);
        self.shared.log.reconfigure(&config.logging);
        self.current.store(Arc::new(config));
        Ok(ReloadReport { restart_required: restart.into_iter().map(str::to_owned).collect() })
    }
}

impl Runtime for Reload {
    fn config(&self) -> Value {
        in_force(&self.started, &self.current.load())
    }

    fn config_sources(&self) -> BTreeMap<String, String> {
        self.current.load().sources().clone()
    }

    fn reload(&self) -> Result<ReloadReport, Faults> {
        self.now()
    }

    fn auth(&self) -> Arc<Auth> {
        Arc::clone(&self.shared.live.load().auth)
    }

    fn budgets(&self) -> Vec<BudgetAccount> {
        self.shared.live.load().budgets.accounts(&self.shared.ledger)
    }

    fn budget_unit(&self, budget: &str) -> Option<CostUnit> {
        self.shared.live.load().budgets.unit_of(budget)
    }

    fn cache(&self) -> Option<Arc<Cache>> {
        self.shared.live.load().cache.clone()
    }

    fn rules(&self) -> Arc<RuleSet> {
        Arc::clone(&self.shared.live.load().rules)
    }

    fn try_rules(&self, rules: &RuleSet, trial: &Trial) -> Result<TrialReport, String> {
        crate::proxy::trial::try_on(rules, trial)
    }

    fn backends(&self) -> BTreeMap<String, BackendStatus> {
        let now = self.shared.clock.now();
        let describe = |backend: &Arc<Backend>| {
            let (settings, health) = (backend.settings(), backend.health());
            let status = BackendStatus {
                r#type: settings.kind().name().into(),
                url: settings.url(),
                auth: settings.auth().name().into(),
                healthy: health.is_good(),
                rests_for_ms: health.ejected_for(now).map(millis),
                drained: health.is_drained(),
                callers_kept_away: backend.callers_kept_away(now),
                open: backend.load(),
            };
            (settings.name().to_string(), status)
        };
        self.shared.live.load().backends.iter().map(describe).collect()
    }

    fn drain_backend(&self, name: &str, drained: bool) -> bool {
        // No reload may take the place of the backends meanwhile.
        let _turn = self.turn.lock();
        let live = self.shared.live.load();
        let found = live.backends.iter().find(|backend| backend.settings().name().as_str() == name);
        if let Some(backend) = found {
            backend.health().set_drained(drained);
        }
        found.is_some()
    }
}

/// Logs the warnings of the configuration.
pub(super) fn log_warnings(config: &Config) {
    for warning in config.warnings() {
        warn!(path = warning.path, line = warning.line, hint = warning.hint, "{}", warning.message);
    }
}
