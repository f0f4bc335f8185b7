//! Limits together: what a request holds of several, and what it gives back.

use futures::FutureExt as _;

use super::settings::{LimitConfig, compile};
use super::{Admission, Class, Limits, Patience, Unit};
use crate::clock::Clock;
use crate::policy::facts::{Fact, Facts, Value};
use crate::settings::fault::Faults;

struct Caller(&'static str, &'static str);

impl Facts for Caller {
    fn get(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::ClientAddr => Value::text(Some(self.0)),
            Fact::RequestModel => Value::text(Some(self.1)),
            Fact::RequestStream => Value::Unknown,
            _ => Value::Absent,
        }
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
    let mut faults = Faults::default();
    compile(written, &mut faults).unwrap_or_else(|| panic!("{faults}"))
}

/// Admits a request, or says what is used up and for how long.
fn admit(limits: &Limits, caller: &Caller, tokens: u64, now: u64) -> Result<Admission, (Unit, Option<u64>)> {
    let mut admission = Admission::default();
    let admitted = limits.at_head(caller, now, &mut admission);
    let admitted = admitted.and_then(|()| limits.at_forward(caller, tokens, now, &mut admission));
    admitted.map(|()| admission).map_err(|refused| (refused.unit, refused.wait))
}

const ADA: Caller = Caller("10.0.0.1", "haiku");
const BOB: Caller = Caller("10.0.0.2", "haiku");

#[test]
fn each_name_has_its_own_counter() {
    let limits = limits(serde_json::json!([{"by": "client.addr", "requests": "2/s"}]));
    for caller in [&ADA, &BOB] {
        for _ in 0..2 {
            admit(&limits, caller, 0, 0).unwrap();
        }
        assert_eq!(admit(&limits, caller, 0, 0).unwrap_err(), (Unit::Requests, Some(500)));
    }
    admit(&limits, &ADA, 0, 500).unwrap();
}

#[test]
fn a_condition_chooses_and_what_cannot_be_decided_is_counted() {
    let limits = limits(serde_json::json!([
        {"by": "client.addr", "when": "request.model == 'opus'", "requests": "1/s"},
        {"name": "streams", "by": "client.addr", "when": "request.stream", "requests": "5/s"},
    ]));
    for _ in 0..5 {
        admit(&limits, &ADA, 0, 0).unwrap();
    }
    assert!(admit(&limits, &ADA, 0, 0).is_err(), "the body could not be read");
}

#[test]
fn a_refusal_takes_back_what_the_others_counted() {
    let limits = limits(serde_json::json!([
        {"by": "client.addr", "requests": "10/s"},
        {"by": "request.model", "requests": "10/s", "tokens": "100/s", "in_flight": 2},
    ]));
    let first = admit(&limits, &ADA, 60, 0).unwrap();
    let second = admit(&limits, &ADA, 40, 0).unwrap();
    assert_eq!(admit(&limits, &ADA, 1, 0).unwrap_err(), (Unit::InFlight, None));
    drop(second);
    assert_eq!(admit(&limits, &ADA, 1, 0).unwrap_err(), (Unit::Tokens, Some(10)));
    let (policy, state) = first.fields(0).unwrap();
    assert_eq!(
        policy,
        "\"client.addr\";q=10;w=1, \"request.model\";q=10;w=1, \"request.model tokens\";q=100;qu=\"tokens\";w=1"
    );
    // The one at the head has passed its limit; the others were taken back.
    assert_eq!(state, "\"client.addr\";r=6;t=1, \"request.model\";r=8;t=1, \"request.model tokens\";r=0;t=1");
}

#[test]
fn a_refusal_takes_back_all_if_all_counted_in_one_step() {
    let limits = limits(serde_json::json!([
        {"by": "client.addr", "requests": "2/h"},
        {"by": "request.model", "requests": "1/h"},
    ]));
    let once = |model: &'static str| {
        let mut admission = Admission::default();
        limits.at_once(&Caller("10.0.0.1", model), 0, 0, &mut admission).map(|()| admission)
    };
    let _first = once("opus").unwrap();
    assert!((0..5).all(|_| once("opus").is_err()));
    once("haiku").unwrap();
}

#[test]
fn tokens_are_corrected_and_what_is_over_makes_the_next_wait() {
    let limits = limits(serde_json::json!([{"by": "'all'", "tokens": "100/s"}]));
    let mut first = admit(&limits, &ADA, 500, 0).unwrap();
    assert_eq!(admit(&limits, &ADA, 10, 0).unwrap_err(), (Unit::Tokens, Some(4100)));
    first.correct_tokens(20);
    let mut second = admit(&limits, &ADA, 80, 0).unwrap();
    second.correct_tokens(280);
    second.correct_tokens(280);
    assert_eq!(admit(&limits, &ADA, 1, 0).unwrap_err(), (Unit::Tokens, Some(2010)));
    admit(&limits, &ADA, 0, 0).unwrap();
}

