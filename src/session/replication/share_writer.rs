//! Which shares are written when: what moved, every `flush_interval`; and what keeps the keys alive.
//!
//! Counters may wait for as long as the interval says. When something moved last may not, since other
//! instances end by it what is idle: it is written before it is a tenth of the shortest limit old. A share
//! in which nothing moves is written again while its keys still have half of their lifetime, and at once
//! when they are to live longer than they were written for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::replicator::Replicator;
use super::sync_loop::BEAT;
use crate::clock::millis;
use crate::redis::LinkError;
use crate::session::store::share_document::ShareDocument;
use crate::session::core::session::Session;
use crate::session::core::manager::Manager;
use crate::session::core::settings::Settings;
use crate::session::store::redis::Flush;

/// Shares written in one round trip.
const CHUNK: usize = 128;
/// Sessions whose keys are looked for in one round trip.
const LOOKED_FOR: usize = 256;

/// Which of the shares in which something moved are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum FlushScope {
    /// Those that are due.
    Due,
    /// All: somebody wants to read them, or the store may have lost them.
    All,
}

/// What makes a share worth flushing: any of it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ShareFingerprint {
    requests: u64,
    errors: u64,
    bytes_in: u64,
    bytes_out: u64,
    last_activity: u64,
    open_legs: usize,
}

/// A share as it was written last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flushed {
    print: ShareFingerprint,
    at_ms: u64,
    /// How long its keys live from then on.
    ttl_ms: u64,
}

/// Sessions whose shares are written.
type Dirty = Vec<(Arc<Session>, ShareFingerprint)>;

/// When a share is due.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    now_ms: u64,
    ttl_ms: u64,
    interval_ms: u64,
    stale_ms: u64,
}

impl Flushed {
    fn is_due(&self, print: &ShareFingerprint, which: FlushScope, schedule: Schedule) -> bool {
        let Schedule { now_ms, ttl_ms, interval_ms, stale_ms } = schedule;
        let age = now_ms.saturating_sub(self.at_ms);
        if self.ttl_ms < ttl_ms || age >= self.ttl_ms / 2 {
            return true;
        }
        let beat = millis(BEAT);
        *print != self.print
            && (which == FlushScope::All
                || interval_ms <= beat
                // A beat that comes a little early is as good as the next one.
                || age + beat / 2 >= interval_ms
                || print.last_activity.saturating_sub(self.print.last_activity) >= stale_ms)
    }
}

impl Replicator {
    /// How much older than the truth the last movement of a session may be in the store.
    pub(super) fn staleness(&self, settings: &Settings) -> Duration {
        let gap = Duration::from_millis(self.gap_ms.load(Ordering::Relaxed));
        let shortest = settings.idle_timeout.min(settings.completed_after.unwrap_or(Duration::MAX)).min(gap);
        self.flush_interval().min((shortest / 10).max(BEAT))
    }
}

impl Manager {
    /// Writes shares in which something moved since they were written last.
    pub(in crate::session) async fn flush(&self, fleet: &Replicator, which: FlushScope) -> Result<(), LinkError> {
        let all = self.live.collect(|live| Some(live.clone()));
        let mut flushed = fleet.flushed.lock().await;
        let (dirty, kept) = self.sort_out(fleet, all, &flushed, which);
        *flushed = kept;
        self.write_shares(fleet, &dirty, &mut flushed).await
    }

    /// Writes these shares now, if something moved in them.
    pub(in crate::session) async fn flush_some(
        &self,
        fleet: &Replicator,
        lives: Vec<Arc<Session>>,
    ) -> Result<(), LinkError> {
        let mut flushed = fleet.flushed.lock().await;
        let (dirty, _) = self.sort_out(fleet, lives, &flushed, FlushScope::All);
        self.write_shares(fleet, &dirty, &mut flushed).await
    }

