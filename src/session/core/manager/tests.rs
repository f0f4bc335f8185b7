//! The contract of the manager with the proxy and operators.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use crate::ids::{BackendName, PrincipalId, Scope};
use crate::protocol::facts::tools::ToolCounts;
use crate::session::testing::{TestManager, arrival, arrival_of, leg_start, settings};
use crate::session::*;
use crate::summary::RequestSummary;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

impl TestManager {
    async fn admit(&self, id: &str) -> Result<Leg, Denied> {
        self.manager.admit(arrival(id), leg_start()).await
    }

    /// A session with one finished request.
    async fn visit(&self, id: &str) -> Arc<Session> {
        let mut leg = self.admit(id).await.unwrap();
        leg.settle(&RequestSummary::default());
        leg.session().clone()
    }

    async fn kill(&self, target: &str) -> Result<Killed, KillError> {
        self.manager.kill(target, order()).await
    }

    async fn state(&self, target: &str) -> SessionState {
        self.manager.get(target).await[0].state
    }
}

fn order() -> KillRequest {
    KillRequest { reason: "runaway".to_owned(), by: "user:sec".to_owned(), ..KillRequest::default() }
}

#[tokio::test]
async fn manager_get_or_create() {
    let fixture = TestManager::new("{}");
    let first = fixture.admit("s-1").await.unwrap();
    let second = fixture.admit("s-1").await.unwrap();
    assert_eq!(first.session().uid(), second.session().uid());
    assert_ne!(first.id(), second.id());
    assert_eq!((second.session().requests(), second.session().open_legs()), (2, 2));
    let other = fixture.admit("s-2").await.unwrap();
    assert_ne!(first.session().uid(), other.session().uid());
    assert_eq!(fixture.names(), ["session_started", "session_started"]);
}

#[test]
fn manager_admits_a_known_session_without_waiting() {
    let fixture = TestManager::new("{}");
    let first = fixture.admit("s-1").now_or_never().unwrap();
    assert!(fixture.admit("s-1").now_or_never().unwrap().is_ok());
    drop(first);
}

#[tokio::test]
async fn manager_keeps_principals_apart() {
    let fixture = TestManager::new("{}");
    let ada = fixture.admit("s-1").await.unwrap();
    let bob = fixture.manager.admit(arrival_of("cred:bob", "s-1"), leg_start()).await.unwrap();
    assert_ne!(ada.session().uid(), bob.session().uid());
    assert_eq!(fixture.manager.get("s-1").await.len(), 2);
    let Err(KillError::Ambiguous(uids)) = fixture.kill("s-1").await else { panic!("must be ambiguous") };
    assert_eq!(uids.len(), 2);
    fixture.kill(&ada.session().uid().to_string()).await.unwrap();
    assert_eq!(bob.session().state(), SessionState::Active);
    // The only active one of that id now.
    let scoped = KillRequest { scope: Some(Scope::new("cred:ada")), ..order() };
    assert!(matches!(fixture.manager.kill("s-1", scoped).await, Err(KillError::AlreadyEnded { .. })));
    assert_eq!(fixture.kill("s-1").await.unwrap().uid, bob.session().uid());
    let Err(ResumeError::Ambiguous(uids)) = fixture.manager.resume("s-1", None, "user:sec").await else {
        panic!("must be ambiguous")
    };
    fixture.manager.resume(&uids[0].to_string(), None, "user:sec").await.unwrap();
    assert_eq!(fixture.manager.kills().len(), 1);
}

