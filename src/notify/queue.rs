//! What waits to be sent to a webhook, and when it is tried again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::webhook::Message;

/// The most messages that wait for one webhook, and their bytes.
const MOST: usize = 10_000;
const MOST_BYTES: usize = 16 << 20;
/// How long a message is tried.
const GIVE_UP: Duration = Duration::from_secs(24 * 3600);
/// How long after each failed attempt the next follows, in seconds; then the last.
const DELAYS: [u64; 9] = [1, 5, 30, 120, 600, 1800, 3600, 7200, 14_400];
/// The longest pause of the whole queue.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A message that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) message: Message,
    since: Instant,
    failed: usize,
}

/// The queue of one webhook.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By the time of the next attempt, and in their order.
    waiting: BTreeMap<(Instant, u64), Waiting>,
    bytes: usize,
    number: u64,
    /// Nothing is sent before: the receiver does not answer.
    paused_until: Option<Instant>,
    /// Attempts in a row that got no answer.
    away: usize,
}

impl Queue {
    /// Adds a message. Returns false if there is no room.
    pub(super) fn push(&mut self, message: Message, now: Instant) -> bool {
        if self.waiting.len() >= MOST || self.bytes + message.body.len() > MOST_BYTES {
            return false;
        }
        self.insert(now, Waiting { message, since: now, failed: 0 });
        true
    }

    fn insert(&mut self, due: Instant, waiting: Waiting) {
        self.bytes += waiting.message.body.len();
        self.number += 1;
        self.waiting.insert((due, self.number), waiting);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the message that is due; else returns when the next one is.
    pub(super) fn take(&mut self, now: Instant) -> Result<Waiting, Option<Instant>> {
        let Some((&(due, _), _)) = self.waiting.first_key_value() else { return Err(None) };
        let due = self.paused_until.map_or(due, |pause| due.max(pause));
        if due > now {
            return Err(Some(due));
        }
        let taken = self.waiting.pop_first().map(|(_, waiting)| waiting);
        let taken = taken.ok_or(None)?;
        self.bytes -= taken.message.body.len();
        Ok(taken)
    }

    /// Whether a message could be sent now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let due = self.waiting.first_key_value().map(|((due, _), _)| *due);
        due.is_some_and(|due| due <= now) && self.paused_until.is_none_or(|pause| pause <= now)
    }

    /// The receiver answers.
    pub(super) fn answered(&mut self) {
        (self.away, self.paused_until) = (0, None);
    }

    /// The receiver does not answer: nothing is sent for a while.
    pub(super) fn pause(&mut self, now: Instant, wait: Option<Duration>) {
        let own = DELAYS.get(self.away).map_or(LONGEST_PAUSE, |seconds| Duration::from_secs(*seconds));
        self.away += 1;
        self.paused_until = Some(now + wait.unwrap_or(own).clamp(Duration::from_secs(1), LONGEST_PAUSE));
    }

    /// Puts a message back that was not delivered. Returns false if it is given up.
    pub(super) fn again(&mut self, mut waiting: Waiting, now: Instant) -> bool {
        let last = DELAYS[DELAYS.len() - 1];
        let delay = Duration::from_secs(DELAYS.get(waiting.failed).copied().unwrap_or(last));
        waiting.failed += 1;
        if now.duration_since(waiting.since) + delay > GIVE_UP {
            return false;
        }
        self.insert(now + delay, waiting);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Message {
        Message { id: "msg".into(), body: vec![b'x'; bytes].into() }
    }

    #[test]
    fn a_message_is_tried_for_a_day_and_then_given_up() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        let begun = now;
        assert!(queue.push(message(9), now));
        let mut attempts = 0;
        loop {
            match queue.take(now) {
                Ok(waiting) => {
                    attempts += 1;
                    if !queue.again(waiting, now) {
                        break;
                    }
                }
                Err(due) => now = due.expect("it waits"),
            }
        }
        let hours = now.duration_since(begun).as_secs() / 3600;
        assert!((20..=24).contains(&hours) && (10..15).contains(&attempts), "{attempts} in {hours} h");
        assert_eq!((queue.len(), queue.bytes), (0, 0));
    }

    #[test]
    fn the_queue_is_bounded_and_a_pause_holds_for_all() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        assert!(queue.push(message(MOST_BYTES), now) && !queue.push(message(1), now));
        let big = queue.take(now).unwrap();
        drop(big);
        for _ in 0..MOST {
            assert!(queue.push(message(1), now));
        }
        assert!(!queue.push(message(1), now));
        queue.pause(now, None);
        let due = queue.take(now).unwrap_err().unwrap();
        assert_eq!(due, now + Duration::from_secs(1));
        queue.pause(now, Some(Duration::from_secs(7200)));
        assert_eq!(queue.take(due).unwrap_err(), Some(now + LONGEST_PAUSE));
        queue.answered();
        assert!(queue.take(now).is_ok());
    }
}
