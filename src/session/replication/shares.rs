//! Closes shares when a session is over here, and writes them again when the store may have lost them.

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

/// Shares closed concurrently.
pub(super) const CLOSING: usize = 32;
/// Closed shares checked in one round trip.
const CHECKED: usize = 256;
/// How long a leaving instance waits for shares that its worker is closing: a few times the longest command.
const CLOSING_WAIT: Duration = Duration::from_secs(1);
/// How often it checks.
const STEP: Duration = Duration::from_millis(5);

/// A share that is being closed, by one task at a time.
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
    /// Does queued work. What fails is done by a later sync.
    pub(super) async fn work(&self, core: &Manager, work: Vec<SyncTask>) {
        let (mut opened, mut joined, mut ended, mut done) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for work in work {
            match work {
                SyncTask::Open(session) if session.is_opener() => opened.push(session),
                SyncTask::Open(session) => joined.push(session),
                SyncTask::End(session) => ended.push(session),
                SyncTask::Close(session) => done.push(session),
            }
        }
        if !self.is_up() {
            return;
        }
        // Ends first: until then other instances still join these sessions.
        self.write_ends(core, ended).await;
        let written = async {
            self.add_active(core, &opened).await?;
            self.flush_some(core, joined).await
        };
        if let Err(fault) = written.await {
            self.store_lost(core, &fault);
        }
        self.close_all(core, done).await;
    }

    /// Closes shares and removes the sessions from memory.
    pub(super) async fn close_all(&self, core: &Manager, done: Vec<Arc<Session>>) {
        futures::stream::iter(done)
            .for_each_concurrent(CLOSING, async |session| {
                if !self.is_up() {
                    return;
                }
                // The worker and the reaper may pick the same share.
                let Some(_hand) = ClosingShare::take(self, session.share()) else { return };
                // Before it is closed in the store, which may lose it while its answer is on the way.
                self.replay_log().closed(session.clone(), core.clock().now());
                match self.close_own_share(core, &session).await {
                    Ok(is_recorded) => {
                        if is_recorded {
                            self.replay_log().forget_closed(session.uid());
                        }
                        core.closing_sessions().remove(&session);
                    }
                    Err(LinkError::Refused(why)) => {
                        tracing::warn!(uid = %session.uid(), why, "a session cannot be closed in the store");
                        self.publish_local_record(core, &session);
                        self.replay_log().forget_closed(session.uid());
                        core.closing_sessions().remove(&session);
                    }
                    Err(away) => self.store_lost(core, &away),
                }
            })
            .await;
    }

    /// Closes the share of this instance. If the session ended, and this instance did not merely leave it, it ends
    /// in the store; the instance that closes the last share writes the record. Returns whether the record is
    /// written.
    async fn close_own_share(&self, core: &Manager, session: &Session) -> Result<bool, LinkError> {
        let (key, uid) = (session.key(), session.uid());
        if let Some(note) = &self.shared_end_note(core, session) {
            self.store.end(key, uid, note, None).await?;
        }
        let doc = share_document(session, core.clock());
        let shares = [(self.share_name(session.share()), Some(&doc))];
        match self.store.close(key, uid, &shares).await? {
            Closed::Record { shares, is_rest } => {
                self.write_record(core, key, uid, shares, is_rest).await?;
                return Ok(true);
            }
            Closed::Waiting => {
                self.store.publish_end(key, uid).await?;
                self.check_soon(key, uid).await;
            }
            Closed::Active | Closed::Claimed(_) => {}
            Closed::Recorded => return Ok(true),
        }
        Ok(false)
    }

    /// Repeats the latest writes, which a promoted replica may lack: records first, so that none is written twice.
    pub(super) async fn rewrite_latest(&self, core: &Manager) -> Result<(), LinkError> {
        let recorded = self.replay_log().all_published(core.clock().now());
        let recorded = futures::stream::iter(recorded.into_iter().map(Ok));
        recorded
            .try_for_each_concurrent(CLOSING, async |recorded: Arc<PublishedRecord>| {
                let (key, uid) = (recorded.session.key(), recorded.uid);
                if let Some(end) = &recorded.end {
                    tolerated(self.store.end(key, uid, end, None).await.map(drop), uid)?;
                }
                tolerated(self.mark_recorded(core, &recorded).await, uid)
            })
            .await?;
        let closed = self.replay_log().all_closed(core.clock().now());
        let closed = futures::stream::iter(closed.into_iter().map(Ok));
        closed
            .try_for_each_concurrent(CLOSING, async |session: Arc<Session>| {
                tolerated(self.close_again(core, &session).await, session.uid())
            })
            .await
    }

    /// Forgets closed shares that a record covers. The message about the record may have been lost, and the
    /// instance that wrote it may be gone when the store loses it.
    pub(super) async fn forget_recorded(&self, core: &Manager) -> Result<(), LinkError> {
        let closed = self.replay_log().all_closed(core.clock().now());
        for chunk in closed.chunks(CHECKED) {
            let name = |session: &Arc<Session>| {
                (session.key().clone(), session.uid(), self.share_name(session.share()))
            };
            let names: Vec<_> = chunk.iter().map(name).collect();
            let recorded = self.store.are_recorded(&names).await?;
            for ((_, uid, _), _) in names.iter().zip(recorded).filter(|(_, is_recorded)| *is_recorded) {
                self.replay_log().forget_closed(*uid);
            }
        }
        Ok(())
    }

    /// Closes a share again. The record is left to the round over idle sessions: if an instance has written it, it
    /// reports so before that round.
    async fn close_again(&self, core: &Manager, session: &Session) -> Result<(), LinkError> {
        let (key, uid) = (session.key(), session.uid());
        self.store
            .close_again(key, uid, &self.share_name(session.share()), &share_document(session, core.clock()))
            .await?;
        let Some(note) = self.shared_end_note(core, session) else {
            return self.store.set_activity(key, uid, self.store_millis(core, session.last_activity())).await;
        };
        self.store.end(key, uid, &note, None).await?;
        self.store.publish_end(key, uid).await?;
        self.check_soon(key, uid).await;
        Ok(())
    }

    /// Closes all remaining shares of this instance; publishes records of those that the store does not take.
    pub(super) async fn close_remaining(&self, core: &Manager, ended: Vec<Arc<Session>>) {
        self.close_all(core, ended).await;
        // A share that the worker is closing is closed by it, or again from here once it has stopped.
        let mut waited = Duration::ZERO;
        while waited < CLOSING_WAIT && !self.closing_shares.lock().is_empty() {
            tokio::time::sleep(STEP).await;
            waited += STEP;
        }
        self.close_all(core, core.closing_sessions().collect(|session| Some(session.clone()))).await;
        for session in core.closing_sessions().collect(|session| Some(session.clone())) {
            self.publish_local_record(core, &session);
            core.closing_sessions().remove(&session);
        }
        if self.is_up()
            && let Err(fault) = self.unregister(core).await
        {
            tracing::debug!(%fault, "the other instances will find out that this one is gone");
        }
    }

    /// The last writes of this instance: a record that is not marked would be written by another instance.
    async fn unregister(&self, core: &Manager) -> Result<(), LinkError> {
        let unmarked = self.replay_log().unmarked(|_| true);
        for recorded in unmarked {
            self.mark_recorded(core, &recorded).await?;
        }
        self.store.delete_heartbeat().await
    }

    /// Publishes the record of a session that only this instance knows.
    pub(super) fn publish_local_record(&self, core: &Manager, session: &Session) {
        if self.replay_log().has_published(session.uid(), &self.share_name(session.share())) {
            return;
        }
        let fields = [("c:".to_owned(), share_document(session, core.clock()).write())];
        let end = self.end_note_of(core, session).map(|note| ("end".to_owned(), note.write()));
        if let Some(whole) = MergedShares::of(fields.into_iter().chain(end)) {
            self.publish_record(core, &whole);
        }
    }

    fn publish_record(&self, core: &Manager, whole: &MergedShares) {
        if let Some(record) = whole.record(|name| core.backend_url(name)) {
            core.publish(Event::Ended(Arc::new(record)));
        }
    }

    /// Publishes the record of these shares once. If they are handed out again because an answer was lost, they are
    /// only marked.
    pub(super) async fn write_record(
        &self,
        core: &Manager,
        key: &SessionKey,
        uid: Uid,
        shares: Shares,
        is_rest: bool,
    ) -> Result<(), LinkError> {
        let names = shares.names();
        let whole = self.replay_log().record(uid, shares, is_rest);
        if let Some(whole) = whole {
            self.publish_record(core, &whole);
        }
        let unmarked = self.replay_log().unmarked(|recorded| recorded.uid == uid);
        for recorded in &unmarked {
            self.mark_recorded(core, recorded).await?;
        }
        let is_marked = |name: &String| unmarked.iter().any(|recorded| recorded.shares.contains(name));
        if !unmarked.is_empty() && names.iter().all(is_marked) {
            return Ok(());
        }
        // The store has lost the mark of an earlier record.
        self.store.mark_recorded(key, uid, &names).await
    }

    /// Marks a record as written in the store.
    async fn mark_recorded(&self, core: &Manager, recorded: &Arc<PublishedRecord>) -> Result<(), LinkError> {
        let PublishedRecord { uid, shares, session, .. } = &**recorded;
        match self.store.put_ended(session).await {
            Err(LinkError::Refused(why)) => tracing::warn!(why, %uid, "an ended session was not kept"),
            shelved => shelved?,
        }
        self.store.mark_recorded(session.key(), *uid, shares).await?;
        if session.uid != *uid {
            self.store.remove_active(session.key(), *uid).await?;
        }
        self.replay_log().marked(recorded, core.clock().now());
        Ok(())
    }

    /// Has the round over idle sessions check this session soon.
    pub(super) async fn check_soon(&self, key: &SessionKey, uid: Uid) {
        if let Err(fault) = self.store.set_activity(key, uid, 0).await {
            tracing::warn!(%fault, "a session that waits for its record is looked at later");
        }
    }
}

/// This instance's share of a session.
pub(super) fn share_document(session: &Session, clock: &Clock) -> ShareDocument {
    ShareDocument::new(session.view(clock, true), Some(session.record_detail()))
}

/// Logs an error about the keys of a single session.
pub(super) fn tolerated(done: Result<(), LinkError>, uid: Uid) -> Result<(), LinkError> {
    match done {
        Err(LinkError::Refused(why)) => {
            tracing::warn!(%uid, why, "a session cannot be written to the store once more");
            Ok(())
        }
        done => done,
    }
}
