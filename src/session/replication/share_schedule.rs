//! When a share is written.
//!
//! Counters may be as old as `flush_interval` says. The time of the last activity may not, because other instances
//! end idle sessions by it: it is written before it is older than a tenth of the shortest limit. An unchanged share
//! is written again when half of the lifetime of its keys has passed, and at once when its keys must live longer
//! than they were written for.

use std::time::Duration;

use crate::clock::millis;

/// The longest time between two syncs with the store.
pub(super) const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Which changed shares are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlushScope {
    /// Shares that are due.
    Due,
    /// All, because they are about to be read or the store may have lost them.
    All,
}

/// The values whose change makes a share worth writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShareFingerprint {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) last_activity: u64,
    pub(super) open_legs: usize,
}

/// The last write of a share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flushed {
    pub(super) print: ShareFingerprint,
    pub(super) at_ms: u64,
    /// The lifetime that its keys were given.
    pub(super) ttl_ms: u64,
}

/// The inputs that decide whether a share is due, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) now_ms: u64,
    pub(super) ttl_ms: u64,
    pub(super) interval_ms: u64,
    pub(super) stale_ms: u64,
}

impl Flushed {
    /// True when the share must be written now.
    pub(super) fn is_due(&self, print: &ShareFingerprint, which: FlushScope, schedule: Schedule) -> bool {
        let Schedule { now_ms, ttl_ms, interval_ms, stale_ms } = schedule;
        let age = now_ms.saturating_sub(self.at_ms);
        if self.ttl_ms < ttl_ms || age >= self.ttl_ms / 2 {
            return true;
        }
        let sync = millis(SYNC_INTERVAL);
        *print != self.print
            && (which == FlushScope::All
                || interval_ms <= sync
                // A sync that runs a little early is as good as the next one.
                || age + sync / 2 >= interval_ms
                || print.last_activity.saturating_sub(self.print.last_activity) >= stale_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINT: ShareFingerprint = ShareFingerprint {
        requests: 1,
        errors: 0,
        bytes_in: 5,
        bytes_out: 5,
        last_activity: 0,
        open_legs: 0,
    };

    fn due(print: ShareFingerprint, which: FlushScope, schedule: Schedule) -> bool {
        Flushed { print: PRINT, at_ms: 0, ttl_ms: 60_000 }.is_due(&print, which, schedule)
    }

    #[test]
    fn a_share_is_written_when_it_is_due() {
        let at = |now_ms| Schedule { now_ms, ttl_ms: 60_000, interval_ms: 10_000, stale_ms: 5_000 };
        let moved = |last_activity| ShareFingerprint { bytes_out: 6, last_activity, ..PRINT };
        assert!(!due(PRINT, FlushScope::All, at(9_900)), "nothing moved");
        assert!(!due(moved(0), FlushScope::Due, at(8_000)));
        assert!(due(moved(0), FlushScope::All, at(1_000)));
        assert!(due(moved(0), FlushScope::Due, at(9_900)));
        assert!(due(moved(5_000), FlushScope::Due, at(5_000)), "others end by when it moved last");
        let often = Schedule { interval_ms: 1_000, ..at(10) };
        assert!(due(moved(0), FlushScope::Due, often));
    }

    #[test]
    fn keys_are_kept_alive() {
        let at = |now_ms, ttl_ms| Schedule { now_ms, ttl_ms, interval_ms: 1_000, stale_ms: 1_000 };
        assert!(!due(PRINT, FlushScope::Due, at(29_999, 60_000)));
        assert!(due(PRINT, FlushScope::Due, at(30_000, 60_000)), "half of their lifetime is over");
        assert!(due(PRINT, FlushScope::Due, at(1, 60_001)), "they are to live longer");
        assert!(!due(PRINT, FlushScope::Due, at(1, 50)), "they are never shortened");
    }
}
