//! OpenAI: chat completions, completions, embeddings and the list of models.

use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::body::{Event, fragments, sse, words};
use super::route::{Asked, Backend, Route};
use super::turn::{Ask, Dialect, Events, Reply, content_text, count_words, text_or, words_below};

/// Unix seconds in every answer, so that answers stay a function of the request.
pub(super) const CREATED: u64 = 1_790_000_000;
/// Numbers in an embedding.
const DIMENSIONS: usize = 8;

/// `POST /v1/chat/completions`.
const CHAT: Dialect = Dialect {
    ask: ask_chat,
    whole: whole_chat,
    events: chat_events,
    stream_type: "text/event-stream",
    fault,
};

/// `POST /v1/completions`.
const COMPLETIONS: Dialect = Dialect {
    ask: ask_completion,
    whole: whole_completion,
    events: completion_events,
    stream_type: "text/event-stream",
    fault,
};

/// The backend of `elida demo`.
pub(super) const BACKEND: Backend =
    Backend { name: "openai", kind: "openai", is_default: false, models: &["gpt-*", "o[0-9]*"] };

/// What a request to this API asks for.
pub(super) fn route(asked: &Asked<'_>) -> Option<Route> {
    Some(match (asked.is_read, asked.tail) {
        (false, "/v1/chat/completions") => Route::Converse(&CHAT),
        (false, "/v1/completions" | "/v1/fim/completions") => Route::Converse(&COMPLETIONS),
        (false, "/v1/embeddings") => Route::Compute(embeddings, fault),
        (true, "/v1/models") => Route::Fixed(models()),
        (true, tail) => Route::Fixed(model(tail.strip_prefix("/v1/models/")?)),
        _ => return None,
    })
}

pub(super) fn fault(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": null}})
}

pub(super) fn ask_chat(body: &Value) -> Result<Ask, String> {
    let messages = body["messages"].as_array().ok_or("Missing required parameter: 'messages'.")?;
    let user = messages.iter().rposition(|message| message["role"] == "user");
    let after = user.map_or(messages.as_slice(), |at| &messages[at..]);
    let tools = body["tools"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Ask {
        model: text_or(body, "model", "gpt-demo"),
        stream: body["stream"] == true,
        text: user.and_then(|at| content_text(&messages[at]["content"])).unwrap_or_default(),
        tool_answered: after.iter().any(|message| message["role"] == "tool"),
        tools: tools.iter().filter_map(|tool| tool["function"]["name"].as_str()).map(str::to_owned).collect(),
        input_tokens: messages.iter().map(|message| words_below(&message["content"])).sum(),
        stream_usage: body["stream_options"]["include_usage"] == true,
    })
}

pub(super) fn usage(reply: &Reply) -> Value {
    json!({
        "prompt_tokens": reply.all_input_tokens(),
        "completion_tokens": reply.output_tokens(),
        "total_tokens": reply.all_input_tokens() + reply.output_tokens(),
        "prompt_tokens_details": {"cached_tokens": reply.extra.cached,
            "cache_write_tokens": reply.extra.written, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reply.extra.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    })
}

fn whole_chat(reply: &Reply) -> Value {
    let (message, finish) = match &reply.tool {
        Some(wish) => {
            let function = json!({"name": wish.name, "arguments": wish.arguments.to_string()});
            let call = json!({"id": format!("call_{}", reply.id), "type": "function", "function": function});
            (
                json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [call]}),
                "tool_calls",
            )
        }
        None => (json!({"role": "assistant", "content": reply.text(), "refusal": null}), "stop"),
    };
    json!({
        "id": format!("chatcmpl-{}", reply.id), "object": "chat.completion", "created": CREATED,
        "model": reply.model, "system_fingerprint": "fp_demo",
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish}],
        "usage": usage(reply),
    })
}

fn chunk(reply: &Reply, delta: &Value, finish: Option<&str>) -> Value {
    let mut chunk = json!({
        "id": format!("chatcmpl-{}", reply.id), "object": "chat.completion.chunk", "created": CREATED,
        "model": reply.model, "system_fingerprint": "fp_demo",
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
    });
    if reply.stream_usage {
        chunk["usage"] = Value::Null;
    }
    chunk
}

