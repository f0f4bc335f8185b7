//! How much of an answer is held of its budgets while it is written (`hold: steps`).

use tokio::sync::oneshot;

use super::answer::Answer;
use super::state::ProxyState;
use crate::limits::ledger::steps::STEP;
use crate::limits::ledger::{Claim, Reservation, Short};
use crate::protocol::answer::tap::ResponseTap;

/// The smallest step, in output tokens: what is left below it stays unused.
const SMALLEST: u64 = 256;

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
    /// Why no more is held.
    refused: Option<Short>,
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
                reservation.absorb(more);
                self.held += tokens;
            }
            Err(short) => self.refused = Some(short),
        }
    }

    /// Holds another step, or a smaller one if that is all that is left.
    fn ask(&mut self, app: &ProxyState, reservation: &mut Reservation, written: u64) {
        let tokens = written.saturating_sub(self.held).max(STEP).min(self.most - self.held);
        let halves = |size: &u64| Some(size / 2).filter(|size| *size >= SMALLEST);
        let sizes = std::iter::successors(Some(tokens), halves);
        let attempts: Vec<(Vec<Claim>, u64)> = sizes.map(|size| (reservation.more(size), size)).collect();
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
        answer: &Answer,
        reservation: &mut Reservation,
    ) -> Option<&Short> {
        let written = written(answer, self.assumed);
        let has_room = self.held < self.most && self.refused.is_none();
        if !self.is_waiting(reservation) && has_room && written + STEP / 4 >= self.held {
            self.ask(app, reservation, written);
        }
        let is_over = |tap: &ResponseTap| tap.is_complete() || tap.stop_reason().is_some();
        let is_over = answer.tap.as_ref().is_some_and(is_over);
        self.refused.as_ref().filter(|_| written > self.held && !is_over)
    }
}

/// Output tokens so far; `all`, if they cannot be seen.
fn written(answer: &Answer, all: u64) -> u64 {
    let visible = answer.tap.as_ref().filter(|tap| answer.is_stream && tap.unread().is_none());
    let counted = |tap: &ResponseTap| tap.usage().map_or(0, |usage| usage.output_tokens);
    visible.map_or(all, |tap| answer.text_tokens().max(counted(tap)))
}
