//! All limits, and what one request holds of them.

use std::sync::Arc;

use super::bucket::Rate;
use super::counters::{Counter, Counters};
use super::rate::RateText;
use crate::policy::expr::{Expression, Truth};
use crate::policy::facts::{Facts, Phase};

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Requests in a time.
    Requests,
    /// Tokens in a time.
    Tokens,
    /// Open requests.
    InFlight,
}

impl Unit {
    /// The name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InFlight => "in_flight",
        }
    }
}

/// A rate, compiled and as it was written.
pub(super) type Written = (Rate, RateText);

/// A limit with its counters.
#[derive(Debug)]
pub struct Limit {
    name: Arc<str>,
    by: Expression,
    when: Option<Expression>,
    pub(super) requests: Option<Written>,
    pub(super) tokens: Option<Written>,
    in_flight: Option<u32>,
    counters: Arc<Counters>,
}

impl Limit {
    pub(super) fn new(
        name: &str,
        by: Expression,
        when: Option<Expression>,
        requests: Option<Written>,
        tokens: Option<Written>,
        in_flight: Option<u32>,
    ) -> Self {
        Self { name: name.into(), by, when, requests, tokens, in_flight, counters: Arc::default() }
    }

    /// The name in refusals, header fields and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn phase(&self) -> Phase {
        self.when.as_ref().map_or(Phase::Connect, Expression::phase).max(self.by.phase())
    }

    /// Whether its levels mean the same as those of `other`: they count the same names, in the same periods.
    fn counts_like(&self, other: &Self) -> bool {
        let period = |rate: &Option<Written>| rate.map(|(_, text)| text.period);
        self.name == other.name
            && self.by.source() == other.by.source()
            && period(&self.requests) == period(&other.requests)
            && period(&self.tokens) == period(&other.tokens)
    }
}

/// All limits.
#[derive(Clone, Debug, Default)]
pub struct Limits(Arc<[Arc<Limit>]>);

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl Limits {
    pub(super) fn new(limits: Vec<Arc<Limit>>) -> Self {
        Self(limits.into())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether tokens are counted, so that a request's own limit of its output has to be known.
    pub fn counts_tokens(&self) -> bool {
        self.0.iter().any(|limit| limit.tokens.is_some())
    }

    /// Returns these limits with the counters of those in `before` that count the same.
    #[must_use]
    pub fn with_levels_of(&self, before: &Self) -> Self {
        let kept = self.0.iter().map(|limit| match before.0.iter().find(|other| limit.counts_like(other)) {
            Some(same) => {
                let Limit { name, by, when, requests, tokens, in_flight, .. } = &**limit;
                let counters = Arc::clone(&same.counters);
                let (name, by, when) = (Arc::clone(name), by.clone(), when.clone());
                Arc::new(Limit {
                    name,
                    by,
                    when,
                    requests: *requests,
                    tokens: *tokens,
                    in_flight: *in_flight,
                    counters,
                })
            }
            None => Arc::clone(limit),
        });
        Self(kept.collect())
    }

    /// Counts a request whose head was read: by all limits that need to know no more of it.
    ///
    /// # Errors
    /// A limit is used up; the request is counted by none of them.
    pub fn at_head(&self, facts: &dyn Facts, now: u64, admission: &mut Admission) -> Result<(), Refused> {
        self.admit(Phase::Connect, facts, now, admission)
    }

    /// Counts a request that is about to be forwarded: by all other limits, and its tokens by all. `tokens` is how many it
    /// may need, 0 for one that makes no model write.
    ///
    /// # Errors
    /// As [`Limits::at_head`].
    pub fn at_forward(
        &self,
        facts: &dyn Facts,
        tokens: u64,
        now: u64,
        admission: &mut Admission,
    ) -> Result<(), Refused> {
        let counted = admission.held.len();
        self.admit(Phase::Request, facts, now, admission)?;
        if tokens == 0 {
            return Ok(());
        }
        for place in 0..admission.held.len() {
            let held = &mut admission.held[place];
            if let Err(refused) = held.take_tokens(tokens, now) {
                admission.refused = Some((Arc::clone(&held.limit), Arc::clone(&held.counter)));
                admission.correct_tokens(0);
                admission.undo(counted);
                return Err(refused);
            }
        }
        Ok(())
    }

    fn admit(
        &self,
        phase: Phase,
        facts: &dyn Facts,
        now: u64,
        admission: &mut Admission,
    ) -> Result<(), Refused> {
        let counted = admission.held.len();
        let mut name = String::new();
        for limit in self.0.iter().filter(|limit| limit.phase() == phase) {
            // What cannot be decided is counted: a limit must not be passed by an unreadable request.
            if limit.when.as_ref().is_some_and(|when| when.truth(facts) == Truth::No) {
                continue;
            }
            name.clear();
            limit.by.write_name(facts, &mut name);
            let counter = limit.counters.of(&name);
            match Held::take(limit, &counter, now) {
                Ok(held) => admission.held.push(held),
                Err(refused) => {
                    admission.refused = Some((Arc::clone(limit), counter));
                    admission.undo(counted);
                    return Err(refused);
                }
            }
        }
        Ok(())
    }
}

/// What a request holds of the limits that count it. Dropping it ends the request for `in_flight`.
#[derive(Debug, Default)]
pub struct Admission {
    pub(super) held: Vec<Held>,
    /// The limit that refused the request.
    pub(super) refused: Option<(Arc<Limit>, Arc<Counter>)>,
}

/// What a request holds of one limit.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) limit: Arc<Limit>,
    pub(super) counter: Arc<Counter>,
    /// Tokens that were charged so far.
    tokens: u64,
}

