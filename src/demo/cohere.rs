//! Cohere, version 2 of the API: chat, whole and streamed, embeddings and the list of models.

use std::sync::Arc;

use serde_json::{Value, json};

use super::body::{Event, fragments, named_sse, words};
use super::openai::{ask_chat, embedding};
use super::route::{Asked, Backend, Route};
use super::turn::{Ask, Dialect, Events, Reply, words_below};

/// The backend of `elida demo`.
pub(super) const BACKEND: Backend =
    Backend { name: "cohere", kind: "cohere", is_default: false, models: &["command-*"] };

/// `POST /v2/chat`.
const CHAT: Dialect = Dialect { ask, whole, events, stream_type: "text/event-stream", fault };

/// What a request to this API asks for.
pub(super) fn route(asked: &Asked<'_>) -> Option<Route> {
    Some(match (asked.is_read, asked.tail) {
        (false, "/v2/chat") => Route::Converse(&CHAT),
        (false, "/v2/embed") => Route::Compute(embed, fault),
        // The list is at the path of OpenAI's; only this one has such pages.
        (true, "/v1/models") if asked.has_parameter("page_size") => Route::Fixed(models()),
        _ => return None,
    })
}

fn fault(_status: u16, message: &str) -> Value {
    json!({"id": "demo", "message": message})
}

/// Messages and tools have the shapes of chat completions.
fn ask(body: &Value) -> Result<Ask, String> {
    let model = body["model"].as_str().ok_or("model is required")?.to_owned();
    let ask = ask_chat(body).map_err(|_| "messages is required".to_owned())?;
    Ok(Ask { model, stream_usage: true, ..ask })
}

/// Cohere adds tokens to each prompt, which are in `tokens` and are not billed.
const ADDED: usize = 100;

fn usage(reply: &Reply) -> Value {
    let (input, output) = (reply.all_input_tokens(), reply.output_tokens());
    json!({
        "billed_units": {"input_tokens": input, "output_tokens": output},
        "tokens": {"input_tokens": input + ADDED, "output_tokens": output + 2},
        "cached_tokens": reply.extra.cached,
    })
}

fn call(reply: &Reply, name: &str, arguments: &str) -> Value {
    let function = json!({"name": name, "arguments": arguments});
    json!({"id": format!("{name}_{}", reply.id), "type": "function", "function": function})
}

fn finish(reply: &Reply) -> &'static str {
    if reply.tool.is_some() { "TOOL_CALL" } else { "COMPLETE" }
}

fn whole(reply: &Reply) -> Value {
    let message = match &reply.tool {
        Some(wish) => {
            let calls = [call(reply, &wish.name, &wish.arguments.to_string())];
            json!({"role": "assistant", "tool_plan": "I will call a tool.", "tool_calls": calls})
        }
        None => json!({"role": "assistant", "content": [{"type": "text", "text": reply.text()}]}),
    };
    json!({"id": reply.id, "finish_reason": finish(reply), "message": message, "usage": usage(reply)})
}

fn frame(name: &str, mut data: Value) -> Event {
    data["type"] = json!(name);
    Event::frame(named_sse(name, &data))
}

fn events(reply: Arc<Reply>) -> Events {
    let start = json!({"id": reply.id, "delta": {"message": {"role": "assistant", "content": [],
        "tool_plan": "", "tool_calls": [], "citations": []}}});
    let end = json!({"id": reply.id, "delta": {"finish_reason": finish(&reply), "usage": usage(&reply)}});
    let last = [frame("message-end", end), Event::frame("data: [DONE]\n\n")];
    let (begin, middle, close): (Event, Events, Event) = match &reply.tool {
        Some(wish) => {
            let calls = call(&reply, &wish.name, "");
            let begin = json!({"index": 0, "delta": {"message": {"tool_calls": calls}}});
            let pieces = fragments(&wish.arguments.to_string()).into_iter().map(|piece| {
                let function = json!({"function": {"arguments": piece}});
                Event::word(delta("tool-call-delta", &json!({"tool_calls": function})))
            });
            (frame("tool-call-start", begin), Box::new(pieces), frame("tool-call-end", json!({"index": 0})))
        }
        None => {
            let content = json!({"message": {"content": {"type": "text", "text": ""}}});
            let write = |word: &str| delta("content-delta", &json!({"content": {"text": word}}));
            (
                frame("content-start", json!({"index": 0, "delta": content})),
                words(&reply, write),
                frame("content-end", json!({"index": 0})),
            )
        }
    };
    Box::new([frame("message-start", start), begin].into_iter().chain(middle).chain([close]).chain(last))
}

fn delta(kind: &str, message: &Value) -> String {
    named_sse(kind, &json!({"type": kind, "index": 0, "delta": {"message": message}}))
}

/// `POST /v2/embed`.
fn embed(body: &Value) -> Result<Value, String> {
    let texts = body["texts"].as_array().ok_or("texts is required")?;
    let vectors: Vec<_> = texts.iter().map(|text| embedding(&text.to_string())).collect();
    let billed = json!({"input_tokens": texts.iter().map(words_below).sum::<usize>()});
    Ok(json!({
        "id": "demo", "texts": texts, "embeddings": {"float": vectors},
        "meta": {"api_version": {"version": "2"}, "billed_units": billed}, "response_type": "embeddings_by_type",
    }))
}

/// `GET /v1/models?page_size=…`.
fn models() -> Value {
    let models = ["command-demo", "command-a-03-2025"].map(
        |name| json!({"name": name, "endpoints": ["chat"], "finetuned": false, "context_length": 256_000}),
    );
    json!({"models": models})
}
