//! Timeouts: `app` calls [`Manager::reap`] every second, and [`Manager::shutdown`] at the end.
//!
//! Idle time counts from the last byte, whether or not a leg is open: a stream that is silent for longer than
//! `session.idle_timeout` ends with its session (its own idle timer, `server.timeouts.stream_idle`, is normally
//! shorter).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::manager::{Manager, SETTLE};
use super::session::{Inner, Session};
use crate::clock::{Moment, millis};
use crate::session::settings::Settings;
use crate::session::views::state::EndReason;

/// How often shutdown checks the legs that are still settling.
const STEP: Duration = Duration::from_millis(10);
/// How long a reap waits in total for the listener to write records. Records that then find no room are counted as
/// lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same at shutdown.
const LAST_PATIENCE: Duration = Duration::from_secs(15);

impl Manager {
    /// Ends sessions that are due, completes records whose legs do not settle, and purges what is past its
    /// retention. The walk costs two atomic loads for each session.
    pub async fn reap(&self) {
        let now = self.clock.now();
        let settings = self.settings.load_full();
        let due = self.active.collect(|session| {
            let (reason, limit) = due(session, &settings, now)?;
            Some((session.clone(), reason, limit))
        });
        let here = self.replication.end_due(self, due).await;
        let mut patience = PATIENCE;
        for (session, reason, _) in here {
            self.pace(&mut patience).await;
            self.end(&session, reason, None, |session, inner| {
                still_due(session, inner, reason, &settings, now)
            });
        }
        self.settle(&settings, now).await;
        self.kill_orders.forget_expired(now);
        if !self.replication.store_answers() {
            return;
        }
        if let Some(horizon) = now.as_millis().checked_sub(millis(settings.retention)) {
            let horizon = self.clock.wall(Moment::from_millis(horizon));
            if let Err(fault) = self.store.purge(horizon).await {
                tracing::warn!(%fault, "ended sessions were not purged");
            }
        }
    }

    /// Completes ended sessions whose legs have had time to settle.
    async fn settle(&self, settings: &Settings, now: Moment) {
        let age = |session: &Session| session.ended().map_or(Duration::ZERO, |ended| now.since(ended));
        let ended = self.closing.collect(|session| (age(session) >= SETTLE).then(|| session.clone()));
        for session in &ended {
            self.finish(session);
        }
        let is_past = |session: &Session| age(session) >= settings.retention;
        let ended = ended.into_iter().map(|session| (session.clone(), is_past(&session))).collect();
        self.replication.close(self, ended).await;
    }

    /// Ends all sessions (state completed, reason `shutdown`) and refuses new ones. Open legs are cut and get a
    /// moment to settle; then every record is written.
    pub async fn shutdown(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let mut patience = LAST_PATIENCE;
        for session in self.active.collect(|session| Some(session.clone())) {
            self.pace(&mut patience).await;
            self.end(&session, EndReason::Shutdown, None, |_, _| true);
        }
        let ended = self.closing.collect(|session| Some(session.clone()));
        let mut waited = Duration::ZERO;
        while waited < SETTLE && ended.iter().any(|session| !session.is_recorded()) {
            tokio::time::sleep(STEP).await;
            waited += STEP;
        }
        for session in &ended {
            self.finish(session);
        }
        self.replication.leave(self, ended).await;
    }

    /// Ends a session that has been idle for `limit`; one with open legs only for reason `idle_timeout`. Returns
    /// true when it ended now.
    pub(in crate::session) fn end_if_idle(
        &self,
        session: &Arc<Session>,
        reason: EndReason,
        limit: Duration,
    ) -> bool {
        let is_idle = |session: &Session, inner: &Inner| {
            session.idle(self.clock.now()) >= limit
                && (reason == EndReason::IdleTimeout || inner.legs.is_empty())
        };
        self.end(session, reason, None, is_idle).is_some()
    }

    /// Puts the last view of an ended session into the store. Returns false if the store did not take it.
    pub(super) async fn store_ended(&self, session: &Arc<Session>) -> bool {
        let kept = self.store.put(Arc::new(session.view(&self.clock, true))).await;
        if let Err(fault) = &kept {
            tracing::warn!(%fault, uid = %session.uid(), "an ended session was not kept");
        }
        kept.is_ok()
    }
}

/// Why a session is due to end, and the limit that it has reached; cheap, without its lock.
pub(super) fn due(session: &Session, settings: &Settings, now: Moment) -> Option<(EndReason, Duration)> {
    let idle = session.idle(now);
    if let Some(max) = settings.max_duration
        && now.since(session.started()) >= max
    {
        Some((EndReason::MaxDuration, max))
    } else if idle >= settings.idle_timeout {
        Some((EndReason::IdleTimeout, settings.idle_timeout))
    } else if let Some(after) = settings.completed_after
        && idle >= after
        && session.open_legs() == 0
    {
        Some((EndReason::CompletedAfter, after))
    } else {
        None
    }
}

/// Checks again at the moment of the end, when no leg can open or close.
fn still_due(session: &Session, inner: &Inner, reason: EndReason, settings: &Settings, now: Moment) -> bool {
    match reason {
        EndReason::IdleTimeout => session.idle(now) >= settings.idle_timeout,
        EndReason::CompletedAfter => {
            inner.legs.is_empty() && settings.completed_after.is_some_and(|after| session.idle(now) >= after)
        }
        EndReason::MaxDuration
        | EndReason::IdleGap
        | EndReason::Capacity
        | EndReason::Killed
        | EndReason::Shutdown => true,
    }
}
