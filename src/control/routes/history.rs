//! What has ended: records, what happened to them, and sums for charts.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{query, sessions};
use crate::control::problem::Problem;
use crate::control::service::Door;
use crate::history::read::export::Format;
use crate::history::read::filter::{GroupBy, Interval, RecordFilter};
use crate::history::read::legs::LegPage;
use crate::history::read::reader::{Reader, RecordDetail, RecordPage};
use crate::history::read::time_range::parse_time;
use crate::history::{self, Archive};

/// Records or events on one page when the caller does not say.
const LIMIT_DEFAULT: usize = 100;
/// Records or events on one page at most.
const LIMIT_MAX: usize = 1000;
/// Captures on one page when the caller does not say, and at most: each may hold two bodies.
const CAPTURES_DEFAULT: usize = 20;
const CAPTURES_MAX: usize = 100;

/// Records, the last ended first.
pub(super) async fn list(
    State(door): State<Arc<Door>>,
    RawQuery(query): RawQuery,
) -> Result<Json<RecordPage>, Problem> {
    let asked = Asked::read(query, &["limit", "cursor"])?;
    read(&door, move |reader| reader.page(&asked.wanted, asked.cursor, asked.limit)).await.map(Json)
}

/// One record with its last requests, events and kills, by uid or session id.
pub(super) async fn one(
    State(door): State<Arc<Door>>,
    Path(target): Path<String>,
) -> Result<Json<RecordDetail>, Problem> {
    let wanted = target.clone();
    let found = read(&door, move |reader| reader.detail(&wanted)).await?;
    found.map(Json).ok_or_else(|| unknown_record(&target))
}

fn unknown_record(target: &str) -> Problem {
    let detail = format!("no record of a session with the id or uid '{target}' is kept here");
    Problem::new(StatusCode::NOT_FOUND, "record_not_found", detail)
}

/// What is kept of the requests of one session, also while it is active, in the order in which they ended.
pub(super) async fn requests(
    State(door): State<Arc<Door>>,
    Path(target): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<LegPage>, Problem> {
    let asked = Asked::read(query, &["limit", "cursor"])?;
    if asked.wanted != RecordFilter::default() {
        return Err(Problem::bad_request("the requests of a session take limit and cursor only"));
    }
    archive(&door)?;
    let known = sessions::find(&door, (&target).into()).await?.map(|session| session.uid.to_string());
    let wanted = target.clone();
    let found = read(&door, move |reader| {
        let uid = match known {
            Some(uid) => Some(uid),
            None => reader.incarnation(&wanted)?,
        };
        uid.map(|uid| reader.legs(&uid, asked.cursor, asked.limit)).transpose()
    })
    .await?;
    found.map(Json).ok_or_else(|| unknown_record(&target))
}

/// The bodies that are kept of a session, by uid or session id, the last first.
pub(super) async fn captures(
    State(door): State<Arc<Door>>,
    Path(target): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let (mut limit, mut cursor) = (CAPTURES_DEFAULT, None);
    query::read(&query.unwrap_or_default(), |key, text| {
        match key {
            "limit" => limit = query::limit(&text, CAPTURES_MAX)?,
            "cursor" => cursor = Some(query::cursor(&text)?),
            other => return Err(query::unknown(other)),
        }
        Ok(())
    })?;
    let (captures, next_cursor) = read(&door, move |reader| reader.captures(&target, cursor, limit)).await?;
    Ok(Json(json!({"captures": captures, "next_cursor": next_cursor})))
}

/// What happened, the last first.
pub(super) async fn events(
    State(door): State<Arc<Door>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let asked = Asked::read(query, &["limit", "cursor", "type"])?;
    let (events, next_cursor) = read(&door, move |reader| {
        reader.events(asked.wanted.range, asked.kind.as_deref(), asked.cursor, asked.limit)
    })
    .await?;
    Ok(Json(json!({"events": events, "next_cursor": next_cursor})))
}

/// Sums for each minute, hour or day.
pub(super) async fn series(
    State(door): State<Arc<Door>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let asked = Asked::read(query, &["step"])?;
    let points = read(&door, move |reader| reader.series(&asked.wanted, asked.step)).await?;
    Ok(Json(json!({"points": points})))
}

/// Tokens and cost by principal, model, client, backend or session.
pub(super) async fn usage(
    State(door): State<Arc<Door>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let asked = Asked::read(query, &["by"])?;
    let by = asked.by;
    let lines = read(&door, move |reader| reader.usage(&asked.wanted, by)).await?;
    Ok(Json(json!({"usage": lines})))
}

pub(super) fn archive(door: &Door) -> Result<Arc<Archive>, Problem> {
    door.parts.history.clone().ok_or_else(|| {
        let detail =
            "no history is kept here: history.enabled is false, or its file cannot be used (see the log)";
        Problem::new(StatusCode::NOT_FOUND, "history_disabled", detail)
    })
}

/// Asks on a thread that may block.
async fn read<T: Send + 'static>(
    door: &Door,
    question: impl FnOnce(&Reader) -> history::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    door.blocking.ask(archive(door)?, question).await
}

