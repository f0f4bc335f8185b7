//! Who is there: the list of sessions and one session in detail.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::query;
use crate::control::problem::Problem;
use crate::control::service::Door;
use crate::ids::Uid;
use crate::session::{Filter, SessionRef, SessionView};

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
    let is_whole = filter.cursor.is_none() && page.next_cursor.is_none() && !page.truncated;
    let total = is_whole.then_some(page.sessions.len());
    Ok(Json(json!({
        "sessions": page.sessions,
        "next_cursor": page.next_cursor,
        "total": total,
        "truncated": page.truncated,
    })))
}

/// One session in detail, by its id or uid.
pub(super) async fn one(
    State(door): State<Arc<Door>>,
    Path(target): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<SessionView>, Problem> {
    let by = query::named_by(query.as_deref())?;
    let found = find(&door, SessionRef::new(&target, by)).await?;
    found.map(Json).ok_or_else(|| Problem::session_not_found(&target))
}

/// The session of this id or uid, if it is known: the one that a kill would mean.
pub(super) async fn find(door: &Door, target: SessionRef<'_>) -> Result<Option<SessionView>, Problem> {
    let mut found = door.parts.manager.get(target).await;
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(Problem::ambiguous(target.text(), found.iter().map(|session| session.uid))),
    }
}

/// Reads the query; all its faults are told at once.
fn filter(query: &str) -> Result<Filter, Problem> {
    let mut filter = Filter { limit: LIMIT_DEFAULT, ..Filter::default() };
    query::read(query, |key, text| take(&mut filter, key, text))?;
    Ok(filter)
}

fn take(filter: &mut Filter, key: &str, text: String) -> Result<(), String> {
    match key {
        "state" => filter.state = word(&text, "state must be active, completed, killed or timed_out")?,
        "kind" => filter.kind = word(&text, "kind must be traffic, agent, terminal or job")?,
        "limit" => filter.limit = query::limit(&text, LIMIT_MAX)?,
        "principal" => filter.principal = Some(text),
        "backend" => filter.backend = Some(text),
        "client" => filter.client = Some(text),
        "q" => filter.q = Some(text),
        "cursor" if Uid::parse(&text).is_some() => filter.cursor = Some(text),
        "cursor" => return Err("cursor must be the next_cursor of another page".to_owned()),
        other => return Err(query::unknown(other)),
    }
    Ok(())
}

/// Reads a word of a closed set, such as a state.
fn word<T: DeserializeOwned>(text: &str, expected: &str) -> Result<Option<T>, String> {
    serde_json::from_value(Value::from(text)).map(Some).map_err(|_| expected.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_becomes_a_filter() {
        let filter = super::filter("state=timed_out&kind=traffic&limit=1000&q=a%20b&client=codex").unwrap();
        assert_eq!(filter.state, Some(crate::session::SessionState::TimedOut));
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
