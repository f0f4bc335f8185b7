//! Real programs with a gateway between them and the demo provider: served with and without streaming, with
//! tools, with every kind of error, cut and killed. `docs/clients.md` says what they send and show; each run
//! compares its rows with the page, and `just clients` writes them.

/// Claude Code, Codex, opencode.
mod agents;
/// Answers that rules block while they stream.
mod blocks;
/// `docs/clients.md`.
mod page;
/// Refusals for callers, limits and budgets.
mod refusals;
/// SDKs in Python and JavaScript.
mod sdks;

use std::collections::BTreeSet;

use elida::demo::Seen;
use serde_json::Value;

use crate::support::Gateway;
use crate::support::forward_proxy::ForwardProxy;

/// The SDKs that `drive.py` drives.
const PYTHON_SDKS: [&str; 8] = [
    "openai",
    "openai-responses",
    "anthropic",
    "mistralai",
    "ollama",
    "langchain-openai",
    "langchain-anthropic",
    "mcp",
];
/// Those of `drive.mjs`.
const AI_SDKS: [&str; 4] =
    ["ai-sdk-openai", "ai-sdk-openai-chat", "ai-sdk-anthropic", "ai-sdk-openai-compatible"];

/// Terminates the gateway; returns the access lines of all requests that reached it, in order.
async fn requests_of(gateway: &mut Gateway) -> Vec<Value> {
    gateway.terminate();
    gateway.ended().await;
    gateway.log_until(|line| line["message"] == "stopped").await;
    gateway.log_lines().into_iter().filter(|line| line["message"] == "request_completed").collect()
}

/// How many of them were refused because the session was killed.
fn refused<'a>(requests: impl IntoIterator<Item = &'a Value>) -> usize {
    let is_refused =
        |line: &&Value| line["outcome"] == "session_killed" && line["status"].as_u64() >= Some(400);
    requests.into_iter().filter(is_refused).count()
}

/// Header fields and body members that name the session of a request.
fn hints(seen: &[Seen], ours: Option<&str>) -> Vec<String> {
    const WORDS: [&str; 5] = ["session", "thread", "conversation", "agent-id", "turn-metadata"];
    const MEMBERS: [&str; 5] =
        ["metadata.user_id", "prompt_cache_key", "client_metadata.session_id", "conversation", "user"];
    let names = seen.iter().flat_map(|request| request.headers.keys()).map(|name| name.as_str());
    let fields: BTreeSet<String> = names
        .filter(|name| Some(*name) != ours && WORDS.iter().any(|word| name.contains(word)))
        .map(|name| format!("`{name}`"))
        .collect();
    let bodies: Vec<Value> =
        seen.iter().filter_map(|request| serde_json::from_slice(request.body.as_deref()?).ok()).collect();
    let is_there = |member: &&&str| {
        let pointer = format!("/{}", member.replace('.', "/"));
        bodies.iter().any(|body: &Value| body.pointer(&pointer).is_some_and(Value::is_string))
    };
    let members = MEMBERS.iter().filter(is_there).map(|member| format!("body `{member}`"));
    fields.into_iter().chain(members).collect()
}

/// The cells of "What each sends".
fn sends(seen: &[Seen], ours: Option<&str>, forward_proxy: &ForwardProxy) -> Vec<String> {
    let paths: BTreeSet<_> =
        seen.iter().map(|request| format!("`{} {}`", request.method, request.path)).collect();
    let first = |name: &str| seen.iter().find_map(|request| request.header(name)).unwrap_or_default();
    let user_agents: BTreeSet<_> =
        seen.iter().filter_map(|request| request.header("user-agent")?.split(' ').next()).collect();
    let user_agents: Vec<_> = user_agents.iter().map(|name| format!("`{name}`")).collect();
    let credential = match (first("authorization"), first("x-api-key")) {
        ("", "") => "none",
        ("", _) => "`x-api-key`",
        (_, "") => "`Authorization`",
        _ => "`Authorization` and `x-api-key`",
    };
    let is_streamed = |request: &Seen| {
        let body: Option<Value> = request.body.as_deref().and_then(|body| serde_json::from_slice(body).ok());
        body.is_some_and(|body| body["stream"] == true)
    };
    let streams = match seen.iter().filter(|request| is_streamed(request)).count() {
        count if count == seen.len() => "always",
        0 => "no",
        _ => "when asked",
    };
    let largest = seen.iter().map(|request| request.body_len).max().unwrap_or(0);
    let body = if largest < 1000 { "below 1 kB".to_owned() } else { format!("{} kB", round(largest)) };
    let hosts: Vec<_> = forward_proxy.requested_hosts().iter().map(|host| format!("`{host}`")).collect();
    vec![
        paths.into_iter().collect::<Vec<_>>().join(", "),
        streams.to_owned(),
        listed(&hints(seen, ours)),
        listed(&user_agents),
        credential.to_owned(),
        body,
        listed(&hosts),
    ]
}

/// Tens of kilobytes: paths and dates in a prompt change its length a little.
fn round(bytes: usize) -> usize {
    (bytes + 5_000) / 10_000 * 10
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
