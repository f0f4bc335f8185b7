//! The counters of one limit, by the name that its expression gives.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::bucket::Bucket;
use super::limit::Unit;
use super::line::Line;
use super::share::Share;

/// The most names of a limit.
pub(super) const MAX_NAMES: usize = 100_000;

const SHARDS: usize = 16;

/// Names of one generation in a shard.
const GENERATION: usize = MAX_NAMES / SHARDS / 2;

/// The longest name that is kept as it is, in bytes; of a longer one its digest is.
const MAX_NAME: usize = 128;

/// What a limit counts for one name.
#[derive(Debug, Default)]
pub(super) struct Counter(Mutex<Levels>);

/// The levels of a counter.
#[derive(Debug, Default)]
pub(super) struct Levels {
    pub(super) requests: Bucket,
    pub(super) tokens: Bucket,
    pub(super) session_starts: Bucket,
    pub(super) in_flight: u32,
    /// Requests that wait until one of those in flight ends; made when the first one waits.
    pub(super) line: Option<Box<Line>>,
    /// What is shared with a fleet.
    pub(super) shares: Option<Box<Shares>>,
    /// Requests that wait because of this name.
    pub(super) waiting: u32,
    pub(super) sessions: u32,
}

/// An instance's part of the rates of one name.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) name: Box<str>,
    pub(super) requests: Share,
    pub(super) tokens: Share,
}

impl Levels {
    /// The share of a rate, with the bucket that follows the fleet's.
    pub(super) fn share(&mut self, unit: Unit) -> (&mut Share, &mut Bucket) {
        let shares = self.shares.get_or_insert_default();
        match unit {
            Unit::Tokens => (&mut shares.tokens, &mut self.tokens),
            Unit::Requests | Unit::InFlight | Unit::Sessions | Unit::SessionStarts => {
                (&mut shares.requests, &mut self.requests)
            }
        }
    }

    /// Whether there is no place among `most` in flight for one that has just come: those in the line go first.
    pub(super) fn is_full(&self, most: u32) -> bool {
        self.in_flight >= most || self.line.as_ref().is_some_and(|line| !line.is_empty())
    }
}

impl Counter {
    pub(super) fn lock(&self) -> parking_lot::MutexGuard<'_, Levels> {
        self.0.lock()
    }
}

/// The counters of a limit.
///
/// Each shard has two generations of names. A name that is used moves to the younger one; when that is full, it becomes the
/// older one, and what was in that is forgotten, except for names with open requests or live sessions. So names that were not used for long
/// go first, and no request pays for a search.
#[derive(Debug)]
pub(super) struct Counters {
    hasher: RandomState,
    /// The most requests in flight of a name.
    most: AtomicU32,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<Box<str>, Arc<Counter>>,
    old: HashMap<Box<str>, Arc<Counter>>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            most: AtomicU32::new(u32::MAX),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Counters {
    /// Returns the counter of a name; a new one begins empty.
    pub(super) fn of(&self, name: &str) -> Arc<Counter> {
        if name.len() <= MAX_NAME { self.find(name) } else { self.find(&short(name)) }
    }

    /// As [`Counters::of`], for a fleet.
    pub(super) fn of_fleet(&self, name: &str) -> Arc<Counter> {
        let counter = self.of(name);
        let mut levels = counter.lock();
        if levels.shares.is_none() {
            levels.shares = Some(Box::new(Shares { name: short(name), ..Shares::default() }));
        }
        drop(levels);
        counter
    }

    /// The most requests in flight of a name, as it was configured last: those that wait follow a change, too.
    pub(super) fn most(&self) -> u32 {
        self.most.load(Ordering::Acquire)
    }

    /// Allows so many requests in flight, and tells those that wait.
    pub(super) fn allow(&self, most: u32) {
        if self.most.swap(most, Ordering::AcqRel) >= most {
            return;
        }
        for shard in &self.shards {
            let shard = shard.lock();
            for counter in shard.young.values().chain(shard.old.values()) {
                if let Some(line) = &counter.lock().line {
                    line.call_first();
                }
            }
        }
    }

    fn find(&self, name: &str) -> Arc<Counter> {
        let shard = self.hasher.hash_one(name) as usize % SHARDS;
        self.shards[shard].lock().find(name)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock()).map(|shard| shard.young.len() + shard.old.len()).sum()
    }
}

/// Returns the name that is kept.
fn short(name: &str) -> Box<str> {
    if name.len() <= MAX_NAME {
        return name.into();
    }
    let digest = Sha256::digest(name.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}").into()
}

impl Shard {
    fn find(&mut self, name: &str) -> Arc<Counter> {
        if let Some(counter) = self.young.get(name) {
            return Arc::clone(counter);
        }
        // Before the generations change: then a name with open requests is no longer in the older one.
        let known = self.old.remove_entry(name);
        if self.young.len() >= GENERATION {
            self.age();
        }
        let (name, counter) = known.unwrap_or_else(|| (name.into(), Arc::default()));
        self.young.insert(name, Arc::clone(&counter));
        counter
    }

    /// Begins a new generation. Names that requests hold are kept: a new counter would not know of them.
    fn age(&mut self) {
        let gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        self.young.extend(gone.into_iter().filter(|(_, counter)| Arc::strong_count(counter) > 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_idle_ones_go_first() {
        let counters = Counters::default();
        let held = counters.of("held");
        held.lock().in_flight = 1;
        counters.of("used").lock().in_flight = 2;
        counters.of("idle").lock().in_flight = 3;
        for number in 0..3 * MAX_NAMES {
            counters.of(&number.to_string());
            if number % 100 == 0 {
                assert_eq!(counters.of("used").lock().in_flight, 2, "{number}");
            }
        }
        assert!(counters.len() <= MAX_NAMES + 1, "{}", counters.len());
        assert_eq!(counters.of("held").lock().in_flight, 1, "a request is open");
        assert_eq!(counters.of("idle").lock().in_flight, 0, "it was forgotten");
    }

    #[test]
    fn a_name_that_is_asked_for_when_the_generations_change_keeps_its_counter() {
        let mut shard = Shard::default();
        let held = shard.find("held");
        held.lock().in_flight = 1;
        for number in 0..GENERATION {
            shard.find(&format!("one {number}"));
        }
        for number in 0..GENERATION - 1 {
            shard.find(&format!("two {number}"));
        }
        assert!(
            shard.old.contains_key("held") && shard.young.len() == GENERATION,
            "the next name changes them"
        );
        assert!(Arc::ptr_eq(&shard.find("held"), &held));
    }

    #[test]
    fn long_names_are_kept_apart_by_their_digest() {
        let counters = Counters::default();
        let (one, two) = ("a".repeat(5000), format!("{}b", "a".repeat(4999)));
        counters.of(&one).lock().in_flight = 1;
        assert_eq!((counters.of(&one).lock().in_flight, counters.of(&two).lock().in_flight), (1, 0));
    }
}