#[tokio::test]
async fn a_name_that_is_a_uid_and_an_id_is_ambiguous_for_every_order() {
    let fixture = TestManager::new("{}");
    let victim = fixture.admit("victim").await.unwrap();
    let uid = victim.session().uid().to_string();
    let other = fixture.manager.admit(arrival_of("cred:eve", &uid), leg_start()).await.unwrap();
    let by = |by| SessionRef::new(&uid, Some(by));
    assert_eq!(fixture.manager.get(&uid).await.len(), 2);
    assert!(matches!(fixture.kill(&uid).await, Err(KillError::Ambiguous(uids)) if uids.len() == 2));
    assert_eq!(fixture.manager.get(by(NamedBy::Uid)).await[0].uid, victim.session().uid());
    assert_eq!(fixture.manager.get(by(NamedBy::Id)).await[0].uid, other.session().uid());

    let killed = fixture.manager.kill(by(NamedBy::Id), order()).await.unwrap();
    assert_eq!((killed.uid, victim.session().state()), (other.session().uid(), SessionState::Active));
    // After its end the name is still ambiguous.
    assert!(matches!(fixture.kill(&uid).await, Err(KillError::Ambiguous(_))));
    fixture.manager.kill(by(NamedBy::Uid), order()).await.unwrap();
    assert_eq!(victim.session().state(), SessionState::Killed);

    let both = fixture.manager.resume(&uid, None, "user:sec").await.unwrap_err();
    assert!(matches!(both, ResumeError::Ambiguous(uids) if uids.len() == 2));
    fixture.manager.resume(by(NamedBy::Uid), None, "user:sec").await.unwrap();
    let left = fixture.manager.kills();
    assert_eq!((left.len(), left[0].uid), (1, other.session().uid()));
    // One order is left that the name can mean.
    fixture.manager.resume(&uid, None, "user:sec").await.unwrap();
    assert!(fixture.manager.kills().is_empty());
}

#[tokio::test]
async fn an_id_of_very_many_callers_is_ambiguous() {
    let fixture = TestManager::new("max_active: 5000");
    for number in 0..2000 {
        let mut leg =
            fixture.manager.admit(arrival_of(&format!("cred:{number}"), "s"), leg_start()).await.unwrap();
        leg.settle(&RequestSummary::default());
    }
    assert!(matches!(fixture.kill("s").await, Err(KillError::Ambiguous(uids)) if uids.len() > 1));
    let all = fixture.manager.active.by_id("s");
    for session in &all[1..] {
        fixture.kill(&session.uid().to_string()).await.unwrap();
    }
    fixture.manager.reap().await;
    // Nobody has looked at all of them, so that one is left is not certain.
    assert!(matches!(fixture.kill("s").await, Err(KillError::Ambiguous(_))));
    assert_eq!(fixture.kill(&all[0].uid().to_string()).await.unwrap().session_id.as_str(), "s");
}

#[tokio::test]
async fn manager_rejects_killed_session() {
    let fixture = TestManager::new("{}");
    fixture.visit("s-1").await;
    fixture.kill("s-1").await.unwrap();
    let Err(Denied::Killed { order }) = fixture.admit("s-1").await else { panic!("must be refused") };
    assert_eq!((order.reason.as_str(), order.by.as_str()), ("runaway", "user:sec"));
    assert!(fixture.admit("s-2").await.is_ok());
    // The order outlives the session and ends by the clock.
    fixture.clock.advance(24 * HOUR - SECOND);
    fixture.manager.reap().await;
    assert!(matches!(fixture.admit("s-1").await, Err(Denied::Killed { .. })));
    fixture.clock.advance(SECOND);
    assert!(fixture.manager.kills().is_empty());
    assert!(fixture.admit("s-1").await.is_ok());
}

#[tokio::test]
async fn manager_allows_timed_out_session_id() {
    let fixture = TestManager::new("idle_timeout: 1m");
    let old = fixture.visit("s-1").await;
    fixture.clock.advance(MINUTE);
    fixture.manager.reap().await;
    assert_eq!(old.state(), SessionState::TimedOut);
    let leg = fixture.admit("s-1").await.unwrap();
    assert_eq!((leg.session().incarnation(), leg.session().previous()), (2, Some(old.uid())));
    // The same when the old one has long been only in the store.
    drop(leg);
    fixture.clock.advance(MINUTE);
    fixture.manager.reap().await;
    fixture.clock.advance(MINUTE);
    fixture.manager.reap().await;
    assert!(fixture.manager.closing.by_id("s-1").is_empty());
    assert_eq!(fixture.admit("s-1").await.unwrap().session().incarnation(), 3);
    assert_eq!(fixture.manager.get("s-1").await[0].incarnation, 3);
    assert_eq!(fixture.manager.get(&old.uid().to_string()).await[0].incarnation, 1);
}

