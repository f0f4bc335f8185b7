//! The lifecycle of one session.

use super::*;
use crate::clock::Clock;
use crate::error::ErrorKind;
use crate::ids::BackendName;
use crate::protocol::facts::usage::Usage;
use crate::session::core::packed_requests::PackedRequest;
use crate::session::testing::{arrival, leg_start};
use crate::summary::RequestSummary;

const SECOND: Duration = Duration::from_secs(1);

fn session(clock: &Clock) -> Session {
    Session::new(arrival("s-1"), None, clock.now())
}

fn open(live: &Session, clock: &Clock, id: u64) -> Arc<Cut> {
    let start = leg_start();
    let cut = start.cut.clone();
    live.open(LegId(id), &Identity::default(), start, clock.now(), clock).unwrap();
    cut
}

fn end(live: &Session, clock: &Clock, reason: EndReason) -> Option<Vec<Arc<Cut>>> {
    live.end(End { at: clock.now(), reason, order: None }, |_, _| true)
}

/// Returns true if the session had ended and waited only for this leg.
fn close(live: &Session, clock: &Clock, leg: u64, report: Option<RequestSummary>) -> bool {
    live.close(LegId(leg), report.as_ref(), false, clock.now()).is_some_and(|closed| closed.was_last)
}

#[test]
fn session_new() {
    let clock = Clock::manual();
    let live = session(&clock);
    assert_eq!(live.state(), SessionState::Active);
    assert_eq!((live.incarnation(), live.previous()), (1, None));
    assert_eq!((live.requests(), live.bytes_in(), live.bytes_out(), live.open_legs()), (0, 0, 0, 0));
    let next = Session::new(arrival("s-1"), Some(live.as_previous()), clock.now());
    assert_eq!((next.incarnation(), next.previous()), (2, Some(live.uid())));
}

#[test]
fn session_touch() {
    let clock = Clock::manual();
    let live = session(&clock);
    clock.advance(SECOND);
    let late = clock.now();
    live.touch(late);
    live.touch(Moment::default());
    assert_eq!(live.last_activity(), late);
}

#[test]
fn session_add_bytes() {
    let live = session(&Clock::manual());
    live.add_bytes_in(3);
    live.add_bytes_in(4);
    live.add_bytes_out(5);
    assert_eq!((live.bytes_in(), live.bytes_out()), (7, 5));
}

#[test]
fn session_kill() {
    let clock = Clock::manual();
    let live = session(&clock);
    open(&live, &clock, 1);
    assert_eq!(end(&live, &clock, EndReason::Killed).unwrap().len(), 1);
    assert_eq!(live.state(), SessionState::Killed);
    assert!(end(&live, &clock, EndReason::Killed).is_none());
    assert!(live.open(LegId(2), &Identity::default(), leg_start(), clock.now(), &clock).is_err());
    assert_eq!(live.requests(), 1);
}

#[test]
fn session_set_state() {
    let clock = Clock::manual();
    for reason in [EndReason::IdleTimeout, EndReason::CompletedAfter, EndReason::Killed] {
        let live = session(&clock);
        assert!(live.end(End { at: clock.now(), reason, order: None }, |_, _| false).is_none());
        assert_eq!(live.state(), SessionState::Active);
        assert!(end(&live, &clock, reason).is_some());
        assert_eq!(live.state(), reason.state());
        assert!(end(&live, &clock, EndReason::MaxDuration).is_none());
        assert_eq!(live.state(), reason.state());
    }
}

#[test]
fn session_duration() {
    let clock = Clock::manual();
    let live = session(&clock);
    clock.advance(3 * SECOND);
    assert_eq!(live.duration(clock.now()), 3 * SECOND);
    end(&live, &clock, EndReason::CompletedAfter);
    clock.advance(SECOND);
    assert_eq!(live.duration(clock.now()), 3 * SECOND);
}

#[test]
fn session_idle_time() {
    let clock = Clock::manual();
    let live = session(&clock);
    clock.advance(3 * SECOND);
    assert_eq!(live.idle(clock.now()), 3 * SECOND);
    open(&live, &clock, 1);
    clock.advance(SECOND);
    assert_eq!(live.idle(clock.now()), SECOND);
}

#[test]
fn session_snapshot() {
    let clock = Clock::manual();
    let live = session(&clock);
    open(&live, &clock, 1);
    live.routed(LegId(1), &BackendName::new("mistral"), Some("m-1"));
    clock.advance(SECOND);
    let shot = live.view(&clock, true);
    assert_eq!((shot.open_legs, shot.duration_ms, shot.idle_ms), (1, 1000, 1000));
    let leg = &shot.legs.as_ref().unwrap()[0];
    assert_eq!((&*leg.path, leg.model.as_deref()), ("/v1/messages", Some("m-1")));
    let report = RequestSummary {
        status: Some(429),
        error: Some(ErrorKind::ClientGone),
        usage: Some(Usage { input_tokens: 7, ..Usage::default() }),
        ..RequestSummary::default()
    };
    assert!(!close(&live, &clock, 1, Some(report)));
    let shot = live.view(&clock, true);
    assert_eq!((shot.request_count, shot.error_count, shot.open_legs), (1, 1, 0));
    let json = serde_json::to_value(&shot).unwrap();
    assert_eq!(json["backends"]["mistral"], 1);
    assert_eq!(json["models"]["m-1"], 1);
    assert_eq!(json["usage"]["input_tokens"], 7);
    assert_eq!(json["requests"][0]["status"], 429);
    assert_eq!(json["requests"][0]["backend"], "mistral");
    assert_eq!(json["principal"]["via"], "credential");
    assert_eq!(json["flags"], serde_json::json!([]));
    assert!(json.get("ended_at").is_none());
    assert_eq!((shot.brief().agents, shot.brief().legs, shot.brief().requests), (None, None, None));
}

#[test]
fn a_leg_that_is_dropped_is_counted_once() {
    let clock = Clock::manual();
    let live = session(&clock);
    open(&live, &clock, 1);
    end(&live, &clock, EndReason::Killed);
    assert!(close(&live, &clock, 1, None));
    assert!(!close(&live, &clock, 1, None));
    assert_eq!(live.view(&clock, true).requests.unwrap()[0].outcome, "dropped");
}

#[test]
fn what_a_client_varies_is_bounded() {
    let clock = Clock::manual();
    let live = session(&clock);
    for i in 0..200 {
        let mut start = leg_start();
        start.path = format!("/{}?token=secret", "é".repeat(1000));
        live.open(LegId(i), &Identity::default(), start, clock.now(), &clock).unwrap();
        let report = RequestSummary { model: Some(format!("model-{i}")), ..RequestSummary::default() };
        close(&live, &clock, i, Some(report));
    }
    let shot = live.view(&clock, true);
    assert_eq!((shot.models.len(), shot.models["other"]), (33, 168));
    let requests = shot.requests.unwrap();
    assert_eq!(requests.len(), 20);
    assert_eq!(&*requests[0].model.clone().unwrap(), "other");
    assert!(requests.iter().all(|line| line.path.len() <= 256 && !line.path.contains("secret")));
}

#[test]
fn an_idle_session_is_small() {
    let clock = Clock::manual();
    let live = session(&clock);
    open(&live, &clock, 1);
    close(&live, &clock, 1, None);
    // The handle, the packed request, its strings, and a slot in the list of legs.
    let held = size_of::<Session>() + size_of::<PackedRequest>() + 80 + size_of::<Box<OpenLeg>>();
    assert!(held <= 552, "{held}: {} {}", size_of::<Session>(), size_of::<PackedRequest>());
}
