//! Sessions that limits count: whoever joins a live session is never refused, and every end gives its place back.

use super::*;
use crate::limits::settings::{LimitConfig, compile_all};
use crate::limits::{AdmissionConfig, Limits, Unit};
use crate::policy::facts::{Fact, Facts, Value};
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

fn limits(json: serde_json::Value) -> Limits {
    let written: Vec<LimitConfig> = serde_json::from_value(json).unwrap();
    compile_all(written, AdmissionConfig::default(), Vec::new(), &mut Faults::default()).0.unwrap()
}

async fn admit(fixture: &TestManager, limits: &Limits, request: SessionRequest) -> Result<Leg, Option<Unit>> {
    let counted = || limits.of_sessions(&Nothing);
    let admitted = fixture.manager.admit_within(request, leg_start(), &counted).await;
    admitted.map_err(|denied| match denied {
        Denied::Limited(refused) => Some(refused.unit),
        _ => None,
    })
}

#[tokio::test]
async fn every_end_gives_the_place_back() {
    let limits = limits(serde_json::json!([{"by": "'all'", "sessions": 1}]));
    let fixture = TestManager::new("{idle_timeout: 1h, max_duration: 10h, max_active: 1}");
    let begin = async |id: &str| {
        let leg = admit(&fixture, &limits, arrival(id)).await.unwrap();
        let other = admit(&fixture, &limits, arrival("other")).await.unwrap_err();
        assert_eq!(other, Some(Unit::Sessions), "{id}");
        let joined = admit(&fixture, &limits, arrival(id)).await.unwrap();
        assert!(Arc::ptr_eq(joined.session(), leg.session()));
        leg
    };
    drop(begin("idle").await);
    fixture.clock.advance(HOUR);
    fixture.manager.reap().await;
    let leg = begin("killed").await;
    fixture.kill("killed").await.unwrap();
    drop(leg);
    let _cut_later = begin("long").await;
    fixture.clock.advance(10 * HOUR);
    fixture.manager.reap().await;
    drop(begin("next").await);
    fixture.clock.advance(HOUR);
    // The same id begins anew: its old place is free before it takes another one.
    drop(begin("next").await);
    let gap = SessionRequest { idle_gap: Some(MINUTE), ..arrival("next") };
    fixture.clock.advance(2 * MINUTE);
    assert_eq!(admit(&fixture, &limits, gap).await.unwrap().session().incarnation(), 3);
    assert_eq!(admit(&fixture, &limits, arrival("other")).await.unwrap_err(), Some(Unit::Sessions));
}

#[tokio::test]
async fn only_what_begins_counts_as_a_start() {
    let limits = limits(serde_json::json!([{"by": "'all'", "session_starts": "2/min"}]));
    let fixture = TestManager::new("{idle_timeout: 1h}");
    for _ in 0..5 {
        admit(&fixture, &limits, arrival("one")).await.unwrap();
    }
    admit(&fixture, &limits, arrival("two")).await.unwrap();
    assert_eq!(admit(&fixture, &limits, arrival("three")).await.unwrap_err(), Some(Unit::SessionStarts));
    admit(&fixture, &limits, arrival("two")).await.unwrap();
    fixture.clock.advance(MINUTE / 2);
    admit(&fixture, &limits, arrival("three")).await.unwrap();
}

#[test]
fn many_requests_of_new_sessions_at_once_never_pass_a_limit_nor_refuse_each_other() {
    let limits = limits(serde_json::json!([{"by": "'all'", "sessions": 3, "session_starts": "100/min"}]));
    // 90 of the 100 starts are used up.
    for round in 0..30 {
        let fixture = TestManager::new("{idle_timeout: 1h}");
        let (limits, manager) = (&limits, &fixture.manager);
        let legs: Vec<_> = std::thread::scope(|scope| {
            let begin = |number: usize| {
                let request = arrival(&format!("{round}-{}", number % 3));
                let counted = || limits.of_sessions(&Nothing);
                manager.admit_within(request, leg_start(), &counted).now_or_never().unwrap().unwrap()
            };
            let threads: Vec<_> = (0..6).map(|number| scope.spawn(move || begin(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(limits.of_sessions(&Nothing).check(0).unwrap_err().unit, Unit::Sessions);
        drop(legs);
        manager.shutdown().now_or_never();
    }
}