#[tokio::test]
async fn manager_kill_session() {
    let fixture = TestManager::new("{}");
    let start = leg_start();
    let cut = start.cut.clone();
    let mut leg = fixture.manager.admit(arrival("s-1"), start).await.unwrap();
    let killed = fixture.kill("s-1").await.unwrap();
    assert_eq!((killed.state, killed.legs_cut, killed.by.as_str()), (SessionState::Killed, 1, "user:sec"));
    assert_eq!(cut.reason(), Some(CutReason::Killed));
    assert_eq!((fixture.manager.active(), fixture.state("s-1").await), (0, SessionState::Killed));
    // The record waits for the leg and includes its bytes.
    assert!(fixture.records().is_empty());
    leg.session().add_bytes_out(10);
    leg.settle(&RequestSummary { backend: Some(BackendName::new("ollama")), ..RequestSummary::default() });
    leg.settle(&RequestSummary::default());
    drop(leg);
    let records = fixture.records();
    assert_eq!((records.len(), records[0].bytes_out, &*records[0].backend), (1, 10, "ollama"));
    fixture.clock.advance(SECOND);
    fixture.manager.reap().await;
    fixture.manager.reap().await;
    assert_eq!(fixture.records().len(), 1);
    assert_eq!(fixture.names(), ["session_started", "session_killed", "session_ended"]);
    assert_eq!(fixture.manager.get("s-1").await[0].bytes_out, 10);
    assert_eq!(
        fixture.kill("s-1").await.unwrap_err(),
        KillError::AlreadyEnded { state: SessionState::Killed }
    );
    assert_eq!(fixture.kill("nobody").await.unwrap_err(), KillError::Unknown);
}

#[tokio::test]
async fn a_leg_that_does_not_settle_delays_the_record_only_so_long() {
    let fixture = TestManager::new("{}");
    let mut leg = fixture.admit("s-1").await.unwrap();
    leg.session().add_bytes_in(5);
    fixture.kill("s-1").await.unwrap();
    fixture.manager.reap().await;
    assert!(fixture.records().is_empty());
    fixture.clock.advance(super::SETTLE);
    fixture.manager.reap().await;
    let records = fixture.records();
    assert_eq!((records.len(), records[0].bytes_in), (1, 5));
    leg.session().add_bytes_in(5);
    leg.settle(&RequestSummary::default());
    drop(leg);
    fixture.manager.reap().await;
    assert_eq!(fixture.records().len(), 1);
}

#[tokio::test]
async fn force_blocks_what_has_ended() {
    let fixture = TestManager::new("idle_timeout: 1m");
    fixture.visit("s-1").await;
    fixture.clock.advance(MINUTE);
    fixture.manager.reap().await;
    assert_eq!(
        fixture.kill("s-1").await.unwrap_err(),
        KillError::AlreadyEnded { state: SessionState::TimedOut }
    );
    assert!(fixture.manager.kills().is_empty());
    let killed = fixture.manager.kill("s-1", KillRequest { force: true, ..order() }).await.unwrap();
    assert_eq!((killed.state, killed.legs_cut), (SessionState::TimedOut, 0));
    assert!(matches!(fixture.admit("s-1").await, Err(Denied::Killed { .. })));
    assert_eq!(fixture.records().len(), 1);
}

