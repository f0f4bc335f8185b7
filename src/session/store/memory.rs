//! The store of a single instance: an ordered map that drops the session that ended first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::interface::select_newest;
use super::{Filter, Listed, NamedSessions, SessionStore, StoreError};
use crate::ids::{Scope, SessionId, SessionKey, Uid};
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
    by_id: HashMap<SessionId, BTreeSet<(Scope, Uid)>>,
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
        let scoped = (session.key().scope.clone(), session.uid);
        self.by_id.entry(session.id.clone()).or_default().insert(scoped);
        self.by_end.insert((session.gone_at(), session.uid));
        self.by_uid.insert(session.uid, session);
    }

    fn remove(&mut self, uid: Uid) -> bool {
        let Some(session) = self.by_uid.remove(&uid) else { return false };
        self.by_end.remove(&(session.gone_at(), uid));
        if let Some(uids) = self.by_id.get_mut(session.id.as_str()) {
            uids.remove(&(session.key().scope.clone(), uid));
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

    async fn by_id(&self, id: &str) -> Result<NamedSessions, StoreError> {
        let shelf = self.read();
        let mut uids: Vec<_> = shelf.by_id.get(id).into_iter().flatten().collect();
        uids.sort_by_key(|(_, uid)| Reverse(*uid));
        let is_cut = select_newest(&mut uids, |(scope, _)| scope.clone());
        let sessions = uids.iter().filter_map(|(_, uid)| shelf.by_uid.get(uid).cloned()).collect();
        Ok(NamedSessions { sessions, is_cut })
    }

    async fn latest(&self, key: &SessionKey) -> Result<Option<Arc<SessionView>>, StoreError> {
        let shelf = self.read();
        let up_to = (key.scope.clone(), Uid::MAX);
        let last = shelf.by_id.get(key.id.as_str()).and_then(|all| all.range(..=up_to).next_back());
        let newest = last.filter(|(scope, _)| *scope == key.scope);
        Ok(newest.and_then(|(_, uid)| shelf.by_uid.get(uid).cloned()))
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
        assert_eq!(store.read().by_id.values().map(BTreeSet::len).sum::<usize>(), 3);
        assert_eq!(store.read().by_end.len(), 3);
    }
}
