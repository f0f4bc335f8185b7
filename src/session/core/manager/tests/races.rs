//! Races between many threads: what must never happen, and what must happen exactly once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use futures::executor::block_on;

use super::*;
use crate::ids::AgentId;
use crate::session::testing::agent_arrival;

#[test]
fn nobody_is_admitted_after_kill_has_returned() {
    for round in 0..400 {
        let fixture = TestManager::new("{}");
        if round % 2 == 0 {
            block_on(fixture.visit("s-1"));
        }
        let (killed, late, start) = (AtomicBool::new(false), AtomicUsize::new(0), Barrier::new(5));
        let cuts: Vec<_> = thread::scope(|threads| {
            let knock = || {
                start.wait();
                let mut cuts = Vec::new();
                for _ in 0..200 {
                    let after = killed.load(Ordering::SeqCst);
                    let leg = leg_start();
                    let cut = leg.cut.clone();
                    if let Ok(leg) = block_on(fixture.manager.admit(arrival("s-1"), leg)) {
                        late.fetch_add(usize::from(after), Ordering::SeqCst);
                        cuts.push((cut, leg));
                    }
                }
                cuts
            };
            let knocking: Vec<_> = (0..4).map(|_| threads.spawn(knock)).collect();
            start.wait();
            // Before the first admission there is no session to kill.
            while block_on(fixture.kill("s-1")).is_err() {
                thread::yield_now();
            }
            killed.store(true, Ordering::SeqCst);
            knocking.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(late.load(Ordering::SeqCst), 0);
        assert!(cuts.iter().all(|(cut, _)| cut.reason() == Some(CutReason::Killed)));
        drop(cuts);
        fixture.clock.advance(SECOND);
        block_on(fixture.manager.reap());
        assert_eq!(fixture.records().len(), 1);
        assert_eq!(fixture.manager.active(), 0);
    }
}

#[test]
fn no_agent_of_a_subtree_is_admitted_after_its_kill_has_returned() {
    for round in 0..200 {
        let fixture = TestManager::new("{}");
        let speak = |agent: &str, parent: &str| {
            let leg = leg_start();
            let cut = leg.cut.clone();
            block_on(fixture.manager.admit(agent_arrival("s-1", agent, parent), leg)).map(|leg| (cut, leg))
        };
        drop(speak("a", "").unwrap());
        let (killed, late, start) = (AtomicBool::new(false), AtomicUsize::new(0), Barrier::new(5));
        let knock = |thread: usize| {
            start.wait();
            let mut cuts = Vec::new();
            for number in 0..30 {
                let after = killed.load(Ordering::SeqCst);
                // Known agents, new agents, and descendants of both.
                let (agent, parent) = match (thread, number % 2) {
                    (0, _) => ("a".to_owned(), String::new()),
                    (_, 0) => (format!("a-{thread}-{number}"), "a".to_owned()),
                    _ => (format!("a-{thread}-{number}"), format!("a-{thread}-{}", number - 1)),
                };
                if let Ok(admitted) = speak(&agent, &parent) {
                    late.fetch_add(usize::from(after), Ordering::SeqCst);
                    cuts.push(admitted);
                }
                assert!(speak("b", "").is_ok(), "nobody else is refused");
            }
            cuts
        };
        let cuts: Vec<_> = thread::scope(|threads| {
            let knocking: Vec<_> = (0..4)
                .map(|thread| {
                    let knock = &knock;
                    threads.spawn(move || knock(thread))
                })
                .collect();
            start.wait();
            if round % 2 == 0 {
                thread::yield_now();
            }
            let request = KillRequest { agent: Some(AgentId::new("a")), ..order() };
            block_on(fixture.manager.kill("s-1", request)).unwrap();
            killed.store(true, Ordering::SeqCst);
            knocking.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(late.load(Ordering::SeqCst), 0);
        assert!(cuts.iter().all(|(cut, _)| cut.reason() == Some(CutReason::AgentKilled)));
    }
}

#[test]
fn limits_are_exact_under_a_crowd() {
    for _ in 0..50 {
        let fixture = TestManager::new("{max_active: 7, max_active_per_principal: 5}");
        let start = Barrier::new(4);
        let legs: Vec<Leg> = thread::scope(|threads| {
            let crowd: Vec<_> = (0..4)
                .map(|thread| {
                    let (fixture, start) = (&fixture, &start);
                    threads.spawn(move || {
                        start.wait();
                        let one = |i| {
                            let who = if (i + thread) % 2 == 0 { "cred:ada" } else { "cred:bob" };
                            let id = format!("s-{thread}-{i}");
                            block_on(fixture.manager.admit(arrival_of(who, &id), leg_start())).ok()
                        };
                        (0..20).filter_map(one).collect::<Vec<_>>()
                    })
                })
                .collect();
            crowd.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!((legs.len(), fixture.manager.active()), (7, 7));
        let ada = legs.iter().filter(|leg| leg.session().principal().as_str() == "cred:ada").count();
        assert!((2..=5).contains(&ada), "{ada}");
    }
}

#[test]
fn one_session_and_one_record_however_many_come() {
    for _ in 0..50 {
        let fixture = TestManager::new("idle_timeout: 1m");
        let start = Barrier::new(4);
        let all_at_once = |work: &(dyn Fn() + Sync)| {
            thread::scope(|threads| {
                for _ in 0..4 {
                    threads.spawn(|| {
                        start.wait();
                        work();
                    });
                }
            });
        };
        all_at_once(&|| drop(block_on(fixture.admit("s-1")).unwrap()));
        assert_eq!(fixture.manager.stats().by_client["curl"], 1);
        fixture.clock.advance(MINUTE);
        all_at_once(&|| block_on(fixture.manager.reap()));
        fixture.clock.advance(SECOND);
        all_at_once(&|| block_on(fixture.manager.reap()));
        assert_eq!((fixture.records().len(), fixture.records()[0].request_count), (1, 4));
        assert_eq!(fixture.manager.active(), 0);
    }
}
