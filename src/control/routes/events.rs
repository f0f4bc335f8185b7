//! The live feed: what happens to sessions, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response, sse};
use futures::stream::{self, Stream, StreamExt};
use http::StatusCode;
use http::header::RETRY_AFTER;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::control::problem::Problem;
use crate::control::service::{Door, stopped};
use crate::session::Event;

/// A comment goes out after this much silence, so that proxies between keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Seconds after which a reader that found no place may ask again.
const RETRY: &str = "10";

/// Sends what happens from now on; a reader that is too slow is told how much it missed.
pub(super) async fn feed(State(door): State<Arc<Door>>) -> Response {
    // Readers leave connections to those who kill.
    let limit = door.parts.settings.load().max_event_feeds().min(door.parts.max_connections / 2);
    let Some(place) = Place::take(&door.feeds, limit) else {
        let detail = format!(
            "{limit} readers of this feed are connected; end one, or raise control.limits.max_event_feeds"
        );
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_feeds", detail);
        return ([(RETRY_AFTER, RETRY)], problem).into_response();
    };
    let hello = stream::once(async { Ok(sse::Event::default().comment("connected")) });
    // Without this end a reader would hold the shutdown.
    let stop = stopped(door.stopping.clone());
    let events = happenings(door.parts.manager.events()).take_until(Box::pin(stop));
    let events = hello.chain(events).inspect(move |_| {
        // It goes with the feed.
        let _ = &place;
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    Sse::new(events).keep_alive(keep_alive).into_response()
}

/// A place among the readers of the feed; dropping it gives it back.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(feeds: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        feeds
            .fetch_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1))
            .is_ok()
            .then(|| Self(Arc::clone(feeds)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn happenings(events: Receiver<Arc<Event>>) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream::unfold((events, 0_u64), |(mut events, sent)| async move {
        let (name, data) = next(&mut events).await?;
        let sent = sent + 1;
        let event = sse::Event::default().event(name).id(sent.to_string()).data(data.to_string());
        Some((Ok(event), (events, sent)))
    })
}

/// Waits for what the reader is told next; `None` when nothing more can happen.
async fn next(events: &mut Receiver<Arc<Event>>) -> Option<(&'static str, Value)> {
    match events.recv().await {
        Ok(event) => Some(written(&event)),
        Err(RecvError::Lagged(missed)) => Some(("lagged", json!({"missed": missed}))),
        Err(RecvError::Closed) => None,
    }
}

/// An event's name and data in the feed.
fn written(event: &Event) -> (&'static str, Value) {
    match event {
        Event::Started(session) => ("session.started", json!(session)),
        Event::Ended(record) => ("session.ended", json!(record)),
        Event::Killed { order, legs_cut } => {
            let mut data = json!(order);
            data["legs_cut"] = (*legs_cut).into();
            (if order.agent.is_some() { "agent.killed" } else { "session.killed" }, data)
        }
        Event::Resumed { order, by } => {
            let data = json!({"session_id": order.session_id, "uid": order.uid, "by": by, "order": order});
            (if order.agent.is_some() { "agent.resumed" } else { "session.resumed" }, data)
        }
        Event::StoreLost { why } => ("store.lost", json!({"why": why})),
        Event::StoreBack => ("store.back", json!({})),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;
    use crate::clock::Clock;
    use crate::ids::{PrincipalId, RequestId, Scope, SessionId, SessionKey};
    use crate::session::store::MemoryStore;
    use crate::session::{Cut, Event, Identity, LegKind, LegStart, Manager, SessionConfig, SessionRequest};
    use crate::settings::fault::Faults;

    /// Something that happens.
    async fn event() -> Arc<Event> {
        let settings = SessionConfig::default().compile(&mut Faults::default()).unwrap();
        let store = Arc::new(MemoryStore::default());
        let manager = Manager::new(settings, Clock::manual(), store, Arc::new(|_: &Event| {}));
        let mut events = manager.events();
        let arrival = SessionRequest {
            key: SessionKey { scope: Scope::new(""), id: SessionId::new("one") },
            identity: Identity::default(),
            principal: PrincipalId::new("anon:1"),
            accounts: Box::default(),
            client_addr: [127, 0, 0, 1].into(),
            counted_from: None,
            idle_gap: None,
        };
        let start = LegStart {
            kind: LegKind::Request,
            method: "GET".into(),
            path: "/".into(),
            request_id: RequestId::fresh(),
            cut: Cut::new(),
        };
        let _leg = manager.admit(arrival, start).await.unwrap();
        events.recv().await.unwrap()
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_missed() {
        let event = event().await;
        let (sender, mut reader) = broadcast::channel(2);
        for _ in 0..5 {
            sender.send(Arc::clone(&event)).unwrap();
        }
        drop(sender);
        assert_eq!(next(&mut reader).await, Some(("lagged", json!({"missed": 3}))));
        for _ in 0..2 {
            let (name, data) = next(&mut reader).await.unwrap();
            assert_eq!((name, &data["id"]), ("session.started", &json!("one")));
        }
        assert_eq!(next(&mut reader).await, None);
    }
}
