//! Shares: closed when the session is over here, written once more when the store may have lost them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::replay_log::PublishedRecord;
use super::replicator::{Replicator, SyncTask};
use crate::ids::{SessionKey, Uid};
use crate::redis::LinkError;
use crate::session::store::share_document::{ShareDocument, MergedShares};
use crate::session::core::event::Event;
use crate::session::core::session::Session;
use crate::session::core::manager::Manager;
use crate::session::store::redis::{Closed, Shares};

/// Shares closed at a time.
pub(super) const CLOSING: usize = 32;
/// Closed shares that are looked up in one round trip.
const LOOKED_AT: usize = 256;
/// An instance that leaves waits so long for what its worker has in hand: some commands' longest time.
const IN_HAND: Duration = Duration::from_secs(1);
/// Between two looks.
const STEP: Duration = Duration::from_millis(5);

/// A share that is being closed: nobody else closes it meanwhile.
struct ClosingShare<'a> {
    fleet: &'a Replicator,
    share: u32,
}

impl<'a> ClosingShare<'a> {
    fn take(fleet: &'a Replicator, share: u32) -> Option<Self> {
        let is_free = fleet.in_hand.lock().unwrap_or_else(PoisonError::into_inner).insert(share);
        is_free.then_some(Self { fleet, share })
    }
}

impl Drop for ClosingShare<'_> {
    fn drop(&mut self) {
        self.fleet.in_hand.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.share);
    }
}

impl Manager {
    /// Does what is to be done at once; what fails is done by a later step.
    pub(super) async fn work(&self, fleet: &Replicator, work: Vec<SyncTask>) {
        let (mut new, mut ended, mut done) = (Vec::new(), Vec::new(), Vec::new());
        for work in work {
            match work {
                SyncTask::Flush(live) => new.push(live),
                SyncTask::End(live) => ended.push(live),
                SyncTask::Close(live) => done.push(live),
            }
        }
        if !fleet.is_up() {
            return;
        }
        // First: whoever asks the store meanwhile still joins them.
        self.write_ends(fleet, ended).await;
        if let Err(fault) = self.flush_some(fleet, new).await {
            self.store_lost(fleet, &fault);
        }
        self.close_all(fleet, done).await;
    }

    /// Closes shares, and takes those that are closed out of memory.
    pub(in crate::session) async fn close_all(&self, fleet: &Replicator, done: Vec<Arc<Session>>) {
        futures::stream::iter(done)
            .for_each_concurrent(CLOSING, async |live| {
                if !fleet.is_up() {
                    return;
                }
                // The beat's worker and the reaper may come to the same one.
                let Some(_hand) = ClosingShare::take(fleet, live.share()) else { return };
                // Before it is closed there: the store may lose it while its answer is on the way.
                fleet.recent().closed(live.clone(), self.clock.now());
                match self.close_share(fleet, &live).await {
                    Ok(is_recorded) => {
                        if is_recorded {
                            fleet.recent().is_recorded(live.uid());
                        }
                        self.closing.remove(&live);
                    }
                    Err(LinkError::Refused(why)) => {
                        tracing::warn!(uid = %live.uid(), why, "a session cannot be closed in the store");
                        self.record_alone(&live);
                        fleet.recent().is_recorded(live.uid());
                        self.closing.remove(&live);
                    }
                    Err(away) => self.store_lost(fleet, &away),
                }
            })
            .await;
    }

