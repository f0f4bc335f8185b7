//! Client keys, people and approvals of all instances: a change is published at once, and an exchange each second looks whether Redis
//! has changes that this instance missed. What Redis has lost is written again, so that a wiped Redis loses no key and revives none.
//!
//! There may be very many documents, so both have tasks of their own: neither the heartbeat nor a kill waits for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::replicator::Replicator;
use super::share_schedule::SYNC_INTERVAL;
use crate::ids::SharedDocument;
use crate::redis::LinkError;
use crate::session::core::manager::Manager;
use crate::session::store::DocumentSet;

/// How a document in an announcement begins.
const PREFIX: &str = "client_key ";
/// Documents that are written in one round trip, or taken at once.
const BATCH: usize = 256;
/// After an exchange there is none for this many times as long as it took.
const REST: u32 = 9;

/// Takes documents that other instances have announced, until the sender is gone.
pub(super) async fn learn(core: Arc<Manager>, mut announced: mpsc::Receiver<String>) {
    let mut batch = Vec::with_capacity(BATCH);
    while announced.recv_many(&mut batch, BATCH).await > 0 {
        if let Some(keys) = core.client_keys() {
            keys.learn(std::mem::take(&mut batch));
        }
        batch.clear();
    }
}

/// Exchanges documents for as long as it is polled.
pub(super) async fn exchange(core: Arc<Manager>, replicator: Arc<Replicator>) {
    let (mut pause, mut logged) = (SYNC_INTERVAL, None);
    loop {
        tokio::time::sleep(pause).await;
        pause = SYNC_INTERVAL;
        if !replicator.is_up() {
            continue;
        }
        let begun = Instant::now();
        let done = replicator.sync_client_keys(&core).await;
        pause = pause.max(begun.elapsed() * REST);
        match done {
            Ok(()) => logged = None,
            Err(LinkError::Refused(why)) => {
                if logged.as_ref() != Some(&why) {
                    tracing::warn!(
                        why,
                        "documents cannot be exchanged: a key in the store holds what is not ours"
                    );
                }
                logged = Some(why);
            }
            Err(away) => replicator.store_lost(&core, &away),
        }
    }
}

impl Replicator {
    /// Publishes a document that was changed here, then writes it. Returns whether Redis has it.
    pub(super) async fn send_client_key(&self, core: &Manager, document: SharedDocument) -> bool {
        let set = DocumentSet::of(&document.id);
        // The next exchange writes what does not get there now.
        let seen = self.client_keys_seen.lock()[set as usize].take();
        if !self.is_up() {
            return false;
        }
        let announcement = format!("{PREFIX}{}", document.text);
        // Published even when it cannot be written: a full Redis must not keep a key alive.
        let announced = self.store.publish_announcements(&[announcement]).await;
        match announced.and(self.store.put_client_keys(set, &[document]).await) {
            Ok((before, after)) => {
                // All that was there before is known here: there is nothing to read.
                if seen == Some(before) {
                    self.client_keys_seen.lock()[set as usize] = Some(after);
                }
                true
            }
            Err(fault) => {
                self.store_lost(core, &fault);
                false
            }
        }
    }

    /// Writes a document if this instance is the first to do so, and publishes it then. Returns `None` if Redis does not say.
    pub(super) async fn claim_document_in_store(
        &self,
        core: &Manager,
        document: &SharedDocument,
    ) -> Option<bool> {
        if !self.is_up() {
            return None;
        }
        let set = DocumentSet::of(&document.id);
        self.client_keys_seen.lock()[set as usize] = None;
        match self.store.put_first(set, document).await {
            Ok(is_first) => {
                if is_first {
                    // The others read it with the next exchange otherwise.
                    let announcement = format!("{PREFIX}{}", document.text);
                    let _ = self.store.publish_announcements(&[announcement]).await;
                }
                Some(is_first)
            }
            Err(fault) => {
                self.store_lost(core, &fault);
                None
            }
        }
    }

    /// Returns the document in an announcement of another instance; `None` if it is another announcement.
    pub(super) fn announced_client_key(announcement: &str) -> Option<&str> {
        announcement.strip_prefix(PREFIX)
    }

    /// Has the next exchange compare all documents, because announcements were not taken.
    pub(super) fn missed_client_keys(&self) {
        *self.client_keys_seen.lock() = Default::default();
    }

    /// Exchanges documents with Redis if they changed there or here since the last exchange.
    pub(super) async fn sync_client_keys(&self, core: &Manager) -> Result<(), LinkError> {
        for set in DocumentSet::ALL {
            let seen = self.client_keys_seen.lock()[set as usize].clone();
            if seen.is_none() || seen != Some(self.store.client_keys_stamp(set).await?) {
                self.exchange_documents(core, set).await?;
            }
        }
        Ok(())
    }

    /// Reads all documents in Redis, and writes those that it lacks.
    pub(super) async fn exchange_client_keys(&self, core: &Manager) -> Result<(), LinkError> {
        for set in DocumentSet::ALL {
            self.exchange_documents(core, set).await?;
        }
        Ok(())
    }

    async fn exchange_documents(&self, core: &Manager, set: DocumentSet) -> Result<(), LinkError> {
        let Some(keys) = core.client_keys() else { return Ok(()) };
        let stored = self.store.stored_client_keys(set).await?;
        keys.learn(stored.documents.iter().map(|(_, text)| text.clone()).collect());
        let there: HashMap<&str, &str> =
            stored.documents.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
        let mut held = keys.held();
        held.retain(|document| DocumentSet::of(&document.id) == set);
        let is_missing = |known: &&SharedDocument| there.get(known.id.as_str()) != Some(&known.text.as_str());
        let missing: Vec<SharedDocument> = held.iter().filter(is_missing).cloned().collect();
        let mut stamp = stored.stamp;
        for batch in missing.chunks(BATCH) {
            let (before, after) = self.store.put_client_keys(set, batch).await?;
            if before != stamp {
                // Another instance has written meanwhile: the next exchange reads it.
                self.client_keys_seen.lock()[set as usize] = None;
                return Ok(());
            }
            stamp = after;
        }
        let over = there.into_iter().filter(|(_, document)| keys.is_over(document));
        let over: Vec<String> = over.map(|(id, _)| id.to_owned()).collect();
        if !over.is_empty() {
            self.store.forget_client_keys(set, over).await?;
        }
        self.client_keys_seen.lock()[set as usize] = Some(stamp);
        Ok(())
    }
}
