//! Anthropic: messages, token counting and the list of models.

use std::sync::Arc;

use serde_json::{Value, json};

use super::body::{Event, fragments, named_sse, words};
use super::route::{Asked, Backend, Route};
use super::turn::{Ask, Dialect, Events, Reply, content_text, text_or, words_below};

/// `POST /v1/messages`.
const MESSAGES: Dialect =
    Dialect { ask, whole, events, stream_type: "text/event-stream; charset=utf-8", fault };

/// The backend of `elida demo`.
pub(super) const BACKEND: Backend =
    Backend { name: "anthropic", kind: "anthropic", is_default: false, models: &["claude-*"] };

/// What a request to this API asks for.
pub(super) fn route(asked: &Asked<'_>) -> Option<Route> {
    Some(match (asked.is_read, asked.tail) {
        (false, "/v1/messages") => Route::Converse(&MESSAGES),
        (false, "/v1/messages/count_tokens") => Route::Compute(count_tokens, fault),
        (true, "/v1/models") if asked.headers.contains_key("anthropic-version") => Route::Fixed(models()),
        _ => return None,
    })
}

/// Claude Code, through the proxy at this port.
pub(super) fn client_example(port: u16) -> String {
    format!(
        "Claude Code: ANTHROPIC_BASE_URL=http://localhost:{port} ANTHROPIC_API_KEY=demo claude -p 'hello'"
    )
}

fn fault(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_demo"})
}

fn ask(body: &Value) -> Result<Ask, String> {
    let messages = body["messages"].as_array().ok_or("messages: Field required")?;
    // A message of tool results has the role `user` and no words of the user.
    let said = messages.iter().enumerate().rev().find_map(|(at, message)| {
        let text = (message["role"] == "user").then(|| content_text(&message["content"]))??;
        Some((at, text))
    });
    let (at, text) = said.unwrap_or_default();
    let tools = body["tools"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Ask {
        model: text_or(body, "model", "claude-demo"),
        stream: body["stream"] == true,
        text,
        tool_answered: messages[at.min(messages.len())..].iter().any(has_tool_result),
        tools: tools.iter().filter_map(|tool| tool["name"].as_str()).map(str::to_owned).collect(),
        input_tokens: input_tokens(body),
        stream_usage: true,
    })
}

fn has_tool_result(message: &Value) -> bool {
    message["content"].as_array().is_some_and(|parts| parts.iter().any(|part| part["type"] == "tool_result"))
}

fn input_tokens(body: &Value) -> usize {
    let contents = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    words_below(&body["system"])
        + contents.iter().map(|message| words_below(&message["content"])).sum::<usize>()
}

/// `POST /v1/messages/count_tokens`.
fn count_tokens(body: &Value) -> Result<Value, String> {
    ask(body).map(|ask| json!({"input_tokens": ask.input_tokens}))
}

fn usage(reply: &Reply, output_tokens: usize) -> Value {
    json!({
        "input_tokens": reply.input_tokens, "cache_creation_input_tokens": reply.extra.written,
        "cache_read_input_tokens": reply.extra.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": reply.extra.written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens, "output_tokens_details": {"thinking_tokens": reply.extra.reasoning},
        "service_tier": "standard",
    })
}

fn message(reply: &Reply, content: &Value, stop: Option<&str>, output_tokens: usize) -> Value {
    json!({
        "id": format!("msg_demo{}", reply.id), "type": "message", "role": "assistant", "model": reply.model,
        "content": content, "stop_reason": stop, "stop_sequence": null, "usage": usage(reply, output_tokens),
    })
}

fn tool_id(reply: &Reply) -> String {
    format!("toolu_demo{}", reply.id)
}

fn whole(reply: &Reply) -> Value {
    let (block, stop) = match &reply.tool {
        Some(wish) => {
            let id = tool_id(reply);
            (json!({"type": "tool_use", "id": id, "name": wish.name, "input": wish.arguments}), "tool_use")
        }
        None => (json!({"type": "text", "text": reply.text()}), "end_turn"),
    };
    message(reply, &json!([block]), Some(stop), reply.output_tokens())
}

fn frame(name: &str, mut data: Value) -> Event {
    data["type"] = json!(name);
    Event::frame(named_sse(name, &data))
}

fn events(reply: Arc<Reply>) -> Events {
    let (block, stop) = match &reply.tool {
        Some(wish) => {
            let block = json!({"type": "tool_use", "id": tool_id(&reply), "name": wish.name, "input": {}});
            (block, "tool_use")
        }
        None => (json!({"type": "text", "text": ""}), "end_turn"),
    };
    let start = [
        frame("message_start", json!({"message": message(&reply, &json!([]), None, 1)})),
        frame("content_block_start", json!({"index": 0, "content_block": block})),
        frame("ping", json!({})),
    ];
    let end = [
        frame("content_block_stop", json!({"index": 0})),
        frame(
            "message_delta",
            json!({
                "delta": {"stop_reason": stop, "stop_sequence": null},
                "usage": {"output_tokens": reply.output_tokens(),
                    "output_tokens_details": {"thinking_tokens": reply.extra.reasoning}},
            }),
        ),
        frame("message_stop", json!({})),
    ];
    let middle: Events =
        match &reply.tool {
            Some(wish) => Box::new(fragments(&wish.arguments.to_string()).into_iter().map(|piece| {
                Event::word(delta(&json!({"type": "input_json_delta", "partial_json": piece})))
            })),
            None => words(&reply, |word| delta(&json!({"type": "text_delta", "text": word}))),
        };
    Box::new(start.into_iter().chain(middle).chain(end))
}

fn delta(delta: &Value) -> String {
    let data = json!({"type": "content_block_delta", "index": 0, "delta": delta});
    named_sse("content_block_delta", &data)
}

/// `GET /v1/models` with an `anthropic-version` header.
fn models() -> Value {
    let ids = ["claude-demo", "claude-sonnet-4-5", "claude-haiku-4-5"];
    let data: Vec<Value> = ids.iter().map(|id| model(id)).collect();
    json!({"data": data, "has_more": false, "first_id": ids[0], "last_id": ids[ids.len() - 1]})
}

fn model(id: &str) -> Value {
    json!({"type": "model", "id": id, "display_name": id, "created_at": "2026-09-22T00:00:00Z"})
}