#[tokio::test]
async fn a_resume_lifts_all_but_permanent_blocks() {
    let fixture = TestManager::new("kill_block: {mode: until_resumed}");
    fixture.visit("s-1").await;
    let killed = fixture.kill("s-1").await.unwrap();
    assert_eq!(killed.blocked_until, None);
    fixture.clock.advance(10_000 * HOUR);
    fixture.manager.reap().await;
    assert!(matches!(fixture.admit("s-1").await, Err(Denied::Killed { .. })));
    fixture.manager.resume("s-1", None, "user:sec").await.unwrap();
    assert_eq!(
        fixture.manager.resume("s-1", None, "user:sec").await.unwrap_err(),
        ResumeError::NotKilled { agents: Vec::new() }
    );
    assert!(fixture.admit("s-1").await.is_ok());
    let block =
        |mode, duration| Some(Block { mode, duration: crate::settings::units::DurationText::secs(duration) });
    let request = KillRequest { block: block(BlockMode::Permanent, 0), ..order() };
    fixture.manager.kill("s-1", request).await.unwrap();
    assert_eq!(fixture.manager.resume("s-1", None, "user:sec").await.unwrap_err(), ResumeError::Permanent);
    let request = KillRequest { block: block(BlockMode::Duration, 0), ..order() };
    assert_eq!(fixture.manager.kill("s-1", request).await.unwrap_err(), KillError::EmptyBlock);
}

#[tokio::test]
async fn manager_stats() {
    let fixture = TestManager::new("{}");
    fixture.visit("s-1").await;
    fixture.kill("s-1").await.unwrap();
    let mut leg = fixture.admit("s-2").await.unwrap();
    leg.session().add_bytes_in(3);
    let _open = fixture.admit("s-2").await.unwrap();
    leg.settle(&RequestSummary {
        backend: Some(BackendName::new("ollama")),
        status: Some(500),
        ..RequestSummary::default()
    });
    let stats = fixture.manager.stats();
    assert_eq!((stats.active, stats.open_legs, stats.kills, stats.kills_in_force), (1, 1, 1, 1));
    assert_eq!((stats.requests, stats.errors, stats.bytes_in), (3, 1, 3));
    assert_eq!((stats.by_state[&SessionState::Active], stats.by_state[&SessionState::Killed]), (1, 1));
    assert_eq!((stats.by_backend["ollama"], stats.by_client["curl"]), (1, 2));
    assert_eq!(serde_json::to_value(&stats).unwrap()["by_state"]["timed_out"], 0);
}

#[tokio::test]
async fn manager_list_active() {
    let fixture = TestManager::new("{}");
    for id in ["s-1", "s-2", "s-3"] {
        fixture.visit(id).await;
    }
    fixture.kill("s-2").await.unwrap();
    let ids = async |filter: &Filter| {
        let page = fixture.manager.list(filter).await;
        let ids: Vec<String> = page.sessions.iter().map(|session| session.id.to_string()).collect();
        (ids, page.next_cursor)
    };
    assert_eq!(ids(&Filter::in_state(SessionState::Active)).await.0, ["s-3", "s-1"]);
    assert_eq!(ids(&Filter::in_state(SessionState::Killed)).await.0, ["s-2"]);
    let page = Filter { limit: 2, ..Filter::default() };
    let (first, cursor) = ids(&page).await;
    assert_eq!(first, ["s-3", "s-2"]);
    assert_eq!(ids(&Filter { cursor, ..page }).await, (vec!["s-1".to_owned()], None));
    let of = |client: &str| Filter { client: Some(client.to_owned()), ..Filter::default() };
    assert_eq!((ids(&of("curl")).await.0.len(), ids(&of("codex")).await.0.len()), (3, 0));
}

#[tokio::test]
async fn manager_cleanup() {
    let fixture =
        TestManager::new("{idle_timeout: 1m, retention: 1h, kill_block: {mode: duration, duration: 2h}}");
    fixture.visit("idle").await;
    let busy = fixture.admit("busy").await.unwrap();
    fixture.visit("killed").await;
    fixture.kill("killed").await.unwrap();
    fixture.clock.advance(MINUTE - SECOND);
    busy.session().touch(fixture.clock.now());
    fixture.clock.advance(SECOND);
    fixture.manager.reap().await;
    assert_eq!(fixture.state("idle").await, SessionState::TimedOut);
    assert_eq!(fixture.state("busy").await, SessionState::Active);
    fixture.clock.advance(2 * HOUR);
    fixture.manager.reap().await;
    fixture.clock.advance(HOUR);
    fixture.manager.reap().await;
    assert!(fixture.manager.list(&Filter::default()).await.sessions.iter().all(|s| s.id.as_str() == "busy"));
    assert!(fixture.manager.kills().is_empty());
    assert_eq!(fixture.records().len(), 3);
}