#[test]
fn an_estimate_beyond_all_measure_gives_back_only_itself() {
    let limits = limits(serde_json::json!([{"by": "'all'", "tokens": "2000/min"}]));
    for estimate in [1_000_000_000_000_000, u64::MAX] {
        let mut one = admit(&limits, &ADA, estimate, 0).unwrap();
        one.correct_tokens(804);
        // 804 and 1197 are one more than 2,000.
        assert_eq!(admit(&limits, &ADA, 1197, 0).unwrap_err(), (Unit::Tokens, Some(30)), "{estimate}");
        one.correct_tokens(0);
    }
}

#[test]
fn open_requests_end_when_they_are_dropped() {
    let limits = limits(serde_json::json!([{"by": "client.addr", "in_flight": 3}]));
    let mut held: Vec<_> = (0..3).map(|_| admit(&limits, &ADA, 0, 0).unwrap()).collect();
    assert_eq!(admit(&limits, &ADA, 0, 0).unwrap_err(), (Unit::InFlight, None));
    assert!(held[0].fields(0).is_none(), "open requests are no rate");
    held.pop();
    held.push(admit(&limits, &ADA, 0, 0).unwrap());
    assert!(admit(&limits, &ADA, 0, 0).is_err());
}

/// As [`admit`], for one that waits.
fn wait_for(limits: &Limits, caller: &Caller) -> Admission {
    let mut admission = Admission::default();
    admission.be_patient(Patience { until: 60_000, class: Class::Normal });
    limits.at_head(caller, 0, &mut admission).unwrap();
    limits.at_forward(caller, 0, 0, &mut admission).unwrap();
    admission
}

fn has_turn(admission: &mut Admission) -> bool {
    admission.turn(&Clock::system()).now_or_never().is_some()
}

#[test]
fn who_waits_for_one_limit_holds_no_place_of_another() {
    let limits = limits(serde_json::json!([
        {"name": "own", "by": "client.addr", "in_flight": 1},
        {"name": "everyone", "by": "'all'", "in_flight": 4},
    ]));
    let mut ada: Vec<_> = (0..4).map(|_| wait_for(&limits, &ADA)).collect();
    assert!(!ada[0].is_early() && ada[1..].iter_mut().all(|one| one.is_early() && !has_turn(one)));
    let mut bob = vec![wait_for(&limits, &BOB)];
    let more: Vec<_> = ["10.0.0.3", "10.0.0.4"].map(|addr| wait_for(&limits, &Caller(addr, ""))).into();
    bob.extend(more);
    assert!(bob.iter().all(|one| !one.is_early()), "three places of four were free");
    // Now both are full: Ada's second takes both places or none, and then the next one follows.
    drop(ada.remove(0));
    assert!(has_turn(&mut ada[0]) && !has_turn(&mut ada[1]));
    let mut carl = wait_for(&limits, &Caller("10.0.0.5", ""));
    assert!(!has_turn(&mut carl));
    drop(bob.pop());
    assert!(!has_turn(&mut ada[1]) && has_turn(&mut carl), "Ada has one already");
}

#[test]
fn two_that_need_the_same_places_do_not_wait_for_each_other() {
    let limits = limits(serde_json::json!([
        {"name": "own", "by": "client.addr", "in_flight": 1},
        {"name": "model", "by": "request.model", "in_flight": 1},
    ]));
    let mut slow = Admission::default();
    slow.be_patient(Patience { until: 60_000, class: Class::Normal });
    limits.at_head(&ADA, 0, &mut slow).unwrap();
    // It waits for its own limit while the body of the first one arrives.
    let mut second = wait_for(&limits, &ADA);
    assert!(!has_turn(&mut second));
    limits.at_forward(&ADA, 0, 0, &mut slow).unwrap();
    assert!(!slow.is_early());
    drop(slow);
    assert!(has_turn(&mut second));
}

