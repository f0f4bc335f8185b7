//! Two or more processes connected by channels.

use std::io::{BufRead, BufReader, Write};
use std::time::Instant;

use super::*;
use crate::ids::AgentId;
use crate::session::core::cut::CutReason;
use crate::session::core::kill::{KillError, KillRequest};
use crate::session::testing::{TestManager, agent_arrival, arrival, arrival_of, leg_start};
use crate::session::views::state::SessionState;
use crate::summary::RequestSummary;

/// Connects processes, each the successor of the one before it.
async fn upgraded(houses: &[&TestManager]) {
    for pair in houses.windows(2) {
        let (old, new) = UnixStream::pair().unwrap();
        pair[0].manager.connect_successor(old).unwrap();
        pair[1].manager.connect_predecessor(new).await.unwrap();
    }
}

fn runaway() -> KillRequest {
    KillRequest { reason: "runaway".to_owned(), ..KillRequest::default() }
}

#[tokio::test]
async fn a_session_of_the_old_process_is_seen_killed_and_resumed_by_the_new_one() {
    let (old, new) = (TestManager::new("{}"), TestManager::new("{}"));
    let start = leg_start();
    let cut = start.cut.clone();
    let leg = old.manager.admit(arrival("s-1"), start).await.unwrap();
    upgraded(&[&old, &new]).await;
    let uid = leg.session().uid();
    assert_eq!(new.manager.get("s-1").await[0].uid, uid);
    assert_eq!(new.manager.list(&Filter::default()).await.sessions[0].uid, uid);

    let killed = new.manager.kill("s-1", runaway()).await.unwrap();
    assert_eq!((killed.uid, killed.state, killed.legs_cut), (uid, SessionState::Killed, 1));
    assert_eq!(cut.reason(), Some(CutReason::Killed));
    for fixture in [&old, &new] {
        assert!(fixture.manager.admit(arrival("s-1"), leg_start()).await.is_err(), "it stays killed");
        assert_eq!(fixture.manager.kills().len(), 1);
    }
    assert_eq!(old.names().iter().filter(|name| **name == "session_killed").count(), 0, "published once");
    drop(leg);

    new.manager.resume("s-1", None, "test").await.unwrap();
    let leg = new.manager.admit(arrival("s-1"), leg_start()).await;
    assert!(leg.is_ok());
    // The lifting followed the kill on the same channel, and so does this query.
    assert_eq!(new.manager.get(&uid.to_string()).await[0].state, SessionState::Killed);
    assert!(old.manager.admit(arrival("s-1"), leg_start()).await.is_ok());
    assert_eq!(new.manager.kill("nobody", runaway()).await.unwrap_err(), KillError::Unknown);
}

#[tokio::test]
async fn orders_given_before_the_upgrade_or_at_the_old_process_hold_in_the_new_one() {
    let (old, new) = (TestManager::new("{}"), TestManager::new("{}"));
    drop(old.manager.admit(arrival("before"), leg_start()).await.unwrap());
    old.manager.kill("before", runaway()).await.unwrap();
    upgraded(&[&old, &new]).await;
    assert!(new.manager.admit(arrival("before"), leg_start()).await.is_err());
    let _leg = new.manager.admit(arrival("here"), leg_start()).await.unwrap();
    assert_eq!(old.manager.kill("here", runaway()).await.unwrap().legs_cut, 1);
    assert!(new.manager.admit(arrival("here"), leg_start()).await.is_err());
}

#[tokio::test]
async fn an_agent_that_only_the_old_process_knows_is_killed_in_both() {
    let (old, new) = (TestManager::new("{}"), TestManager::new("{}"));
    let start = leg_start();
    let cut = start.cut.clone();
    let _one = old.manager.admit(agent_arrival("s-1", "one", ""), leg_start()).await.unwrap();
    let _below = old.manager.admit(agent_arrival("s-1", "below", "one"), start).await.unwrap();
    upgraded(&[&old, &new]).await;
    let _main = new.manager.admit(arrival("s-1"), leg_start()).await.unwrap();
    let agent = |name: &str| KillRequest { agent: Some(AgentId::new(name)), ..runaway() };
    let unknown = new.manager.kill("s-1", agent("three")).await.unwrap_err();
    let KillError::UnknownAgent { known } = unknown else { panic!("{unknown}") };
    assert_eq!(known.len(), 3, "main, one and below: {known:?}");
    let killed = new.manager.kill("s-1", agent("one")).await.unwrap();
    assert_eq!((killed.legs_cut, killed.descendants), (2, vec![AgentId::new("below")]));
    assert_eq!(cut.reason(), Some(CutReason::AgentKilled));
    assert!(new.manager.admit(agent_arrival("s-1", "below", "one"), leg_start()).await.is_err());
    new.manager.resume("s-1", Some("one"), "test").await.unwrap();
    assert_eq!(new.manager.get("s-1").await.len(), 1);
    assert!(old.manager.admit(agent_arrival("s-1", "one", ""), leg_start()).await.is_ok());
}