#[tokio::test]
async fn a_silent_leg_does_not_keep_its_session() {
    let fixture = TestManager::new("idle_timeout: 1m");
    let start = leg_start();
    let cut = start.cut.clone();
    let leg = fixture.manager.admit(arrival("s-1"), start).await.unwrap();
    fixture.clock.advance(MINUTE);
    fixture.manager.reap().await;
    assert_eq!(cut.reason(), Some(CutReason::TimedOut));
    drop(leg);
    assert_eq!(fixture.records()[0].end_reason, EndReason::IdleTimeout);
}

#[tokio::test]
async fn max_duration_ends_also_busy_sessions() {
    let fixture = TestManager::new("{idle_timeout: 1h, max_duration: 1m}");
    let start = leg_start();
    let cut = start.cut.clone();
    let leg = fixture.manager.admit(arrival("s-1"), start).await.unwrap();
    fixture.clock.advance(MINUTE);
    leg.session().touch(fixture.clock.now());
    fixture.manager.reap().await;
    assert_eq!(cut.reason(), Some(CutReason::TimedOut));
    assert_eq!(leg.session().state(), SessionState::TimedOut);
    drop(leg);
    assert_eq!(fixture.records()[0].end_reason, EndReason::MaxDuration);
}

#[tokio::test]
async fn completed_after_waits_for_open_legs() {
    let fixture = TestManager::new("completed_after: 10s");
    let leg = fixture.admit("s-1").await.unwrap();
    fixture.clock.advance(MINUTE);
    fixture.manager.reap().await;
    assert_eq!(leg.session().state(), SessionState::Active);
    drop(leg);
    fixture.clock.advance(10 * SECOND);
    fixture.manager.reap().await;
    let records = fixture.records();
    assert_eq!(
        (records[0].state, records[0].end_reason),
        (SessionState::Completed, EndReason::CompletedAfter)
    );
}

#[tokio::test]
async fn a_derived_id_after_a_gap_is_another_session() {
    let fixture = TestManager::new("{}");
    let derived = || SessionRequest { idle_gap: Some(10 * MINUTE), ..arrival("auto-1") };
    let first = fixture.manager.admit(derived(), leg_start()).await.unwrap();
    fixture.clock.advance(11 * MINUTE);
    // An open leg keeps the session active.
    let same = fixture.manager.admit(derived(), leg_start()).await.unwrap();
    assert_eq!(same.session().uid(), first.session().uid());
    let uid = first.session().uid();
    drop((first, same));
    fixture.clock.advance(10 * MINUTE);
    let again = fixture.manager.admit(derived(), leg_start()).await.unwrap();
    assert_eq!(again.session().uid(), uid);
    drop(again);
    fixture.clock.advance(10 * MINUTE + SECOND);
    let next = fixture.manager.admit(derived(), leg_start()).await.unwrap();
    assert_eq!((next.session().previous(), next.session().incarnation()), (Some(uid), 2));
    assert_eq!(fixture.records()[0].end_reason, EndReason::IdleGap);
}

#[tokio::test]
async fn shutdown_ends_all_and_admits_nobody() {
    let fixture = TestManager::new("{}");
    fixture.visit("s-1").await;
    let start = leg_start();
    let cut = start.cut.clone();
    let leg = fixture.manager.admit(arrival("s-2"), start).await.unwrap();
    let settling = tokio::spawn(async move {
        let reason = cut.soft().await;
        drop(leg);
        reason
    });
    fixture.manager.shutdown().await;
    assert_eq!(settling.await.unwrap(), CutReason::Shutdown);
    let records = fixture.records();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.end_reason == EndReason::Shutdown));
    assert!(matches!(fixture.admit("s-3").await, Err(Denied::ShuttingDown)));
    assert_eq!(fixture.manager.list(&Filter::in_state(SessionState::Completed)).await.sessions.len(), 2);
}