#[test]
fn those_who_wait_follow_a_reload_and_newcomers_do_not_overtake() {
    let of = |in_flight: u32| limits(serde_json::json!([{"by": "client.addr", "in_flight": in_flight}]));
    let before = of(1);
    let _first = wait_for(&before, &ADA);
    let mut waiting: Vec<_> = (0..3).map(|_| wait_for(&before, &ADA)).collect();
    assert!(!waiting.iter_mut().any(has_turn));
    let after = of(3).with_levels_of(&before);
    assert!(!has_turn(&mut waiting[0]), "it may yet be rejected");
    after.take_over(&before);
    let newcomer = wait_for(&after, &ADA);
    assert!(newcomer.is_early(), "others came first");
    assert_eq!(waiting.iter_mut().map(has_turn).collect::<Vec<_>>(), [true, true, false]);
    limits(serde_json::json!([])).take_over(&after);
    assert!(has_turn(&mut waiting[2]), "there is no limit any longer");
}

#[test]
fn one_name_does_not_take_all_places_of_those_that_wait() {
    let limits = limits(serde_json::json!([{"by": "client.addr", "requests": "1/s", "in_flight": 1}]));
    let _first = wait_for(&limits, &ADA);
    let mut waiting: Vec<_> = (0..50).map(|_| wait_for(&limits, &ADA)).collect();
    let more = limits_of_open_only();
    let _other = wait_for(&more, &BOB);
    waiting.extend((0..257).map(|_| wait_for(&more, &BOB)));
    let begun: Vec<_> = waiting.iter_mut().map(Admission::begin_to_wait).collect();
    assert_eq!(begun.iter().filter(|begun| **begun).count(), 50 + 256);
    waiting.truncate(200);
    let mut next = wait_for(&more, &BOB);
    assert!(next.begin_to_wait(), "some have left");
}

fn limits_of_open_only() -> Limits {
    limits(serde_json::json!([{"by": "client.addr", "in_flight": 1}]))
}

#[test]
fn levels_survive_a_change_of_the_numbers() {
    let before = limits(serde_json::json!([{"by": "client.addr", "requests": "2/min"}]));
    admit(&before, &ADA, 0, 0).unwrap();
    admit(&before, &ADA, 0, 0).unwrap();
    let after =
        limits(serde_json::json!([{"by": "client.addr", "requests": "3/min"}])).with_levels_of(&before);
    admit(&after, &ADA, 0, 0).unwrap();
    assert!(admit(&after, &ADA, 0, 0).is_err());
    let other = limits(serde_json::json!([{"by": "client.addr", "requests": "3/h"}])).with_levels_of(&before);
    admit(&other, &ADA, 0, 0).unwrap();
}

#[test]
fn faults_name_their_key() {
    let faults = |json: serde_json::Value| {
        let mut faults = Faults::default();
        assert!(compile(serde_json::from_value(json).unwrap(), &mut faults).is_none() || !faults.is_empty());
        faults.to_string()
    };
    for (json, expected) in [
        (
            serde_json::json!([{"by": "client.addr"}]),
            "limits[0]: it limits nothing (add requests, tokens, in_flight, sessions or session_starts)",
        ),
        (
            serde_json::json!([{"by": "client.adr", "in_flight": 1}]),
            "limits[0].by: client.adr is not known (did you mean client.addr?)",
        ),
        (
            serde_json::json!([{"by": "client.addr", "when": "1", "in_flight": 1}]),
            "limits[0].when: a condition is true or false, \
            and this is an int (compare it with something)",
        ),
        (
            serde_json::json!([{"by": "client.addr", "in_flight": 0}]),
            "limits[0].in_flight: zero would refuse every request \
            (write a number above zero)",
        ),
        (
            serde_json::json!([{"by": "request.model", "sessions": 1}]),
            "limits[0].by: request.model is not known yet when this is asked \
            (the body of the request has not been read then)",
        ),
        (
            serde_json::json!([{"by": "client.addr", "burst": 1, "in_flight": 1}]),
            "limits[0].burst: it goes with requests, which \
            is absent (add requests: 100/s, or remove it)",
        ),
        (
            serde_json::json!([{"by": "client.addr", "requests": "0/s"}]),
            "limits[0].requests: it is zero, or too large to count \
            exactly (write numbers above zero, or a shorter time)",
        ),
        (
            serde_json::json!([{"by": "client.addr", "in_flight": 1}, {"by": "client.addr", "requests": "1/s"}]),
            "limits[1]: another \
            limit is called 'client.addr', too (give it a name of its own with name:)",
        ),
    ] {
        assert_eq!(faults(json), expected);
    }
}

#[test]
fn many_threads_never_pass_a_limit() {
    let limits = limits(serde_json::json!([
        {"by": "client.addr", "requests": "100/h", "in_flight": 50},
        {"by": "request.model", "tokens": "1000/h"},
    ]));
    let passed = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    if admit(&limits, &ADA, 20, 0).is_ok() {
                        passed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(passed.into_inner(), 50, "1000 tokens at 20 each");
}
