//! Memory and Redis agree on every history of a budget; calls that come twice or late change nothing.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::redis::Call;
use crate::redis::testing::Server;

fn claim(budget: &str, name: &str, limit: u64, need: u64) -> Claim {
    let key = AccountKey::new(budget.into(), CostUnit::Tokens, name.into(), 7);
    Claim { key, limit, need, floor: need / 2, step: 0, soft: u64::MAX, lasts: Lasts::Forever }
}

async fn instance(server: &Server, name: &str) -> FleetBudgets {
    let store = BudgetStore::new(server.link().await, server.keys(), name.to_owned());
    FleetBudgets::new(Arc::new(Ledger::of_fleet()), store)
}

async fn beat(fleet: &FleetBudgets) {
    fleet.report(&mut *fleet.turn.lock().await, true).await.unwrap();
}

/// What is spent and held in all of an account, as this instance knows it.
fn known(ledger: &Ledger, claim: &Claim) -> (u64, u64) {
    let account = ledger.accounts_of(std::slice::from_ref(claim))[0];
    (account.spent(), account.held + account.held_by_others)
}

#[test]
fn names_are_read_as_they_were_written() {
    for (budget, name, start) in [("a:b", "x\"y\n}", 0), ("a", "", u128::MAX), ("", "{b}", 1)] {
        let key = AccountKey::new(budget.into(), CostUnit::Usd, name.into(), start);
        assert_eq!(key_of(&name_of(&key)), Some(key));
    }
}

/// A step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// This instance reserves so much of both accounts, or of the second one.
    Reserve(usize, u64, bool),
    /// A request that is open costs this share of its need, in per cent; more than 100 for one that is dropped.
    Settle(prop::sample::Index, u64),
    /// This instance reports.
    Beat(usize),
}

fn step(instances: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..instances, 1..60_u64, any::<bool>()).prop_map(|(at, need, both)| Step::Reserve(at, need, both)),
        4 => (any::<prop::sample::Index>(), 0..130_u64).prop_map(|(which, share)| Step::Settle(which, share)),
        1 => (0..instances).prop_map(Step::Beat),
    ]
}

/// Runs a history on instances that share a store, and on one ledger in memory.
async fn run(server: &Server, run: u32, instances: usize, steps: &[Step]) {
    let mut fleets = Vec::new();
    for at in 0..instances {
        fleets.push(instance(server, &format!("{run}-{at}")).await);
    }
    let (outer, inner) = (format!("outer{run}"), format!("inner{run}"));
    let claims = |need: u64, both: bool| {
        let mut claims = vec![claim(&inner, "n", 400, need)];
        if both {
            claims.push(claim(&outer, "m", 300, need));
        }
        claims
    };
    let memory = Arc::new(Ledger::default());
    let mut open = Vec::new();
    for step in steps {
        match step {
            Step::Reserve(at, need, both) => {
                let shared = fleets[*at].reserve(claims(*need, *both)).await;
                let alone = memory.reserve_alone(claims(*need, *both));
                match (shared, alone) {
                    (Ok(shared), Ok(alone)) => open.push((*need, shared, alone)),
                    (Err(short), Err(expected)) if instances == 1 => assert_eq!(short, expected),
                    // Others were granted what they do not use.
                    (Err(short), Ok(_)) if instances > 1 => assert_eq!(short.shortage, Shortage::Held),
                    (Err(_), Err(_)) => {}
                    (shared, alone) => panic!("{shared:?}, in memory {alone:?}"),
                }
            }
            Step::Settle(which, share) if !open.is_empty() => {
                let (need, mut shared, mut alone) = open.swap_remove(which.index(open.len()));
                if *share <= 100 {
                    shared.settle(|_| need * share / 100);
                    alone.settle(|_| need * share / 100);
                }
            }
            Step::Settle(..) => {}
            Step::Beat(at) => beat(&fleets[*at]).await,
        }
    }
    open.clear();
    // What is granted goes back, then each reads what the others have reported.
    for _ in 0..3 {
        for fleet in &fleets {
            beat(fleet).await;
        }
    }
    for claim in claims(1, true) {
        let expected = known(&memory, &claim);
        assert!(expected.0 <= claim.limit && expected.1 == 0);
        for fleet in &fleets {
            assert_eq!(known(&fleet.ledger, &claim), expected, "{claim:?}");
        }
    }
}

fn histories(instances: usize, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = Server::start();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let count = std::sync::atomic::AtomicU32::new(0);
    TestRunner::new(config)
        .run(&prop::collection::vec(step(instances), 1..80), |steps| {
            let at = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            runtime.block_on(run(&server, at, instances, &steps));
            Ok(())
        })
        .unwrap();
}

#[test]
fn one_instance_and_memory_agree_on_every_history() {
    histories(1, 60);
}

