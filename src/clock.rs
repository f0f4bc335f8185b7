//! One clock for the program: monotonic milliseconds for arithmetic, wall time for people.
//!
//! Durations are always differences of [`Moment`]s, so a change of the wall clock neither ends a
//! session nor keeps it alive. Tests use [`Clock::manual`] and move the hands themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A point on the monotonic clock: milliseconds since the clock's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// The moment that is this many milliseconds after the clock's origin.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the clock's origin.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// How far back the origin of the machine's clock lies: further than any session lives.
const PAST: Duration = Duration::from_secs(90 * 24 * 3600);

/// Tells the time; cheap to clone, and all clones agree.
#[derive(Clone, Debug)]
pub struct Clock {
    origin: Instant,
    origin_wall: Timestamp,
    manual: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The machine's clock. Its origin lies in the past, so that what other programs began before this
    /// one has its moment, too.
    pub fn system() -> Self {
        let origin_wall = Timestamp::now().checked_sub(PAST).unwrap_or(Timestamp::MIN);
        Self { origin: Instant::now(), origin_wall, manual: None }
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    pub fn manual() -> Self {
        Self { origin_wall: Timestamp::now(), manual: Some(Arc::default()), ..Self::system() }
    }

    /// Moves a manual clock forward; a system clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Some(hands) = &self.manual {
            hands.fetch_add(millis(by), Ordering::Relaxed);
        }
    }

    /// Now, on the monotonic clock.
    pub fn now(&self) -> Moment {
        match &self.manual {
            Some(hands) => Moment(hands.load(Ordering::Relaxed)),
            None => Moment(millis(PAST + self.origin.elapsed())),
        }
    }

    /// The wall time of a moment, as the wall clock stood when this clock was made.
    pub fn wall(&self, moment: Moment) -> Timestamp {
        self.origin_wall.checked_add(Duration::from_millis(moment.0)).unwrap_or(Timestamp::MAX)
    }
}

impl Clock {
    /// The moment of a wall time; a time before the origin is the origin.
    pub fn moment(&self, wall: Timestamp) -> Moment {
        Moment(u64::try_from(wall.duration_since(self.origin_wall).as_millis()).unwrap_or(0))
    }

    /// Milliseconds since 1970 at a moment: comparable between machines, as far as their clocks agree.
    pub fn unix_millis(&self, moment: Moment) -> u64 {
        u64::try_from(self.wall(moment).as_millisecond()).unwrap_or(0)
    }
}

/// Whole milliseconds of a duration; a duration of more than 584 million years is cut there.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = Clock::manual();
        let start = clock.now();
        clock.clone().advance(Duration::from_secs(90));
        assert_eq!(clock.now().since(start), Duration::from_secs(90));
        assert_eq!(start.since(clock.now()), Duration::ZERO);
        let wall = clock.wall(clock.now()).duration_since(clock.wall(start));
        assert_eq!(wall.as_secs(), 90);
    }
}
