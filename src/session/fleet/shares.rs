//! Shares: flushed when something moved, closed when the session is over here, written once more when the
//! store may have lost them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::recent::Recorded;
use super::{Fleet, Work};
use crate::clock::millis;
use crate::ids::{SessionKey, Uid};
use crate::redis::LinkError;
use crate::session::book::KillOrder;
use crate::session::doc::{Doc, EndNote, Whole};
use crate::session::event::Event;
use crate::session::live::Live;
use crate::session::manager::Manager;
use crate::session::model::EndReason;
use crate::session::settings::Settings;
use crate::session::store::redis::{Closed, Ended, Flush};

/// Shares written in one round trip.
const CHUNK: usize = 128;
/// Shares closed at a time.
const CLOSING: usize = 32;

/// What makes a share worth flushing: any of it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Print {
    requests: u64,
    errors: u64,
    bytes_in: u64,
    bytes_out: u64,
    last_activity: u64,
    open_legs: usize,
}

impl Print {
    fn of(live: &Live) -> Self {
        Self {
            requests: live.requests(),
            errors: live.errors(),
            bytes_in: live.bytes_in(),
            bytes_out: live.bytes_out(),
            last_activity: live.last_activity().as_millis(),
            open_legs: live.open_legs(),
        }
    }
}

impl Manager {
    /// Writes every share in which something moved since it was written last.
    pub(in crate::session) async fn flush(&self, fleet: &Fleet) -> Result<(), LinkError> {
        let all = self.live.collect(|live| Some(live.clone()));
        self.write_shares(fleet, all, true).await
    }

    /// Writes these shares; with `all` they are all there are.
    async fn write_shares(&self, fleet: &Fleet, lives: Vec<Arc<Live>>, all: bool) -> Result<(), LinkError> {
        let mut flushed = fleet.flushed.lock().await;
        let waits = self.settings.load().completed_after.is_some();
        let (mut dirty, mut kept) = (Vec::new(), std::collections::HashMap::new());
        for live in lives {
            let print = Print::of(&live);
            let known = flushed.get(&live.share()) == Some(&print);
            // An open leg holds up `completed_after`, however silent it is.
            if known && !(waits && print.open_legs > 0) {
                kept.insert(live.share(), print);
            } else {
                dirty.push((live, print));
            }
        }
        if all {
            *flushed = kept;
        }
        for chunk in dirty.chunks(CHUNK) {
            let shares: Vec<Flush> =
                chunk.iter().map(|(live, print)| self.share(fleet, live, print, waits)).collect();
            let ends = fleet.store.flush(&shares).await?;
            for ((live, print), end) in chunk.iter().zip(ends) {
                flushed.insert(live.share(), *print);
                if let Some(note) = end {
                    self.end_as(live, note);
                }
            }
        }
        Ok(())
    }

    fn share(&self, fleet: &Fleet, live: &Live, print: &Print, waits: bool) -> Flush {
        let last = if waits && print.open_legs > 0 { self.clock.now() } else { live.last_activity() };
        Flush {
            share: fleet.share_name(live.share()),
            number: fleet.versions.fetch_add(1, Ordering::Relaxed) + 1,
            last_ms: self.clock.unix_millis(last),
            doc: Doc::of(live, &self.clock),
            session: Doc::new(live.snapshot(&self.clock, false), None),
        }
    }

