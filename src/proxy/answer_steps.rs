//! How much of an answer is held of its budgets while it is written (`hold: steps`).

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::answer::Answer;
use super::state::ProxyState;
use crate::limits::budgets::Budgets;
use crate::limits::ledger::steps::STEP;
use crate::limits::ledger::{Claim, Reservation, Short, Shortage};
use crate::protocol::answer::tap::ResponseTap;

/// The smallest step, in output tokens: what is left below it stays unused.
const SMALLEST: u64 = 256;

/// How long a step is not asked for again that others left no room for: they may end meanwhile.
const AGAIN: Duration = Duration::from_millis(250);

/// What was held in addition, and for how many output tokens.
type More = Result<(Reservation, u64), Short>;

/// How much of an answer is held, in output tokens.
pub(crate) struct Steps {
    held: u64,
    /// The most that the answer may have.
    most: u64,
    /// The same, where it cannot be seen and the request does not say.
    assumed: u64,
    /// What the store of a fleet was asked for.
    asked: Option<oneshot::Receiver<More>>,
    /// Why no more was held when it was asked for last, and when that was.
    refused: Option<(Short, Instant)>,
}

impl Steps {
    /// The first step of an answer for which `assumed` tokens are assumed, which is its limit if it has one.
    pub(super) fn new(assumed: u64, is_limited: bool) -> Self {
        let most = if is_limited { assumed } else { u64::MAX };
        Self { held: assumed.min(STEP), most, assumed, asked: None, refused: None }
    }

    /// Takes what the store of a fleet has answered. Returns whether its answer is still awaited.
    fn is_waiting(&mut self, reservation: &mut Reservation) -> bool {
        let Some(asked) = &mut self.asked else { return false };
        match asked.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return true,
            Ok(more) => self.take(reservation, more),
            Err(oneshot::error::TryRecvError::Closed) => {}
        }
        self.asked = None;
        false
    }

    fn take(&mut self, reservation: &mut Reservation, more: More) {
        match more {
            Ok((more, tokens)) => {
                self.refused = None;
                reservation.absorb(more);
                self.held += tokens;
            }
            Err(short) => self.refused = Some((short, Instant::now())),
        }
    }

    /// Whether another step may be asked for: what is spent stays so, what others hold may be released.
    fn may_ask(&self) -> bool {
        let is_due =
            |(short, at): &(Short, Instant)| short.shortage != Shortage::Spent && at.elapsed() >= AGAIN;
        self.held < self.most && self.refused.as_ref().is_none_or(is_due)
    }

    /// Holds another step, or a smaller one if that is all that is left.
    fn ask(&mut self, app: &ProxyState, budgets: &Budgets, reservation: &mut Reservation, written: u64) {
        let now = app.clock.wall(app.clock.now());
        // An answer is spent in the period in which it was asked for.
        reservation.renew(|claim| budgets.renew(claim, now).and(None));
        let tokens = written.saturating_sub(self.held).max(STEP).min(self.most - self.held);
        let halves = |size: &u64| Some(size / 2).filter(|size| *size >= SMALLEST);
        let sizes = std::iter::successors(Some(tokens), halves);
        let attempts: Vec<(Vec<Claim>, u64)> = sizes.map(|size| (reservation.more(size), size)).collect();
        if let Some(short) = attempts.last().and_then(|(least, _)| reservation.spent_by_itself(least)) {
            return self.take(reservation, Err(short));
        }
        let Some(fleet) = app.fleet_budgets.clone() else {
            let mut more = Err(Short::default());
            for (claims, size) in attempts {
                more = app.ledger.reserve_alone(claims).map(|held| (held, size));
                if more.is_ok() {
                    break;
                }
            }
            return self.take(reservation, more);
        };
        let (told, asked) = oneshot::channel();
        self.asked = Some(asked);
        tokio::spawn(async move {
            let mut more = Err(Short::default());
            for (claims, size) in attempts {
                more = fleet.reserve(claims).await.map(|held| (held, size));
                if more.is_ok() {
                    break;
                }
            }
            // If the request has ended meanwhile, what is held for it is released.
            let _ = told.send(more);
        });
    }

    /// Holds another step when three quarters of the last one are written. Returns what is in the way when all that is held is
    /// written and no more can be.
    pub(super) fn follow(
        &mut self,
        app: &ProxyState,
        budgets: &Budgets,
        answer: &Answer,
        reservation: &mut Reservation,
    ) -> Option<&Short> {
        let written = written(answer, self.assumed);
        if !self.is_waiting(reservation) && written + STEP / 4 >= self.held && self.may_ask() {
            self.ask(app, budgets, reservation, written);
        }
        let is_over = |tap: &ResponseTap| tap.is_complete() || tap.stop_reason().is_some();
        let is_over = answer.tap.as_ref().is_some_and(is_over);
        let has_passed = written > self.held && self.asked.is_none() && !is_over;
        self.refused.as_ref().filter(|_| has_passed).map(|(short, _)| short)
    }
}

/// Output tokens so far; `all`, if they cannot be seen.
fn written(answer: &Answer, all: u64) -> u64 {
    let visible = answer.tap.as_ref().filter(|tap| answer.is_stream && tap.unread().is_none());
    let counted = |tap: &ResponseTap| tap.usage().map_or(0, |usage| usage.output_tokens);
    visible.map_or(all, |tap| answer.text_tokens().max(counted(tap)))
}
