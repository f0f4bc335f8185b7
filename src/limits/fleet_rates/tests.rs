//! Lua and memory agree; instances together never pass a limit, whatever happens to Redis.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::bucket::tests::CASES;
use super::super::bucket::{Bucket, Rate};
use super::*;
use crate::limits::settings::{LimitConfig, compile};
use crate::limits::{Limits, Patience};
use crate::policy::facts::{Fact, Facts, Value};
use crate::redis::Call;
use crate::redis::testing::Server;
use crate::settings::fault::Faults;

struct Nothing;

impl Facts for Nothing {
    fn get(&self, _: Fact) -> Value<'_> {
        Value::Absent
    }
    fn entry(&self, _: Fact, _: &str) -> Value<'_> {
        Value::Absent
    }
    fn has(&self, _: Fact, _: &str) -> bool {
        false
    }
    fn count(&self, _: Fact) -> usize {
        0
    }
}

/// An instance with limits of its own, as after an equal configuration.
struct Instance {
    fleet: FleetRates,
    limits: Limits,
}

impl Instance {
    async fn new(server: &Server, name: &str, limits: &serde_json::Value) -> Self {
        let store = RateStore::new(server.link().await, server.keys(), name.to_owned());
        let written: Vec<LimitConfig> = serde_json::from_value(limits.clone()).unwrap();
        let limits = compile(written, &mut Faults::default()).unwrap();
        Self { fleet: FleetRates::new(store, Clock::system()), limits }
    }

    async fn admit(&self, tokens: u64) -> Result<Admission, Refused> {
        self.admit_or(tokens, OnUnavailable::Share, 0).await
    }

    async fn admit_or(
        &self,
        tokens: u64,
        otherwise: OnUnavailable,
        ahead: u64,
    ) -> Result<Admission, Refused> {
        let mut admission = Admission::default();
        admission.share(self.fleet.lease());
        let now = self.fleet.clock.now().as_millis();
        if ahead > 0 {
            admission.be_patient(Patience { until: now + ahead, class: crate::limits::Class::Normal });
        }
        self.limits.at_head(&Nothing, now, &mut admission)?;
        self.limits.at_forward(&Nothing, tokens, now, &mut admission)?;
        if admission.asks() {
            self.fleet.ask(&mut admission, otherwise).await?;
        }
        Ok(admission)
    }

    async fn beat(&self) {
        let mut turn = self.fleet.turn.lock().await;
        self.fleet.report(&mut turn, Mode::Report).await.unwrap();
    }
}

async fn instances<const N: usize>(server: &Server, limits: serde_json::Value) -> [Instance; N] {
    let mut all = Vec::new();
    for number in 0..N {
        all.push(Instance::new(server, &format!("i{number}"), &limits).await);
    }
    // So that each knows of the others.
    for one in &all {
        let mut turn = one.fleet.turn.lock().await;
        one.fleet.call(&mut turn, Mode::Report, &[]).await.unwrap();
    }
    all.try_into().unwrap_or_else(|_| unreachable!())
}

fn entry(name: &str, (count, burst, period): (u64, u64, u64), own: i64, cost: u64) -> RateEntry {
    let name = name.to_owned();
    RateEntry {
        name,
        writer: 1,
        count,
        burst,
        period,
        own,
        saved: own,
        level: 0,
        keep: 0,
        cost,
        ahead: 0,
        most: 0,
    }
}

/// The table of `bucket`, a thousand times slower, because Redis has its own clock: what passes while the test runs is less than a
/// millisecond of the table.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_cases_in_lua() {
    let server = Server::start();
    let link = server.link().await;
    let store = RateStore::new(Arc::clone(&link), server.keys(), "one".into());
    let mut number = 0;
    for (case, ((count, burst, period), steps)) in CASES.into_iter().enumerate() {
        let (name, mut at, mut own) = (format!("case{case}"), 0_i64, 0);
        let key = format!("{}{name}", server.keys().rates());
        for (now, cost, expected) in steps {
            let now = i64::try_from(*now * 1000).unwrap();
            if link.call(Call::new("EXISTS", [key.clone()])).await.unwrap().as_u64() == Some(1) {
                let passed = (at - now).to_string();
                link.call(Call::new("HINCRBY", [key.clone(), "at".into(), passed])).await.unwrap();
            }
            at = now;
            number += 1;
            let entry = entry(&name, (count, burst, period * 1000), own, *cost);
            let wait = match store.call(number, Mode::Ask, false, &[entry]).await.unwrap().0 {
                RateOutcome::Taken(..) => {
                    own += i64::try_from(*cost).unwrap();
                    None
                }
                RateOutcome::Refused(_, wait) => Some(wait),
                RateOutcome::Rebuilding => panic!("it was never wiped"),
            };
            let rounded = wait.map(|wait| wait.div_ceil(1000));
            assert_eq!(rounded, *expected, "case {case} at {now}: {wait:?}");
        }
    }
}

