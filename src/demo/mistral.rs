//! Mistral: OpenAI's chat path with its own models, usage in the last chunk and flat errors.

use std::sync::Arc;

use serde_json::{Value, json};

use super::body::{Event, sse, words};
use super::openai::{self, CREATED};
use super::route::{Asked, Backend, Route};
use super::turn::{Ask, Dialect, Events, Reply};

/// `POST /v1/chat/completions` with a Mistral model.
const CHAT: Dialect = Dialect { ask, whole, events, stream_type: "text/event-stream", fault };

/// The backend of `elida demo`.
pub(super) const BACKEND: Backend =
    Backend { name: "mistral", kind: "mistral", is_default: false, models: &["mistral-*", "codestral-*"] };

/// What a request to this API asks for.
pub(super) fn route(asked: &Asked<'_>) -> Option<Route> {
    let is_chat = !asked.is_read && asked.tail == "/v1/chat/completions";
    (is_chat && is_mistral(asked.body)).then_some(Route::Converse(&CHAT))
}

/// Mistral's own names for its models.
const FAMILIES: [&str; 8] =
    ["mistral", "open-mi", "open-mixtral", "codestral", "devstral", "magistral", "ministral", "pixtral"];

/// Distinguishes Mistral's requests from OpenAI's, which have the same path.
fn is_mistral(body: &Value) -> bool {
    body["model"].as_str().is_some_and(|model| FAMILIES.iter().any(|family| model.starts_with(family)))
}

fn fault(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "unauthorized",
        429 => "rate_limited",
        500.. => "internal_server_error",
        _ => "invalid_request_error",
    };
    json!({"object": "error", "message": message, "type": kind, "param": null, "code": status.to_string(),
        "raw_status_code": status})
}

fn ask(body: &Value) -> Result<Ask, String> {
    openai::ask_chat(body)
}

fn usage(reply: &Reply) -> Value {
    json!({
        "prompt_tokens": reply.all_input_tokens(),
        "completion_tokens": reply.output_tokens(),
        "total_tokens": reply.all_input_tokens() + reply.output_tokens(),
        "num_cached_tokens": reply.extra.cached,
    })
}

fn tool_calls(reply: &Reply) -> Option<Value> {
    let wish = reply.tool.as_ref()?;
    let function = json!({"name": wish.name, "arguments": wish.arguments.to_string()});
    // Mistral's call ids have nine letters.
    Some(json!([{"id": &reply.id[..9], "type": "function", "function": function, "index": 0}]))
}

fn whole(reply: &Reply) -> Value {
    let (message, finish) = match tool_calls(reply) {
        Some(calls) => (json!({"role": "assistant", "content": "", "tool_calls": calls}), "tool_calls"),
        None => (json!({"role": "assistant", "content": reply.text(), "tool_calls": null}), "stop"),
    };
    json!({
        "id": &reply.id, "object": "chat.completion", "created": CREATED, "model": reply.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage(reply),
    })
}

fn chunk(reply: &Reply, delta: &Value, finish: Option<&str>) -> Value {
    json!({
        "id": &reply.id, "object": "chat.completion.chunk", "created": CREATED, "model": reply.model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    })
}

fn events(reply: Arc<Reply>) -> Events {
    let first = sse(&chunk(&reply, &json!({"role": "assistant", "content": ""}), None));
    let (middle, delta, finish): (Events, _, _) = match tool_calls(&reply) {
        Some(calls) => {
            (Box::new(std::iter::empty()), json!({"content": "", "tool_calls": calls}), "tool_calls")
        }
        None => {
            let shape = Arc::clone(&reply);
            let write = move |word: &str| sse(&chunk(&shape, &json!({"content": word}), None));
            (words(&reply, write), json!({"content": ""}), "stop")
        }
    };
    let mut last = chunk(&reply, &delta, Some(finish));
    last["usage"] = usage(&reply);
    let end = [Event::word(sse(&last)), Event::frame("data: [DONE]\n\n")];
    Box::new([Event::frame(first)].into_iter().chain(middle).chain(end))
}
