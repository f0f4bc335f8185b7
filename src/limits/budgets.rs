//! Budgets: how much the requests of a name may cost in a period (`budgets:`).

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::amount::{AmountText, CostUnit};
use super::bucket::MAX;
use super::ledger::steps::STEP;
use super::ledger::{AccountKey, Claim, Lasts, Ledger, Short, Shortage};
pub use super::over_budget::OverBudget;
use super::overrides::Additions;
use crate::policy::expr::{Expression, Truth};
use crate::policy::facts::{Fact, Facts};

/// How long a budget lasts. All periods but `session` and `total` begin at their natural time in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BudgetPeriod {
    /// As long as a session.
    Session,
    /// An hour of the clock.
    Hour,
    /// A day.
    Day,
    /// A week from Monday.
    Week,
    /// A month of the calendar.
    Month,
    /// Without an end.
    Total,
}

impl BudgetPeriod {
    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// Returns the beginning and the end of the period that `now` is in; `None` for one without them.
    fn span(self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let day = now.to_zoned(TimeZone::UTC).with().time(Time::midnight()).build().ok()?;
        let (first, days) = match self {
            Self::Session | Self::Total => return None,
            Self::Hour => {
                let second = now.as_second() - now.as_second().rem_euclid(3600);
                return Some((
                    Timestamp::from_second(second).ok()?,
                    Timestamp::from_second(second + 3600).ok()?,
                ));
            }
            Self::Day => (day, 1),
            Self::Week => {
                let since_monday = i64::from(day.weekday().to_monday_zero_offset());
                (day.checked_sub(jiff::Span::new().days(since_monday)).ok()?, 7)
            }
            Self::Month => {
                let first = day.with().day(1).build().ok()?;
                let days = i64::from(first.days_in_month());
                (first, days)
            }
        };
        let end = first.checked_add(jiff::Span::new().days(days)).ok()?;
        Some((first.timestamp(), end.timestamp()))
    }
}

/// What happens when a request passes a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BudgetAction {
    /// The request is refused.
    #[default]
    Block,
    /// Its session is killed.
    Kill,
}

/// How much of a budget is held of a stream that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BudgetHold {
    /// All that it may cost, so that it never passes the limit.
    #[default]
    Full,
    /// 4,096 output tokens, and as many again when three quarters of them are written.
    Steps,
}

/// A budget, compiled.
#[derive(Debug)]
pub struct Budget {
    pub(super) name: Arc<str>,
    pub(super) by: Expression,
    pub(super) when: Option<Expression>,
    pub(super) period: BudgetPeriod,
    pub(super) limit: AmountText,
    pub(super) soft: u64,
    pub(super) action: BudgetAction,
    pub(super) hold: BudgetHold,
    /// The period that the last request was in.
    pub(super) current: ArcSwapOption<(Timestamp, Timestamp)>,
}

/// All budgets.
#[derive(Clone, Debug, Default)]
pub struct Budgets {
    all: Arc<[Arc<Budget>]>,
    /// What operators add to their limits.
    additions: Arc<ArcSwap<Additions>>,
    /// What was spent and is held of them.
    pub(super) ledger: Arc<Ledger>,
}

/// What a request may need at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Tokens of prompt and answer.
    pub tokens: u64,
    /// Nanodollars; `None` if the model has no price.
    pub nanodollars: Option<u64>,
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Nanodollars for the prompt.
    pub input_nanodollars: u64,
    /// The same for the first step of the answer only; `None` if the answer cannot be followed.
    pub first_step: Option<StepNeed>,
}

/// What a request may need until its first step is written, with its prompt, and what such a step costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepNeed {
    /// Tokens of the prompt and the first step.
    pub tokens: u64,
    /// Nanodollars for both.
    pub nanodollars: u64,
    /// Nanodollars for [`STEP`] output tokens.
    pub step_nanodollars: u64,
}

/// An account of `GET /control/budgets`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetAccount {
    /// The budget.
    pub budget: String,
    /// The name that its `by` gives.
    pub name: String,
    /// Its period: session, hour, day, week, month or total.
    pub period: String,
    /// When the period began; null for `session` and `total`.
    pub starts_at: Option<Timestamp>,
    /// `usd` or `tokens`.
    pub unit: CostUnit,
    /// The most that may be spent, in that unit, with what overrides add.
    pub limit: f64,
    /// What overrides add to the limit; absent when none does.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub added: f64,
    /// What ended requests cost.
    pub spent: f64,
    /// What open requests may still cost.
    pub held: f64,
    /// What may still be spent and is not held.
    pub left: f64,
}

impl Budgets {
    pub(super) fn new(budgets: Vec<Arc<Budget>>) -> Self {
        Self { all: budgets.into(), ..Self::default() }
    }

