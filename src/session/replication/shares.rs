//! Shares: closed when the session is over here, written once more when the store may have lost them.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::replay_log::PublishedRecord;
use super::replicator::{Replicator, SyncTask};
use crate::clock::Clock;
use crate::ids::{SessionKey, Uid};
use crate::redis::LinkError;
use crate::session::core::event::Event;
use crate::session::core::manager::Manager;
use crate::session::core::session::Session;
use crate::session::store::redis::{Closed, Shares};
use crate::session::store::share_document::{MergedShares, ShareDocument};

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
    replicator: &'a Replicator,
    share: u32,
}

impl<'a> ClosingShare<'a> {
    fn take(replicator: &'a Replicator, share: u32) -> Option<Self> {
        let is_free = replicator.closing_shares.lock().insert(share);
        is_free.then_some(Self { replicator, share })
    }
}

impl Drop for ClosingShare<'_> {
    fn drop(&mut self) {
        self.replicator.closing_shares.lock().remove(&self.share);
    }
}

impl Replicator {
    /// Does what is to be done at once; what fails is done by a later step.
    pub(super) async fn work(&self, core: &Manager, work: Vec<SyncTask>) {
        let (mut new, mut ended, mut done) = (Vec::new(), Vec::new(), Vec::new());
        for work in work {
            match work {
                SyncTask::Flush(live) => new.push(live),
                SyncTask::End(live) => ended.push(live),
                SyncTask::Close(live) => done.push(live),
            }
        }
        if !self.is_up() {
            return;
        }
        // First: whoever asks the store meanwhile still joins them.
        self.write_ends(core, ended).await;
        if let Err(fault) = self.flush_some(core, new).await {
            self.store_lost(core, &fault);
        }
        self.close_all(core, done).await;
    }

    /// Closes shares, and takes those that are closed out of memory.
    pub(super) async fn close_all(&self, core: &Manager, done: Vec<Arc<Session>>) {
        futures::stream::iter(done)
            .for_each_concurrent(CLOSING, async |live| {
                if !self.is_up() {
                    return;
                }
                // The beat's worker and the reaper may come to the same one.
                let Some(_hand) = ClosingShare::take(self, live.share()) else { return };
                // Before it is closed there: the store may lose it while its answer is on the way.
                self.recent().closed(live.clone(), core.clock().now());
                match self.close_own_share(core, &live).await {
                    Ok(is_recorded) => {
                        if is_recorded {
                            self.recent().is_recorded(live.uid());
                        }
                        core.closing_sessions().remove(&live);
                    }
                    Err(LinkError::Refused(why)) => {
                        tracing::warn!(uid = %live.uid(), why, "a session cannot be closed in the store");
                        self.publish_local_record(core, &live);
                        self.recent().is_recorded(live.uid());
                        core.closing_sessions().remove(&live);
                    }
                    Err(away) => self.store_lost(core, &away),
                }
            })
            .await;
    }

    /// Closes this instance's share. A session that ended, and is not only left by this instance, ends in
    /// the store; the one that closes the last share writes the record. Gives whether it is written.
    async fn close_own_share(&self, core: &Manager, live: &Session) -> Result<bool, LinkError> {
        let (key, uid) = (live.key(), live.uid());
        if let Some(note) = &self.shared_end_note(core, live) {
            self.store.end(key, uid, note, None).await?;
        }
        let doc = share_document(live, core.clock());
        let shares = [(self.share_name(live.share()), Some(&doc))];
        match self.store.close(key, uid, &shares).await? {
            Closed::Record { shares, is_rest } => {
                self.write_record(core, key, uid, shares, is_rest).await?;
                return Ok(true);
            }
            Closed::Waiting => {
                self.store.publish_end(key, uid).await?;
                self.check_soon(core, key, uid).await;
            }
            Closed::Active | Closed::Claimed(_) => {}
            Closed::Recorded => return Ok(true),
        }
        Ok(false)
    }

    /// Tells the store once more what it was told last, since it may be a copy that lacks it: first what is
    /// written down for good, so that nobody does so a second time.
    pub(super) async fn repeat(&self, core: &Manager) -> Result<(), LinkError> {
        let recorded = self.recent().all_published(core.clock().now());
        let recorded = futures::stream::iter(recorded.into_iter().map(Ok));
        recorded
            .try_for_each_concurrent(CLOSING, async |recorded: Arc<PublishedRecord>| {
                let (key, uid) = (recorded.session.key(), recorded.uid);
                if let Some(end) = &recorded.end {
                    tolerated(self.store.end(key, uid, end, None).await.map(drop), uid)?;
                }
                tolerated(self.mark(core, &recorded).await, uid)
            })
            .await?;
        let closed = self.recent().all_closed(core.clock().now());
        let closed = futures::stream::iter(closed.into_iter().map(Ok));
        closed
            .try_for_each_concurrent(CLOSING, async |live: Arc<Session>| {
                tolerated(self.close_again(core, &live).await, live.uid())
            })
            .await
    }

