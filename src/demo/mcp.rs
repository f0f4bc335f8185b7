//! An MCP server over streamable HTTP: with sessions up to 2025-11-25, without them in 2026-07-28.
//!
//! Its one tool `echo` answers with the words of its argument `text`, steered by the same directives as the
//! models; it sends them one by one as notifications before its result, unless `stream` is false.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use uuid::Uuid;

use super::body::{Event, named_sse, words};
use super::turn::{Ask, Events, Manner, Reply, count_words, text_or};

/// The first version without sessions.
const STATELESS: &str = "2026-07-28";
/// The versions with sessions, newest first.
const VERSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

/// The sessions that are open.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashSet<String>>);

/// What the server does with a request.
pub(super) enum Said {
    /// A status, a body unless it is null, and the id of a session that begins.
    Now(u16, Value, Option<String>),
    /// A tool speaks.
    Speak(Ask, Manner),
    /// The server's own stream: one event, then silence.
    Listen(Event),
}

impl Sessions {
    fn open(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock()
    }

    fn begin(&self) -> String {
        let id = format!("mcp-{}", Uuid::now_v7().simple());
        self.open().insert(id.clone());
        id
    }

    /// The answer to one request at the MCP endpoint.
    pub(super) fn answer(&self, head: &Parts, body: &Bytes) -> Said {
        let session = text(&head.headers, "mcp-session-id");
        if head.method == Method::POST {
            return match serde_json::from_slice(body) {
                Ok(message) => self.message(&head.headers, session, &message),
                Err(error) => Said::Now(400, failure(&Value::Null, -32700, &error.to_string()), None),
            };
        }
        match (session.is_some_and(|id| self.open().contains(id)), &head.method) {
            (false, _) => no_session(session),
            (true, &Method::DELETE) => {
                self.open().remove(session.unwrap_or_default());
                Said::Now(200, Value::Null, None)
            }
            (true, &Method::GET) => Said::Listen(notify("notifications/message", &said("listening"))),
            _ => Said::Now(405, Value::Null, None),
        }
    }

    fn message(&self, headers: &HeaderMap, session: Option<&str>, message: &Value) -> Said {
        let begins = message["method"] == "initialize";
        let version = text(headers, "mcp-protocol-version").unwrap_or_default();
        if version < STATELESS && !begins && !session.is_some_and(|id| self.open().contains(id)) {
            return no_session(session);
        }
        if let Some(batch) = message.as_array() {
            let answers: Vec<Value> = batch.iter().filter_map(|one| respond(one, version)).collect();
            return Said::Now(if answers.is_empty() { 202 } else { 200 }, json!(answers), None);
        }
        let streams = text(headers, "accept").is_some_and(|accept| accept.contains("text/event-stream"));
        if message["method"] == "tools/call" && message["params"]["name"] == "echo" {
            let (ask, manner) = echo(message, streams);
            return Said::Speak(ask, manner);
        }
        match respond(message, version) {
            Some(answer) => Said::Now(200, answer, begins.then(|| self.begin())),
            None => Said::Now(202, Value::Null, None),
        }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// 404 makes a client open a new session.
fn no_session(named: Option<&str>) -> Said {
    let (status, message) = match named {
        Some(_) => (404, "Session not found"),
        None => (400, "Bad Request: Missing session ID"),
    };
    Said::Now(status, failure(&Value::Null, -32600, message), None)
}

fn failure(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

fn result(id: &Value, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// The response to a request that needs no time; none to a notification.
fn respond(message: &Value, version: &str) -> Option<Value> {
    let id = message.get("id")?;
    let capabilities = json!({"tools": {"listChanged": false}, "logging": {}});
    let mut answer = match message["method"].as_str().unwrap_or_default() {
        "initialize" => {
            let wanted = message["params"]["protocolVersion"].as_str().unwrap_or_default();
            let version = VERSIONS.iter().find(|known| **known == wanted).unwrap_or(&VERSIONS[0]);
            json!({"protocolVersion": version, "capabilities": capabilities,
                "serverInfo": {"name": "elida-demo", "version": "1"}})
        }
        "server/discover" if version >= STATELESS => {
            json!({"supportedVersions": [STATELESS], "capabilities": capabilities})
        }
        "ping" => json!({}),
        "tools/list" => json!({"tools": [tool()]}),
        "tools/call" if message["params"]["name"] == "echo" => {
            let (ask, _) = echo(message, false);
            content(&Reply::to(&ask, String::new()).0)
        }
        "tools/call" => return Some(failure(id, -32602, "Unknown tool")),
        _ => return Some(failure(id, -32601, "Method not found")),
    };
    if version >= STATELESS {
        answer["resultType"] = json!("complete");
        answer["ttlMs"] = json!(0);
        answer["cacheScope"] = json!("private");
    }
    Some(result(id, &answer))
}

fn tool() -> Value {
    let text = json!({"type": "string", "description": "What to say, with directives."});
    let schema = json!({"type": "object", "properties": {"text": text, "stream": {"type": "boolean"}},
        "required": ["text"]});
    json!({"name": "echo", "description": "Says what it is told.", "inputSchema": schema})
}

fn content(reply: &Reply) -> Value {
    json!({"content": [{"type": "text", "text": reply.text()}], "isError": false, "resultType": "complete"})
}

fn said(word: &str) -> Value {
    json!({"level": "info", "data": word})
}

fn notify(method: &str, params: &Value) -> Event {
    let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
    Event::word(named_sse("message", &message))
}

/// What the tool is asked, and how it answers.
fn echo(message: &Value, streams: bool) -> (Ask, Manner) {
    let arguments = &message["params"]["arguments"];
    let text = text_or(arguments, "text", "");
    let stream = streams && arguments["stream"] != false;
    let ask = Ask { stream, input_tokens: count_words(&text), text, ..Ask::default() };
    let id = message["id"].clone();
    let (of_events, of_whole) = (id.clone(), id.clone());
    let manner = Manner {
        stream_type: "text/event-stream",
        events: Box::new(move |reply| events(&reply, &of_events)),
        whole: Box::new(move |reply| result(&of_whole, &content(reply))),
        fault: Box::new(move |status, message| failure(&id, i64::from(status), message)),
    };
    (ask, manner)
}

fn events(reply: &Arc<Reply>, id: &Value) -> Events {
    let last = named_sse("message", &result(id, &content(reply)));
    let write = |word: &str| {
        let message = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": said(word)});
        named_sse("message", &message)
    };
    Box::new(words(reply, write).chain([Event::frame(last)]))
}
