//! What instances share through Redis, or else keep by themselves: sessions, budgets, rates and the HTTP cache.

use std::sync::Arc;

use anyhow::Context;
use uuid::Uuid;

use super::spending::SpendingFile;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::Config;
use crate::history::state::State;
use crate::limits::fleet::FleetBudgets;
use crate::limits::fleet_rates::FleetRates;
use crate::limits::ledger::Ledger;
use crate::proxy::runtime_settings::RuntimeSettings;
use crate::redis::answers::AnswerStore;
use crate::redis::budgets::BudgetStore;
use crate::redis::rates::RateStore;
use crate::redis::{Keys, Link};
use crate::session::replication::{OwnKey, Replicator};
use crate::session::store::RedisStore;

/// How sessions and budgets are shared or kept.
pub(super) struct Sharing {
    pub(super) replicator: Option<Arc<Replicator>>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) spending: Option<Arc<SpendingFile>>,
    pub(super) fleet_budgets: Option<Arc<FleetBudgets>>,
    pub(super) fleet_rates: Option<Arc<FleetRates>>,
    pub(super) answers: Option<Arc<AnswerStore>>,
}

impl Sharing {
    /// Through Redis, or else in this process and in `state`.
    pub(super) fn of(
        config: &Config,
        key: Option<OwnKey>,
        state: Arc<State>,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let Some(settings) = config.session.redis() else {
            let ledger = Arc::new(Ledger::of_file());
            let spending = Some(SpendingFile::open(state, Arc::clone(&ledger))?);
            return Ok(Self {
                replicator: None,
                ledger,
                spending,
                fleet_budgets: None,
                fleet_rates: None,
                answers: None,
            });
        };
        let link = Link::new(settings).context("session.redis cannot be used")?;
        let instance = Uuid::new_v4().simple().to_string();
        let ledger = Arc::new(Ledger::of_fleet());
        let budgets = BudgetStore::new(Arc::clone(&link), Keys::new(settings), instance.clone());
        let fleet_budgets = Some(Arc::new(FleetBudgets::new(Arc::clone(&ledger), budgets)));
        let rates = RateStore::new(Arc::clone(&link), Keys::new(settings), instance.clone());
        let fleet_rates = Some(Arc::new(FleetRates::new(rates, clock.clone())));
        let answers = AnswerStore::new(Arc::clone(&link), Keys::new(settings), instance.clone());
        let store = RedisStore::new(link, Keys::new(settings), instance);
        let replicator = Some(Arc::new(Replicator::new(Arc::new(store), key)));
        Ok(Self {
            replicator,
            ledger,
            spending: None,
            fleet_budgets,
            fleet_rates,
            answers: Some(Arc::new(answers)),
        })
    }
}

/// Builds the HTTP cache of a configuration. That of `before` is kept with what it has stored if its settings are the same.
pub(super) fn cache(
    config: &Config,
    before: Option<&RuntimeSettings>,
    answers: Option<&Arc<AnswerStore>>,
) -> Option<Arc<Cache>> {
    let settings = config.cache.as_ref()?;
    let same = before.and_then(|before| before.cache.as_ref()).filter(|cache| cache.settings() == settings);
    Some(same.cloned().unwrap_or_else(|| Cache::new(settings.clone(), answers.cloned())))
}