fn chat_events(reply: Arc<Reply>) -> Events {
    let first = sse(&chunk(&reply, &json!({"role": "assistant", "content": "", "refusal": null}), None));
    let finish = if reply.tool.is_some() { "tool_calls" } else { "stop" };
    let mut end = vec![Event::frame(sse(&chunk(&reply, &json!({}), Some(finish))))];
    if reply.stream_usage {
        let mut last = chunk(&reply, &json!({}), None);
        last["choices"] = json!([]);
        last["usage"] = usage(&reply);
        end.push(Event::frame(sse(&last)));
    }
    end.push(Event::frame("data: [DONE]\n\n"));
    let middle: Events = match &reply.tool {
        Some(wish) => Box::new(tool_chunks(&reply, &wish.name, &wish.arguments.to_string()).into_iter()),
        None => {
            let shape = Arc::clone(&reply);
            words(&reply, move |word| sse(&chunk(&shape, &json!({"content": word}), None)))
        }
    };
    Box::new([Event::frame(first)].into_iter().chain(middle).chain(end))
}

fn tool_chunks(reply: &Reply, name: &str, arguments: &str) -> Vec<Event> {
    let id = format!("call_{}", reply.id);
    let function = json!({"name": name, "arguments": ""});
    let start = json!({"tool_calls": [{"index": 0, "id": id, "type": "function", "function": function}]});
    let pieces = fragments(arguments).into_iter().map(|piece| {
        let delta = json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]});
        Event::word(sse(&chunk(reply, &delta, None)))
    });
    [Event::frame(sse(&chunk(reply, &start, None)))].into_iter().chain(pieces).collect()
}

fn ask_completion(body: &Value) -> Result<Ask, String> {
    let prompt = match &body["prompt"] {
        Value::String(text) => text.clone(),
        Value::Array(prompts) => prompts.iter().rev().find_map(Value::as_str).unwrap_or_default().to_owned(),
        _ => return Err("Missing required parameter: 'prompt'.".to_owned()),
    };
    Ok(Ask {
        model: text_or(body, "model", "gpt-demo-instruct"),
        stream: body["stream"] == true,
        input_tokens: count_words(&prompt),
        text: prompt,
        stream_usage: body["stream_options"]["include_usage"] == true,
        ..Ask::default()
    })
}

fn completion(reply: &Reply, text: &str, finish: Option<&str>) -> Value {
    json!({
        "id": format!("cmpl-{}", reply.id), "object": "text_completion", "created": CREATED,
        "model": reply.model,
        "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}],
    })
}

fn whole_completion(reply: &Reply) -> Value {
    let mut whole = completion(reply, &reply.text(), Some("stop"));
    whole["usage"] = usage(reply);
    whole
}

fn completion_events(reply: Arc<Reply>) -> Events {
    let mut last = completion(&reply, "", Some("stop"));
    if reply.stream_usage {
        last["usage"] = usage(&reply);
    }
    let end = [Event::frame(sse(&last)), Event::frame("data: [DONE]\n\n")];
    let shape = Arc::clone(&reply);
    Box::new(words(&reply, move |word| sse(&completion(&shape, word, None))).chain(end))
}

/// `POST /v1/embeddings`: numbers that are a function of the text.
fn embeddings(body: &Value) -> Result<Value, String> {
    let inputs: Vec<&Value> = match &body["input"] {
        Value::Array(many) if many.iter().all(|item| item.is_string() || item.is_array()) => {
            many.iter().collect()
        }
        Value::Null => return Err("Missing required parameter: 'input'.".to_owned()),
        one => vec![one],
    };
    let in_base64 = body["encoding_format"] == "base64";
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let numbers = embedding(&input.to_string());
            let embedding = if in_base64 { json!(base64(&numbers)) } else { json!(numbers) };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let words: usize = inputs.iter().map(|input| words_below(input)).sum();
    Ok(json!({
        "object": "list", "data": data, "model": text_or(body, "model", "demo-embedding"),
        "usage": {"prompt_tokens": words, "total_tokens": words},
    }))
}

/// Eight numbers between -1 and 1.
pub(super) fn embedding(text: &str) -> Vec<f32> {
    Sha256::digest(text).iter().take(DIMENSIONS).map(|byte| f32::from(*byte) / 127.5 - 1.0).collect()
}

/// Base64 of little-endian floats: how the SDKs ask for embeddings.
fn base64(numbers: &[f32]) -> String {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    BASE64.encode(&bytes)
}

/// `GET /v1/models`.
fn models() -> Value {
    let ids = ["gpt-demo", "gpt-5-demo", "mistral-demo", "claude-demo", "llama-demo", "demo-embedding"];
    json!({"object": "list", "data": ids.map(model)})
}

/// `GET /v1/models/ID`.
fn model(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": CREATED, "owned_by": "demo"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_follows_the_rfc() {
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
    }

    #[test]
    fn each_input_gets_an_embedding() {
        let answer = embeddings(&json!({"input": ["a b", "c"]})).expect("an answer");
        assert_eq!(answer["data"].as_array().map(Vec::len), Some(2));
        assert_eq!(answer["usage"]["prompt_tokens"], 3);
    }
}
