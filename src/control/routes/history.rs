//! Records of ended sessions, their requests, events, captures and sums.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use serde_json::value::RawValue;

use super::sessions;
use crate::control::api::error::ErrorCode;
use crate::control::api::history::{
    CapturePage, CapturesQuery, EventPage, EventsQuery, HistoryQuery, RequestsQuery, Series, SeriesQuery,
    UsageQuery, UsageReport, UsageSeries, UsageSeriesQuery,
};
use crate::control::extract::ApiQuery;
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::history::read::legs::LegPage;
use crate::history::read::reader::{Reader, RecordDetail, RecordPage};
use crate::history::{self, Archive};
use crate::identity::roles::Reach;

/// Errors of every query of the history.
pub(super) const ERRORS: &[ErrorCode] = &[
    ErrorCode::BadRequest,
    ErrorCode::HistoryDisabled,
    ErrorCode::Internal,
    ErrorCode::HistoryUnavailable,
    ErrorCode::HistorySlow,
    ErrorCode::HistoryBusy,
];
/// Errors of the query for one record.
pub(super) const ERRORS_OF_ONE: &[ErrorCode] = &[
    ErrorCode::RecordNotFound,
    ErrorCode::HistoryDisabled,
    ErrorCode::Internal,
    ErrorCode::HistoryUnavailable,
    ErrorCode::HistorySlow,
    ErrorCode::HistoryBusy,
];
/// Errors of the query for the requests of one session.
pub(super) const ERRORS_OF_REQUESTS: &[ErrorCode] = &[
    ErrorCode::BadRequest,
    ErrorCode::RecordNotFound,
    ErrorCode::SessionAmbiguous,
    ErrorCode::HistoryDisabled,
    ErrorCode::Internal,
    ErrorCode::HistoryUnavailable,
    ErrorCode::HistorySlow,
    ErrorCode::HistoryBusy,
];

/// Returns records, the last written first.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiQuery(query): ApiQuery<HistoryQuery>,
) -> Result<Json<RecordPage>, Problem> {
    let (wanted, cursor) = (query.filter(&reach), query.cursor.map(|cursor| cursor.0));
    read(&state, move |reader| reader.page(&wanted, cursor, query.limit.get())).await.map(Json)
}

/// Returns one record with its last requests, events and kills, by uid or session id.
pub(super) async fn one(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    Path(target): Path<String>,
) -> Result<Json<RecordDetail>, Problem> {
    let (wanted, tenants) = (target.clone(), reach.tenants());
    let found = read(&state, move |reader| reader.detail(&wanted, &tenants)).await?;
    found.map(Json).ok_or_else(|| unknown_record(&target))
}

fn unknown_record(target: &str) -> Problem {
    let detail = format!("the history has no session with the id or uid '{target}'");
    Problem::new(ErrorCode::RecordNotFound, detail)
}

/// Returns the requests of one session, which may be active, in the order in which they ended.
pub(super) async fn requests(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    Path(target): Path<String>,
    ApiQuery(RequestsQuery { limit, cursor }): ApiQuery<RequestsQuery>,
) -> Result<Json<LegPage>, Problem> {
    archive(&state)?;
    let known =
        sessions::find(&state, (&target).into(), &reach).await?.map(|session| session.uid.to_string());
    let (wanted, cursor, tenants) = (target.clone(), cursor.map(|cursor| cursor.0), reach.tenants());
    let found = read(&state, move |reader| {
        let uid = match known {
            Some(uid) => Some(uid),
            None => reader.incarnation(&wanted, &tenants)?,
        };
        uid.map(|uid| reader.legs(&uid, cursor, limit.get())).transpose()
    })
    .await?;
    found.map(Json).ok_or_else(|| unknown_record(&target))
}

/// Returns the captured bodies of a session, by uid or session id, newest first.
pub(super) async fn captures(
    State(state): State<Arc<ControlState>>,
    Path(target): Path<String>,
    ApiQuery(CapturesQuery { limit, cursor }): ApiQuery<CapturesQuery>,
) -> Result<Json<CapturePage<Box<RawValue>>>, Problem> {
    let cursor = cursor.map(|cursor| cursor.0);
    let (captures, next_cursor) =
        read(&state, move |reader| reader.captures(&target, cursor, limit.get())).await?;
    Ok(Json(CapturePage { captures, next_cursor }))
}

/// Returns what happened to sessions, newest first.
pub(super) async fn events(
    State(state): State<Arc<ControlState>>,
    ApiQuery(query): ApiQuery<EventsQuery>,
) -> Result<Json<EventPage>, Problem> {
    let cursor = query.cursor.map(|cursor| cursor.0);
    let (events, next_cursor) = read(&state, move |reader| {
        reader.events(query.range(), query.r#type.as_deref(), cursor, query.limit.get())
    })
    .await?;
    Ok(Json(EventPage { events, next_cursor }))
}

/// Returns sums for each minute, hour or day.
pub(super) async fn series(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiQuery(query): ApiQuery<SeriesQuery>,
) -> Result<Json<Series>, Problem> {
    let filter = query.filter(&reach);
    let (points, truncated) = read(&state, move |reader| reader.series(&filter, query.step)).await?;
    Ok(Json(Series { points, truncated }))
}

/// Returns tokens and cost by principal, tenant, group, model, client, backend or session.
pub(super) async fn usage(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiQuery(query): ApiQuery<UsageQuery>,
) -> Result<Json<UsageReport>, Problem> {
    let filter = query.filter(&reach);
    let usage = read(&state, move |reader| reader.usage(&filter, query.by)).await?;
    Ok(Json(UsageReport { usage }))
}

/// Returns the same for each minute, hour or day.
pub(super) async fn usage_series(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiQuery(query): ApiQuery<UsageSeriesQuery>,
) -> Result<Json<UsageSeries>, Problem> {
    let filter = query.filter(&reach);
    let (points, truncated) =
        read(&state, move |reader| reader.usage_series(&filter, query.by, query.step)).await?;
    Ok(Json(UsageSeries { points, truncated }))
}

/// Returns the history.
///
/// # Errors
/// 404 when there is none.
pub(super) fn archive(state: &ControlState) -> Result<Arc<Archive>, Problem> {
    state.parts.history.clone().ok_or_else(|| {
        let detail =
            "there is no history: history.enabled is false, or its file cannot be used (see the server log)";
        Problem::new(ErrorCode::HistoryDisabled, detail)
    })
}

/// Runs a query on a blocking thread.
async fn read<T: Send + 'static>(
    state: &ControlState,
    query: impl FnOnce(&Reader) -> history::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    state.blocking.query(archive(state)?, query).await
}
