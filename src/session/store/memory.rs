//! The store of a single instance: an ordered map that drops the session that ended first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Filter, Listed, SessionStore, StoreError};
use crate::ids::{SessionId, Uid};
use crate::session::views::session_view::SessionView;

/// The most ended sessions, so that a flood of ids cannot fill the memory (a view with its 20 requests takes about
/// 5 KB).
const MAX_KEPT: usize = 20_000;

/// Views in the memory of this process.
#[derive(Debug)]
pub struct MemoryStore {
    shelf: RwLock<Shelf>,
    max: usize,
}

#[derive(Debug, Default)]
struct Shelf {
    by_uid: BTreeMap<Uid, Arc<SessionView>>,
    by_id: HashMap<SessionId, Vec<Uid>>,
    by_end: BTreeSet<(Timestamp, Uid)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MAX_KEPT)
    }
}

impl MemoryStore {
    /// A store for at most `max` sessions.
    pub fn new(max: usize) -> Self {
        Self { shelf: RwLock::default(), max }
    }

    fn read(&self) -> RwLockReadGuard<'_, Shelf> {
        self.shelf.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shelf> {
        self.shelf.write()
    }
}

impl Shelf {
    fn put(&mut self, session: Arc<SessionView>) {
        self.remove(session.uid);
        self.by_id.entry(session.id.clone()).or_default().push(session.uid);
        self.by_end.insert((session.gone_at(), session.uid));
        self.by_uid.insert(session.uid, session);
    }

    fn remove(&mut self, uid: Uid) -> bool {
        let Some(session) = self.by_uid.remove(&uid) else { return false };
        self.by_end.remove(&(session.gone_at(), uid));
        if let Some(uids) = self.by_id.get_mut(session.id.as_str()) {
            uids.retain(|other| *other != uid);
            if uids.is_empty() {
                self.by_id.remove(session.id.as_str());
            }
        }
        true
    }

    /// The session that ended first.
    fn first_gone(&self) -> Option<(Timestamp, Uid)> {
        self.by_end.first().copied()
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn put(&self, session: Arc<SessionView>) -> Result<(), StoreError> {
        let mut shelf = self.write();
        shelf.put(session);
        while shelf.by_uid.len() > self.max
            && let Some((_, uid)) = shelf.first_gone()
        {
            shelf.remove(uid);
        }
        Ok(())
    }

    async fn get(&self, uid: Uid) -> Result<Option<Arc<SessionView>>, StoreError> {
        Ok(self.read().by_uid.get(&uid).cloned())
    }

    async fn by_id(&self, id: &str) -> Result<Vec<Arc<SessionView>>, StoreError> {
        let shelf = self.read();
        let mut uids = shelf.by_id.get(id).cloned().unwrap_or_default();
        uids.sort_by(|a, b| b.cmp(a));
        Ok(uids.iter().filter_map(|uid| shelf.by_uid.get(uid).cloned()).collect())
    }

    async fn delete(&self, uid: Uid) -> Result<bool, StoreError> {
        Ok(self.write().remove(uid))
    }

    async fn list(&self, filter: &Filter) -> Result<Listed, StoreError> {
        let end = filter.before().map_or(Bound::Unbounded, Bound::Excluded);
        let shelf = self.read();
        let newest_first = shelf.by_uid.range((Bound::Unbounded, end)).rev().map(|(_, session)| session);
        let asked = newest_first.filter(|session| filter.matches(session));
        let sessions = asked.take(filter.page_len() + 1).cloned().collect();
        Ok(Listed { sessions, searched_to: None })
    }

    async fn count(&self, filter: &Filter) -> Result<usize, StoreError> {
        Ok(self.read().by_uid.values().filter(|session| filter.matches(session)).count())
    }

    async fn purge(&self, ended_before: Timestamp) -> Result<usize, StoreError> {
        let mut shelf = self.write();
        let mut gone = 0;
        while let Some((_, uid)) = shelf.first_gone().filter(|(at, _)| *at < ended_before) {
            shelf.remove(uid);
            gone += 1;
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::store::contract;

    contract::suite!(MemoryStore::default());

    #[tokio::test]
    async fn a_full_store_forgets_the_longest_ended() {
        let store = MemoryStore::new(3);
        contract::store_purge(&store).await;
        for _ in 0..5 {
            contract::fill(&store).await;
        }
        assert_eq!(store.count(&Filter::default()).await.unwrap(), 3);
        assert_eq!(store.read().by_id.values().map(Vec::len).sum::<usize>(), 3);
        assert_eq!(store.read().by_end.len(), 3);
    }
}
