//! Answer bodies: event by event at the asked pace, stalled or broken on request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, future, stream};
use serde_json::Value;

use super::ledger::Open;
use super::packing::Packer;
use super::script::{Script, Twist};
use super::turn::{Events, Reply};

/// One piece of a streamed answer.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) bytes: Bytes,
    /// It carries a word: the pace applies, and stalls and cuts count it.
    pub(super) word: bool,
}

impl Event {
    /// Something between the words: the frame of the answer.
    pub(super) fn frame(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), word: false }
    }

    /// A word.
    pub(super) fn word(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), word: true }
    }
}

/// `data: {…}` and a blank line.
pub(super) fn sse(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// `event: name`, `data: {…}` and a blank line.
pub(super) fn named_sse(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// One line of NDJSON.
pub(super) fn line(data: &Value) -> String {
    format!("{data}\n")
}

/// The provider breaks the connection because the script says so.
#[derive(Debug)]
struct CutByScript;

impl std::fmt::Display for CutByScript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut by the script")
    }
}

impl std::error::Error for CutByScript {}

struct Flow {
    events: Events,
    pace: Duration,
    twist: Option<Twist>,
    words: usize,
    open: Open,
    packer: Option<Packer>,
}

/// A body that sends `events` as `script` says, at `pace`; `open` notes how it ended.
pub(super) fn streamed(events: Events, pace: Duration, script: &Script, open: Open) -> Body {
    let packer = script.packing.map(Packer::new);
    let flow = Flow { events, pace, twist: script.twist, words: 0, open, packer };
    let pieces = stream::unfold(Some(flow), async |flow| {
        let mut flow = flow?;
        let piece = flow.next().await;
        match piece {
            Some(Ok(bytes)) => Some((Ok(bytes), Some(flow))),
            Some(Err(cut)) => Some((Err(cut), None)),
            None => None,
        }
    });
    Body::from_stream(pieces)
}

impl Flow {
    async fn next(&mut self) -> Option<Result<Bytes, CutByScript>> {
        if self.twist == Some(Twist::Stall) && self.words == 1 {
            future::pending::<Infallible>().await;
        }
        if self.twist == Some(Twist::Cut) && self.words == 2 {
            self.open.finish();
            return Some(Err(cut().await));
        }
        let Some(event) = self.events.next() else {
            self.open.finish();
            return self.packer.take().map(|packer| Ok(packer.end()));
        };
        if event.word {
            if self.words > 0 && !self.pace.is_zero() {
                tokio::time::sleep(self.pace).await;
            }
            self.words += 1;
        }
        Some(Ok(match &mut self.packer {
            Some(packer) => packer.pack(&event.bytes),
            None => event.bytes,
        }))
    }
}

/// Lets what was written reach the wire before the connection breaks.
async fn cut() -> CutByScript {
    tokio::task::yield_now().await;
    CutByScript
}

/// A body that sends the first half of `whole` and then stalls or breaks. The caller sets the
/// content length of the whole.
pub(super) fn halved(whole: &Bytes, twist: Twist, mut open: Open) -> Body {
    let half = whole.slice(..whole.len() / 2);
    let rest = async move {
        if twist == Twist::Stall {
            future::pending::<Infallible>().await;
        }
        open.finish();
        Err(cut().await)
    };
    Body::from_stream(stream::iter([Ok(half)]).chain(stream::once(rest)))
}

/// One event for each word of the reply.
pub(super) fn words(reply: &Arc<Reply>, write: impl Fn(&str) -> String + Send + 'static) -> Events {
    let reply = Arc::clone(reply);
    Box::new((0..reply.word_count()).map(move |index| Event::word(write(&reply.piece(index)))))
}

/// A text in pieces of up to 16 characters, the way tool arguments arrive.
pub(super) fn fragments(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    letters.chunks(16).map(|piece| piece.iter().collect()).collect()
}
