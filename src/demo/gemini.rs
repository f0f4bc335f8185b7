//! Gemini: generateContent whole, as server-sent events and as one JSON array; counting and embedding.

use std::sync::Arc;

use serde_json::{Value, json};

use super::body::{Event, sse, words};
use super::openai::embedding;
use super::route::{Asked, Route};
use super::turn::{Ask, Dialect, Events, Reply, text_or, words_below};

/// `:streamGenerateContent?alt=sse`, and `:generateContent`.
const CONTENT: Dialect = Dialect { ask, whole, events, stream_type: "text/event-stream", fault };

/// `:streamGenerateContent` without `alt`.
const ARRAY: Dialect = Dialect { ask, whole, events: elements, stream_type: "application/json", fault };

/// What a request to this API asks for.
pub(super) fn route(asked: &Asked<'_>) -> Option<Route> {
    if let Some((_, verb)) = call(asked.path) {
        return Some(match verb {
            "generateContent" => Route::Gemini(&CONTENT),
            "streamGenerateContent" if asked.has_pair("alt=sse") => Route::Gemini(&CONTENT),
            "streamGenerateContent" => Route::Gemini(&ARRAY),
            "countTokens" => Route::Compute(count_tokens, fault),
            "embedContent" => Route::Compute(embed, fault),
            _ => return None,
        });
    }
    (asked.is_read && asked.tail == "/v1beta/models").then(|| Route::Fixed(models()))
}

/// The model and the word behind the colon, when the path has them.
fn call(path: &str) -> Option<(&str, &str)> {
    path.rsplit('/').next()?.rsplit_once(':')
}

fn fault(status: u16, message: &str) -> Value {
    let word = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 | 529 => "UNAVAILABLE",
        _ => "INTERNAL",
    };
    json!({"error": {"code": status, "message": message, "status": word}})
}

/// The body with what this API says in the path.
pub(super) fn with_path(path: &str, asked: Result<Value, String>) -> Result<Value, String> {
    let mut asked = asked?;
    let body = asked.as_object_mut().ok_or("Invalid JSON payload received.")?;
    let (model, verb) = call(path).unwrap_or_default();
    body.insert("model".to_owned(), model.rsplit('/').next().into());
    body.insert("stream".to_owned(), (verb == "streamGenerateContent").into());
    Ok(asked)
}

/// With `model` and `stream` from the path ([`with_path`]).
fn ask(body: &Value) -> Result<Ask, String> {
    let contents = body["contents"].as_array().ok_or("contents is not specified")?;
    let user = contents.iter().rposition(|content| is_of_user(content) && words_in(content).is_some());
    let after = user.map_or(&[][..], |at| &contents[at..]);
    let answered = |content: &Value| parts(content).iter().any(|part| part.get("functionResponse").is_some());
    let tools = body["tools"].as_array().map_or(&[][..], Vec::as_slice);
    let declared = tools.iter().filter_map(|tool| tool["functionDeclarations"].as_array()).flatten();
    Ok(Ask {
        model: text_or(body, "model", "gemini-demo"),
        stream: body["stream"] == true,
        text: user.and_then(|at| words_in(&contents[at])).unwrap_or_default().to_owned(),
        tool_answered: after.iter().any(answered),
        tools: declared.filter_map(|tool| tool["name"].as_str()).map(str::to_owned).collect(),
        input_tokens: contents.iter().map(|content| words_below(&content["parts"])).sum(),
        stream_usage: true,
    })
}

/// Without a role it is the user's.
fn is_of_user(content: &Value) -> bool {
    content["role"].as_str().is_none_or(|role| role == "user")
}

fn parts(content: &Value) -> &[Value] {
    content["parts"].as_array().map_or(&[][..], Vec::as_slice)
}

fn words_in(content: &Value) -> Option<&str> {
    parts(content).iter().rev().find_map(|part| part["text"].as_str())
}

fn piece(reply: &Reply, parts: &Value, finish: Option<&str>, output_tokens: usize) -> Value {
    let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
    if let Some(finish) = finish {
        candidate["finishReason"] = json!(finish);
    }
    json!({
        "candidates": [candidate],
        "usageMetadata": {"promptTokenCount": reply.input_tokens, "candidatesTokenCount": output_tokens,
            "totalTokenCount": reply.input_tokens + output_tokens},
        "modelVersion": reply.model, "responseId": reply.id,
    })
}

/// The whole answer: text, or a call of a tool.
fn whole(reply: &Reply) -> Value {
    let parts = match &reply.tool {
        Some(wish) => json!([{"functionCall": {"name": wish.name, "args": wish.arguments}}]),
        None => json!([{"text": reply.text()}]),
    };
    piece(reply, &parts, Some("STOP"), reply.output_tokens())
}

fn last(reply: &Reply) -> Value {
    match reply.tool {
        Some(_) => whole(reply),
        None => piece(reply, &json!([{"text": ""}]), Some("STOP"), reply.output_tokens()),
    }
}

/// The pieces of an answer but the last: one for each word.
fn spoken(reply: &Arc<Reply>, write: impl Fn(&Value) -> String + Send + 'static) -> Events {
    if reply.tool.is_some() {
        return Box::new(std::iter::empty());
    }
    let shape = Arc::clone(reply);
    words(reply, move |word| write(&piece(&shape, &json!([{"text": word}]), None, 1)))
}

fn events(reply: Arc<Reply>) -> Events {
    let end = Event::frame(sse(&last(&reply)));
    Box::new(spoken(&reply, sse).chain([end]))
}

/// `[` with the first element, then each with a comma before it.
fn elements(reply: Arc<Reply>) -> Events {
    let end = [Event::frame(format!("{}\n", last(&reply))), Event::frame("]")];
    Box::new(
        [Event::frame("[")].into_iter().chain(spoken(&reply, |piece| format!("{piece}\n,\r\n"))).chain(end),
    )
}

/// `:countTokens`.
fn count_tokens(body: &Value) -> Result<Value, String> {
    ask(body).map(|ask| json!({"totalTokens": ask.input_tokens}))
}

/// `:embedContent`.
fn embed(body: &Value) -> Result<Value, String> {
    Ok(json!({"embedding": {"values": embedding(&body["content"].to_string())}}))
}

/// `GET /v1beta/models`.
fn models() -> Value {
    let model = json!({"name": "models/gemini-demo", "displayName": "Gemini Demo", "version": "1",
        "inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"]});
    json!({"models": [model]})
}
