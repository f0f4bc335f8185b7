//! The clock of the program: monotonic milliseconds for arithmetic, wall time for output.
//!
//! Durations are always differences of [`Moment`]s, so a change of the wall clock neither ends a session nor keeps it
//! alive. Tests use [`Clock::manual`] and advance it themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A point on the monotonic clock: milliseconds since the clock's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// Creates the moment this many milliseconds after the clock's origin.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since the clock's origin.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the time since `earlier`, saturating at zero.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// How far the origin of the system clock lies before its creation: longer than any session lasts.
const PAST: Duration = Duration::from_secs(90 * 24 * 3600);

/// A clock; clones are cheap and share their time.
#[derive(Clone, Debug)]
pub struct Clock {
    origin: Instant,
    origin_wall: Timestamp,
    manual: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// Creates the system clock. Its origin lies in the past, so that sessions of other instances that started before this
    /// process have a moment, too.
    pub fn system() -> Self {
        let origin_wall = Timestamp::now().checked_sub(PAST).unwrap_or(Timestamp::MIN);
        Self { origin: Instant::now(), origin_wall, manual: None }
    }

    /// Creates a clock that only [`Clock::advance`] moves.
    pub fn manual() -> Self {
        Self { origin_wall: Timestamp::now(), manual: Some(Arc::default()), ..Self::system() }
    }

    /// Advances a manual clock; does nothing on a system clock.
    pub fn advance(&self, by: Duration) {
        if let Some(time) = &self.manual {
            time.fetch_add(millis(by), Ordering::Relaxed);
        }
    }

    /// Returns the current moment.
    pub fn now(&self) -> Moment {
        self.at(Instant::now())
    }

    /// Returns the moment of `now`, which the caller has just read; a manual clock has its own time.
    pub fn at(&self, now: Instant) -> Moment {
        match &self.manual {
            Some(time) => Moment(time.load(Ordering::Relaxed)),
            None => Moment(millis(PAST + now.saturating_duration_since(self.origin))),
        }
    }

    /// Returns the wall time of a moment, based on the wall clock at the creation of this clock.
    pub fn wall(&self, moment: Moment) -> Timestamp {
        self.origin_wall.checked_add(Duration::from_millis(moment.0)).unwrap_or(Timestamp::MAX)
    }
}

impl Clock {
    /// Returns the moment of a wall time, saturating at the origin.
    pub fn moment(&self, wall: Timestamp) -> Moment {
        Moment(u64::try_from(wall.duration_since(self.origin_wall).as_millis()).unwrap_or(0))
    }

    /// Returns the Unix time of a moment in milliseconds; comparable between machines as far as their clocks agree.
    pub fn unix_millis(&self, moment: Moment) -> u64 {
        u64::try_from(self.wall(moment).as_millisecond()).unwrap_or(0)
    }
}

/// Returns the whole milliseconds of a duration, saturating.
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
