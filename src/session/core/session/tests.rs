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

fn new_session(clock: &Clock) -> Session {
    Session::new(arrival("s-1"), None, clock.now())
}

fn open(session: &Session, clock: &Clock, id: u64) -> Arc<Cut> {
    let start = leg_start();
    let cut = start.cut.clone();
    session.open(LegId(id), &Identity::default(), start, clock.now(), clock).unwrap();
    cut
}

fn end(session: &Session, clock: &Clock, reason: EndReason) -> Option<Vec<Arc<Cut>>> {
    session.end(End { at: clock.now(), reason, order: None }, |_, _| true)
}

/// Returns true if the session had ended and waited only for this leg.
fn close(session: &Session, clock: &Clock, leg: u64, report: Option<RequestSummary>) -> bool {
    session.close(LegId(leg), report.as_ref(), false, clock.now()).is_some_and(|closed| closed.was_last)
}

#[test]
fn session_new() {
    let clock = Clock::manual();
    let session = new_session(&clock);
    assert_eq!(session.state(), SessionState::Active);
    assert_eq!((session.incarnation(), session.previous()), (1, None));
    assert_eq!(
        (session.requests(), session.bytes_in(), session.bytes_out(), session.open_legs()),
        (0, 0, 0, 0)
    );
    let next = Session::new(arrival("s-1"), Some(session.as_previous()), clock.now());
    assert_eq!((next.incarnation(), next.previous()), (2, Some(session.uid())));
}

#[test]
fn session_touch() {
    let clock = Clock::manual();
    let session = new_session(&clock);
    clock.advance(SECOND);
    let late = clock.now();
    session.touch(late);
    session.touch(Moment::default());
    assert_eq!(session.last_activity(), late);
}

#[test]
fn session_add_bytes() {
    let session = new_session(&Clock::manual());
    session.add_bytes_in(3);
    session.add_bytes_in(4);
    session.add_bytes_out(5);
    assert_eq!((session.bytes_in(), session.bytes_out()), (7, 5));
}

#[test]
fn session_kill() {
    let clock = Clock::manual();
    let session = new_session(&clock);
    open(&session, &clock, 1);
    assert_eq!(end(&session, &clock, EndReason::Killed).unwrap().len(), 1);
    assert_eq!(session.state(), SessionState::Killed);
    assert!(end(&session, &clock, EndReason::Killed).is_none());
    assert!(session.open(LegId(2), &Identity::default(), leg_start(), clock.now(), &clock).is_err());
    assert_eq!(session.requests(), 1);
}

#[test]
fn session_set_state() {
    let clock = Clock::manual();
    for reason in [EndReason::IdleTimeout, EndReason::CompletedAfter, EndReason::Killed] {
        let session = new_session(&clock);
        assert!(session.end(End { at: clock.now(), reason, order: None }, |_, _| false).is_none());
        assert_eq!(session.state(), SessionState::Active);
        assert!(end(&session, &clock, reason).is_some());
        assert_eq!(session.state(), reason.state());
        assert!(end(&session, &clock, EndReason::MaxDuration).is_none());
        assert_eq!(session.state(), reason.state());
    }
}

#[test]
fn session_duration() {
    let clock = Clock::manual();
    let session = new_session(&clock);
    clock.advance(3 * SECOND);
    assert_eq!(session.duration(clock.now()), 3 * SECOND);
    end(&session, &clock, EndReason::CompletedAfter);
    clock.advance(SECOND);
    assert_eq!(session.duration(clock.now()), 3 * SECOND);
}

#[test]
fn session_idle_time() {
    let clock = Clock::manual();
    let session = new_session(&clock);
    clock.advance(3 * SECOND);
    assert_eq!(session.idle(clock.now()), 3 * SECOND);
    open(&session, &clock, 1);
    clock.advance(SECOND);
    assert_eq!(session.idle(clock.now()), SECOND);
}

#[test]
fn session_snapshot() {
    let clock = Clock::manual();
    let session = new_session(&clock);
    open(&session, &clock, 1);
    session.routed(LegId(1), &BackendName::new("mistral"), Some("m-1"));
    clock.advance(SECOND);
    let shot = session.view(&clock, true);
    assert_eq!((shot.open_legs, shot.duration_ms, shot.idle_ms), (1, 1000, 1000));
    let leg = &shot.legs.as_ref().unwrap()[0];
    assert_eq!((&*leg.path, leg.model.as_deref()), ("/v1/messages", Some("m-1")));
    let report = RequestSummary {
        status: Some(429),
        error: Some(ErrorKind::ClientGone),
        usage: Some(Usage { input_tokens: 7, ..Usage::default() }),
        ..RequestSummary::default()
    };
    assert!(!close(&session, &clock, 1, Some(report)));
    let shot = session.view(&clock, true);
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
    let session = new_session(&clock);
    open(&session, &clock, 1);
    end(&session, &clock, EndReason::Killed);
    assert!(close(&session, &clock, 1, None));
    assert!(!close(&session, &clock, 1, None));
    assert_eq!(session.view(&clock, true).requests.unwrap()[0].outcome, "dropped");
}

#[test]
fn what_a_client_varies_is_bounded() {
    let clock = Clock::manual();
    let session = new_session(&clock);
    for i in 0..200 {
        let mut start = leg_start();
        start.path = format!("/{}?token=secret", "é".repeat(1000));
        session.open(LegId(i), &Identity::default(), start, clock.now(), &clock).unwrap();
        let report = RequestSummary { model: Some(format!("model-{i}")), ..RequestSummary::default() };
        close(&session, &clock, i, Some(report));
    }
    let shot = session.view(&clock, true);
    assert_eq!((shot.models.len(), shot.models["other"]), (33, 168));
    let requests = shot.requests.unwrap();
    assert_eq!(requests.len(), 20);
    assert_eq!(&*requests[0].model.clone().unwrap(), "other");
    assert!(requests.iter().all(|line| line.path.len() <= 256 && !line.path.contains("secret")));
}

#[test]
fn an_idle_session_is_small() {
    let clock = Clock::manual();
    let session = new_session(&clock);
    open(&session, &clock, 1);
    close(&session, &clock, 1, None);
    // The handle, the packed request, its strings, and a slot in the list of legs.
    let held = size_of::<Session>() + size_of::<PackedRequest>() + 80 + size_of::<Box<OpenLeg>>();
    assert!(held <= 584, "{held}: {} {}", size_of::<Session>(), size_of::<PackedRequest>());
}