#[test]
fn three_instances_never_pass_a_limit_and_agree_in_the_end() {
    histories(3, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_twice_or_late_changes_nothing() {
    let server = Server::start();
    let store = BudgetStore::new(server.link().await, server.keys(), "one".into());
    let entry =
        |own, hold| Entry { name: "a".into(), ttl: 0, own, hold, floor: 0, need: 0, limit: 100, most: 0 };
    let booked = |answer: crate::redis::budgets::Answer| match answer.outcome {
        Outcome::Booked(accounts) => accounts[0],
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!(booked(store.book(2, Mode::Report, false, &[entry(10, 5)]).await.unwrap()), [10, 5, 5]);
    for late in [1, 2] {
        assert!(store.book(late, Mode::Report, true, &[entry(3, 50)]).await.is_err());
    }
    assert_eq!(booked(store.book(3, Mode::Report, true, &[entry(10, 5)]).await.unwrap()), [10, 5, 5]);
    assert_eq!(booked(store.book(4, Mode::Report, true, &[entry(12, 0)]).await.unwrap()), [12, 0, 0]);
    let full = store.book(5, Mode::Ask, true, &[Entry { need: 89, ..entry(12, 89) }]).await.unwrap();
    assert_eq!(full.outcome, Outcome::Spent(0, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_wiped_learns_all_again_even_of_those_that_are_gone() {
    let server = Server::start();
    let (one, two) = (instance(&server, "one").await, instance(&server, "two").await);
    let gone = instance(&server, "gone").await;
    let of = |need| vec![claim("a", "n", 1000, need)];
    for (fleet, cost) in [(&one, 30), (&two, 50), (&gone, 70)] {
        fleet.reserve(of(100)).await.unwrap().settle(|_| cost);
        beat(fleet).await;
    }
    gone.leave().await;
    drop(gone);
    beat(&one).await;
    beat(&two).await;
    assert_eq!(known(&one.ledger, &of(1)[0]).0, 150);
    let open = one.reserve(of(200)).await.unwrap();
    server.link().await.call(crate::redis::Call::new("FLUSHALL", [])).await.unwrap();
    let (lost, spent) = (two.reserve(vec![claim("new", "n", 1000, 10)]).await.unwrap_err(), 150);
    assert_eq!(lost.shortage, Shortage::Held, "nothing is granted until all have written what they know");
    for _ in 0..3 {
        beat(&two).await;
        beat(&one).await;
    }
    for fleet in [&one, &two] {
        assert_eq!(known(&fleet.ledger, &of(1)[0]), (spent, 200));
    }
    drop(open);
    for _ in 0..2 {
        beat(&one).await;
        beat(&two).await;
    }
    assert_eq!(known(&two.ledger, &of(1)[0]), (spent, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_is_waited_for_once_and_not_by_each() {
    let server = Server::start();
    let fleet = instance(&server, "one").await;
    server.hang();
    let begun = std::time::Instant::now();
    let asked = (0..40).map(|number| fleet.reserve(vec![claim("b", &number.to_string(), 100, 10)]));
    let answers = futures::future::join_all(asked).await;
    assert!(
        answers.iter().all(|answer| answer.as_ref().is_err_and(|short| short.shortage == Shortage::Unknown))
    );
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_accounts_that_are_gone_are_removed_and_many_are_read_in_parts() {
    let server = Server::start();
    let (link, keys) = (server.link().await, server.keys());
    let fleet = instance(&server, "here").await;
    drop(fleet.reserve(vec![claim("b", "live", 1000, 10)]).await.unwrap());
    // As sessions of long ago have left them, whose accounts have expired.
    for from in (1..=5_000).step_by(100) {
        let members =
            (from..from + 100).flat_map(|number: i32| [number.to_string(), format!("old-{number}")]);
        let call = Call::new("ZADD", std::iter::once(keys.budget_changes()).chain(members));
        link.call(call).await.unwrap();
    }
    let changes = async || -> usize {
        let range = [keys.budget_changes(), "-inf".into(), "+inf".into()];
        let all: Vec<String> = link.call(Call::new("ZRANGEBYSCORE", range)).await.unwrap().convert().unwrap();
        all.len()
    };
    assert_eq!(changes().await, 5_001);
    beat(&fleet).await;
    assert_eq!(changes().await, 5_001 - 200, "one part in a beat");
    assert!(fleet.turn.lock().await.seen < 5_000, "a newcomer has not read all of them in one beat");
    for _ in 0..40 {
        beat(&fleet).await;
    }
    assert_eq!(changes().await, 1, "what lives stays");
    assert!(fleet.turn.lock().await.seen > 5_000);
}

#[test]
fn what_others_have_spent_is_remembered_of_so_many_accounts_only() {
    let mut turn = Turn::default();
    for number in 0..MAX_OTHERS + 10 {
        turn.remember(number.to_string(), vec![("s:other".into(), 1)]);
    }
    assert_eq!(turn.others.len(), MAX_OTHERS);
    turn.remember((MAX_OTHERS + 9).to_string(), Vec::new());
    assert_eq!(turn.others.len(), MAX_OTHERS - 1);
}