    /// Adds these overrides to the limits, and knows from this ledger what is left.
    #[must_use]
    pub fn with_additions(&self, additions: &Arc<ArcSwap<Additions>>, ledger: &Arc<Ledger>) -> Self {
        Self { all: Arc::clone(&self.all), additions: Arc::clone(additions), ledger: Arc::clone(ledger) }
    }

    /// Whether a request that passes the budget has its session killed.
    pub fn kills(&self, budget: &str) -> bool {
        self.all.iter().any(|known| *known.name == *budget && known.action == BudgetAction::Kill)
    }

    /// Whether some budget is held in steps.
    pub fn has_steps(&self) -> bool {
        self.all.iter().any(|budget| budget.hold == BudgetHold::Steps)
    }

    /// Returns what a budget counts; `None` if there is no such budget.
    pub fn unit_of(&self, budget: &str) -> Option<CostUnit> {
        self.all.iter().find(|known| *known.name == *budget).map(|known| known.limit.unit)
    }

    /// Whether an expression asks for a fact.
    pub fn ask_for(&self, fact: Fact) -> bool {
        let asks = |found: &Expression| found.asks_for(fact);
        self.all.iter().any(|budget| asks(&budget.by) || budget.when.as_ref().is_some_and(asks))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns what the request asks of every budget that concerns it. `session` identifies its session; no two sessions have the same.
    ///
    /// # Errors
    /// A budget is in money, and the model has no price.
    pub fn claims(
        &self,
        facts: &dyn Facts,
        session: u128,
        need: Need,
        now: Timestamp,
    ) -> Result<Vec<Claim>, OverBudget> {
        // A request that cannot be decided on is counted: what is unreadable must not be free.
        let concerns =
            |budget: &&Arc<Budget>| budget.when.as_ref().is_none_or(|when| when.truth(facts) != Truth::No);
        let additions = self.additions.load();
        let concerned = self.all.iter().filter(concerns);
        let mut name = String::with_capacity(64);
        concerned
            .map(|budget| {
                name.clear();
                budget.by.write_name(facts, &mut name);
                budget.claim(&name, session, need, now, &additions)
            })
            .collect()
    }

    /// Returns why a request is refused.
    pub fn refusal(&self, short: Short, now: Timestamp) -> OverBudget {
        let budget = short.budget;
        let found = self.all.iter().find(|found| found.name == budget);
        match (short.shortage, found) {
            (Shortage::Unknown, _) => OverBudget::Unknown { budget },
            (Shortage::Spent, Some(found)) => OverBudget::Exceeded {
                budget,
                spent: AmountText { amount: short.spent, ..found.limit }.to_string(),
                limit: AmountText { amount: short.limit, ..found.limit },
                resets_at: found.period.span(now).map(|(_, end)| end),
            },
            (Shortage::Spent | Shortage::Held, _) => OverBudget::Busy { budget },
        }
    }

    /// Brings the limit of a claim up to date with the overrides. Returns the same claim on the account of the present period, if
    /// that of its own has ended.
    pub fn renew(&self, claim: &mut Claim, now: Timestamp) -> Option<Claim> {
        let AccountKey { budget, unit, name, .. } = &claim.key;
        let found = self.all.iter().find(|found| found.name == *budget && found.limit.unit == *unit)?;
        claim.limit = found.limit_of(name, now, &self.additions.load());
        let Lasts::Until(end) = claim.lasts else { return None };
        let (key, lasts) = (end <= now.as_second()).then(|| found.account(name, 0, now))?;
        Some(Claim { key, lasts, ..claim.clone() })
    }

    /// Returns for each budget the share of its limit that is spent, of the account where that is the largest.
    pub fn spent_shares(&self, ledger: &Ledger) -> Vec<(String, f64)> {
        let accounts = self.accounts(ledger);
        let share = |budget: &Arc<Budget>| {
            let own = accounts.iter().filter(|account| account.budget == *budget.name);
            let largest = own.map(|account| account.spent / account.limit).fold(0.0, f64::max);
            (budget.name.to_string(), largest)
        };
        self.all.iter().map(share).collect()
    }

    /// Returns the accounts of configured budgets, by budget, those with the least left first.
    pub fn accounts(&self, ledger: &Ledger) -> Vec<BudgetAccount> {
        let (additions, now) = (self.additions.load(), Timestamp::now());
        let mut accounts: Vec<BudgetAccount> = ledger
            .accounts()
            .into_iter()
            .filter_map(|(key, account)| {
                let is_it =
                    |budget: &&Arc<Budget>| budget.name == key.budget && budget.limit.unit == key.unit;
                let budget = self.all.iter().find(is_it)?;
                let added = additions.to(&budget.name, budget.limit.unit, &key.name, now);
                let limit = budget.limit.amount.saturating_add(added).min(MAX);
                let show = |amount: u64| budget.limit.unit.shown(amount);
                let held = account.all_held();
                let left = limit.saturating_sub(account.spent()).saturating_sub(held);
                Some(BudgetAccount {
                    budget: budget.name.to_string(),
                    name: key.name.into(),
                    period: budget.period.name().into(),
                    starts_at: starts_at(budget.period, key.start),
                    unit: budget.limit.unit,
                    limit: show(limit),
                    added: show(added),
                    spent: show(account.spent()),
                    held: show(held),
                    left: show(left),
                })
            })
            .collect();
        accounts.sort_by(|a, b| {
            (&a.budget, b.starts_at)
                .cmp(&(&b.budget, a.starts_at))
                .then(a.left.total_cmp(&b.left))
                .then(a.name.cmp(&b.name))
        });
        accounts
    }
}

fn is_zero(amount: &f64) -> bool {
    *amount == 0.0
}

fn starts_at(period: BudgetPeriod, start: u128) -> Option<Timestamp> {
    match period {
        BudgetPeriod::Session | BudgetPeriod::Total => None,
        BudgetPeriod::Hour | BudgetPeriod::Day | BudgetPeriod::Week | BudgetPeriod::Month => {
            Timestamp::from_second(i64::try_from(start).ok()?).ok()
        }
    }
}

impl Budget {
    /// As [`BudgetPeriod::span`], which computes with the calendar only when a period begins.
    fn span(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        if let Some(current) = self.current.load().as_deref()
            && (current.0..current.1).contains(&now)
        {
            return Some(*current);
        }
        let span = self.period.span(now)?;
        self.current.store(Some(Arc::new(span)));
        Some(span)
    }

