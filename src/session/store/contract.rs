//! The test suite that every store passes: `suite!(make)` in the tests of a store runs all of it.

use std::sync::Arc;
use std::time::Duration;

use super::{Filter, MOST_SCOPES, SessionStore};
use crate::clock::Clock;
use crate::ids::Uid;
use crate::session::core::session::{End, Session};
use crate::session::testing::arrival_of;
use crate::session::views::session_view::SessionView;
use crate::session::views::state::{EndReason, SessionState};

/// Creates one test for each part of the contract, over the store that `$make` returns, or that `$store` finds in
/// it.
macro_rules! suite {
    ($make:expr) => {
        $crate::session::store::contract::suite!($make, std::convert::identity);
    };
    ($make:expr, $store:path) => {
        $crate::session::store::contract::suite!(
            $make,
            $store;
            store_put,
            store_get,
            store_delete,
            store_list,
            store_count,
            store_active_filter,
            store_pages,
            store_by_id_and_latest,
            store_by_id_is_bounded,
            store_purge
        );
    };
    ($make:expr, $store:path; $($part:ident),+) => {
        $(#[tokio::test]
        async fn $part() {
            let made = $make;
            let store = $store(&made);
            $crate::session::store::contract::$part(store).await;
        })+
    };
}
pub(crate) use suite;

/// Creates views of new incarnations with one clock.
struct Maker {
    clock: Clock,
}

impl Maker {
    fn new() -> Self {
        Self { clock: Clock::manual() }
    }

    fn live(&self, principal: &str, id: &str) -> Session {
        Session::new(arrival_of(principal, id), None, self.clock.now())
    }

    fn active(&self, id: &str) -> Arc<SessionView> {
        Arc::new(self.live("cred:ada", id).view(&self.clock, true))
    }

    fn ended(&self, principal: &str, id: &str, reason: EndReason) -> Arc<SessionView> {
        let session = self.live(principal, id);
        session.end(End { at: self.clock.now(), reason, order: None }, |_, _| true).unwrap();
        Arc::new(session.view(&self.clock, true))
    }
}

fn uids(sessions: &[Arc<SessionView>]) -> Vec<Uid> {
    sessions.iter().map(|session| session.uid).collect()
}

pub(crate) async fn store_put(store: &impl SessionStore) {
    let maker = Maker::new();
    let session = maker.live("cred:ada", "s-1");
    store.put(Arc::new(session.view(&maker.clock, true))).await.unwrap();
    session.add_bytes_in(9);
    let later = Arc::new(session.view(&maker.clock, true));
    store.put(later.clone()).await.unwrap();
    assert_eq!(store.get(session.uid()).await.unwrap(), Some(later));
    assert_eq!(store.count(&Filter::default()).await.unwrap(), 1);
}

pub(crate) async fn store_get(store: &impl SessionStore) {
    let session = Maker::new().active("s-1");
    store.put(session.clone()).await.unwrap();
    assert_eq!(store.get(session.uid).await.unwrap(), Some(session));
    assert_eq!(store.get(Uid::fresh()).await.unwrap(), None);
}

pub(crate) async fn store_delete(store: &impl SessionStore) {
    let session = Maker::new().active("s-1");
    store.put(session.clone()).await.unwrap();
    assert!(store.delete(session.uid).await.unwrap());
    assert!(!store.delete(session.uid).await.unwrap());
    assert_eq!(store.get(session.uid).await.unwrap(), None);
    assert!(store.by_id("s-1").await.unwrap().sessions.is_empty());
}

pub(crate) async fn store_list(store: &impl SessionStore) {
    let maker = Maker::new();
    let a = maker.ended("cred:ada", "Alpha", EndReason::Killed);
    let b = maker.ended("cred:bob", "beta", EndReason::IdleTimeout);
    store.put(b.clone()).await.unwrap();
    store.put(a.clone()).await.unwrap();
    let list = async |filter: Filter| uids(&store.list(&filter).await.unwrap().sessions);
    assert_eq!(list(Filter::default()).await, [b.uid, a.uid]);
    let of = |principal: &str| Filter { principal: Some(principal.to_owned()), ..Filter::default() };
    assert_eq!(list(of("cred:bob")).await, [b.uid]);
    let with = |text: &str| Filter { q: Some(text.to_owned()), ..Filter::default() };
    assert_eq!(list(with("ALPH")).await, [a.uid]);
    assert!(list(with("gamma")).await.is_empty());
    assert!(list(Filter { backend: Some("x".to_owned()), ..Filter::default() }).await.is_empty());
}

