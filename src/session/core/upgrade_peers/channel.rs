//! The channel to another process of this gateway: a socket pair that no other program can reach. Both sides send
//! requests and responses as JSON lines, so that another version of the program can skip what it does not know.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::ids::{AgentId, Scope, SessionKey};
use crate::session::core::lookup::NamedBy;
use crate::session::store::Filter;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::session_view::SessionView;

/// The most queries that may wait for a response; further ones are not sent. Orders are always sent.
const MAX_WAITING: usize = 256;

/// A request to a peer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PeerRequest {
    /// The kill orders in force.
    Orders,
    /// The incarnations that a name matches.
    Find { text: String, by: Option<NamedBy> },
    /// A page of sessions.
    List { filter: Filter },
    /// Carries out this kill order.
    Kill(SentOrder),
    /// Lifts the order with this revision and all before it.
    Lift { key: SessionKey, agent: Option<AgentId>, rev: u64 },
    /// News of client keys.
    Keys(PeerNews),
}

/// News of client keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::session::core) enum PeerNews {
    /// What the configuration says of them.
    Declared(String),
    /// Documents of keys that were changed.
    Documents(Vec<String>),
}

/// The response of a peer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PeerResponse {
    Orders(Vec<SentOrder>),
    Found {
        by_uid: Vec<SentSession>,
        by_id: Vec<SentSession>,
        /// True if the id is used in more scopes than were searched.
        #[serde(default)]
        is_cut: bool,
    },
    Page {
        sessions: Vec<SessionView>,
        more: bool,
    },
    Killed {
        legs_cut: usize,
    },
    Lifted,
    /// The keys are taken note of.
    Heard,
    /// The peer does not know the request.
    Unknown,
}

/// A kill order with its revision, which the JSON of the order leaves out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SentOrder {
    rev: u64,
    order: KillOrder,
}

impl From<&KillOrder> for SentOrder {
    fn from(order: &KillOrder) -> Self {
        Self { rev: order.rev, order: order.clone() }
    }
}

impl From<SentOrder> for KillOrder {
    fn from(sent: SentOrder) -> Self {
        Self { rev: sent.rev, ..sent.order }
    }
}

/// A session with its scope, which the JSON of the view leaves out.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SentSession {
    scope: Scope,
    session: SessionView,
}

impl From<SessionView> for SentSession {
    fn from(session: SessionView) -> Self {
        Self { scope: session.key.scope.clone(), session }
    }
}

impl From<SentSession> for SessionView {
    fn from(sent: SentSession) -> Self {
        let key = SessionKey { scope: sent.scope, id: sent.session.id.clone() };
        Self { key, ..sent.session }
    }
}

/// A frame to be written.
#[derive(Serialize)]
struct Outgoing<'a> {
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ask: Option<&'a PeerRequest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a PeerResponse>,
}

/// A frame that was read; its content may be of another version.
#[derive(Deserialize)]
struct Frame<'a> {
    id: u64,
    #[serde(borrow, default)]
    ask: Option<&'a RawValue>,
    #[serde(borrow, default)]
    answer: Option<&'a RawValue>,
}

/// One end of the channel.
#[derive(Debug)]
pub(in crate::session) struct PeerChannel {
    outgoing: mpsc::UnboundedSender<String>,
    /// Waiting requests by id; `None` once the peer has gone.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<PeerResponse>>>>,
    next: AtomicU64,
    /// True once the peer reads: a peer that is still starting must not delay a query.
    is_heard: AtomicBool,
}

/// The reading half of the channel.
pub(super) struct Incoming(Lines<BufReader<OwnedReadHalf>>);

impl PeerChannel {
    /// Opens this end. `is_heard` says that the peer already reads its end.
    ///
    /// # Errors The socket cannot be used.
    pub(super) fn open(stream: StdUnixStream, is_heard: bool) -> io::Result<(Arc<Self>, Incoming)> {
        stream.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(stream)?.into_split();
        let (outgoing, frames) = mpsc::unbounded_channel();
        // Written by a separate task, because a cancelled query must not leave half a line.
        tokio::spawn(write_frames(write, frames));
        let line = Self {
            outgoing,
            waiting: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(0),
            is_heard: AtomicBool::new(is_heard),
        };
        Ok((Arc::new(line), Incoming(BufReader::new(read).lines())))
    }

    /// Sends a request; the receiver yields its response. `None` if the peer has gone.
    pub(super) fn send(&self, ask: &PeerRequest) -> Option<oneshot::Receiver<PeerResponse>> {
        let (answer, wait) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting().as_mut()?.insert(id, answer);
        self.write(&Outgoing { id, ask: Some(ask), answer: None });
        Some(wait)
    }

    /// Sends a request and waits for at most `limit`; `None` if there is no response.
    pub(super) async fn ask(&self, ask: &PeerRequest, limit: Duration) -> Option<PeerResponse> {
        let waiting = self.waiting().as_ref().map_or(0, HashMap::len);
        if !self.is_heard() || waiting >= MAX_WAITING {
            return None;
        }
        timeout(limit, self.send(ask)?).await.ok()?.ok()
    }

    /// True once the peer reads its end.
    pub(super) fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::Acquire)
    }

    /// True if the peer has gone.
    pub(super) fn is_closed(&self) -> bool {
        self.waiting().is_none()
    }

    /// Responds to a request.
    pub(super) fn answer(&self, id: u64, answer: &PeerResponse) {
        self.write(&Outgoing { id, ask: None, answer: Some(answer) });
    }

    fn write(&self, frame: &Outgoing<'_>) {
        match serde_json::to_string(frame) {
            // Fails only if the peer has gone.
            Ok(text) => drop(self.outgoing.send(text + "\n")),
            Err(fault) => tracing::error!(%fault, "a message to the other process cannot be written"),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<PeerResponse>>>> {
        self.waiting.lock()
    }
}

impl Incoming {
    /// The next request with its id; delivers responses to those who wait for them. `None` if the peer has gone.
    pub(super) async fn next(&mut self, line: &PeerChannel) -> Option<(u64, PeerRequest)> {
        while let Ok(Some(text)) = self.0.next_line().await {
            line.is_heard.store(true, Ordering::Release);
            let Ok(frame) = serde_json::from_str::<Frame<'_>>(&text) else {
                tracing::warn!("a message of the other process cannot be read");
                continue;
            };
            if let Some(ask) = frame.ask {
                match serde_json::from_str(ask.get()) {
                    Ok(ask) => return Some((frame.id, ask)),
                    Err(fault) => {
                        tracing::warn!(%fault, "a question of the other process is not known");
                        line.answer(frame.id, &PeerResponse::Unknown);
                    }
                }
                continue;
            }
            let wait = line.waiting().as_mut().and_then(|waiting| waiting.remove(&frame.id));
            let answer = frame.answer.and_then(|answer| serde_json::from_str(answer.get()).ok());
            if let Some(wait) = wait {
                let _given_up = wait.send(answer.unwrap_or(PeerResponse::Unknown));
            }
        }
        *line.waiting() = None;
        None
    }
}

async fn write_frames(mut write: OwnedWriteHalf, mut frames: mpsc::UnboundedReceiver<String>) {
    while let Some(frame) = frames.recv().await {
        if write.write_all(frame.as_bytes()).await.is_err() {
            return;
        }
    }
}