    /// The account of a name, and how long it is used.
    fn account(&self, name: &str, session: u128, now: Timestamp) -> (AccountKey, Lasts) {
        let (start, lasts) = match (self.period, self.span(now)) {
            (BudgetPeriod::Session, _) => (session, Lasts::Session),
            (_, None) => (0, Lasts::Forever),
            (_, Some((begin, end))) => {
                (u128::try_from(begin.as_second()).unwrap_or(0), Lasts::Until(end.as_second()))
            }
        };
        (AccountKey::new(Arc::clone(&self.name), self.limit.unit, name.into(), start), lasts)
    }

    /// The limit of an account, with what operators add.
    fn limit_of(&self, name: &str, now: Timestamp, additions: &Additions) -> u64 {
        let added = additions.to(&self.name, self.limit.unit, name, now);
        self.limit.amount.saturating_add(added).min(MAX)
    }

    fn claim(
        &self,
        name: &str,
        session: u128,
        need: Need,
        now: Timestamp,
        additions: &Additions,
    ) -> Result<Claim, OverBudget> {
        let (key, lasts) = self.account(name, session, now);
        let first = need.first_step.filter(|_| self.hold == BudgetHold::Steps);
        let (need, floor, step) = match (self.limit.unit, first) {
            (CostUnit::Tokens, None) => (need.tokens, need.input_tokens, 0),
            (CostUnit::Tokens, Some(first)) => (first.tokens, need.input_tokens, STEP),
            (CostUnit::Usd, first) => {
                let unpriced = || OverBudget::Unpriced { budget: Arc::clone(&self.name) };
                let all = need.nanodollars.ok_or_else(unpriced)?;
                let (most, step) = first.map_or((all, 0), |one| (one.nanodollars, one.step_nanodollars));
                (most, need.input_nanodollars, step)
            }
        };
        let limit = self.limit_of(name, now, additions);
        let need = need.max(1);
        Ok(Claim { key, limit, need, floor: floor.min(need), step, soft: self.soft, lasts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_at_their_natural_time() {
        let now: Timestamp = "2026-11-30T10:47:12Z".parse().unwrap();
        for (period, begin, end) in [
            (BudgetPeriod::Hour, "2026-11-30T10:00:00Z", "2026-11-30T11:00:00Z"),
            (BudgetPeriod::Day, "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"),
            (BudgetPeriod::Week, "2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z"),
            (BudgetPeriod::Month, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ] {
            let span = Some((begin.parse().unwrap(), end.parse().unwrap()));
            assert_eq!(period.span(now), span, "{period:?}");
        }
        let sunday: Timestamp = "2026-03-01T23:59:59Z".parse().unwrap();
        let (monday, _) = BudgetPeriod::Week.span(sunday).unwrap();
        assert_eq!(monday.to_string(), "2026-02-23T00:00:00Z");
        assert_eq!(BudgetPeriod::Session.span(now), None);
    }
}
