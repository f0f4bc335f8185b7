//! The store contract, with a real redis-server.

use std::time::Duration;

use super::testing::Server;
use super::*;
use futures::StreamExt;

use super::client_keys::DocumentSet;
use crate::ids::SharedDocument;
use crate::session::core::session::Session;
use crate::session::store::contract;
use crate::session::store::{Filter, SessionStore};
use crate::session::testing::arrival_of;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::state::SessionState;

/// A store and its server.
struct Spawned {
    store: RedisStore,
    _server: Server,
}

async fn spawned() -> Spawned {
    let server = Server::start();
    Spawned { store: server.store("here").await, _server: server }
}

fn store_of(spawned: &Spawned) -> &RedisStore {
    &spawned.store
}

contract::suite!(spawned().await, store_of);

fn agent_order(agent: &str, until_s: i64) -> KillOrder {
    let order = serde_json::json!({
        "session_id": "s", "scope": "cred:1", "agent": agent, "uid": Uid::fresh().to_string(), "reason": "", "by": "",
        "at": "2026-01-01T00:00:00Z", "mode": "duration",
        "until": (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(until_s)).to_string(),
    });
    KillOrder { rev: 1, ..serde_json::from_value(order).unwrap() }
}

#[tokio::test]
async fn what_is_over_leaves_with_the_next_order_and_the_key_lives_as_long_as_the_last() {
    let spawned = spawned().await;
    let store = &spawned.store;
    let key = agent_order("a", 0).key();
    let fields = async || store.order_entries(std::slice::from_ref(&key)).await.unwrap().pop().unwrap();
    let left = async || {
        store.link.call(Call::new("PTTL", [store.keys.killed(&key)])).await.unwrap().as_i64().unwrap() / 1000
    };
    store.put_order(&agent_order("over", -120), true).await.unwrap();
    store.put_order(&agent_order("short", 100), true).await.unwrap();
    assert!((95..=100).contains(&left().await), "{}", left().await);
    store.put_order(&agent_order("long", 1000), true).await.unwrap();
    assert_eq!(fields().await.len(), 2, "{:?}", fields().await);
    assert!((995..=1000).contains(&left().await), "{}", left().await);
    // The lifting is kept for an hour; the other one is not extended when it is gone.
    store.put_lift(&agent_order("long", 1000), 1).await.unwrap();
    assert!((4595..=4600).contains(&left().await), "{}", left().await);
    let for_good = KillOrder { until: None, ..agent_order("for good", 0) };
    store.put_order(&for_good, true).await.unwrap();
    assert_eq!(left().await, 0, "no end");
    store.put_lift(&for_good, 1).await.unwrap();
    assert!(left().await > 0, "every field has an end");
}

