//! Answers of the control API for tests of the command line.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::protocol::facts::usage::Usage;
use crate::session::SessionView;

/// The uid of the session that a test calls `name`.
pub(super) fn uid(name: &str) -> String {
    format!("s_{:032x}", name.bytes().fold(0_u128, |number, byte| number << 8 | u128::from(byte)))
}

/// Reads an answer whose members are those of `base`, and those of `members` where both have one.
pub(super) fn read<T: DeserializeOwned>(base: &[(&str, Value)], members: Value) -> T {
    let mut answer: serde_json::Map<String, Value> =
        base.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let Value::Object(members) = members else { panic!("an object: {members}") };
    answer.extend(members);
    serde_json::from_value(answer.clone().into()).unwrap_or_else(|fault| panic!("{fault}: {answer:?}"))
}

/// An active session that has these members.
pub(super) fn session(mut members: Value) -> SessionView {
    let id = members["id"].as_str().unwrap_or("a").to_owned();
    let mut identity = json!({"source": "generated", "client": null, "client_version": null, "agent_id": null,
        "parent_agent_id": null});
    if let Value::Object(given) = members["identity"].take()
        && let Value::Object(identity) = &mut identity
    {
        identity.extend(given);
    }
    members["identity"] = identity;
    let started = json!("2026-11-20T08:00:00Z");
    let base = [
        ("uid", json!(uid(&id))),
        ("kind", json!("traffic")),
        ("state", json!("active")),
        ("incarnation", json!(1)),
        ("previous_id", Value::Null),
        ("principal", json!({"id": "anon:127.0.0.1", "via": "address"})),
        ("started_at", started.clone()),
        ("last_activity", started),
        ("usage", json!(Usage::default())),
        ("tools", json!({})),
        ("flags", json!([])),
        ("client_addr", json!("127.0.0.1")),
        ("backends", json!({})),
        ("models", json!({})),
    ];
    let numbers =
        ["duration_ms", "idle_ms", "request_count", "error_count", "open_legs", "bytes_in", "bytes_out"];
    let numbers = numbers.map(|name| (name, json!(0)));
    read(&base.into_iter().chain(numbers).collect::<Vec<_>>(), members)
}
