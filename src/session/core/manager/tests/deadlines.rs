//! A request that begins at the deadline of its session opens the next incarnation: it does not wait for the reaper,
//! which would cut it.

use super::*;

/// A session with one open leg, its slot, and the leg of a request that begins `after` that.
async fn second(fixture: &TestManager, request: &SessionRequest, after: Duration) -> (Leg, Arc<Cut>, Leg) {
    let start = leg_start();
    let cut = start.cut.clone();
    let first = fixture.manager.admit(request.clone(), start).await.unwrap();
    fixture.clock.advance(after);
    let second = fixture.manager.admit(request.clone(), leg_start()).await.unwrap();
    (first, cut, second)
}

#[tokio::test]
async fn what_begins_at_max_duration_is_the_next_incarnation() {
    for (early, incarnation) in [(1, 1), (0, 2)] {
        let fixture = TestManager::new("{idle_timeout: 1h, max_duration: 1m}");
        let after = MINUTE - Duration::from_millis(early);
        let (first, cut, leg) = second(&fixture, &arrival("s"), after).await;
        let session = leg.session().clone();
        assert_eq!(session.incarnation(), incarnation, "{early} ms early");
        assert_eq!(cut.reason(), (incarnation == 2).then_some(CutReason::TimedOut), "{early} ms early");
        fixture.manager.reap().await;
        assert_eq!(session.state(), SessionState::Active);
        drop((first, leg));
        if incarnation == 2 {
            let record = &fixture.records()[0];
            assert_eq!((record.end_reason, record.request_count), (EndReason::MaxDuration, 1));
            assert_eq!(session.previous(), Some(record.uid));
        }
    }
}

#[tokio::test]
async fn what_begins_at_idle_timeout_or_completed_after_is_the_next_incarnation() {
    for (yaml, reason) in
        [("idle_timeout: 1m", EndReason::IdleTimeout), ("completed_after: 1m", EndReason::CompletedAfter)]
    {
        for (early, incarnation) in [(1, 1), (0, 2)] {
            let fixture = TestManager::new(yaml);
            let first = fixture.visit("s").await;
            fixture.clock.advance(MINUTE - Duration::from_millis(early));
            let leg = fixture.admit("s").await.unwrap();
            assert_eq!(leg.session().incarnation(), incarnation, "{reason:?}, {early} ms early");
            fixture.manager.reap().await;
            assert_eq!(leg.session().state(), SessionState::Active);
            assert_eq!(first.end_reason(), (incarnation == 2).then_some(reason));
        }
    }
    // An open leg delays `completed_after`, however long it is silent.
    let fixture = TestManager::new("completed_after: 1m");
    let (.., leg) = second(&fixture, &arrival("s"), 2 * MINUTE).await;
    assert_eq!(leg.session().incarnation(), 1);
}