pub(crate) async fn store_count(store: &impl SessionStore) {
    let maker = Maker::new();
    for i in 0..3 {
        store.put(maker.ended("cred:ada", &format!("s-{i}"), EndReason::Killed)).await.unwrap();
    }
    assert_eq!(store.count(&Filter { limit: 1, ..Filter::default() }).await.unwrap(), 3);
    assert_eq!(store.count(&Filter::in_state(SessionState::TimedOut)).await.unwrap(), 0);
}

pub(crate) async fn store_active_filter(store: &impl SessionStore) {
    let maker = Maker::new();
    let active = maker.active("s-1");
    store.put(active.clone()).await.unwrap();
    for reason in [EndReason::Killed, EndReason::IdleTimeout, EndReason::CompletedAfter] {
        store.put(maker.ended("cred:ada", "s-2", reason)).await.unwrap();
    }
    let filter = Filter::in_state(SessionState::Active);
    assert_eq!(store.list(&filter).await.unwrap().sessions, [active]);
    assert_eq!(store.count(&filter).await.unwrap(), 1);
}

pub(crate) async fn store_pages(store: &impl SessionStore) {
    let maker = Maker::new();
    let mut all = Vec::new();
    for i in 0..5 {
        let session = maker.ended("cred:ada", &format!("s-{i}"), EndReason::Killed);
        all.insert(0, session.uid);
        store.put(session).await.unwrap();
    }
    let page = Filter { limit: 2, ..Filter::default() };
    assert_eq!(uids(&store.list(&page).await.unwrap().sessions), all[..3]);
    let next = Filter { cursor: Some(all[1].to_string()), ..page };
    assert_eq!(uids(&store.list(&next).await.unwrap().sessions), all[2..]);
}

pub(crate) async fn store_by_id_and_latest(store: &impl SessionStore) {
    let maker = Maker::new();
    let first = maker.ended("cred:ada", "s-1", EndReason::IdleTimeout);
    let second = maker.ended("cred:ada", "s-1", EndReason::IdleTimeout);
    let other = maker.ended("cred:bob", "s-1", EndReason::IdleTimeout);
    for session in [&second, &other, &first] {
        store.put(session.clone()).await.unwrap();
    }
    let found = store.by_id("s-1").await.unwrap();
    assert_eq!((uids(&found.sessions), found.is_cut), (vec![other.uid, second.uid, first.uid], false));
    assert_eq!(store.latest(first.key()).await.unwrap(), Some(second));
    assert!(store.by_id("s").await.unwrap().sessions.is_empty());
}

pub(crate) async fn store_by_id_is_bounded(store: &impl SessionStore) {
    let maker = Maker::new();
    let mut newest = Vec::new();
    for scope in 0..=MOST_SCOPES {
        let session = maker.ended(&format!("cred:{scope}"), "many", EndReason::IdleTimeout);
        newest.insert(0, session.uid);
        store.put(session).await.unwrap();
    }
    let oldest = newest.pop().unwrap();
    let found = store.by_id("many").await.unwrap();
    assert_eq!((uids(&found.sessions), found.is_cut), (newest, true));
    // Many incarnations in one scope are no ambiguity.
    assert!(store.delete(oldest).await.unwrap());
    for _ in 0..300 {
        store.put(maker.ended("cred:1", "many", EndReason::IdleTimeout)).await.unwrap();
    }
    let found = store.by_id("many").await.unwrap();
    assert!(!found.is_cut && found.sessions.len() < MOST_SCOPES + 300, "{}", found.sessions.len());
}

pub(crate) async fn store_purge(store: &impl SessionStore) {
    let maker = Maker::new();
    let old = maker.ended("cred:ada", "old", EndReason::Killed);
    maker.clock.advance(Duration::from_secs(10));
    let new = maker.ended("cred:ada", "new", EndReason::Killed);
    store.put(new.clone()).await.unwrap();
    store.put(old.clone()).await.unwrap();
    assert_eq!(store.purge(old.ended_at.unwrap()).await.unwrap(), 0);
    assert_eq!(store.purge(new.ended_at.unwrap()).await.unwrap(), 1);
    assert_eq!(store.list(&Filter::default()).await.unwrap().sessions, [new]);
}

/// Stores one more ended session.
pub(crate) async fn fill(store: &impl SessionStore) {
    let session = Maker::new().ended("cred:ada", "one more", EndReason::Killed);
    store.put(session).await.unwrap();
}
