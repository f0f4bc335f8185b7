//! The dialects that the provider speaks, and the backends of `elida demo`.
//!
//! A new one is a file of its own and a line in [`DIALECTS`] and [`BACKENDS`].

use http::request::Parts;
use serde_json::Value;

use super::route::{Asked, Backend, Route};
use super::{a2a, anthropic, cohere, gemini, mistral, ollama, openai, responses};

/// The backends of `elida demo`.
pub const BACKENDS: [Backend; 5] =
    [ollama::BACKEND, openai::BACKEND, anthropic::BACKEND, mistral::BACKEND, cohere::BACKEND];

/// The dialects, in the order in which they are asked: those that share OpenAI's paths precede it.
const DIALECTS: [fn(&Asked<'_>) -> Option<Route>; 8] = [
    gemini::route,
    anthropic::route,
    cohere::route,
    mistral::route,
    openai::route,
    responses::route,
    ollama::route,
    a2a::route,
];

/// What a request asks for.
pub(super) fn route(head: &Parts, body: &Value) -> Route {
    let asked = Asked::of(head, body);
    if asked.path.ends_with("/mcp") {
        return Route::Mcp;
    }
    if let Some(route) = DIALECTS.iter().find_map(|route| route(&asked)) {
        return route;
    }
    match (asked.is_read, asked.tail) {
        (_, path) if path.ends_with("/echo") => Route::Echo,
        (true, "/" | "/api/hello") => Route::Hello,
        _ => Route::Unknown,
    }
}

/// How a coding agent is pointed at the proxy of `elida demo`, as a line for the terminal.
pub fn client_example(port: u16) -> String {
    anthropic::client_example(port)
}
