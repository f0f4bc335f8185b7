//! Limits together: what a request holds of several, and what it gives back.

use super::settings::{LimitConfig, compile};
use super::{Admission, Limits, Unit};
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
            and this is a int (compare it with something)",
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
