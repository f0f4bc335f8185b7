//! Ollama: chat and generate as NDJSON unless `stream` is false, embeddings and the little lists.

use std::sync::Arc;

use serde_json::{Value, json};

use super::body::{Event, line, words};
use super::openai::embedding;
use super::route::{Asked, Backend, Route};
use super::turn::{Ask, Dialect, Events, Reply, count_words, text_or, words_below};

/// The time in every answer, so that answers stay a function of the request.
const CREATED_AT: &str = "2026-09-22T00:00:00Z";
const MODEL: &str = "llama-demo:latest";

/// `POST /api/chat`.
const CHAT: Dialect = Dialect {
    ask: ask_chat,
    whole: |reply| last(reply, "message", message(reply, &reply.text())),
    events: chat_events,
    stream_type: "application/x-ndjson",
    fault,
};

/// `POST /api/generate`.
const GENERATE: Dialect = Dialect {
    ask: ask_generate,
    whole: |reply| last(reply, "response", json!(reply.text())),
    events: generate_events,
    stream_type: "application/x-ndjson",
    fault,
};

/// The backend of `elida demo`.
pub(super) const BACKEND: Backend = Backend { name: "ollama", kind: "ollama", is_default: true, models: &[] };

/// What a request to this API asks for.
pub(super) fn route(asked: &Asked<'_>) -> Option<Route> {
    Some(match (asked.is_read, asked.tail) {
        (false, "/api/chat") => Route::Converse(&CHAT),
        (false, "/api/generate") => Route::Converse(&GENERATE),
        (false, "/api/embed") => Route::Compute(embed, fault),
        (false, "/api/embeddings") => Route::Compute(embeddings, fault),
        (false, "/api/pull" | "/api/push" | "/api/create") => Route::Lines(progress),
        (false, "/api/copy" | "/api/delete") => Route::Done,
        (false, "/api/show") => Route::Compute(show, fault),
        (true, "/api/tags") => Route::Fixed(tags()),
        (true, "/api/ps") => Route::Fixed(running()),
        (true, "/api/version") => Route::Fixed(version()),
        _ => return None,
    })
}

fn fault(_status: u16, message: &str) -> Value {
    json!({"error": message})
}

fn ask_chat(body: &Value) -> Result<Ask, String> {
    let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let user = messages.iter().rposition(|message| message["role"] == "user");
    let tools = body["tools"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Ask {
        text: user.map(|at| text_or(&messages[at], "content", "")).unwrap_or_default(),
        tool_answered: messages[user.unwrap_or(0)..].iter().any(|message| message["role"] == "tool"),
        tools: tools.iter().filter_map(|tool| tool["function"]["name"].as_str()).map(str::to_owned).collect(),
        input_tokens: messages.iter().map(|message| words_below(&message["content"])).sum(),
        ..ask(body)?
    })
}

fn ask_generate(body: &Value) -> Result<Ask, String> {
    let text = text_or(body, "prompt", "");
    Ok(Ask { input_tokens: count_words(&text), text, ..ask(body)? })
}

fn ask(body: &Value) -> Result<Ask, String> {
    let model = body["model"].as_str().ok_or("model is required")?.to_owned();
    Ok(Ask { model, stream: body["stream"] != false, ..Ask::default() })
}

fn message(reply: &Reply, text: &str) -> Value {
    match &reply.tool {
        Some(wish) => {
            let function = json!({"name": wish.name, "arguments": wish.arguments});
            json!({"role": "assistant", "content": "", "tool_calls": [{"function": function}]})
        }
        None => json!({"role": "assistant", "content": text}),
    }
}

fn next(reply: &Reply, key: &str, value: Value) -> Value {
    json!({"model": reply.model, "created_at": CREATED_AT, key: value, "done": false})
}

fn last(reply: &Reply, key: &str, value: Value) -> Value {
    json!({
        "model": reply.model, "created_at": CREATED_AT, key: value, "done": true, "done_reason": "stop",
        "total_duration": 50_000_000, "load_duration": 1_000_000,
        "prompt_eval_count": reply.all_input_tokens(), "prompt_eval_duration": 9_000_000,
        "eval_count": reply.output_tokens(), "eval_duration": 40_000_000,
    })
}

fn chat_events(reply: Arc<Reply>) -> Events {
    if reply.tool.is_some() {
        let call = next(&reply, "message", message(&reply, ""));
        let end = last(&reply, "message", json!({"role": "assistant", "content": ""}));
        return Box::new([Event::word(line(&call)), Event::frame(line(&end))].into_iter());
    }
    let end = Event::frame(line(&last(&reply, "message", message(&reply, ""))));
    let shape = Arc::clone(&reply);
    let write = move |word: &str| line(&next(&shape, "message", message(&shape, word)));
    Box::new(words(&reply, write).chain([end]))
}

fn generate_events(reply: Arc<Reply>) -> Events {
    let mut end = last(&reply, "response", json!(""));
    end["context"] = json!([1, 2, 3]);
    let shape = Arc::clone(&reply);
    let write = move |word: &str| line(&next(&shape, "response", json!(word)));
    Box::new(words(&reply, write).chain([Event::frame(line(&end))]))
}

/// `POST /api/embed`.
fn embed(body: &Value) -> Result<Value, String> {
    let inputs: Vec<&Value> = match &body["input"] {
        Value::Array(many) => many.iter().collect(),
        one => vec![one],
    };
    let vectors: Vec<_> = inputs.iter().map(|input| embedding(&input.to_string())).collect();
    Ok(json!({
        "model": text_or(body, "model", MODEL), "embeddings": vectors, "total_duration": 1_000_000,
        "load_duration": 100_000, "prompt_eval_count": inputs.iter().map(|input| words_below(input)).sum::<usize>(),
    }))
}

/// `POST /api/embeddings`, the older form.
fn embeddings(body: &Value) -> Result<Value, String> {
    Ok(json!({"embedding": embedding(&text_or(body, "prompt", ""))}))
}

/// `POST /api/pull`, `push` and `create`: their progress.
fn progress(body: &Value) -> Vec<Value> {
    match body["stream"] == false {
        true => vec![json!({"status": "success"})],
        false => vec![json!({"status": "pulling manifest"}), json!({"status": "success"})],
    }
}

fn details() -> Value {
    json!({"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"],
        "parameter_size": "8.0B", "quantization_level": "Q4_0"})
}

fn model() -> Value {
    json!({"name": MODEL, "model": MODEL, "modified_at": CREATED_AT, "size": 4_661_224_676_u64,
        "digest": "365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1", "details": details()})
}

/// `GET /api/tags`.
fn tags() -> Value {
    json!({"models": [model()]})
}

/// `GET /api/ps`.
fn running() -> Value {
    let mut model = model();
    model["expires_at"] = json!("2026-12-31T00:00:00Z");
    model["size_vram"] = json!(4_661_224_676_u64);
    json!({"models": [model]})
}

/// `GET /api/version`.
fn version() -> Value {
    json!({"version": "0.12.0"})
}

/// `POST /api/show`.
fn show(_body: &Value) -> Result<Value, String> {
    Ok(json!({"modelfile": "FROM llama-demo", "parameters": "", "template": "{{ .Prompt }}",
        "details": details(), "model_info": {"general.architecture": "llama"},
        "capabilities": ["completion", "tools"], "modified_at": CREATED_AT}))
}
