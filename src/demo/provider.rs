//! The provider itself: listens, reads a request whole, finds its dialect and answers.

use std::convert::Infallible;
use std::future::{self, Future};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::serve::ListenerExt;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use serde_json::Value;
use tokio::net::TcpListener;

use super::body::{Event, halved, line, streamed};
use super::ledger::{Ledger, Open};
use super::mcp::{Said, Sessions};
use super::packing::{Packer, Packing};
use super::registry::route;
use super::route::Route;
use super::script::{Script, Twist};
use super::turn::{Ask, Dialect, Manner, Reply};
use super::{a2a, gemini, openai, socket};

/// How many requests the log holds.
const KEPT_REQUESTS: usize = 1024;

/// The fake provider. [`Provider::serve`] takes a listener; [`Provider::ledger`] shows the requests.
pub struct Provider {
    pace: Duration,
    ledger: Arc<Ledger>,
    mcp: Sessions,
}

impl Provider {
    /// A provider that answers as fast as it can.
    pub fn new() -> Arc<Self> {
        Self::with(Duration::ZERO, KEPT_REQUESTS)
    }

    /// A provider that waits this long before each further word, unless a directive says otherwise.
    pub fn paced(pace: Duration) -> Arc<Self> {
        Self::with(pace, KEPT_REQUESTS)
    }

    /// A provider that counts but neither logs nor digests, for benches.
    pub fn quiet() -> Arc<Self> {
        Self::with(Duration::ZERO, 0)
    }

    fn with(pace: Duration, keep: usize) -> Arc<Self> {
        Arc::new(Self { pace, ledger: Arc::new(Ledger::new(keep)), mcp: Sessions::default() })
    }

    /// What was seen so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Serves until `shutdown` is ready; open streams are left to the runtime, which ends them
    /// with itself.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        // Words are small writes: with Nagle's algorithm they would wait for each other.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let router = Router::new().fallback(handle).with_state(self);
        let serving = axum::serve(listener, router).into_future();
        tokio::select! {
            ended = serving => ended,
            () = shutdown => Ok(()),
        }
    }
}

/// Serves a fresh provider on `listener` until `shutdown` is ready.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    Provider::new().serve(listener, shutdown).await
}

async fn handle(State(provider): State<Arc<Provider>>, request: Request) -> Response {
    let ledger = &provider.ledger;
    ledger.arrive();
    let open = Open::new(ledger);
    let (head, body) = request.into_parts();
    if let Some(language) = socket::language(&head) {
        ledger.enter(head.clone(), &Bytes::new());
        return socket::accept(head, language, provider.pace, open).await;
    }
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return json_answer(400, &openai::fault(400, "the request's body broke off"));
    };
    ledger.enter(head.clone(), &body);
    match provider.begin(&head, &body) {
        Begun::Done(answer) => {
            let mut open = open;
            open.finish();
            answer
        }
        Begun::Speaking(ask, manner) => speak(provider.pace, &ask, manner, &body, open).await,
        Begun::Listening(event) => {
            let events = Box::new(std::iter::once(event));
            let stalled = Script { twist: Some(Twist::Stall), ..Script::default() };
            let body = streamed(events, provider.pace, &stalled, open);
            answer(StatusCode::OK, "text/event-stream", body)
        }
    }
}

/// How an answer begins.
enum Begun {
    /// It is there.
    Done(Response),
    /// Word by word, or whole after a while.
    Speaking(Ask, Manner),
    /// One event, then silence.
    Listening(Event),
}