/// A step of a history: so many units are taken, or given back of the last ones, or there is a beat.
#[derive(Clone, Debug)]
enum Step {
    Take(u64),
    Correct(u64),
    Beat,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..40_u64).prop_map(Step::Take),
        3 => (0..60_u64).prop_map(Step::Correct),
        1 => Just(Step::Beat),
    ]
}

/// So slow that nothing flows off while the test runs.
fn slow(name: &str, tokens: u64) -> serde_json::Value {
    serde_json::json!([{"name": name, "by": "'all'", "tokens": format!("{tokens}/day")}])
}

#[test]
fn one_instance_and_memory_agree_on_every_history() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = Server::start();
    let count = std::sync::atomic::AtomicU32::new(0);
    let config = Config { cases: 60, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(step(), 1..60), |steps| {
            let name = format!("h{}", count.fetch_add(1, Ordering::Relaxed));
            runtime.block_on(async {
                let one = Instance::new(&server, &name, &slow(&name, 300)).await;
                let rate = Rate::new(300, 300, 24 * 3_600_000).unwrap();
                let (mut memory, mut open) = (Bucket::default(), Vec::new());
                for step in &steps {
                    match step {
                        Step::Take(cost) => {
                            let shared = one.admit(*cost).await;
                            assert_eq!(
                                shared.is_ok(),
                                memory.take(&rate, *cost, 0).is_ok(),
                                "{step:?} {steps:?}"
                            );
                            open.extend(shared.ok().map(|admission| (admission, *cost)));
                        }
                        Step::Correct(tokens) => {
                            let Some((mut admission, cost)) = open.pop() else { continue };
                            admission.correct_tokens(*tokens);
                            match tokens.checked_sub(cost) {
                                Some(more) => memory.add(&rate, more),
                                None => memory.give_back(&rate, cost - tokens),
                            }
                        }
                        Step::Beat => one.beat().await,
                    }
                }
            });
            Ok(())
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_instances_at_once_never_pass_a_limit_and_reach_it() {
    let server = Server::start();
    let limits =
        serde_json::json!([{"by": "'all'", "requests": "500/day"}, {"by": "'some'", "tokens": "6k/day"}]);
    let all: Arc<[Instance; 3]> = Arc::new(instances(&server, limits).await);
    let mut open = tokio::task::JoinSet::new();
    for number in 0..900_usize {
        let all = Arc::clone(&all);
        open.spawn(async move { all[number % 3].admit(10).await.is_ok() });
    }
    let mut admitted = 0;
    while let Some(is_admitted) = open.join_next().await {
        admitted += usize::from(is_admitted.unwrap());
    }
    assert!((450..=500).contains(&admitted), "{admitted}");
    // What others were granted and did not use comes back.
    for one in &*all {
        one.beat().await;
        one.beat().await;
    }
    tokio::time::sleep(Duration::from_millis(REPEATED + 10)).await;
    while all[0].admit(10).await.is_ok() {
        admitted += 1;
    }
    assert_eq!(admitted, 500);
    for one in &all[1..] {
        let refused = one.admit(10).await.unwrap_err();
        assert!(refused.wait.is_some_and(|wait| wait > 60_000), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn far_from_the_limit_most_requests_ask_nobody() {
    let server = Server::start();
    let [one] = instances(&server, slow("calls", 1_000_000)).await;
    for _ in 0..1000 {
        one.admit(10).await.unwrap();
    }
    let calls = one.fleet.turn.lock().await.number;
    assert!(calls < 30, "{calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_wait_takes_its_slot_ahead() {
    let server = Server::start();
    let [one, two] =
        instances(&server, serde_json::json!([{"by": "'all'", "requests": "2/s", "burst": 1}])).await;
    one.admit(0).await.unwrap();
    let mut early = two.admit_or(0, OnUnavailable::Share, 900).await.unwrap();
    assert!(early.is_early());
    assert!(one.admit_or(0, OnUnavailable::Share, 900).await.is_err_and(|refused| refused.wait > Some(900)));
    let begun = tokio::time::Instant::now();
    early.turn(&one.fleet.clock).await;
    assert!(begun.elapsed() > Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_twice_or_late_changes_nothing() {
    let server = Server::start();
    let store = RateStore::new(server.link().await, server.keys(), "one".into());
    let rate = (1, 100, 86_400_000);
    let level = |outcome: RateOutcome| match outcome {
        RateOutcome::Taken(_, rates) => rates[0].level.div_ceil(86_400_000),
        outcome => panic!("{outcome:?}"),
    };
    let ask = |own, cost| vec![entry("a", rate, own, cost)];
    assert_eq!(level(store.call(2, Mode::Ask, false, &ask(0, 10)).await.unwrap().0), 10);
    for late in [1, 2] {
        assert!(store.call(late, Mode::Ask, true, &ask(0, 50)).await.is_err());
    }
    // The answer was lost: the instance does not know that it has taken ten, and takes them anew.
    assert_eq!(level(store.call(3, Mode::Ask, true, &ask(0, 10)).await.unwrap().0), 10);
    assert_eq!(level(store.call(4, Mode::Report, true, &ask(10, 0)).await.unwrap().0), 10);
    assert_eq!(level(store.call(5, Mode::Report, true, &ask(4, 0)).await.unwrap().0), 4, "given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_that_is_gone_was_granted_counts_as_taken() {
    let server = Server::start();
    let [one, gone] = instances(&server, slow("gone", 1000)).await;
    gone.admit(1).await.unwrap();
    drop(gone);
    let link = server.link().await;
    let expired = [server.keys().rate_instances(), "until:i1".into(), "1".into()];
    link.call(Call::new("HSET", expired)).await.unwrap();
    one.beat().await;
    let mut admitted = 0;
    while one.admit(1).await.is_ok() {
        admitted += 1;
    }
    assert!((900..1000).contains(&admitted), "{admitted}: its grant of up to 62 is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_wiped_learns_the_levels_again() {
    let server = Server::start();
    let [one, two] = instances(&server, slow("wiped", 100)).await;
    for _ in 0..30 {
        one.admit(1).await.unwrap();
        two.admit(1).await.unwrap();
    }
    for fleet in [&one, &two, &one] {
        fleet.beat().await;
    }
    server.link().await.call(Call::new("FLUSHALL", [])).await.unwrap();
    // Nothing is granted yet, and the part of each begins without room.
    assert!(one.admit(1).await.is_err());
    let refused = one.admit_or(1, OnUnavailable::Refuse, 0).await.unwrap_err();
    assert!(refused.allowed.contains("redis does not answer"), "{refused}");
    for fleet in [&one, &two] {
        fleet.beat().await;
        fleet.beat().await;
    }
    let mut admitted = 0;
    until_granted(&one, &mut admitted).await;
    for fleet in [&one, &two, &one, &two] {
        while fleet.admit(1).await.is_ok() {
            admitted += 1;
        }
        fleet.beat().await;
        fleet.beat().await;
        tokio::time::sleep(Duration::from_millis(REPEATED + 10)).await;
    }
    assert!((36..=40).contains(&admitted), "60 of 100 were taken before: {admitted}");
}

/// Waits until something is granted after a wipe.
async fn until_granted(one: &Instance, admitted: &mut u32) {
    let granted = async {
        while one.admit(1).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        *admitted += 1;
    };
    tokio::time::timeout(Duration::from_secs(10), granted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_each_has_its_part_and_nothing_hangs() {
    let server = Server::start();
    let limits = serde_json::json!([{"by": "'all'", "requests": "600/min"}]);
    let [one, two] = instances(&server, limits).await;
    one.admit(0).await.unwrap();
    two.admit(0).await.unwrap();
    drop(server);
    let begun = tokio::time::Instant::now();
    let mut admitted = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        for fleet in [&one, &two] {
            admitted += u64::from(fleet.admit(0).await.is_ok());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let passed = u64::try_from(begun.elapsed().as_millis()).unwrap();
    // Before, each was granted 64 at most.
    assert!((2..=128 + passed / 100 + 2).contains(&admitted), "{admitted} in {passed} ms");
    assert!(passed < 12_000, "no request hangs: {passed} ms");
    assert!(one.admit_or(0, OnUnavailable::Open, 0).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_beyond_all_measure_gives_back_only_itself() {
    let server = Server::start();
    let [one] = instances(&server, serde_json::json!([{"by": "'all'", "tokens": "2000/h"}])).await;
    for estimate in [1_000_000_000_000_000, u64::MAX] {
        let mut admission = one.admit(estimate).await.unwrap();
        admission.correct_tokens(804);
        one.beat().await;
        assert!(one.admit(1210).await.is_err(), "{estimate}");
        admission.correct_tokens(0);
        one.beat().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_is_waited_for_once_and_not_by_each() {
    let server = Server::start();
    let [one] = instances(&server, serde_json::json!([{"by": "'all'", "requests": "100/h"}])).await;
    server.hang();
    let begun = std::time::Instant::now();
    futures::future::join_all((0..40).map(|_| one.admit(0))).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
