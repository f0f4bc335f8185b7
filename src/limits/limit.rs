//! One limit: what it counts, for whom, and how a request learns that it is used up.

use std::sync::Arc;

use super::bucket::Rate;
use super::counters::Counters;
use super::fields::Item;
use crate::policy::expr::{Expression, Truth};
use crate::policy::facts::{Fact, Facts, Phase};
use crate::settings::rate::RateText;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Requests in a time.
    Requests,
    /// Tokens in a time.
    Tokens,
    /// Open requests.
    InFlight,
    /// Live sessions.
    Sessions,
    /// Sessions that begin in a time.
    SessionStarts,
}

impl Unit {
    /// The name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InFlight => "in_flight",
            Self::Sessions => "sessions",
            Self::SessionStarts => "session_starts",
        }
    }
}

/// A rate, compiled and as it was written.
pub(super) type Written = (Rate, RateText);

/// What a limit allows; what is `None` is not limited.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amounts {
    pub(super) requests: Option<Written>,
    pub(super) tokens: Option<Written>,
    pub(super) in_flight: Option<u32>,
    pub(super) sessions: Option<u32>,
    pub(super) session_starts: Option<Written>,
}

impl Amounts {
    pub(super) fn is_empty(&self) -> bool {
        let has_rate = self.requests.is_some() || self.tokens.is_some();
        !has_rate && self.in_flight.is_none() && !self.count_sessions()
    }

    /// Whether sessions are counted.
    pub(super) fn count_sessions(&self) -> bool {
        self.sessions.is_some() || self.session_starts.is_some()
    }

    fn rates(&self) -> [Option<Written>; 3] {
        [self.requests, self.tokens, self.session_starts]
    }
}

/// A limit with its counters.
#[derive(Debug)]
pub struct Limit {
    name: Arc<str>,
    by: Expression,
    when: Option<Expression>,
    pub(super) amounts: Amounts,
    /// What header fields say of its rates.
    pub(super) items: Box<[Item]>,
    pub(super) counters: Arc<Counters>,
}

impl Limit {
    pub(super) fn asks_for(&self, fact: Fact) -> bool {
        self.by.asks_for(fact) || self.when.as_ref().is_some_and(|when| when.asks_for(fact))
    }

    pub(super) fn new(name: &str, by: Expression, when: Option<Expression>, amounts: Amounts) -> Self {
        let items = Item::of(name, &amounts);
        let limit = Self { name: name.into(), by, when, amounts, items, counters: Arc::default() };
        limit.counters.allow(limit.most_in_flight());
        limit
    }

    pub(super) fn most_in_flight(&self) -> u32 {
        self.amounts.in_flight.unwrap_or(u32::MAX)
    }

    /// The name in refusals, header fields and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn phase(&self) -> Phase {
        self.when.as_ref().map_or(Phase::Connect, Expression::phase).max(self.by.phase())
    }

    pub(super) fn rate(&self, unit: Unit) -> Option<Written> {
        match unit {
            Unit::Requests => self.amounts.requests,
            Unit::Tokens => self.amounts.tokens,
            Unit::SessionStarts => self.amounts.session_starts,
            Unit::InFlight | Unit::Sessions => None,
        }
    }

    /// Writes the name that is counted into `name`; returns false if the limit does not count this request.
    pub(super) fn counts(&self, facts: &dyn Facts, name: &mut String) -> bool {
        // What cannot be decided is counted: a limit must not be passed by an unreadable request.
        if self.when.as_ref().is_some_and(|when| when.truth(facts) == Truth::No) {
            return false;
        }
        name.clear();
        self.by.write_name(facts, name);
        true
    }

    /// Whether its levels mean the same as those of `other`: they count the same names, in the same periods.
    pub(super) fn counts_like(&self, other: &Self) -> bool {
        let periods = |limit: &Self| limit.amounts.rates().map(|rate| rate.map(|(_, text)| text.period));
        self.name == other.name && self.by.source() == other.by.source() && periods(self) == periods(other)
    }

    /// Returns this limit with the counters of `other`.
    pub(super) fn with_counters_of(&self, other: &Self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            by: self.by.clone(),
            when: self.when.clone(),
            amounts: self.amounts,
            items: self.items.clone(),
            counters: Arc::clone(&other.counters),
        }
    }

    /// Says that `unit` is used up, and for how many milliseconds.
    pub(super) fn refused(&self, unit: Unit, wait: Option<u64>) -> Refused {
        let amounts = &self.amounts;
        let some = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let rate = |rate: Option<Written>, what: &str| {
            let (count, period) = rate.map(|(_, text)| (text.count, text.period.name())).unwrap_or_default();
            format!("{} per {period}", some(count, what))
        };
        let most = |most: Option<u32>, what: &str| some(most.unwrap_or_default().into(), what);
        let allowed = match unit {
            Unit::Requests => rate(amounts.requests, "request"),
            Unit::Tokens => rate(amounts.tokens, "token"),
            Unit::SessionStarts => rate(amounts.session_starts, "new session"),
            Unit::InFlight => most(amounts.in_flight, "open request"),
            Unit::Sessions => most(amounts.sessions, "live session"),
        };
        Refused { limit: Arc::clone(&self.name), unit, allowed, wait }
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit '{limit}' allows {allowed}")]
pub struct Refused {
    /// The limit.
    pub limit: Arc<str>,
    /// What of it is used up.
    pub unit: Unit,
    /// What is allowed, for people: `100 requests per second`.
    pub allowed: String,
    /// Milliseconds until there is room again; `None` when that depends on other requests.
    pub wait: Option<u64>,
}
