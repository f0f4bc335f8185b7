//! What one request holds of the limits that count it.

use std::sync::Arc;
use std::time::Duration;

use super::classes::Class;
use super::counters::Counter;
use super::limit::{Limit, Refused, Unit};
use super::line::Ticket;
use crate::clock::Clock;

/// How long a request waits for room, and how important it is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until when it may have to wait, in milliseconds.
    pub until: u64,
    /// Its class.
    pub class: Class,
}

/// What a request holds of the limits that count it. Dropping it ends the request for `in_flight`.
#[derive(Debug, Default)]
pub struct Admission {
    pub(super) held: Vec<Held>,
    /// The limit that refused the request.
    pub(super) refused: Option<(Arc<Limit>, Arc<Counter>)>,
    /// Whether it waits for room; `None` refuses it at once.
    pub(super) patience: Option<Patience>,
    /// Why it has to wait; `None` if it has not.
    early: Option<Box<Early>>,
}

/// A request that was counted before there was room for it.
#[derive(Debug)]
struct Early {
    /// When there is room in all rates, in milliseconds.
    ready_at: u64,
    /// What it waits for, and what it is refused with if that takes too long.
    refused: Refused,
    counted_by: (Arc<Limit>, Arc<Counter>),
}

/// What a request holds of one limit.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) limit: Arc<Limit>,
    pub(super) counter: Arc<Counter>,
    /// Tokens that were charged so far.
    tokens: u64,
    /// Its place in the line of those that wait for one in flight to end.
    ticket: Option<Ticket>,
}

/// What a request has to wait for.
pub(super) struct Wait {
    /// When there is room in the rate, in milliseconds.
    ready_at: u64,
    refused: Refused,
}

impl Held {
    /// Counts a request. Returns what it has to wait for, if anything.
    pub(super) fn take(
        limit: &Arc<Limit>,
        counter: &Arc<Counter>,
        now: u64,
        patience: Option<Patience>,
    ) -> Result<(Self, Option<Wait>), Refused> {
        let mut levels = counter.lock();
        let ahead = ahead(patience, now);
        let most = limit.amounts.in_flight.unwrap_or(u32::MAX);
        let is_full = levels.in_flight >= most;
        if is_full && ahead == 0 {
            return Err(limit.refused(Unit::InFlight, None));
        }
        let mut wait = None;
        if let Some((rate, _)) = &limit.amounts.requests {
            let taken = levels.requests.take_ahead(rate, 1, now, ahead);
            wait = wait_for(limit, Unit::Requests, taken, now)?;
        }
        let ticket = match patience.filter(|_| is_full) {
            Some(Patience { class, .. }) => {
                let ready_at = wait.map_or(now, |wait| wait.ready_at);
                wait = Some(Wait { ready_at, refused: limit.refused(Unit::InFlight, None) });
                Some(levels.line.get_or_insert_default().join(class, most))
            }
            None => {
                levels.in_flight += 1;
                None
            }
        };
        drop(levels);
        Ok((Self { limit: Arc::clone(limit), counter: Arc::clone(counter), tokens: 0, ticket }, wait))
    }

    /// Charges tokens. Returns what the request has to wait for, if anything.
    pub(super) fn take_tokens(
        &mut self,
        tokens: u64,
        now: u64,
        patience: Option<Patience>,
    ) -> Result<Option<Wait>, Refused> {
        let Some((rate, _)) = &self.limit.amounts.tokens else { return Ok(None) };
        let taken = self.counter.lock().tokens.take_ahead(rate, tokens, now, ahead(patience, now));
        let wait = wait_for(&self.limit, Unit::Tokens, taken, now)?;
        self.tokens = tokens;
        Ok(wait)
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
        let has_left = match (&self.ticket, &mut levels.line) {
            (Some(ticket), Some(line)) => line.leave(ticket),
            _ => false,
        };
        if !has_left {
            levels.end_one();
        }
    }
}

fn ahead(patience: Option<Patience>, now: u64) -> u64 {
    patience.map_or(0, |patience| patience.until.saturating_sub(now))
}

fn wait_for(limit: &Limit, unit: Unit, taken: Result<u64, u64>, now: u64) -> Result<Option<Wait>, Refused> {
    match taken {
        Ok(0) => Ok(None),
        Ok(wait) => Ok(Some(Wait { ready_at: now + wait, refused: limit.refused(unit, Some(wait)) })),
        Err(wait) => Err(limit.refused(unit, Some(wait))),
    }
}

impl Admission {
    /// Whether no limit counts the request, nor has refused it.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.refused.is_none()
    }

    /// Lets the request wait for room instead of being refused.
    pub fn be_patient(&mut self, patience: Patience) {
        self.patience = Some(patience);
    }

    /// Until when, and how urgently, the request waits for room.
    pub fn patience(&self) -> Option<Patience> {
        self.patience
    }

    /// Whether the request was counted before there was room for it, and has to wait.
    pub fn is_early(&self) -> bool {
        self.early.is_some()
    }

    pub(super) fn waits(&mut self, wait: Wait, counted_by: (Arc<Limit>, Arc<Counter>)) {
        let Wait { ready_at, refused } = wait;
        match &mut self.early {
            Some(early) => early.ready_at = early.ready_at.max(ready_at),
            None => self.early = Some(Box::new(Early { ready_at, refused, counted_by })),
        }
    }

    /// Waits until there is room for the request in all limits that count it. Can be called again when it was cancelled.
    pub async fn turn(&mut self, clock: &Clock) {
        for held in &mut self.held {
            if let Some(ticket) = &held.ticket {
                ticket.called().await;
                held.ticket = None;
            }
        }
        let ready_at = self.early.as_ref().map_or(0, |early| early.ready_at);
        let left = ready_at.saturating_sub(clock.now().as_millis());
        if left > 0 {
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        self.early = None;
    }

    /// Takes back all that limits have counted, because the request does not wait any longer. Returns what it waited for.
    pub fn give_up(&mut self) -> Option<Refused> {
        let Early { refused, counted_by, .. } = *self.early.take()?;
        self.correct_tokens(0);
        self.undo(0);
        self.refused = Some(counted_by);
        Some(refused)
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
