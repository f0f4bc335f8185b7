//! An A2A agent: `message/send` and `message/stream` in JSON-RPC at `/a2a`, and `/message:send`,
//! `/message:stream` in plain HTTP.

use std::sync::Arc;

use serde_json::{Value, json};

use super::body::{Event, sse, words};
use super::route::{Asked, Route};
use super::turn::{Ask, Manner, Reply, count_words};

/// What a request to this API asks for.
pub(super) fn route(asked: &Asked<'_>) -> Option<Route> {
    match (asked.is_read, asked.tail) {
        (false, "/a2a" | "/message:send" | "/message:stream") => Some(Route::A2a),
        (true, "/.well-known/agent-card.json") => Some(Route::Fixed(card())),
        _ => None,
    }
}

/// What the agent is asked, and how it answers; the error is a message for the caller.
pub(super) fn ask(path: &str, body: &Value) -> Result<(Ask, Manner), String> {
    let by_path = path.ends_with(":stream") || path.ends_with(":send");
    let message = if by_path { &body["message"] } else { &body["params"]["message"] };
    let parts = message["parts"].as_array().ok_or("message.parts is required")?;
    let text = parts.iter().rev().find_map(|part| part["text"].as_str()).unwrap_or_default().to_owned();
    let stream = path.ends_with(":stream") || body["method"] == "message/stream";
    let ask = Ask { stream, input_tokens: count_words(&text), text, ..Ask::default() };
    let context = message["contextId"].as_str().unwrap_or("ctx-demo").to_owned();
    let id = (!by_path).then(|| body["id"].clone());
    let say = Arc::new(move |reply: &Reply, text: &str| {
        let said = json!({"kind": "message", "role": "agent", "messageId": format!("msg-{}", reply.id),
            "contextId": context, "parts": [{"kind": "text", "text": text}]});
        envelope(&id, &said)
    });
    let whole = Arc::clone(&say);
    let manner = Manner {
        stream_type: "text/event-stream",
        events: Box::new(move |reply| {
            let end = Event::frame(sse(&say(&reply, "")));
            let shape = Arc::clone(&reply);
            Box::new(words(&reply, move |word| sse(&say(&shape, word))).chain([end]))
        }),
        whole: Box::new(move |reply| whole(reply, &reply.text())),
        fault: Box::new(|status, message| {
            json!({"jsonrpc": "2.0", "id": null,
            "error": {"code": status, "message": message}})
        }),
    };
    Ok((ask, manner))
}

fn envelope(id: &Option<Value>, said: &Value) -> Value {
    match id {
        Some(id) => json!({"jsonrpc": "2.0", "id": id, "result": said}),
        None => json!({"message": said}),
    }
}

/// `GET /.well-known/agent-card.json`.
fn card() -> Value {
    json!({"name": "elida-demo", "description": "Says what it is told.", "version": "1",
        "protocolVersion": "1.0", "url": "/a2a", "capabilities": {"streaming": true},
        "defaultInputModes": ["text/plain"], "defaultOutputModes": ["text/plain"], "skills": []})
}
