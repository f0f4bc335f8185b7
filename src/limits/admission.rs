//! What one request holds of the limits that count it.

use std::sync::Arc;

use super::counters::Counter;
use super::limit::{Limit, Refused, Unit};

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
    pub(super) fn take(limit: &Arc<Limit>, counter: &Arc<Counter>, now: u64) -> Result<Self, Refused> {
        {
            let mut levels = counter.lock();
            if limit.amounts.in_flight.is_some_and(|most| levels.in_flight >= most) {
                return Err(limit.refused(Unit::InFlight, None));
            }
            if let Some((rate, _)) = &limit.amounts.requests {
                levels
                    .requests
                    .take(rate, 1, now)
                    .map_err(|wait| limit.refused(Unit::Requests, Some(wait)))?;
            }
            levels.in_flight += 1;
        }
        Ok(Self { limit: Arc::clone(limit), counter: Arc::clone(counter), tokens: 0 })
    }

    pub(super) fn take_tokens(&mut self, tokens: u64, now: u64) -> Result<(), Refused> {
        let Some((rate, _)) = &self.limit.amounts.tokens else { return Ok(()) };
        let taken = self.counter.lock().tokens.take(rate, tokens, now);
        taken.map_err(|wait| self.limit.refused(Unit::Tokens, Some(wait)))?;
        self.tokens = tokens;
        Ok(())
    }

    fn correct_tokens(&mut self, tokens: u64) {
        let Some((rate, _)) = &self.limit.amounts.tokens else { return };
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

impl Admission {
    /// Whether no limit counts the request, nor has refused it.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.refused.is_none()
    }

    /// Takes back what limits behind the first `keep` have counted.
    pub(super) fn undo(&mut self, keep: usize) {
        for held in self.held.drain(keep..) {
            if let Some((rate, _)) = &held.limit.amounts.requests {
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
            let (rate, _) = held.limit.amounts.tokens.as_ref()?;
            let mut levels = held.counter.lock();
            let wait = levels.tokens.take(rate, 1, now).err();
            match wait {
                Some(wait) => Some(held.limit.refused(Unit::Tokens, Some(wait))),
                None => {
                    levels.tokens.give_back(rate, 1);
                    None
                }
            }
        })
    }
}