#[tokio::test]
async fn limits_hold_and_give_places_back() {
    let fixture = TestManager::new("{max_active: 2, max_active_per_principal: 1}");
    let _ada = fixture.admit("s-1").await.unwrap();
    assert!(fixture.admit("s-1").await.is_ok(), "a known session is never one too many");
    let denied = |result: Result<Leg, Denied>| match result {
        Err(Denied::Capacity { what, limit }) => (what, limit),
        other => panic!("{other:?}"),
    };
    assert_eq!(denied(fixture.admit("s-2").await), (Limit::ActivePerPrincipal, 1));
    let as_bob = || fixture.manager.admit(arrival_of("cred:bob", "b"), leg_start());
    let as_eve = || fixture.manager.admit(arrival_of("cred:eve", "e"), leg_start());
    let bob = as_bob().await.unwrap();
    assert_eq!(denied(as_eve().await), (Limit::Active, 2));
    fixture.kill("b").await.unwrap();
    drop(bob);
    assert!(as_eve().await.is_ok());
    fixture.manager.reconfigure(settings("max_active_per_principal: 2"));
    assert!(fixture.admit("s-2").await.is_ok());
}

#[tokio::test]
async fn when_full_the_longest_idle_without_an_open_leg_ends() {
    let fixture = TestManager::new("{max_active: 4, max_active_per_principal: 3}");
    let _open = fixture.admit("open").await.unwrap();
    for id in ["old", "older"] {
        drop(fixture.admit(id).await.unwrap());
        fixture.clock.advance(SECOND);
    }
    // The last activity counts, not the last start.
    drop(fixture.admit("old").await.unwrap());
    fixture.clock.advance(SECOND);
    drop(fixture.admit("new").await.unwrap());
    let ended = |fixture: &TestManager| {
        let records = fixture.records();
        records.iter().map(|record| (record.session_id.to_string(), record.end_reason)).collect::<Vec<_>>()
    };
    assert_eq!(ended(&fixture), [("older".to_owned(), EndReason::Capacity)]);
    assert_eq!(fixture.records()[0].state, SessionState::TimedOut);
    fixture.clock.advance(SECOND);
    for (who, id) in [("cred:bob", "b-1"), ("cred:bob", "b-2")] {
        drop(fixture.manager.admit(arrival_of(who, id), leg_start()).await.unwrap());
        fixture.clock.advance(SECOND);
    }
    assert_eq!(ended(&fixture)[1..], [("old".to_owned(), EndReason::Capacity)], "of all, Ada's goes");
    let capacity = fixture.manager.capacity();
    assert_eq!((capacity.all, fixture.manager.active()), (1.0, 4));
    assert_eq!(capacity.evicted.map(|(_, count)| count), [1, 1]);
    assert!(fixture.admit("older").await.is_ok(), "its id may be used again");
}