    /// Those that are to be written, and how the others were written last.
    fn sort_out(
        &self,
        fleet: &Replicator,
        lives: Vec<Arc<Session>>,
        flushed: &HashMap<u32, Flushed>,
        which: FlushScope,
    ) -> (Dirty, HashMap<u32, Flushed>) {
        let settings = self.settings.load();
        let schedule = Schedule {
            now_ms: self.clock.now().as_millis(),
            ttl_ms: fleet.store.active_ms(),
            interval_ms: millis(fleet.flush_interval()),
            stale_ms: millis(fleet.staleness(&settings)),
        };
        let waits = settings.completed_after.is_some();
        let (mut dirty, mut kept) = (Vec::new(), HashMap::new());
        for live in lives {
            let print = self.print(&live, waits);
            match flushed.get(&live.share()) {
                Some(known) if !known.is_due(&print, which, schedule) => {
                    kept.insert(live.share(), *known);
                }
                _ => dirty.push((live, print)),
            }
        }
        (dirty, kept)
    }

    fn print(&self, live: &Session, waits: bool) -> ShareFingerprint {
        let open_legs = live.open_legs();
        // An open leg holds up `completed_after`, however silent it is.
        let last = if waits && open_legs > 0 { self.clock.now() } else { live.last_activity() };
        ShareFingerprint {
            requests: live.requests(),
            errors: live.errors(),
            bytes_in: live.bytes_in(),
            bytes_out: live.bytes_out(),
            last_activity: last.as_millis(),
            open_legs,
        }
    }

    async fn write_shares(
        &self,
        fleet: &Replicator,
        dirty: &Dirty,
        flushed: &mut HashMap<u32, Flushed>,
    ) -> Result<(), LinkError> {
        for chunk in dirty.chunks(CHUNK) {
            let (at_ms, ttl_ms) = (self.clock.now().as_millis(), fleet.store.active_ms());
            let shares: Vec<Flush> =
                chunk.iter().map(|(live, print)| self.share(fleet, live, print)).collect();
            let ends = fleet.store.flush(&shares).await?;
            for ((live, print), end) in chunk.iter().zip(ends) {
                flushed.insert(live.share(), Flushed { print: *print, at_ms, ttl_ms });
                if let Some(note) = end {
                    self.end_as(live, note);
                }
            }
        }
        Ok(())
    }

    fn share(&self, fleet: &Replicator, live: &Session, print: &ShareFingerprint) -> Flush {
        let last = crate::clock::Moment::from_millis(print.last_activity);
        Flush {
            share: fleet.share_name(live.share()),
            number: fleet.versions.fetch_add(1, Ordering::Relaxed) + 1,
            last_ms: self.clock.unix_millis(last),
            doc: ShareDocument::of(live, &self.clock),
            session: ShareDocument::new(live.snapshot(&self.clock, false), None),
        }
    }

    /// Has the shares written again whose keys the store no longer holds (it evicts, or somebody deleted them).
    pub(super) async fn look_for_lost(&self, fleet: &Replicator) -> Result<(), LinkError> {
        let lives = self.live.collect(|live| Some((live.share(), (live.key().clone(), live.uid()))));
        let mut lost = 0_usize;
        for chunk in lives.chunks(LOOKED_FOR) {
            let names: Vec<_> = chunk.iter().map(|(_, name)| name.clone()).collect();
            let lacking = fleet.store.lacking(&names).await?;
            let mut flushed = fleet.flushed.lock().await;
            for ((share, _), _) in chunk.iter().zip(lacking).filter(|(_, is_lacking)| *is_lacking) {
                lost += usize::from(flushed.remove(share).is_some());
            }
        }
        if lost > 0 {
            tracing::warn!(
                sessions = lost,
                "redis no longer holds keys of live sessions, which are written again; set maxmemory-policy \
                 noeviction if it evicts"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINT: ShareFingerprint =
        ShareFingerprint { requests: 1, errors: 0, bytes_in: 5, bytes_out: 5, last_activity: 0, open_legs: 0 };

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