impl Held {
    fn take(limit: &Arc<Limit>, counter: &Arc<Counter>, now: u64) -> Result<Self, Refused> {
        {
            let mut levels = counter.lock();
            if limit.in_flight.is_some_and(|most| levels.in_flight >= most) {
                return Err(refused(limit, Unit::InFlight, None));
            }
            if let Some((rate, _)) = &limit.requests {
                levels
                    .requests
                    .take(rate, 1, now)
                    .map_err(|wait| refused(limit, Unit::Requests, Some(wait)))?;
            }
            levels.in_flight += 1;
        }
        Ok(Self { limit: Arc::clone(limit), counter: Arc::clone(counter), tokens: 0 })
    }

    fn take_tokens(&mut self, tokens: u64, now: u64) -> Result<(), Refused> {
        let Some((rate, _)) = &self.limit.tokens else { return Ok(()) };
        let taken = self.counter.lock().tokens.take(rate, tokens, now);
        taken.map_err(|wait| refused(&self.limit, Unit::Tokens, Some(wait)))?;
        self.tokens = tokens;
        Ok(())
    }

    fn correct_tokens(&mut self, tokens: u64) {
        let Some((rate, _)) = &self.limit.tokens else { return };
        let mut levels = self.counter.lock();
        match tokens.checked_sub(self.tokens) {
            Some(more) => levels.tokens.add(rate, more),
            None => levels.tokens.give_back(rate, self.tokens - tokens),
        }
        self.tokens = tokens;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut levels = self.counter.lock();
        levels.in_flight = levels.in_flight.saturating_sub(1);
    }
}

fn refused(limit: &Limit, unit: Unit, wait: Option<u64>) -> Refused {
    let per =
        |rate: &Option<Written>| rate.map(|(_, text)| (text.count, text.period.name())).unwrap_or_default();
    let allowed = match unit {
        Unit::Requests => {
            let (count, period) = per(&limit.requests);
            format!("{count} requests per {period}")
        }
        Unit::Tokens => {
            let (count, period) = per(&limit.tokens);
            format!("{count} tokens per {period}")
        }
        Unit::InFlight => format!("{} open requests", limit.in_flight.unwrap_or_default()),
    };
    Refused { limit: Arc::clone(&limit.name), unit, allowed, wait }
}

impl Admission {
    /// Whether no limit counts the request, nor has refused it.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.refused.is_none()
    }

    /// Takes back what limits behind the first `keep` have counted.
    fn undo(&mut self, keep: usize) {
        for held in self.held.drain(keep..) {
            if let Some((rate, _)) = &held.limit.requests {
                held.counter.lock().requests.give_back(rate, 1);
            }
        }
    }

    /// Replaces the tokens charged so far by those that the request has used. The level may then be over the limit; what
    /// follows waits.
    pub fn correct_tokens(&mut self, tokens: u64) {
        self.held.iter_mut().for_each(|held| held.correct_tokens(tokens));
    }

    /// Charges more tokens, of another answer of a WebSocket.
    pub fn add_tokens(&mut self, tokens: u64) {
        self.held.iter_mut().for_each(|held| held.correct_tokens(held.tokens.saturating_add(tokens)));
    }

    /// Returns the limit of tokens that leaves no room for another one, if any.
    pub fn spent_tokens(&self, now: u64) -> Option<Refused> {
        self.held.iter().find_map(|held| {
            let (rate, _) = held.limit.tokens.as_ref()?;
            let mut levels = held.counter.lock();
            let wait = levels.tokens.take(rate, 1, now).err();
            match wait {
                Some(wait) => Some(refused(&held.limit, Unit::Tokens, Some(wait))),
                None => {
                    levels.tokens.give_back(rate, 1);
                    None
                }
            }
        })
    }
}