    /// Does what is to be done at once; what fails is done by a later step.
    pub(super) async fn work(self: &Arc<Self>, fleet: &Arc<Fleet>, work: Vec<Work>) {
        let (mut new, mut done, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for work in work {
            match work {
                Work::Flush(live) => new.push(live),
                Work::Close(live) => done.push(live),
                Work::Tell(event) => told.push(event),
            }
        }
        if !fleet.is_up() {
            return;
        }
        if let Err(fault) = self.write_shares(fleet, new, false).await {
            self.store_lost(fleet, &fault);
        }
        self.close_all(fleet, done).await;
        for event in told {
            let text = serde_json::to_string(&*event).unwrap_or_default();
            if let Err(fault) = fleet.store.tell_event(&text).await {
                self.store_lost(fleet, &fault);
                break;
            }
        }
    }

    /// Closes shares, and takes those that are closed out of memory.
    pub(in crate::session) async fn close_all(&self, fleet: &Fleet, done: Vec<Arc<Live>>) {
        futures::stream::iter(done)
            .for_each_concurrent(CLOSING, async |live| {
                if !fleet.is_up() {
                    return;
                }
                match self.close_share(fleet, &live).await {
                    Ok(is_recorded) => {
                        if !is_recorded {
                            fleet.recent().closed(live.clone(), self.clock.now());
                        }
                        self.closing.remove(&live);
                    }
                    Err(LinkError::Refused(why)) => {
                        tracing::warn!(uid = %live.uid(), why, "a session cannot be closed in the store");
                        self.record_alone(&live);
                        self.closing.remove(&live);
                    }
                    Err(away) => self.store_lost(fleet, &away),
                }
            })
            .await;
    }

    /// Closes this instance's share. A session that ended, and is not only left by this instance, ends in
    /// the store; the one that closes the last share writes the record. Gives whether it is written.
    async fn close_share(&self, fleet: &Fleet, live: &Live) -> Result<bool, LinkError> {
        let (key, uid) = (live.key(), live.uid());
        let note = self.note_of(live).filter(|note| note.reason != EndReason::Shutdown);
        if let Some(note) = &note {
            fleet.store.end(key, uid, note, None).await?;
        }
        let doc = Doc::of(live, &self.clock);
        let shares = [(fleet.share_name(live.share()), Some(&doc))];
        match fleet.store.close(key, uid, &shares).await? {
            Closed::Record(Some(whole)) => {
                self.write_record(fleet, &whole).await?;
                return Ok(true);
            }
            Closed::Record(None) => {
                self.record_alone(live);
                return Ok(true);
            }
            Closed::Waiting => {
                fleet.store.tell_end(key, uid).await?;
                self.look_soon(fleet, key, uid).await;
            }
            Closed::Active | Closed::Claimed(_) => {}
            Closed::Recorded => return Ok(true),
        }
        Ok(false)
    }

    /// Tells the store once more what it was told last, since it may be a copy that lacks it: first what is
    /// written down for good, so that nobody does so a second time.
    pub(super) async fn repeat(&self, fleet: &Fleet) -> Result<(), LinkError> {
        let (closed, recorded) = fleet.recent().all(self.clock.now());
        let recorded = futures::stream::iter(recorded.into_iter().map(Ok));
        recorded
            .try_for_each_concurrent(CLOSING, async |Recorded { session, end }| {
                let (key, uid) = (session.key(), session.uid);
                if let Some(end) = &end {
                    tolerated(fleet.store.end(key, uid, end, None).await.map(drop), uid)?;
                }
                tolerated(fleet.store.shelve(&session).await, uid)?;
                tolerated(fleet.store.done(key, uid).await, uid)
            })
            .await?;
        let closed = futures::stream::iter(closed.into_iter().map(Ok));
        closed
            .try_for_each_concurrent(CLOSING, async |live| {
                tolerated(self.close_again(fleet, &live).await, live.uid())
            })
            .await
    }

    /// Closes a share that was closed already. The record is left to those who look after still sessions:
    /// whoever wrote it, if anybody did, says so before they look.
    async fn close_again(&self, fleet: &Fleet, live: &Live) -> Result<(), LinkError> {
        let (key, uid) = (live.key(), live.uid());
        fleet
            .store
            .close_again(key, uid, &fleet.share_name(live.share()), &Doc::of(live, &self.clock))
            .await?;
        let note = self.note_of(live).filter(|note| note.reason != EndReason::Shutdown);
        let Some(note) = note else {
            return fleet.store.moved(key, uid, self.clock.unix_millis(live.last_activity())).await;
        };
        fleet.store.end(key, uid, &note, None).await?;
        fleet.store.tell_end(key, uid).await?;
        self.look_soon(fleet, key, uid).await;
        Ok(())
    }

    /// Closes all that is left of this instance; what the store does not take is told of here.
    pub(in crate::session) async fn leave(&self, fleet: &Fleet, ended: Vec<Arc<Live>>) {
        self.close_all(fleet, ended).await;
        for live in self.closing.collect(|live| Some(live.clone())) {
            self.record_alone(&live);
            self.closing.remove(&live);
        }
        if fleet.is_up()
            && let Err(fault) = fleet.store.show_end().await
        {
            tracing::debug!(%fault, "the other instances will find out that this one is gone");
        }
    }

    fn note_of(&self, live: &Live) -> Option<EndNote> {
        let inner = live.inner();
        let end = inner.end.as_deref()?;
        Some(EndNote::new(end.reason, self.clock.wall(end.at), end.order.clone()))
    }

    /// The record of a session that only this instance can tell of.
    pub(in crate::session) fn record_alone(&self, live: &Live) {
        let fields = [("c:".to_owned(), Doc::of(live, &self.clock).write())];
        let end = self.note_of(live).map(|note| ("end".to_owned(), note.write()));
        if let Some(whole) = Whole::of(fields.into_iter().chain(end)) {
            self.publish_record(&whole);
        }
    }

    fn publish_record(&self, whole: &Whole) {
        if let Some(record) = whole.record(|name| self.shown_as(name)) {
            self.publish(Event::Ended(Arc::new(record)));
        }
    }

    /// Publishes a record, once: who asks again, because an answer was lost, is only marked as done.
    pub(super) async fn write_record(&self, fleet: &Fleet, whole: &Whole) -> Result<(), LinkError> {
        let (key, uid) = (whole.session.key(), whole.session.uid);
        let recording = || fleet.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = recording().insert(uid);
        if is_first {
            self.publish_record(whole);
        }
        let session = Arc::new(whole.session.clone());
        if let Err(fault) = fleet.store.shelve(&session).await {
            tracing::warn!(%fault, %uid, "an ended session was not kept");
        }
        fleet.store.done(key, uid).await?;
        fleet.recent().recorded(Recorded { session, end: whole.end() }, self.clock.now());
        recording().remove(&uid);
        Ok(())
    }

    /// Has whoever looks after dead instances look at this session soon.
    pub(super) async fn look_soon(&self, fleet: &Fleet, key: &SessionKey, uid: Uid) {
        if let Err(fault) = fleet.store.moved(key, uid, 0).await {
            tracing::warn!(%fault, "a session that waits for its record is looked at later");
        }
    }

    pub(in crate::session) fn end_note(&self, reason: EndReason, order: Option<Arc<KillOrder>>) -> EndNote {
        EndNote::new(reason, self.clock.wall(self.clock.now()), order)
    }

    /// Ends an incarnation in the store, unless something moved in it after `since`, and tells all.
    pub(in crate::session) async fn end_in_store(
        &self,
        fleet: &Fleet,
        key: &SessionKey,
        uid: Uid,
        reason: EndReason,
        since: Option<u64>,
    ) -> Result<Ended, LinkError> {
        let ended = fleet.store.end(key, uid, &self.end_note(reason, None), since).await?;
        if matches!(ended, Ended::So(_)) {
            fleet.store.tell_end(key, uid).await?;
            self.look_soon(fleet, key, uid).await;
        }
        Ok(ended)
    }

    /// Ends sessions that are idle here.
    pub(in crate::session) async fn end_all_idle(
        &self,
        due: Vec<(Arc<Live>, EndReason)>,
        settings: &Settings,
    ) {
        futures::stream::iter(due)
            .for_each_concurrent(CLOSING, async |(live, reason)| {
                let limit = match reason {
                    EndReason::CompletedAfter => settings.completed_after.unwrap_or_default(),
                    _ => settings.idle_timeout,
                };
                self.end_idle(&live, reason, limit).await;
            })
            .await;
    }

    /// A session that is idle here: ends it, if it is idle everywhere; else leaves it to those who use it.
    /// Gives whether it is over here.
    pub(in crate::session) async fn end_idle(
        &self,
        live: &Arc<Live>,
        reason: EndReason,
        limit: Duration,
    ) -> bool {
        let idle = |live: &Live| live.idle(self.clock.now()) >= limit;
        let alone = |reason| {
            self.end(live, reason, None, |live, inner| {
                idle(live) && (reason == EndReason::IdleTimeout || inner.legs.is_empty())
            })
        };
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.is_up()) else {
            return alone(reason).is_some();
        };
        if reason != EndReason::IdleTimeout && live.open_legs() > 0 {
            return false;
        }
        let since = self.clock.unix_millis(self.clock.now()).saturating_sub(millis(limit));
        match self.end_in_store(fleet, live.key(), live.uid(), reason, Some(since)).await {
            Ok(Ended::So(note)) => {
                let note = note.unwrap_or_else(|| self.end_note(reason, None));
                self.end(live, note.reason, note.order, |_, _| true).is_some()
            }
            // Left, not ended: the share is closed, the session goes on elsewhere.
            Ok(Ended::Busy(_)) => self
                .end(live, EndReason::Shutdown, None, |live, inner| inner.legs.is_empty() && idle(live))
                .is_some(),
            Err(fault) => {
                self.store_lost(fleet, &fault);
                false
            }
        }
    }
}

/// Junk under the keys of one session concerns that one only.
fn tolerated(done: Result<(), LinkError>, uid: Uid) -> Result<(), LinkError> {
    match done {
        Err(LinkError::Refused(why)) => {
            tracing::warn!(%uid, why, "a session cannot be written to the store once more");
            Ok(())
        }
        done => done,
    }
}