    /// Closes this instance's share. A session that ended, and is not only left by this instance, ends in
    /// the store; the one that closes the last share writes the record. Gives whether it is written.
    async fn close_share(&self, fleet: &Replicator, live: &Session) -> Result<bool, LinkError> {
        let (key, uid) = (live.key(), live.uid());
        if let Some(note) = &self.shared_note(live) {
            fleet.store.end(key, uid, note, None).await?;
        }
        let doc = ShareDocument::of(live, &self.clock);
        let shares = [(fleet.share_name(live.share()), Some(&doc))];
        match fleet.store.close(key, uid, &shares).await? {
            Closed::Record { shares, is_rest } => {
                self.write_record(fleet, key, uid, shares, is_rest).await?;
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
    pub(super) async fn repeat(&self, fleet: &Replicator) -> Result<(), LinkError> {
        let recorded = fleet.recent().all_published(self.clock.now());
        let recorded = futures::stream::iter(recorded.into_iter().map(Ok));
        recorded
            .try_for_each_concurrent(CLOSING, async |recorded: Arc<PublishedRecord>| {
                let (key, uid) = (recorded.session.key(), recorded.uid);
                if let Some(end) = &recorded.end {
                    tolerated(fleet.store.end(key, uid, end, None).await.map(drop), uid)?;
                }
                tolerated(self.mark(fleet, &recorded).await, uid)
            })
            .await?;
        let closed = fleet.recent().all_closed(self.clock.now());
        let closed = futures::stream::iter(closed.into_iter().map(Ok));
        closed
            .try_for_each_concurrent(CLOSING, async |live: Arc<Session>| {
                tolerated(self.close_again(fleet, &live).await, live.uid())
            })
            .await
    }

    /// Forgets closed shares of which a record tells: the message that said so may have been lost, and the instance
    /// that wrote it may be gone when the store loses it.
    pub(super) async fn forget_recorded(&self, fleet: &Replicator) -> Result<(), LinkError> {
        let closed = fleet.recent().all_closed(self.clock.now());
        for chunk in closed.chunks(LOOKED_AT) {
            let name = |live: &Arc<Session>| (live.key().clone(), live.uid(), fleet.share_name(live.share()));
            let names: Vec<_> = chunk.iter().map(name).collect();
            let recorded = fleet.store.recorded(&names).await?;
            for ((_, uid, _), _) in names.iter().zip(recorded).filter(|(_, is_recorded)| *is_recorded) {
                fleet.recent().is_recorded(*uid);
            }
        }
        Ok(())
    }

    /// Closes a share that was closed already. The record is left to those who look after still sessions:
    /// whoever wrote it, if anybody did, says so before they look.
    async fn close_again(&self, fleet: &Replicator, live: &Session) -> Result<(), LinkError> {
        let (key, uid) = (live.key(), live.uid());
        fleet
            .store
            .close_again(key, uid, &fleet.share_name(live.share()), &ShareDocument::of(live, &self.clock))
            .await?;
        let Some(note) = self.shared_note(live) else {
            return fleet.store.moved(key, uid, self.clock.unix_millis(live.last_activity())).await;
        };
        fleet.store.end(key, uid, &note, None).await?;
        fleet.store.tell_end(key, uid).await?;
        self.look_soon(fleet, key, uid).await;
        Ok(())
    }

    /// Closes all that is left of this instance; what the store does not take is told of here.
    pub(in crate::session) async fn leave(&self, fleet: &Replicator, ended: Vec<Arc<Session>>) {
        self.close_all(fleet, ended).await;
        // What the worker has in hand is written by it, or again from here once it has stopped.
        let mut waited = Duration::ZERO;
        while waited < IN_HAND && !fleet.in_hand.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            tokio::time::sleep(STEP).await;
            waited += STEP;
        }
        self.close_all(fleet, self.closing.collect(|live| Some(live.clone()))).await;
        for live in self.closing.collect(|live| Some(live.clone())) {
            self.record_alone(&live);
            self.closing.remove(&live);
        }
        if fleet.is_up()
            && let Err(fault) = self.say_goodbye(fleet).await
        {
            tracing::debug!(%fault, "the other instances will find out that this one is gone");
        }
    }

    /// The last that the store is told: a record that is not marked in it is written by another instance.
    async fn say_goodbye(&self, fleet: &Replicator) -> Result<(), LinkError> {
        let unmarked = fleet.recent().unmarked(|_| true);
        for recorded in unmarked {
            self.mark(fleet, &recorded).await?;
        }
        fleet.store.show_end().await
    }

    /// The record of a session that only this instance can tell of.
    pub(in crate::session) fn record_alone(&self, live: &Session) {
        let has_published =
            |fleet: &Arc<Replicator>| fleet.recent().has_published(live.uid(), &fleet.share_name(live.share()));
        if self.fleet.as_ref().is_some_and(has_published) {
            return;
        }
        let fields = [("c:".to_owned(), ShareDocument::of(live, &self.clock).write())];
        let end = self.note_of(live).map(|note| ("end".to_owned(), note.write()));
        if let Some(whole) = MergedShares::of(fields.into_iter().chain(end)) {
            self.publish_record(&whole);
        }
    }

    fn publish_record(&self, whole: &MergedShares) {
        if let Some(record) = whole.record(|name| self.shown_as(name)) {
            self.publish(Event::Ended(Arc::new(record)));
        }
    }

    /// Publishes the record of these shares, once: who asks again, because an answer was lost, is only marked as done.
    pub(super) async fn write_record(
        &self,
        fleet: &Replicator,
        key: &SessionKey,
        uid: Uid,
        shares: Shares,
        is_rest: bool,
    ) -> Result<(), LinkError> {
        let names = shares.names();
        let whole = fleet.recent().record(uid, shares, is_rest);
        if let Some(whole) = whole {
            self.publish_record(&whole);
        }
        let unmarked = fleet.recent().unmarked(|recorded| recorded.uid == uid);
        for recorded in unmarked {
            self.mark(fleet, &recorded).await?;
        }
        fleet.store.done(key, uid, &names).await
    }

    /// Has the store know that a record is written.
    async fn mark(&self, fleet: &Replicator, recorded: &Arc<PublishedRecord>) -> Result<(), LinkError> {
        let PublishedRecord { uid, shares, session, .. } = &**recorded;
        match fleet.store.shelve(session).await {
            Err(LinkError::Refused(why)) => tracing::warn!(why, %uid, "an ended session was not kept"),
            shelved => shelved?,
        }
        fleet.store.done(session.key(), *uid, shares).await?;
        if session.uid != *uid {
            fleet.store.no_session(session.key(), *uid).await?;
        }
        fleet.recent().marked(recorded, self.clock.now());
        Ok(())
    }

    /// Has whoever looks after dead instances look at this session soon.
    pub(super) async fn look_soon(&self, fleet: &Replicator, key: &SessionKey, uid: Uid) {
        if let Err(fault) = fleet.store.moved(key, uid, 0).await {
            tracing::warn!(%fault, "a session that waits for its record is looked at later");
        }
    }
}

/// Junk under the keys of one session concerns that one only.
pub(super) fn tolerated(done: Result<(), LinkError>, uid: Uid) -> Result<(), LinkError> {
    match done {
        Err(LinkError::Refused(why)) => {
            tracing::warn!(%uid, why, "a session cannot be written to the store once more");
            Ok(())
        }
        done => done,
    }
}