#[tokio::test]
async fn an_id_in_both_processes_is_one_session_and_ids_of_two_callers_are_ambiguous() {
    let (old, new) = (TestManager::new("{}"), TestManager::new("{}"));
    let _old = old.manager.admit(arrival("s-1"), leg_start()).await.unwrap();
    let _bob = old.manager.admit(arrival_of("cred:bob", "s-2"), leg_start()).await.unwrap();
    upgraded(&[&old, &new]).await;
    let leg = new.manager.admit(arrival("s-1"), leg_start()).await.unwrap();
    let _ada = new.manager.admit(arrival("s-2"), leg_start()).await.unwrap();
    assert_eq!(new.manager.list(&Filter::default()).await.sessions.len(), 4);
    let killed = new.manager.kill("s-1", runaway()).await.unwrap();
    assert_eq!((killed.uid, killed.legs_cut), (leg.session().uid(), 2));
    let refused = new.manager.kill("s-2", runaway()).await.unwrap_err();
    assert!(matches!(&refused, KillError::Ambiguous(uids) if uids.len() == 2), "{refused}");
}

#[tokio::test]
async fn a_stream_of_the_old_process_is_meant_though_the_new_one_has_ended_that_session() {
    let (old, new) = (TestManager::new("{completed_after: 1s}"), TestManager::new("{completed_after: 1s}"));
    let stream = old.manager.admit(arrival("s-1"), leg_start()).await.unwrap();
    upgraded(&[&old, &new]).await;
    let mut leg = new.manager.admit(arrival("s-1"), leg_start()).await.unwrap();
    leg.settle(&RequestSummary::default());
    drop(leg);
    new.clock.advance(Duration::from_secs(5));
    new.manager.reap().await;
    let killed = new.manager.kill("s-1", runaway()).await.unwrap();
    assert_eq!((killed.uid, killed.legs_cut), (stream.session().uid(), 1));
}

#[tokio::test]
async fn a_page_is_made_of_all_processes() {
    let (first, second, third) = (TestManager::new("{}"), TestManager::new("{}"), TestManager::new("{}"));
    upgraded(&[&first, &second, &third]).await;
    let mut legs = Vec::new();
    for round in 0..4 {
        for fixture in [&first, &second, &third] {
            legs.push(fixture.manager.admit(arrival(&format!("s-{round}")), leg_start()).await.unwrap());
        }
    }
    let mut uids: Vec<Uid> = legs.iter().map(|leg| leg.session().uid()).collect();
    uids.sort_by_key(|uid| std::cmp::Reverse(*uid));
    let (mut seen, mut filter) = (Vec::new(), Filter { limit: 5, ..Filter::default() });
    loop {
        let page = third.manager.list(&filter).await;
        seen.extend(page.sessions.iter().map(|session| session.uid));
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, uids);
    // Through the process in between.
    assert_eq!(third.manager.kill("s-0", runaway()).await.unwrap().legs_cut, 3);
    assert!(first.manager.admit(arrival("s-0"), leg_start()).await.is_err());
}

#[tokio::test]
async fn a_process_that_ended_or_hangs_does_not_hold_up_a_kill() {
    let (old, new) = (TestManager::new("{}"), TestManager::new("{}"));
    upgraded(&[&old, &new]).await;
    // A third peer that never reads its end.
    let (ours, hangs) = UnixStream::pair().unwrap();
    new.manager.connect_successor(ours).unwrap();
    let _leg = new.manager.admit(arrival("s-1"), leg_start()).await.unwrap();
    let begun = Instant::now();
    assert_eq!(new.manager.kill("s-1", runaway()).await.unwrap().legs_cut, 1);
    assert!(begun.elapsed() < CUT, "{:?}", begun.elapsed());
    // It still receives the order, and may read it later.
    let mut told = BufReader::new(hangs);
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert!(line.contains("\"kill\"") && line.contains("s-1"), "{line}");
    // A request of another version is answered, and an invalid line is skipped.
    told.get_mut().write_all(b"nonsense\n{\"id\":7,\"ask\":{\"dance\":{}}}\n").unwrap();
    line.clear();
    let read = tokio::task::spawn_blocking(move || {
        told.read_line(&mut line).unwrap();
        (line, told)
    });
    let (line, told) = read.await.unwrap();
    assert_eq!(line.trim_end(), r#"{"id":7,"answer":"unknown"}"#);
    drop(told);
    tokio::time::timeout(Duration::from_secs(5), async {
        while new.manager.upgrade_peers.lines.load().len() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert!(new.manager.has_upgrade_peers(), "the old one is still there");
}
