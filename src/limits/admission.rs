//! What one request holds of the limits that count it.

use std::sync::Arc;

use super::ask::Ask;
use super::bucket::Rate;
use super::classes::Class;
use super::counters::{Counter, Levels};
use super::limit::{Limit, Refused, Unit};
use super::places::{Place, Waiting};
use super::share::{Lease, signed};

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
    pub(super) refused: Option<Box<UsedUp>>,
    /// Whether it waits for room; `None` refuses it at once.
    pub(super) patience: Option<Patience>,
    /// Why it has to wait; `None` if it has not.
    early: Option<Box<Early>>,
    /// How long grants of the fleet hold; `None` without a fleet.
    pub(super) lease: Option<Lease>,
    /// How many limits counted it before the step that it is in.
    pub(super) counted: usize,
}

/// A request that was counted before there was room for it.
#[derive(Debug)]
struct Early {
    /// When there is room in all rates, in milliseconds.
    ready_at: u64,
    /// What it waits for, and what it is refused with if that takes too long.
    refused: Refused,
    counted_by: (Arc<Limit>, Arc<Counter>),
    /// Set while it waits, and counts as waiting.
    waiting: Option<Waiting>,
}

/// The limit that has refused a request.
#[derive(Debug)]
pub(super) struct UsedUp {
    pub(super) limit: Arc<Limit>,
    pub(super) counter: Arc<Counter>,
    /// What of it is used up.
    pub(super) unit: Unit,
}

impl UsedUp {
    pub(super) fn of((limit, counter): (Arc<Limit>, Arc<Counter>), unit: Unit) -> Box<Self> {
        Box::new(Self { limit, counter, unit })
    }
}

/// What a request holds of one limit.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) limit: Arc<Limit>,
    pub(super) counter: Arc<Counter>,
    /// Tokens that were charged so far.
    tokens: u64,
    /// Tokens that the fleet is still to be asked for.
    asks_tokens: u64,
    /// Whether the fleet is still to be asked for the request.
    asks_request: bool,
    /// Whether a fleet shares the rates.
    is_shared: bool,
    /// Its place among those in flight.
    pub(super) place: Place,
    /// When its request came, compared with others that wait; 0 until it waits.
    pub(super) since: u64,
}

/// What a request has to wait for.
pub(super) struct Wait {
    /// When there is room in the rate, in milliseconds.
    pub(super) ready_at: u64,
    pub(super) refused: Refused,
}

impl Held {
    /// Counts a request. Returns what it has to wait for, if anything.
    pub(super) fn take(
        limit: &Arc<Limit>,
        counter: &Arc<Counter>,
        now: u64,
        patience: Option<Patience>,
        lease: Option<&Lease>,
    ) -> Result<(Self, Option<Wait>), Refused> {
        let mut levels = counter.lock();
        let ahead = ahead(patience, now);
        let is_full = levels.is_full(limit.counters.most());
        if is_full && ahead == 0 {
            return Err(limit.refused(Unit::InFlight, None));
        }
        let (mut wait, mut asks_request) = (None, false);
        if let (Some((rate, _)), Some(lease)) = (&limit.amounts.requests, lease) {
            asks_request = !take_granted(&mut levels, Unit::Requests, rate, 1, (lease, now));
        } else if let Some((rate, _)) = &limit.amounts.requests {
            let taken = levels.requests.take_ahead(rate, 1, now, ahead);
            wait = wait_for(limit, Unit::Requests, taken, now)?;
        }
        let place = if is_full { Place::Out } else { Place::Taken };
        if is_full {
            let ready_at = wait.map_or(now, |wait| wait.ready_at);
            wait = Some(Wait { ready_at, refused: limit.refused(Unit::InFlight, None) });
        } else {
            levels.in_flight += 1;
        }
        drop(levels);
        let (limit, counter, is_shared) = (Arc::clone(limit), Arc::clone(counter), lease.is_some());
        Ok((
            Self { limit, counter, tokens: 0, asks_tokens: 0, asks_request, is_shared, place, since: 0 },
            wait,
        ))
    }

    /// Charges tokens. Returns what the request has to wait for, if anything.
    pub(super) fn take_tokens(
        &mut self,
        tokens: u64,
        now: u64,
        patience: Option<Patience>,
        lease: Option<&Lease>,
    ) -> Result<Option<Wait>, Refused> {
        let Some((rate, _)) = &self.limit.amounts.tokens else { return Ok(None) };
        let tokens = rate.chargeable(tokens);
        if let Some(lease) = lease {
            let taken = take_granted(&mut self.counter.lock(), Unit::Tokens, rate, tokens, (lease, now));
            (self.tokens, self.asks_tokens) = if taken { (tokens, 0) } else { (0, tokens) };
            return Ok(None);
        }
        let taken = self.counter.lock().tokens.take_ahead(rate, tokens, now, ahead(patience, now));
        let wait = wait_for(&self.limit, Unit::Tokens, taken, now)?;
        self.tokens = tokens;
        Ok(wait)
    }