#[tokio::test]
async fn one_constant_credential_has_one_limit_however_the_others_change() {
    let fixture = TestManager::new("max_active_per_principal: 10");
    let mut legs = Vec::new();
    let mut refused = 0;
    for number in 0..100 {
        let mut arrival = arrival_of(&format!("cred:both-{number}"), "s");
        let accounts = [format!("cred:{:x}", number * 7919), "cred:constant".to_owned()];
        arrival.accounts = accounts.map(PrincipalId::new).into();
        match fixture.manager.admit(arrival, leg_start()).await {
            Ok(leg) => legs.push(leg),
            Err(Denied::Capacity { what: Limit::ActivePerPrincipal, .. }) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((legs.len(), refused), (10, 90));
    for uid in legs.iter().map(|leg| leg.session().uid().to_string()).collect::<Vec<_>>() {
        fixture.kill(&uid).await.unwrap();
    }
    assert_eq!((fixture.manager.active(), fixture.manager.capacity().largest_principal), (0, 0.0));
}

#[tokio::test]
async fn among_many_sessions_an_old_one_goes() {
    let fixture = TestManager::new("{max_active: 1000, max_active_per_principal: 1000}");
    for number in 0..1000 {
        drop(fixture.admit(&format!("s-{number}")).await.unwrap());
        fixture.clock.advance(Duration::from_millis(100));
    }
    for number in 0..300 {
        drop(fixture.admit(&format!("new-{number}")).await.unwrap());
    }
    assert_eq!((fixture.manager.active(), fixture.records().len()), (1000, 300));
    let place = |record: &Arc<Record>| record.session_id.as_str()[2..].parse::<usize>().ok();
    let old =
        fixture.records().iter().filter(|record| place(record).is_some_and(|place| place < 500)).count();
    assert!(old >= 295, "{old} of 300 are of the older half");
}

#[tokio::test]
async fn an_address_that_starts_sessions_too_fast_waits() {
    let fixture = TestManager::new("starts_per_address: {per_second: 1, burst: 2}");
    let from = |id: &str, address: [u8; 4]| {
        let arrival = SessionRequest { counted_from: Some(address.into()), ..arrival(id) };
        fixture.manager.admit(arrival, leg_start())
    };
    assert!(from("a", [192, 0, 2, 1]).await.is_ok() && from("b", [192, 0, 2, 1]).await.is_ok());
    let Err(Denied::StartRate { wait }) = from("c", [192, 0, 2, 1]).await else { panic!("too fast") };
    assert_eq!(wait, SECOND);
    assert!(from("a", [192, 0, 2, 1]).await.is_ok(), "a session that is there is not started");
    assert!(from("c", [192, 0, 2, 2]).await.is_ok());
    fixture.clock.advance(SECOND);
    assert!(from("d", [192, 0, 2, 1]).await.is_ok());
}

#[tokio::test]
async fn a_slow_reader_of_the_feed_is_told_what_it_lost() {
    let fixture = TestManager::new("max_active_per_principal: 10000");
    let mut feed = fixture.manager.events();
    for i in 0..1500 {
        drop(fixture.admit(&format!("s-{i}")).await.unwrap());
    }
    assert!(matches!(feed.recv().await, Err(tokio::sync::broadcast::error::RecvError::Lagged(_))));
    assert!(feed.recv().await.is_ok());
}

#[tokio::test]
async fn the_record_begins_with_the_seeds_keys() {
    let fixture = TestManager::new("{}");
    let shown = [(BackendName::new("mistral"), "https://api.mistral.ai".into())];
    fixture.manager.set_backend_urls(shown.into_iter().collect());
    let mut leg = fixture.admit("s-1").await.unwrap();
    let mut tools = ToolCounts::default();
    tools.add("Bash", 1);
    leg.settle(&RequestSummary {
        backend: Some(BackendName::new("mistral")),
        model: Some("m-1".to_owned()),
        status: Some(429),
        tools,
        ttfb: Some(Duration::from_millis(420)),
        ..RequestSummary::default()
    });
    fixture.kill("s-1").await.unwrap();
    let json = serde_json::to_string(&fixture.records()[0]).unwrap();
    let keys = [
        "session_id",
        "state",
        "duration_ms",
        "request_count",
        "bytes_in",
        "bytes_out",
        "backend",
        "client_addr",
        "schema",
    ];
    let places: Vec<usize> = keys.iter().map(|key| json.find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(places.is_sorted() && places[0] == 1, "{json}");
    let record: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(record["backend"], "https://api.mistral.ai");
    assert_eq!(record["backends"], serde_json::json!([{"name": "mistral", "requests": 1}]));
    assert_eq!((&record["client"], &record["agents"][0]), (&"curl/8.5.0".into(), &"main".into()));
    assert_eq!(record["errors"]["429"], 1);
    assert_eq!(record["usage"]["models"][0]["model"], "m-1");
    assert_eq!((&record["ended_by"], &record["end_reason"]), (&"user:sec".into(), &"killed".into()));
    assert_eq!(record["kill"]["reason"], "runaway");
    assert!(record["ttfb_ms"]["p50"].as_u64().unwrap().abs_diff(420) < 53);
    assert_eq!((record.get("cost_usd"), &record["tools"]), (None, &serde_json::json!({"Bash": 1})));
    let event = serde_json::to_value(Event::Ended(fixture.records()[0].clone())).unwrap();
    assert_eq!((&event["type"], &event["session_id"]), (&"ended".into(), &"s-1".into()));
}

mod deadlines;
mod limited;
mod races;
