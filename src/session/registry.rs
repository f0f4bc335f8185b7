//! Sessions by their external id: one sharded map hit, without an allocation.

use std::sync::Arc;

use dashmap::{DashMap, Entry};

use super::live::Live;
use crate::ids::{SessionId, SessionKey};

/// So many that a walk over 100,000 sessions holds each lock for a few hundred of them only.
const SHARDS: usize = 256;

/// The sessions, by id; in the slot of an id stands one for each scope (closing: each incarnation).
#[derive(Debug)]
pub(super) struct Registry {
    slots: DashMap<SessionId, Vec<Arc<Live>>>,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self { slots: DashMap::with_shard_amount(SHARDS) }
    }

    /// The session of this key; the newest when there are several incarnations.
    pub(super) fn find(&self, key: &SessionKey) -> Option<Arc<Live>> {
        let slot = self.slots.get(key.id.as_str())?;
        newest(&slot, key).cloned()
    }

    /// All sessions with this external id.
    pub(super) fn by_id(&self, id: &str) -> Vec<Arc<Live>> {
        self.slots.get(id).map(|slot| slot.value().clone()).unwrap_or_default()
    }

    /// Adds a session.
    pub(super) fn insert(&self, live: Arc<Live>) {
        self.with_slot(&live.key().id.clone(), |slot| slot.push(live));
    }

    /// Takes a session out; no other one, not even another share of the same incarnation, which an instance has that
    /// joined it again before its end was in the store.
    pub(super) fn remove(&self, live: &Live) {
        let is_other = |other: &Arc<Live>| !std::ptr::eq(Arc::as_ptr(other), live);
        self.with_slot(&live.key().id, |slot| slot.retain(is_other));
    }

    /// Works on the slot of an id while nobody else can; an empty slot leaves no trace.
    pub(super) fn with_slot<T>(&self, id: &SessionId, work: impl FnOnce(&mut Vec<Arc<Live>>) -> T) -> T {
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

    /// The sessions for which `pick` gives something, shard by shard.
    pub(super) fn collect<T>(&self, mut pick: impl FnMut(&Arc<Live>) -> Option<T>) -> Vec<T> {
        let mut picked = Vec::new();
        self.each(|live| picked.extend(pick(live)));
        picked
    }

    /// Visits every session, shard by shard.
    pub(super) fn each(&self, mut visit: impl FnMut(&Arc<Live>)) {
        for slot in &self.slots {
            slot.value().iter().for_each(&mut visit);
        }
    }
}

/// The newest session of this key in a slot.
pub(super) fn newest<'a>(slot: &'a [Arc<Live>], key: &SessionKey) -> Option<&'a Arc<Live>> {
    slot.iter().filter(|live| live.key().scope == key.scope).max_by_key(|live| live.uid())
}
