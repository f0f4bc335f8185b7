//! Places of `in_flight`: a request holds one of every limit that counts it, or of none.
//!
//! Whoever waits, for whatever, holds no place: a limit that is full must not fill others. When its turn comes in the line of
//! the limit that was full, it takes all places in one step; if another limit is full then, it moves to the line of that, where
//! it stands by its age.

use std::sync::Arc;
use std::time::Duration;

use super::admission::{Admission, Held};
use super::classes::Class;
use super::counters::Counter;
use super::limit::Unit;
use super::line::{Ticket, arrival};
use crate::clock::Clock;

/// The most requests that wait because of one name of a limit, so that no caller takes all places of those that wait.
const MOST_WAITING: u32 = 256;

/// What a request has of `in_flight` of one limit.
#[derive(Debug, Default)]
pub(super) enum Place {
    /// Nothing.
    #[default]
    Out,
    /// It stands in line.
    InLine(Ticket),
    /// It is one of those in flight.
    Taken,
}

/// One of those that wait because of a name.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Counter>);

impl Waiting {
    /// `None` if too many wait already.
    pub(super) fn begin(counter: &Arc<Counter>) -> Option<Self> {
        let mut levels = counter.lock();
        let has_room = levels.waiting < MOST_WAITING;
        levels.waiting += u32::from(has_room);
        has_room.then(|| Self(Arc::clone(counter)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl Held {
    /// Takes a place, or joins the line of those that wait for one. Does not overtake those in it.
    fn take_place(&mut self, class: Class, since: u64) -> bool {
        let most = self.limit.counters.most();
        let mut levels = self.counter.lock();
        let (mut in_flight, line) = (levels.in_flight, &mut levels.line);
        let is_taken = match std::mem::take(&mut self.place) {
            Place::Taken => {
                self.place = Place::Taken;
                return true;
            }
            Place::Out if line.as_ref().is_none_or(|line| line.is_empty()) && in_flight < most => true,
            place => {
                let line = line.get_or_insert_default();
                let ticket = match place {
                    Place::InLine(ticket) => ticket,
                    Place::Out | Place::Taken => line.join(class, since),
                };
                let is_next = in_flight < most && line.is_first(&ticket);
                if is_next {
                    line.leave(&ticket);
                } else {
                    self.place = Place::InLine(ticket);
                }
                is_next
            }
        };
        if is_taken {
            in_flight += 1;
            self.place = Place::Taken;
            // There may be room for the next one, too.
            if let Some(line) = line.as_ref().filter(|_| in_flight < most) {
                line.call_first();
            }
            levels.in_flight = in_flight;
        }
        is_taken
    }

    /// Gives its place up, or leaves the line. The first in the line is told.
    pub(super) fn leave(&mut self) {
        let place = std::mem::take(&mut self.place);
        if matches!(place, Place::Out) {
            return;
        }
        let mut levels = self.counter.lock();
        if matches!(place, Place::Taken) {
            levels.in_flight = levels.in_flight.saturating_sub(1);
        }
        if let Some(line) = &mut levels.line {
            if let Place::InLine(ticket) = &place {
                line.leave(ticket);
            }
            line.call_first();
        }
    }

    fn ticket(&self) -> Option<&Ticket> {
        match &self.place {
            Place::InLine(ticket) => Some(ticket),
            Place::Out | Place::Taken => None,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Admission {
    /// Gives up all places of `in_flight`, because the request has to wait.
    pub fn step_aside(&mut self) {
        self.held.iter_mut().for_each(Held::leave);
    }

    /// When it came, compared with others that wait.
    pub fn since(&mut self) -> u64 {
        let known = self.held.iter().map(|held| held.since).find(|since| *since > 0);
        let since = known.unwrap_or_else(arrival);
        self.held.iter_mut().for_each(|held| held.since = since);
        since
    }

    /// Takes a place of every limit, or stands in the line of the first that is full.
    fn take_places(&mut self) -> bool {
        let (class, since) = (self.patience.map_or(Class::Normal, |patience| patience.class), self.since());
        let Some(full) = self.held.iter_mut().position(|held| !held.take_place(class, since)) else {
            return true;
        };
        let others = self.held.iter_mut().enumerate().filter(|(place, _)| *place != full);
        others.for_each(|(_, held)| held.leave());
        self.waits_for_place(full);
        false
    }

    fn waits_for_place(&mut self, full: usize) {
        if !self.is_early() {
            let Held { limit, counter, .. } = &self.held[full];
            let refused = limit.refused(Unit::InFlight, None);
            let counted_by = (Arc::clone(limit), Arc::clone(counter));
            self.waits(super::admission::Wait { ready_at: 0, refused }, counted_by);
        }
    }

    /// Waits until there is room for the request in all limits that count it. Can be called again when it was cancelled.
    pub async fn turn(&mut self, clock: &Clock) {
        self.step_aside();
        let left = self.ready_at().saturating_sub(clock.now().as_millis());
        if left > 0 {
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        while !self.take_places() {
            if let Some(ticket) = self.held.iter().find_map(Held::ticket) {
                ticket.called().await;
            }
        }
        self.is_in_time();
    }
}
