//! Sessions by id: one lookup in a sharded map, without an allocation.

use std::sync::Arc;

use dashmap::{DashMap, Entry};

use super::session::Session;
use crate::ids::{SessionId, SessionKey};

/// Large enough that a walk over 100,000 sessions holds each lock for only a few hundred of them.
const SHARDS: usize = 256;

/// Sessions by id. The slot of an id has one session for each scope, or for closing sessions one for each
/// incarnation.
#[derive(Debug)]
pub(in crate::session) struct Registry {
    slots: DashMap<SessionId, Vec<Arc<Session>>>,
}

impl Registry {
    pub(in crate::session) fn new() -> Self {
        Self { slots: DashMap::with_shard_amount(SHARDS) }
    }

    /// The session with this key; the newest if there are several incarnations.
    pub(in crate::session) fn find(&self, key: &SessionKey) -> Option<Arc<Session>> {
        let slot = self.slots.get(key.id.as_str())?;
        newest(&slot, key).cloned()
    }

    /// All sessions with this id.
    pub(in crate::session) fn by_id(&self, id: &str) -> Vec<Arc<Session>> {
        self.slots.get(id).map(|slot| slot.value().clone()).unwrap_or_default()
    }

    pub(in crate::session) fn insert(&self, session: Arc<Session>) {
        self.with_slot(&session.key().id.clone(), |slot| slot.push(session));
    }

    /// Removes exactly this session. Another share of the same incarnation stays: this instance may have joined it
    /// again before its end was stored.
    pub(in crate::session) fn remove(&self, session: &Session) {
        let is_other = |other: &Arc<Session>| !std::ptr::eq(Arc::as_ptr(other), session);
        self.with_slot(&session.key().id, |slot| slot.retain(is_other));
    }

    /// Runs `work` on the slot of an id while the shard is locked; removes the slot if it is empty afterwards.
    pub(super) fn with_slot<T>(&self, id: &SessionId, work: impl FnOnce(&mut Vec<Arc<Session>>) -> T) -> T {
        match self.slots.entry(id.clone()) {
            Entry::Occupied(mut slot) => {
                let done = work(slot.get_mut());
                if slot.get().is_empty() {
                    slot.remove();
                }
                done
            }
            Entry::Vacant(place) => {
                let mut slot = Vec::with_capacity(1);
                let done = work(&mut slot);
                if !slot.is_empty() {
                    place.insert(slot);
                }
                done
            }
        }
    }

    /// The results of `pick`, shard by shard.
    pub(in crate::session) fn collect<T>(&self, mut pick: impl FnMut(&Arc<Session>) -> Option<T>) -> Vec<T> {
        let mut picked = Vec::new();
        self.each(|session| picked.extend(pick(session)));
        picked
    }

    /// Visits every session, shard by shard.
    pub(in crate::session) fn each(&self, mut visit: impl FnMut(&Arc<Session>)) {
        // The iterator of the map allocates for each shard.
        if self.slots.is_empty() {
            return;
        }
        for slot in &self.slots {
            slot.value().iter().for_each(&mut visit);
        }
    }
}

/// The newest session with this key in a slot.
pub(in crate::session) fn newest<'a>(slot: &'a [Arc<Session>], key: &SessionKey) -> Option<&'a Arc<Session>> {
    slot.iter().filter(|session| session.key().scope == key.scope).max_by_key(|session| session.uid())
}
