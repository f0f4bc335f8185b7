//! The live feed: what happens to sessions, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, sse};
use futures::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::control::service::{Door, stopped};
use crate::session::Event;

/// A comment goes out after this much silence, so that proxies between keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Sends what happens from now on; a reader that is too slow is told how much it missed.
pub(super) async fn feed(State(door): State<Arc<Door>>) -> impl IntoResponse {
    let hello = stream::once(async { Ok(sse::Event::default().comment("connected")) });
    // Without this end a reader would hold the shutdown.
    let stop = stopped(door.stopping.clone());
    let events = happenings(door.parts.manager.events()).take_until(Box::pin(stop));
    Sse::new(hello.chain(events)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive"))
}

fn happenings(events: Receiver<Arc<Event>>) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream::unfold((events, 0_u64), |(mut events, sent)| async move {
        let (name, data) = match events.recv().await {
            Ok(event) => written(&event),
            Err(RecvError::Lagged(missed)) => ("lagged", json!({"missed": missed})),
            Err(RecvError::Closed) => return None,
        };
        let sent = sent + 1;
        let event = sse::Event::default().event(name).id(sent.to_string()).data(data.to_string());
        Some((Ok(event), (events, sent)))
    })
}

/// An event's name and data in the feed.
fn written(event: &Event) -> (&'static str, Value) {
    match event {
        Event::Started(session) => ("session.started", json!(session)),
        Event::Ended(record) => ("session.ended", json!(record)),
        Event::Killed { order, legs_cut } => {
            let mut data = json!(order);
            data["legs_cut"] = (*legs_cut).into();
            ("session.killed", data)
        }
        Event::Resumed { order, by } => (
            "session.resumed",
            json!({"session_id": order.session_id,
            "uid": order.uid, "by": by, "order": order}),
        ),
    }
}
