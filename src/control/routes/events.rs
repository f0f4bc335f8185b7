//! The live feed: what happens to sessions, as server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response, sse};
use futures::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::control::api::error::ErrorCode;
use crate::control::api::events::{FeedEvent, LaggedEvent};
use crate::control::auth;
use crate::control::operator::Operator;
use crate::control::problem::Problem;
use crate::control::service::{ControlState, stopped};
use crate::identity::roles::{Reach, Right};
use crate::session::Event;

/// A comment is sent after this much silence, so that intermediaries keep the connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often a reader's credential is looked up again.
const CHECK: Duration = Duration::from_millis(500);

/// `Retry-After` of a reader that got no permit, in seconds.
const RETRY_AFTER: u32 = 10;

/// Streams what happens from now on; a reader that is too slow gets the number of events it missed.
pub(super) async fn feed(
    State(state): State<Arc<ControlState>>,
    Extension(operator): Extension<Operator>,
) -> Response {
    // Feeds must leave connections for kills.
    let limit = state.parts.settings.load().max_event_feeds().min(state.parts.max_connections / 2);
    let Some(permit) = FeedPermit::take(&state.feeds, limit) else {
        let detail = format!(
            "{limit} readers of this feed are connected; end one, or raise control.limits.max_event_feeds"
        );
        return Problem::new(ErrorCode::TooManyFeeds, detail).retry_after(RETRY_AFTER).into_response();
    };
    let hello = stream::once(async { Ok(sse::Event::default().comment("connected")) });
    // Without this end a reader would hold the shutdown.
    let stop = stopped(state.stopping.clone());
    let ended = not_permitted(Arc::clone(&state), operator);
    let until = Box::pin(futures::future::select(Box::pin(stop), Box::pin(ended)));
    let events = feed_events(state.parts.manager.events()).take_until(until);
    let events = hello.chain(events).inspect(move |_| {
        // Dropped with the feed.
        let _ = &permit;
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    Sse::new(events).keep_alive(keep_alive).into_response()
}

/// Waits until the reader may not read the feed any more: its credential has expired or was revoked, or its role is gone.
async fn not_permitted(state: Arc<ControlState>, operator: Operator) {
    loop {
        tokio::time::sleep(CHECK).await;
        let now = auth::operator(&state, operator.credential().map(|shown| &**shown));
        let reach = now.ok().and_then(|operator| operator.grants().reach(Right::Read));
        if reach != Some(Reach::All) {
            return;
        }
    }
}

/// A permit to read the feed; returned when dropped.
struct FeedPermit(Arc<AtomicUsize>);

impl FeedPermit {
    fn take(feeds: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        feeds
            .fetch_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1))
            .is_ok()
            .then(|| Self(Arc::clone(feeds)))
    }
}

impl Drop for FeedPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn feed_events(events: Receiver<Arc<Event>>) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream::unfold((events, 0_u64), |(mut events, sent)| async move {
        let (name, data) = next(&mut events).await?;
        let sent = sent + 1;
        let event = sse::Event::default().event(name).id(sent.to_string()).data(data.to_string());
        Some((Ok(event), (events, sent)))
    })
}

/// Waits for the next event of the feed; `None` when there can be no more.
async fn next(events: &mut Receiver<Arc<Event>>) -> Option<(&'static str, Value)> {
    let named = |event: FeedEvent<'_>| (event.name(), json!(event));
    match events.recv().await {
        Ok(event) => Some(named(FeedEvent::from(&*event))),
        Err(RecvError::Lagged(missed)) => Some(named(FeedEvent::Lagged(LaggedEvent { missed }))),
        Err(RecvError::Closed) => None,
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
            membership: None,
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
            validity: Arc::default(),
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