#[tokio::test]
async fn an_instance_whose_clock_is_ahead_removes_no_order_that_holds_for_others() {
    let spawned = spawned().await;
    let store = &spawned.store;
    let session = Session::new(arrival_of("cred:1", "s"), None, crate::clock::Clock::manual().now());
    for order in [agent_order("short", 60), agent_order("long", 7200), agent_order("over", -120)] {
        store.put_order(&order, true).await.unwrap();
    }
    let proposed = session.view(&crate::clock::Clock::manual(), false);
    let ahead_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap() + 3_600_000;
    let Admitted::New(..) = store.admit(proposed, "here:1", ahead_ms).await.unwrap() else {
        panic!("not opened")
    };
    let mut left: Vec<_> = store.order_entries(&[session.key().clone()]).await.unwrap().pop().unwrap();
    left.retain(|entry| !matches!(entry, OrderEntry::Order(order) if order.agent.is_none()));
    let mut names: Vec<String> = left
        .iter()
        .map(|entry| match entry {
            OrderEntry::Order(KillOrder { agent: Some(agent), .. }) => agent.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    names.sort();
    assert_eq!(names, ["long", "short"], "what is over by the clock of redis leaves");
}

#[tokio::test]
async fn the_set_of_changes_is_read_in_pages_and_trimmed_of_what_is_old() {
    let spawned = spawned().await;
    let store = &spawned.store;
    let key = |number: usize| SessionKey {
        scope: crate::ids::Scope::new("x"),
        id: crate::ids::SessionId::new(format!("s-{number}")),
    };
    let old: Vec<String> =
        (0..25).flat_map(|n| ["1000".to_owned(), text(&Hint::new(&key(n), None))]).collect();
    store.link.call(Call::new("ZADD", [store.keys.kills()].into_iter().chain(old))).await.unwrap();
    store.record_changes(&[key(100)]).await.unwrap();
    let (mut from, mut seen) = (Cursor::default(), Vec::new());
    loop {
        let (_, page) = store.changed_since(from, 10).await.unwrap();
        seen.extend(page.iter().cloned());
        from = from.after(&page, &[]);
        if page.len() < 10 {
            break;
        }
    }
    let mut ids: Vec<_> = seen.iter().map(|noted| noted.key.clone().unwrap()).collect();
    ids.sort_by(|a, b| a.id.cmp(&b.id));
    ids.dedup();
    assert_eq!((seen.len(), ids.len()), (26, 26));
    // It changed again since it was read, or recently: it stays.
    store.record_changes(&[key(3)]).await.unwrap();
    assert_eq!(store.trim_changes(&seen).await.unwrap(), 24);
    let (_, left) = store.changed_since(Cursor::default(), 10).await.unwrap();
    assert_eq!(left.len(), 2);
    // After a trimmed page the next one begins where that one did.
    let at_ms = seen[0].at_ms;
    assert_eq!(Cursor { at_ms, passed: 5 }.after(&seen[..10], &seen[..10]), Cursor { at_ms, passed: 5 });
}

/// An incarnation with shares `here:1` and `there:2`, and the documents of both.
async fn shared_by_two(store: &RedisStore) -> (SessionView, ShareDocument) {
    let clock = crate::clock::Clock::manual();
    let session = Session::new(arrival_of("cred:ada", "s"), None, clock.now());
    let proposed = session.view(&clock, false);
    let Admitted::New(shared, _) = store.admit(proposed.clone(), "here:1", 1).await.unwrap() else {
        panic!("not opened")
    };
    assert!(matches!(store.admit(proposed, "there:2", 1).await.unwrap(), Admitted::Join(..)));
    (*shared, ShareDocument::new(session.view(&clock, true), Some(session.record_detail())))
}

async fn close(store: &RedisStore, session: &SessionView, share: &str, doc: &ShareDocument) -> Closed {
    store.close(session.key(), session.uid, &[(share.to_owned(), Some(doc))]).await.unwrap()
}

/// The names of the shares that a record covers, and whether another record covers others.
fn told_of(closed: Closed) -> (Vec<String>, bool) {
    match closed {
        Closed::Record { shares, is_rest } => {
            let mut names = shares.names();
            names.sort();
            (names, is_rest)
        }
        other => panic!("{other:?}"),
    }
}

fn end() -> EndNote {
    EndNote::new(crate::session::views::state::EndReason::Killed, jiff::Timestamp::now(), None)
}

#[tokio::test]
async fn whoever_closes_the_last_share_gets_the_record_and_gets_it_again() {
    let spawned = spawned().await;
    let store = &spawned.store;
    let (session, doc) = shared_by_two(store).await;
    let (key, uid) = (session.key(), session.uid);
    assert!(matches!(close(store, &session, "here:1", &doc).await, Closed::Active));
    store.end(key, uid, &end(), None).await.unwrap();
    assert!(matches!(close(store, &session, "here:1", &doc).await, Closed::Waiting));
    let both = vec!["here:1".to_owned(), "there:2".to_owned()];
    assert_eq!(told_of(close(store, &session, "there:2", &doc).await), (both.clone(), false));
    // The answer was lost.
    assert_eq!(told_of(close(store, &session, "there:2", &doc).await), (both.clone(), false));
    store.mark_recorded(key, uid, &both).await.unwrap();
    store.mark_recorded(key, uid, &both).await.unwrap();
    store.close_again(key, uid, "here:1", &doc).await.unwrap();
    for share in both {
        assert!(matches!(close(store, &session, &share, &doc).await, Closed::Recorded));
    }
}

#[tokio::test]
async fn a_store_that_lost_shares_gives_no_record_until_all_had_time_to_write_theirs() {
    let spawned = spawned().await;
    let store = &spawned.store;
    let (session, doc) = shared_by_two(store).await;
    let (key, uid) = (session.key(), session.uid);
    store.end(key, uid, &end(), None).await.unwrap();
    store.link.call(Call::new("FLUSHALL", Vec::<String>::new())).await.unwrap();
    store.end(key, uid, &end(), None).await.unwrap();
    assert!(matches!(close(store, &session, "there:2", &doc).await, Closed::Waiting));
    assert!(matches!(close(store, &session, "there:2", &doc).await, Closed::Waiting));
    // Time passes without the other instance.
    let long_ago = [store.keys.incarnation(key, uid), "rebuilt".to_owned(), "1".to_owned()];
    store.link.call(Call::new("HSET", long_ago)).await.unwrap();
    let there = vec!["there:2".to_owned()];
    assert_eq!(told_of(close(store, &session, "there:2", &doc).await), (there.clone(), false));
    // It arrives while the record is written.
    store.close_again(key, uid, "here:1", &doc).await.unwrap();
    store.mark_recorded(key, uid, &there).await.unwrap();
    let long_ago = [store.keys.incarnation(key, uid), "rebuilt".to_owned(), "1".to_owned()];
    store.link.call(Call::new("HSET", long_ago)).await.unwrap();
    let here = vec!["here:1".to_owned()];
    assert_eq!(told_of(close(store, &session, "here:1", &doc).await), (here.clone(), true));
    store.mark_recorded(key, uid, &here).await.unwrap();
    for share in ["here:1", "there:2"] {
        assert!(matches!(close(store, &session, share, &doc).await, Closed::Recorded));
    }
}

/// Fills a store with ended sessions and times some lists; returns the slowest.
async fn time_lists(count: usize) -> Duration {
    let spawned = spawned().await;
    let store = &spawned.store;
    let puts = futures::stream::iter(0..count).map(|_| contract::fill(store));
    puts.buffer_unordered(64).for_each(async |()| {}).await;
    let mut slowest = Duration::ZERO;
    for query in [
        Filter::default(),
        Filter::in_state(SessionState::Active),
        Filter::in_state(SessionState::TimedOut),
        Filter { principal: Some("cred:bob".to_owned()), ..Filter::default() },
        Filter { client: Some("codex".to_owned()), ..Filter::default() },
        Filter { backend: Some("nowhere".to_owned()), ..Filter::default() },
        Filter { q: Some("no such text".to_owned()), ..Filter::default() },
    ] {
        let begun = std::time::Instant::now();
        let found = store.list(&query).await.unwrap();
        slowest = slowest.max(begun.elapsed());
        eprintln!("{count} ended: {:?} for {query:?}, {} found", begun.elapsed(), found.sessions.len());
        assert_eq!(found.searched_to, None);
    }
    slowest
}

#[tokio::test]
#[ignore = "writes 30,000 sessions: for measuring"]
async fn lists_over_many_ended_sessions() {
    time_lists(30_000).await;
}

#[tokio::test]
async fn very_many_documents_are_read_a_part_at_a_time() {
    let spawned = spawned().await;
    let store = &spawned.store;
    // An answer with all of them would break the connection.
    let limit = ["SET", "client-output-buffer-limit", "normal 8mb 8mb 0"].map(str::to_owned);
    store.link.call(Call::new("CONFIG", limit)).await.unwrap();
    let document = |number: usize| SharedDocument {
        id: format!("approval:appr_{number}"),
        revision: 1,
        text: format!("{{\"id\":\"appr_{number}\",\"revision\":1,\"arguments\":\"{}\"}}", "x".repeat(6000)),
    };
    let set = DocumentSet::Approvals;
    let mut stamp = String::new();
    for from in (0..5000).step_by(250) {
        let documents: Vec<_> = (from..from + 250).map(document).collect();
        stamp = store.put_client_keys(set, &documents).await.unwrap().1;
    }
    let stored = store.stored_client_keys(set).await.unwrap();
    assert_eq!((stored.documents.len(), &stored.stamp), (5000, &stamp));
    let read =
        |id: &str| stored.documents.iter().find(|(known, _)| known == id).map(|(_, text)| text.clone());
    assert_eq!(read("approval:appr_4999"), Some(document(4999).text));
}