    fn correct_tokens(&mut self, tokens: u64) {
        let Some((rate, _)) = &self.limit.amounts.tokens else { return };
        self.asks_tokens = 0;
        let mut levels = self.counter.lock();
        if self.is_shared {
            levels.share(Unit::Tokens).0.add(signed(tokens).saturating_sub(signed(self.tokens)));
        }
        match tokens.checked_sub(self.tokens) {
            Some(more) => levels.tokens.add(rate, more),
            None => levels.tokens.give_back(rate, self.tokens - tokens),
        }
        self.tokens = tokens;
    }
}

/// Takes units from what the fleet has granted, if there are enough.
fn take_granted(
    levels: &mut Levels,
    unit: Unit,
    rate: &Rate,
    cost: u64,
    (lease, now): (&Lease, u64),
) -> bool {
    let (share, bucket) = levels.share(unit);
    let is_granted = lease.holds(now) && share.take(cost);
    if is_granted {
        bucket.note(rate, cost, now);
    }
    is_granted
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

    /// Lets the rates be those of a fleet, whose grants hold as long as `lease`.
    pub fn share(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// Whether the fleet has to be asked.
    pub fn asks(&self) -> bool {
        self.lease.is_some() && self.held.iter().any(|held| held.asks_request || held.asks_tokens > 0)
    }

    /// What the fleet has to be asked for.
    pub(super) fn asked(&self) -> Vec<Ask> {
        let of = |(place, held): (usize, &Held)| {
            let ask = |unit, cost| {
                let (rate, _) = held.limit.rate(unit).filter(|_| cost > 0)?;
                let (limit, counter) = (Arc::clone(&held.limit), Arc::clone(&held.counter));
                Some(Ask { place, limit, counter, unit, rate, cost })
            };
            [ask(Unit::Requests, u64::from(held.asks_request)), ask(Unit::Tokens, held.asks_tokens)]
        };
        self.held.iter().enumerate().flat_map(of).flatten().collect()
    }

    /// The fleet has given what was asked for, from in `wait` milliseconds on.
    pub(super) fn took(&mut self, ask: &Ask, wait: u64, now: u64) {
        let held = &mut self.held[ask.place];
        match ask.unit {
            Unit::Tokens => (held.tokens, held.asks_tokens) = (held.asks_tokens, 0),
            Unit::Requests | Unit::InFlight | Unit::Sessions | Unit::SessionStarts => {
                held.asks_request = false
            }
        }
        if wait > 0 {
            let refused = ask.limit.refused(ask.unit, Some(wait));
            let counted_by = (Arc::clone(&ask.limit), Arc::clone(&ask.counter));
            self.waits(Wait { ready_at: now + wait, refused }, counted_by);
            self.step_aside();
        }
    }

    /// Takes back what the limits of this step have counted, and all tokens, because `ask` was refused.
    pub(super) fn refuse(&mut self, ask: &Ask) {
        self.refused = Some(UsedUp::of((Arc::clone(&ask.limit), Arc::clone(&ask.counter)), ask.unit));
        self.correct_tokens(0);
        self.undo(self.counted);
        self.early = None;
    }

    /// How long the request may wait, in milliseconds.
    pub(super) fn ahead(&self, now: u64) -> u64 {
        ahead(self.patience, now)
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
            None => self.early = Some(Box::new(Early { ready_at, refused, counted_by, waiting: None })),
        }
    }

    /// Counts the request as one that waits, if it has to. Returns false if too many wait for the same.
    pub fn begin_to_wait(&mut self) -> bool {
        let Some(early) = &mut self.early else { return true };
        early.waiting = Waiting::begin(&early.counted_by.1);
        early.waiting.is_some()
    }

    /// When there is room in all rates, in milliseconds.
    pub(super) fn ready_at(&self) -> u64 {
        self.early.as_ref().map_or(0, |early| early.ready_at)
    }

    /// The request has not to wait any longer.
    pub(super) fn is_in_time(&mut self) {
        self.early = None;
    }

    /// Takes back all that limits have counted, because the request does not wait any longer. Returns what it waited for.
    pub fn give_up(&mut self) -> Option<Refused> {
        let Early { refused, counted_by, .. } = *self.early.take()?;
        self.correct_tokens(0);
        self.undo(0);
        self.refused = Some(UsedUp::of(counted_by, refused.unit));
        Some(refused)
    }

    /// Takes back what limits behind the first `keep` have counted.
    pub(super) fn undo(&mut self, keep: usize) {
        for held in self.held.drain(keep..) {
            let Some((rate, _)) = &held.limit.amounts.requests else { continue };
            let mut levels = held.counter.lock();
            if held.is_shared && !held.asks_request {
                levels.share(Unit::Requests).0.add(-1);
            }
            if !held.asks_request {
                levels.requests.give_back(rate, 1);
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