impl Provider {
    fn begin(&self, head: &Parts, body: &Bytes) -> Begun {
        let parsed: Result<Value, _> = serde_json::from_slice(body);
        let route = route(head, parsed.as_ref().unwrap_or(&Value::Null));
        let parsed = parsed.map_err(|error| not_json(&error));
        let path = head.uri.path();
        Begun::Done(match route {
            Route::Converse(dialect) => return converse(dialect, parsed),
            Route::Gemini(dialect) => return converse(dialect, gemini::with_path(path, parsed)),
            Route::A2a => match parsed.and_then(|asked| a2a::ask(path, &asked)) {
                Ok((ask, manner)) => return Begun::Speaking(ask, manner),
                Err(message) => json_answer(400, &openai::fault(400, &message)),
            },
            Route::Mcp => match self.mcp.answer(head, body) {
                Said::Speak(ask, manner) => return Begun::Speaking(ask, manner),
                Said::Listen(event) => return Begun::Listening(event),
                Said::Now(status, value, session) => mcp_answer(status, &value, session),
            },
            Route::Compute(compute, fault) => match parsed.and_then(|asked| compute(&asked)) {
                Ok(value) => json_answer(200, &value),
                Err(message) => json_answer(400, &fault(400, &message)),
            },
            Route::Lines(lines) => {
                let lines: String = lines(&parsed.unwrap_or_default()).iter().map(line).collect();
                answer(StatusCode::OK, "application/x-ndjson", Body::from(lines))
            }
            Route::Done => answer(StatusCode::OK, "text/plain", Body::empty()),
            Route::Fixed(value) => json_answer(200, &value),
            Route::Hello => answer(StatusCode::OK, "text/plain", Body::from("The demo provider is running")),
            Route::Echo => {
                let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                answer(StatusCode::OK, kind.unwrap_or("application/octet-stream"), Body::from(body.clone()))
            }
            Route::Unknown => json_answer(404, &openai::fault(404, &format!("no such path: {path}"))),
        })
    }
}

/// Takes up a conversation in this dialect, unless the request makes no sense.
fn converse(dialect: &Dialect, asked: Result<Value, String>) -> Begun {
    match asked.and_then(|asked| (dialect.ask)(&asked)) {
        Ok(ask) => Begun::Speaking(ask, dialect.manner()),
        Err(message) => Begun::Done(json_answer(400, &(dialect.fault)(400, &message))),
    }
}

fn not_json(error: &serde_json::Error) -> String {
    format!("We could not parse the JSON body of your request: {error}")
}

/// Answers a request in this manner, following its directives.
async fn speak(pace: Duration, ask: &Ask, manner: Manner, body: &Bytes, mut open: Open) -> Response {
    let (reply, script) = Reply::to(ask, digest(body));
    let pace = script.pace.unwrap_or(pace);
    match script.twist {
        Some(Twist::Error(status, retry_after)) => {
            open.finish();
            let mut answer = json_answer(status, &(manner.fault)(status, error_message(status)));
            if let Some(seconds) = retry_after {
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            answer
        }
        Some(Twist::Mute) => {
            // `open` is dropped, and the abort noted, when the client goes away.
            future::pending::<Infallible>().await;
            unreachable!("the future above never ends")
        }
        _ if ask.stream => {
            let events = (manner.events)(Arc::new(reply));
            let body = streamed(events, pace, &script, open);
            packed(answer(StatusCode::OK, manner.stream_type, body), script.packing)
        }
        twist => {
            let words = u32::try_from(reply.word_count()).unwrap_or(u32::MAX);
            tokio::time::sleep(pace.saturating_mul(words)).await;
            let whole = (manner.whole)(&reply).to_string();
            let whole = match script.packing {
                Some(packing) => Packer::whole(packing, whole.as_bytes()),
                None => Bytes::from(whole),
            };
            packed(whole_answer(whole, twist, open), script.packing)
        }
    }
}

/// The answer with the name of its compression.
fn packed(mut answer: Response, packing: Option<Packing>) -> Response {
    if let Some(packing) = packing {
        answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(packing.name()));
    }
    answer
}

fn whole_answer(whole: Bytes, twist: Option<Twist>, mut open: Open) -> Response {
    let length = HeaderValue::from(whole.len());
    let body = match twist {
        Some(twist) => halved(&whole, twist, open),
        None => {
            open.finish();
            Body::from(whole)
        }
    };
    let mut response = answer(StatusCode::OK, "application/json", body);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

/// Sixteen hex digits that are the same for the same bytes.
fn digest(body: &Bytes) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn error_message(status: u16) -> &'static str {
    match status {
        429 => "Rate limited by the demo provider",
        529 => "Overloaded",
        _ => "An error the request asked for",
    }
}

/// An answer of the MCP server; without a body when `value` is null.
fn mcp_answer(status: u16, value: &Value, session: Option<String>) -> Response {
    let mut response = json_answer(status, value);
    if value.is_null() {
        *response.body_mut() = Body::empty();
    }
    if let Some(id) = session.and_then(|id| HeaderValue::try_from(id).ok()) {
        response.headers_mut().insert("mcp-session-id", id);
    }
    response
}

fn json_answer(status: u16, value: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer(status, "application/json", Body::from(value.to_string()))
}

fn answer(status: StatusCode, content_type: &str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(content_type) {
        headers.insert(CONTENT_TYPE, content_type);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-demo-provider", HeaderValue::from_static("elida"));
    response
}
