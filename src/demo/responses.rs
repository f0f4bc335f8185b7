//! OpenAI's responses API: items instead of messages, typed and numbered stream events.

use std::sync::Arc;

use serde_json::{Value, json};

use super::body::{Event, fragments, named_sse};
use super::openai::{self, CREATED};
use super::route::{Asked, Route};
use super::turn::{Ask, Dialect, Events, Reply, content_text, text_or, words_below};

/// `POST /v1/responses`.
const RESPONSES: Dialect =
    Dialect { ask, whole, events, stream_type: "text/event-stream; charset=utf-8", fault: openai::fault };

/// What a request to this API asks for.
pub(super) fn route(asked: &Asked<'_>) -> Option<Route> {
    (!asked.is_read && asked.tail == "/v1/responses").then_some(Route::Converse(&RESPONSES))
}

pub(super) fn ask(body: &Value) -> Result<Ask, String> {
    let tools = body["tools"].as_array().map_or(&[][..], Vec::as_slice);
    let mut ask = Ask {
        model: text_or(body, "model", "gpt-5-demo"),
        stream: body["stream"] == true,
        tools: tools.iter().filter_map(|tool| tool["name"].as_str()).map(str::to_owned).collect(),
        input_tokens: words_below(&body["instructions"]),
        ..Ask::default()
    };
    match &body["input"] {
        Value::String(text) => {
            ask.input_tokens += words_below(&body["input"]);
            ask.text = text.clone();
        }
        Value::Array(items) => {
            ask.input_tokens += items.iter().map(|item| words_below(&item["content"])).sum::<usize>();
            let user = items.iter().rposition(|item| item["role"] == "user");
            ask.text = user.and_then(|at| content_text(&items[at]["content"])).unwrap_or_default();
            ask.tool_answered = items[user.unwrap_or(0)..]
                .iter()
                .any(|item| item["type"].as_str().is_some_and(|kind| kind.ends_with("_call_output")));
        }
        _ => return Err("Missing required parameter: 'input'.".to_owned()),
    }
    Ok(ask)
}

fn usage(reply: &Reply) -> Value {
    json!({
        "input_tokens": reply.all_input_tokens(),
        "input_tokens_details": {"cached_tokens": reply.extra.cached, "cache_write_tokens": reply.extra.written},
        "output_tokens": reply.output_tokens(),
        "output_tokens_details": {"reasoning_tokens": reply.extra.reasoning},
        "total_tokens": reply.all_input_tokens() + reply.output_tokens(),
    })
}

fn response(reply: &Reply, status: &str, output: &Value, usage: &Value) -> Value {
    json!({
        "id": format!("resp_{}", reply.id), "object": "response", "created_at": CREATED, "status": status,
        "model": reply.model, "output": output, "usage": usage, "error": null, "incomplete_details": null,
        "instructions": null, "metadata": {}, "parallel_tool_calls": true, "temperature": 1.0, "top_p": 1.0,
        "tool_choice": "auto", "tools": [], "previous_response_id": null, "store": false,
        "text": {"format": {"type": "text"}}, "truncation": "disabled",
    })
}

/// The one item of the output; still empty while `status` is `in_progress`.
fn item(reply: &Reply, status: &str) -> Value {
    let begun = status == "in_progress";
    match &reply.tool {
        Some(wish) => {
            let arguments = if begun { String::new() } else { wish.arguments.to_string() };
            json!({"id": format!("fc_{}", reply.id), "type": "function_call", "status": status,
                "call_id": format!("call_{}", reply.id), "name": wish.name, "arguments": arguments})
        }
        None => {
            let content = if begun { json!([]) } else { json!([part(&reply.text())]) };
            json!({"id": format!("msg_{}", reply.id), "type": "message", "status": status,
                "role": "assistant", "content": content})
        }
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn whole(reply: &Reply) -> Value {
    response(reply, "completed", &json!([item(reply, "completed")]), &usage(reply))
}

/// One event before it has its number: name, members, and whether it carries a word.
type Step = (&'static str, Value, bool);

fn events(reply: Arc<Reply>) -> Events {
    Box::new(steps(&reply).map(|(data, word)| {
        let text = named_sse(data["type"].as_str().unwrap_or_default(), &data);
        if word { Event::word(text) } else { Event::frame(text) }
    }))
}

/// The events of a streamed answer, typed and numbered; the flag says whether one carries a word.
pub(super) fn steps(reply: &Arc<Reply>) -> impl Iterator<Item = (Value, bool)> + Send + use<> {
    let begun = json!({"response": response(reply, "in_progress", &json!([]), &Value::Null)});
    let start = vec![
        ("response.created", begun.clone(), false),
        ("response.in_progress", begun, false),
        ("response.output_item.added", json!({"output_index": 0, "item": item(reply, "in_progress")}), false),
    ];
    let end = vec![
        ("response.output_item.done", json!({"output_index": 0, "item": item(reply, "completed")}), false),
        ("response.completed", json!({"response": whole(reply)}), false),
    ];
    let middle: Box<dyn Iterator<Item = Step> + Send> = match &reply.tool {
        Some(wish) => Box::new(call_steps(&reply.id, &wish.arguments.to_string()).into_iter()),
        None => text_steps(reply),
    };
    let steps = start.into_iter().chain(middle).chain(end);
    steps.enumerate().map(|(number, (name, mut data, word))| {
        data["type"] = json!(name);
        data["sequence_number"] = json!(number);
        (data, word)
    })
}

fn text_steps(reply: &Arc<Reply>) -> Box<dyn Iterator<Item = Step> + Send> {
    let at = |reply: &Reply| json!({"item_id": format!("msg_{}", reply.id), "output_index": 0, "content_index": 0});
    let with = move |reply: &Reply, key: &str, value: Value| {
        let mut data = at(reply);
        data[key] = value;
        data
    };
    let added = ("response.content_part.added", with(reply, "part", part("")), false);
    let mut done = with(reply, "text", json!(reply.text()));
    done["logprobs"] = json!([]);
    let end = [
        ("response.output_text.done", done, false),
        ("response.content_part.done", with(reply, "part", part(&reply.text())), false),
    ];
    let reply = Arc::clone(reply);
    let words = (0..reply.word_count()).map(move |index| {
        let mut delta = with(&reply, "delta", json!(reply.piece(index)));
        delta["logprobs"] = json!([]);
        ("response.output_text.delta", delta, true)
    });
    Box::new([added].into_iter().chain(words).chain(end))
}

fn call_steps(id: &str, arguments: &str) -> Vec<Step> {
    let item_id = format!("fc_{id}");
    let pieces = fragments(arguments).into_iter().map(|piece| {
        let data = json!({"item_id": item_id, "output_index": 0, "delta": piece});
        ("response.function_call_arguments.delta", data, true)
    });
    let done = json!({"item_id": item_id, "output_index": 0, "arguments": arguments});
    pieces.chain([("response.function_call_arguments.done", done, false)]).collect()
}