    /// Forgets closed shares of which a record tells: the message that said so may have been lost, and the instance
    /// that wrote it may be gone when the store loses it.
    pub(super) async fn forget_recorded(&self, core: &Manager) -> Result<(), LinkError> {
        let closed = self.recent().all_closed(core.clock().now());
        for chunk in closed.chunks(LOOKED_AT) {
            let name = |live: &Arc<Session>| (live.key().clone(), live.uid(), self.share_name(live.share()));
            let names: Vec<_> = chunk.iter().map(name).collect();
            let recorded = self.store.recorded(&names).await?;
            for ((_, uid, _), _) in names.iter().zip(recorded).filter(|(_, is_recorded)| *is_recorded) {
                self.recent().is_recorded(*uid);
            }
        }
        Ok(())
    }

    /// Closes a share that was closed already. The record is left to those who look after still sessions:
    /// whoever wrote it, if anybody did, says so before they look.
    async fn close_again(&self, core: &Manager, live: &Session) -> Result<(), LinkError> {
        let (key, uid) = (live.key(), live.uid());
        self.store
            .close_again(key, uid, &self.share_name(live.share()), &share_document(live, core.clock()))
            .await?;
        let Some(note) = self.shared_end_note(core, live) else {
            return self.store.moved(key, uid, core.clock().unix_millis(live.last_activity())).await;
        };
        self.store.end(key, uid, &note, None).await?;
        self.store.publish_end(key, uid).await?;
        self.check_soon(core, key, uid).await;
        Ok(())
    }

    /// Closes all that is left of this instance; what the store does not take is told of here.
    pub(super) async fn close_remaining(&self, core: &Manager, ended: Vec<Arc<Session>>) {
        self.close_all(core, ended).await;
        // What the worker has in hand is written by it, or again from here once it has stopped.
        let mut waited = Duration::ZERO;
        while waited < IN_HAND && !self.closing_shares.lock().is_empty() {
            tokio::time::sleep(STEP).await;
            waited += STEP;
        }
        self.close_all(core, core.closing_sessions().collect(|live| Some(live.clone()))).await;
        for live in core.closing_sessions().collect(|live| Some(live.clone())) {
            self.publish_local_record(core, &live);
            core.closing_sessions().remove(&live);
        }
        if self.is_up()
            && let Err(fault) = self.unregister(core).await
        {
            tracing::debug!(%fault, "the other instances will find out that this one is gone");
        }
    }

    /// The last that the store is told: a record that is not marked in it is written by another instance.
    async fn unregister(&self, core: &Manager) -> Result<(), LinkError> {
        let unmarked = self.recent().unmarked(|_| true);
        for recorded in unmarked {
            self.mark(core, &recorded).await?;
        }
        self.store.delete_heartbeat().await
    }

    /// The record of a session that only this instance can tell of.
    pub(super) fn publish_local_record(&self, core: &Manager, live: &Session) {
        if self.recent().has_published(live.uid(), &self.share_name(live.share())) {
            return;
        }
        let fields = [("c:".to_owned(), share_document(live, core.clock()).write())];
        let end = self.end_note_of(core, live).map(|note| ("end".to_owned(), note.write()));
        if let Some(whole) = MergedShares::of(fields.into_iter().chain(end)) {
            self.publish_record(core, &whole);
        }
    }

    fn publish_record(&self, core: &Manager, whole: &MergedShares) {
        if let Some(record) = whole.record(|name| core.backend_url(name)) {
            core.publish(Event::Ended(Arc::new(record)));
        }
    }

    /// Publishes the record of these shares, once: who asks again, because an answer was lost, is only marked as done.
    pub(super) async fn write_record(
        &self,
        core: &Manager,
        key: &SessionKey,
        uid: Uid,
        shares: Shares,
        is_rest: bool,
    ) -> Result<(), LinkError> {
        let names = shares.names();
        let whole = self.recent().record(uid, shares, is_rest);
        if let Some(whole) = whole {
            self.publish_record(core, &whole);
        }
        let unmarked = self.recent().unmarked(|recorded| recorded.uid == uid);
        for recorded in unmarked {
            self.mark(core, &recorded).await?;
        }
        self.store.done(key, uid, &names).await
    }

    /// Has the store know that a record is written.
    async fn mark(&self, core: &Manager, recorded: &Arc<PublishedRecord>) -> Result<(), LinkError> {
        let PublishedRecord { uid, shares, session, .. } = &**recorded;
        match self.store.put_ended(session).await {
            Err(LinkError::Refused(why)) => tracing::warn!(why, %uid, "an ended session was not kept"),
            shelved => shelved?,
        }
        self.store.done(session.key(), *uid, shares).await?;
        if session.uid != *uid {
            self.store.remove_active(session.key(), *uid).await?;
        }
        self.recent().marked(recorded, core.clock().now());
        Ok(())
    }

    /// Has whoever looks after dead instances look at this session soon.
    pub(super) async fn check_soon(&self, core: &Manager, key: &SessionKey, uid: Uid) {
        if let Err(fault) = self.store.moved(key, uid, 0).await {
            tracing::warn!(%fault, "a session that waits for its record is looked at later");
        }
    }
}

/// This instance's share of a session.
pub(super) fn share_document(session: &Session, clock: &Clock) -> ShareDocument {
    ShareDocument::new(session.view(clock, true), Some(session.record_detail()))
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