/// What a query asks for.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) wanted: RecordFilter,
    limit: usize,
    cursor: Option<u64>,
    kind: Option<String>,
    step: Interval,
    by: GroupBy,
    pub(super) of: Of,
    pub(super) format: Format,
}

/// What an export is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Records,
    Requests,
}

impl Asked {
    /// Reads the query of an endpoint that takes these keys beside those of [`RecordFilter`]; all its faults are told
    /// at once.
    pub(super) fn read(query: Option<String>, keys: &[&str]) -> Result<Self, Problem> {
        let mut asked = Self {
            wanted: RecordFilter::default(),
            limit: LIMIT_DEFAULT,
            cursor: None,
            kind: None,
            step: Interval::Hour,
            by: GroupBy::Principal,
            of: Of::Records,
            format: Format::Ndjson,
        };
        query::read(&query.unwrap_or_default(), |key, text| asked.take(key, text, keys))?;
        Ok(asked)
    }

    fn take(&mut self, key: &str, text: String, keys: &[&str]) -> Result<(), String> {
        let wanted = &mut self.wanted;
        match key {
            "from" => wanted.range.from = Some(time(key, &text)?),
            "to" => wanted.range.to = Some(time(key, &text)?),
            "state" if matches!(&*text, "completed" | "killed" | "timed_out") => wanted.state = Some(text),
            "state" => return Err("state must be completed, killed or timed_out".to_owned()),
            "principal" => wanted.principal = Some(text),
            "client" => wanted.client = Some(text),
            "backend" => wanted.backend = Some(text),
            "model" => wanted.model = Some(text),
            "q" => wanted.q = Some(text),
            other if !keys.contains(&other) => return Err(query::unknown(other)),
            "limit" => self.limit = query::limit(&text, LIMIT_MAX)?,
            "cursor" => self.cursor = Some(query::cursor(&text)?),
            "type" => self.kind = Some(text),
            "step" => self.step = Interval::parse(&text).ok_or("step must be minute, hour or day")?,
            "by" => {
                self.by =
                    GroupBy::parse(&text).ok_or("by must be principal, model, client, backend or session")?;
            }
            "of" => {
                self.of = match &*text {
                    "records" => Of::Records,
                    "requests" => Of::Requests,
                    _ => return Err("of must be records or requests".to_owned()),
                }
            }
            _ => self.format = Format::parse(&text).ok_or("format must be ndjson or csv")?,
        }
        Ok(())
    }
}

fn time(key: &str, text: &str) -> Result<Timestamp, String> {
    parse_time(text, Timestamp::now())
        .ok_or_else(|| format!("{key} must be a time such as 2026-11-20T10:00:00Z, or 24h for so long ago"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_query_is_told() {
        let asked = |query: &str, keys: &[&str]| Asked::read(Some(query.to_owned()), keys);
        let good = asked("state=killed&limit=5&cursor=9&q=a%20b&from=1h", &["limit", "cursor"]).unwrap();
        assert_eq!((good.limit, good.cursor, good.wanted.q.as_deref()), (5, Some(9), Some("a b")));
        assert!(good.wanted.range.from.is_some());
        let fault =
            format!("{:?}", asked("state=x&limit=0&from=now&q=1&q=2&step=day", &["limit"]).unwrap_err());
        for part in ["state must be", "limit must be", "from must be", "'q' is given twice", "'step' is not"]
        {
            assert!(fault.contains(part), "{part} in {fault}");
        }
    }
}
