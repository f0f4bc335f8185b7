//! Writes shares that are due, and finds active sessions whose keys the store has lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::replicator::Replicator;
use super::share_schedule::{FlushScope, Flushed, SYNC_INTERVAL, Schedule, ShareFingerprint};
use super::shares::share_document;
use crate::clock::millis;
use crate::redis::LinkError;
use crate::session::core::manager::Manager;
use crate::session::core::session::Session;
use crate::session::settings::Settings;
use crate::session::store::redis::Flush;

/// Shares written in one round trip.
const CHUNK: usize = 128;
/// Sessions whose keys are checked in one round trip.
const CHECKED: usize = 256;

/// Sessions whose shares are to be written.
type Dirty = Vec<(Arc<Session>, ShareFingerprint)>;

impl Replicator {
    /// How old the last activity of a session in the store may be.
    pub(super) fn staleness(&self, settings: &Settings) -> Duration {
        let gap = Duration::from_millis(self.gap_ms.load(Ordering::Relaxed));
        let shortest = settings.idle_timeout.min(settings.completed_after.unwrap_or(Duration::MAX)).min(gap);
        self.flush_interval().min((shortest / 10).max(SYNC_INTERVAL))
    }

    /// Writes shares that changed since they were written last.
    pub(super) async fn flush(&self, core: &Manager, which: FlushScope) -> Result<(), LinkError> {
        let all = core.active_sessions().collect(|session| Some(session.clone()));
        let mut flushed = self.flushed.lock().await;
        let (dirty, kept) = self.select_due(core, all, &flushed, which);
        *flushed = kept;
        self.write_dirty(core, &dirty, &mut flushed).await
    }

    /// Writes these shares now if they changed.
    pub(super) async fn flush_some(&self, core: &Manager, lives: Vec<Arc<Session>>) -> Result<(), LinkError> {
        let mut flushed = self.flushed.lock().await;
        let (dirty, _) = self.select_due(core, lives, &flushed, FlushScope::All);
        self.write_dirty(core, &dirty, &mut flushed).await
    }

    /// Lists sessions that were just opened as active. Their shares are written with the next sync, which then covers all
    /// of a short request.
    pub(super) async fn add_active(&self, core: &Manager, opened: &[Arc<Session>]) -> Result<(), LinkError> {
        for chunk in opened.chunks(CHUNK) {
            let active = chunk.iter().map(|session| {
                (session.key(), session.uid(), self.store_millis(core, session.last_activity()))
            });
            self.store.add_active(active).await?;
        }
        Ok(())
    }

    /// Selects the shares to write; returns the last writes of the others.
    fn select_due(
        &self,
        core: &Manager,
        lives: Vec<Arc<Session>>,
        flushed: &HashMap<u32, Flushed>,
        which: FlushScope,
    ) -> (Dirty, HashMap<u32, Flushed>) {
        let settings = core.settings();
        let schedule = Schedule {
            now_ms: core.clock().now().as_millis(),
            ttl_ms: self.store.active_ms(),
            interval_ms: millis(self.flush_interval()),
            stale_ms: millis(self.staleness(&settings)),
        };
        let waits = settings.completed_after.is_some();
        let (mut dirty, mut kept) = (Vec::new(), HashMap::new());
        for session in lives {
            let print = self.print(core, &session, waits);
            match flushed.get(&session.share()) {
                Some(known) if !known.is_due(&print, which, schedule) => {
                    kept.insert(session.share(), *known);
                }
                _ => dirty.push((session, print)),
            }
        }
        (dirty, kept)
    }

    fn print(&self, core: &Manager, session: &Session, waits: bool) -> ShareFingerprint {
        let open_legs = session.open_legs();
        // An open leg delays `completed_after`, even if it is silent.
        let last = if waits && open_legs > 0 { core.clock().now() } else { session.last_activity() };
        ShareFingerprint {
            requests: session.requests(),
            errors: session.errors(),
            bytes_in: session.bytes_in(),
            bytes_out: session.bytes_out(),
            last_activity: last.as_millis(),
            open_legs,
        }
    }

    async fn write_dirty(
        &self,
        core: &Manager,
        dirty: &Dirty,
        flushed: &mut HashMap<u32, Flushed>,
    ) -> Result<(), LinkError> {
        for chunk in dirty.chunks(CHUNK) {
            let (at_ms, ttl_ms) = (core.clock().now().as_millis(), self.store.active_ms());
            let shares: Vec<Flush> =
                chunk.iter().map(|(session, print)| self.share(core, session, print)).collect();
            let ends = self.store.flush(&shares).await?;
            for ((session, print), end) in chunk.iter().zip(ends) {
                flushed.insert(session.share(), Flushed { print: *print, at_ms, ttl_ms });
                if let Some(note) = end {
                    self.end_like_store(core, session, note);
                }
            }
        }
        Ok(())
    }

    fn share(&self, core: &Manager, session: &Session, print: &ShareFingerprint) -> Flush {
        let last = crate::clock::Moment::from_millis(print.last_activity);
        Flush {
            share: self.share_name(session.share()),
            number: self.versions.fetch_add(1, Ordering::Relaxed) + 1,
            last_ms: self.store_millis(core, last),
            age_ms: session.is_opener().then(|| millis(core.clock().now().since(session.started()))),
            doc: share_document(session, core.clock()),
        }
    }

    /// Finds shares whose keys the store no longer has (evicted or deleted), so that they are written again.
    pub(super) async fn find_missing_keys(&self, core: &Manager) -> Result<(), LinkError> {
        let lives = core
            .active_sessions()
            .collect(|session| Some((session.share(), (session.key().clone(), session.uid()))));
        let mut lost = 0_usize;
        for chunk in lives.chunks(CHECKED) {
            let names: Vec<_> = chunk.iter().map(|(_, name)| name.clone()).collect();
            let missing_keys = self.store.missing_keys(&names).await?;
            let mut flushed = self.flushed.lock().await;
            for ((share, _), _) in chunk.iter().zip(missing_keys).filter(|(_, is_lacking)| *is_lacking) {
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
