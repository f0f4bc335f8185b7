//! All limits.

use std::sync::Arc;

use super::admission::{Admission, Held, UsedUp};
use super::limit::{Limit, Refused};
use super::sessions::SessionLimits;
use crate::policy::facts::{Fact, Facts, Phase};

/// All limits.
#[derive(Clone, Debug, Default)]
pub struct Limits(Arc<[Arc<Limit>]>);

impl Limits {
    pub(super) fn new(limits: Vec<Arc<Limit>>) -> Self {
        Self(limits.into())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an expression asks for a fact.
    pub fn ask_for(&self, fact: Fact) -> bool {
        self.0.iter().any(|limit| limit.asks_for(fact))
    }

    /// Whether tokens are counted, so that a request's own limit of its output has to be known.
    pub fn counts_tokens(&self) -> bool {
        self.0.iter().any(|limit| limit.amounts.tokens.is_some())
    }

    /// Returns these limits with the counters of those in `before` that count the same.
    #[must_use]
    pub fn with_levels_of(&self, before: &Self) -> Self {
        let kept = self.0.iter().map(|limit| match before.0.iter().find(|other| limit.counts_like(other)) {
            Some(same) => Arc::new(limit.with_counters_of(same)),
            None => Arc::clone(limit),
        });
        Self(kept.collect())
    }

    /// Is in force instead of `before`, also for requests that wait already. Nobody waits for a limit that there is no longer.
    pub fn take_over(&self, before: &Self) {
        for gone in before.0.iter() {
            let same = self.0.iter().find(|limit| limit.counts_like(gone));
            gone.counters.allow(same.map_or(u32::MAX, |limit| limit.most_in_flight()));
        }
    }

    /// Whether sessions are counted.
    pub fn count_sessions(&self) -> bool {
        self.0.iter().any(|limit| limit.amounts.count_sessions())
    }

    /// Returns the limits that count the sessions of the caller. They need to know no more than the head of a request.
    pub fn of_sessions(&self, facts: &dyn Facts) -> SessionLimits {
        let (mut found, mut name) = (SessionLimits::default(), String::new());
        for limit in self.0.iter().filter(|limit| limit.amounts.count_sessions()) {
            if limit.counts(facts, &mut name) {
                found.push(limit, limit.counters.of(&name));
            }
        }
        found
    }

    /// Counts a request whose head was read: by all limits that need to know no more of it.
    ///
    /// # Errors
    /// A limit is used up; the request is counted by none of them.
    pub fn at_head(&self, facts: &dyn Facts, now: u64, admission: &mut Admission) -> Result<(), Refused> {
        let counted = admission.held.len();
        self.admit(Phase::Connect, facts, now, admission, counted)
    }

    /// Counts a request that is about to be forwarded by all limits, because none has counted it at its head.
    ///
    /// # Errors
    /// As [`Limits::at_head`].
    pub fn at_once(
        &self,
        facts: &dyn Facts,
        tokens: u64,
        now: u64,
        admission: &mut Admission,
    ) -> Result<(), Refused> {
        let counted = admission.held.len();
        self.admit(Phase::Connect, facts, now, admission, counted)?;
        self.forward(facts, tokens, now, admission, counted)
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
        self.forward(facts, tokens, now, admission, counted)
    }

    /// A refusal takes back what limits behind the first `counted` have counted.
    fn forward(
        &self,
        facts: &dyn Facts,
        tokens: u64,
        now: u64,
        admission: &mut Admission,
        counted: usize,
    ) -> Result<(), Refused> {
        self.admit(Phase::Request, facts, now, admission, counted)?;
        if tokens == 0 {
            return Ok(());
        }
        for place in 0..admission.held.len() {
            let held = &mut admission.held[place];
            let counted_by = (Arc::clone(&held.limit), Arc::clone(&held.counter));
            match held.take_tokens(tokens, now, admission.patience, admission.lease.as_ref()) {
                Ok(None) => {}
                Ok(Some(wait)) => admission.waits(wait, counted_by),
                Err(refused) => {
                    admission.refused = Some(UsedUp::of(counted_by, refused.unit));
                    admission.correct_tokens(0);
                    admission.undo(counted);
                    return Err(refused);
                }
            }
        }
        if admission.is_early() {
            admission.step_aside();
        }
        Ok(())
    }

    fn admit(
        &self,
        phase: Phase,
        facts: &dyn Facts,
        now: u64,
        admission: &mut Admission,
        counted: usize,
    ) -> Result<(), Refused> {
        admission.counted = counted;
        let mut name = String::new();
        for limit in self.0.iter().filter(|limit| limit.phase() == phase) {
            if !limit.counts(facts, &mut name) {
                continue;
            }
            let counter = match &admission.lease {
                None => limit.counters.of(&name),
                Some(_) => limit.counters.of_fleet(&name),
            };
            match Held::take(limit, &counter, now, admission.patience, admission.lease.as_ref()) {
                Ok((held, wait)) => {
                    admission.held.push(held);
                    if let Some(wait) = wait {
                        admission.waits(wait, (Arc::clone(limit), counter));
                    }
                }
                Err(refused) => {
                    admission.refused = Some(UsedUp::of((Arc::clone(limit), counter), refused.unit));
                    admission.undo(counted);
                    return Err(refused);
                }
            }
        }
        if admission.is_early() {
            admission.step_aside();
        }
        Ok(())
    }
}
