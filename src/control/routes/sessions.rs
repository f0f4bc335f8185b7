//! Who is there: the list of sessions and one session in detail.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control::problem::Problem;
use crate::control::service::Door;
use crate::ids::Uid;
use crate::session::{self, Filter, Snapshot};

/// Sessions on one page when the caller does not say.
const LIMIT_DEFAULT: usize = 100;
/// Sessions on one page at most.
const LIMIT_MAX: usize = 1000;

/// The sessions that match, newest first.
pub(super) async fn list(
    State(door): State<Arc<Door>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let filter = filter(query.as_deref().unwrap_or_default())?;
    let page = door.parts.manager.list(&filter).await;
    // Only a first page that is also the last knows the total.
    let is_whole = filter.cursor.is_none() && page.next_cursor.is_none();
    let total = is_whole.then_some(page.sessions.len());
    Ok(Json(json!({"sessions": page.sessions, "next_cursor": page.next_cursor, "total": total})))
}

/// One session in detail, by its id or uid. Active ones go before ended ones, as for a kill.
pub(super) async fn one(
    State(door): State<Arc<Door>>,
    Path(target): Path<String>,
) -> Result<Json<Snapshot>, Problem> {
    let mut found = door.parts.manager.get(&target).await;
    if found.iter().any(|session| session.state == session::State::Active) {
        found.retain(|session| session.state == session::State::Active);
    }
    match found.len() {
        0 => Err(Problem::session_not_found(&target)),
        1 => Ok(Json(found.remove(0))),
        _ => Err(Problem::ambiguous(found.iter().map(|session| session.uid))),
    }
}

/// Reads the query; all its faults are told at once.
fn filter(query: &str) -> Result<Filter, Problem> {
    let mut filter = Filter { limit: LIMIT_DEFAULT, ..Filter::default() };
    let mut faults = Vec::new();
    let mut seen = Vec::new();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let text = value.into_owned();
        match &*key {
            "state" => word(
                &text,
                &mut filter.state,
                "state must be active, completed, killed or timed_out",
                &mut faults,
            ),
            "kind" => {
                word(&text, &mut filter.kind, "kind must be traffic, agent, terminal or job", &mut faults)
            }
            "limit" => match text.parse() {
                Ok(limit @ 1..=LIMIT_MAX) => filter.limit = limit,
                _ => faults.push(format!("limit must be a number from 1 to {LIMIT_MAX}")),
            },
            "principal" => filter.principal = Some(text),
            "backend" => filter.backend = Some(text),
            "client" => filter.client = Some(text),
            "q" => filter.q = Some(text),
            "cursor" if Uid::parse(&text).is_some() => filter.cursor = Some(text),
            "cursor" => faults.push("cursor must be the next_cursor of another page".to_owned()),
            other => faults.push(format!("'{}' is not a parameter", other.escape_debug())),
        }
        match seen.contains(&key) {
            true => faults.push(format!("'{}' is given twice", key.escape_debug())),
            false => seen.push(key),
        }
    }
    match faults.is_empty() {
        true => Ok(filter),
        false => Err(Problem::bad_request(faults.join("; "))),
    }
}

/// Reads a word of a closed set, such as a state.
fn word<T: DeserializeOwned>(text: &str, into: &mut Option<T>, expected: &str, faults: &mut Vec<String>) {
    match serde_json::from_value(Value::from(text)) {
        Ok(word) => *into = Some(word),
        Err(_) => faults.push(expected.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_becomes_a_filter() {
        let filter = super::filter("state=timed_out&kind=traffic&limit=1000&q=a%20b&client=codex").unwrap();
        assert_eq!(filter.state, Some(session::State::TimedOut));
        assert_eq!((filter.limit, filter.q.as_deref()), (1000, Some("a b")));
        assert_eq!(super::filter("").unwrap().limit, LIMIT_DEFAULT);
    }

    #[test]
    fn every_fault_of_a_query_is_told() {
        let fault = |query: &str| format!("{:?}", super::filter(query).unwrap_err());
        let told = fault("state=dead&limit=0&colour=red&kind=x&cursor=7");
        for part in ["state must be", "limit must be", "'colour' is not", "kind must be", "cursor must be"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(fault("limit=1001").contains("1 to 1000"));
        assert!(fault("q=a&q=b").contains("given twice"));
    }
}
