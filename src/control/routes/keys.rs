//! Makes, lists, rotates and revokes keys for callers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IntoDeserializer;

use crate::control::api::error::ErrorCode;
use crate::control::api::keys::{KeyList, MadeKey, NewKey, RevokedKey, RotateBody};
use crate::control::extract::ApiBody;
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::auth_settings::PrincipalConfig;
use crate::identity::made_keys::{ClientKeys, KeyError};
use crate::settings::units::DurationText;

/// Makes a key, or takes over one of another gateway.
pub(super) async fn create(
    State(state): State<Arc<ControlState>>,
    ApiBody(body): ApiBody<NewKey>,
) -> Result<impl IntoResponse, Problem> {
    check_alone(&state)?;
    let NewKey { id, tenant, groups, models, backends, expires, key } = body;
    let expires = expires.map(|text| expiry(&text)).transpose()?;
    let principal =
        PrincipalConfig { id, tenant, groups, models, backends, expires, key_sha256: String::new() };
    let (listed, key) = on_disk(&state, move |keys| keys.create(principal, key)).await?;
    tracing::info!(id = listed.principal.id, "a key is made");
    Ok((StatusCode::CREATED, Json(MadeKey { key: key.reveal().to_owned(), view: listed.into() })))
}

/// Returns all keys, without the keys themselves.
pub(super) async fn list(State(state): State<Arc<ControlState>>) -> Json<KeyList> {
    Json(KeyList { keys: state.parts.keys.list().into_iter().map(Into::into).collect() })
}

/// Replaces a key by a new one.
pub(super) async fn rotate(
    State(state): State<Arc<ControlState>>,
    Path(id): Path<String>,
    ApiBody(RotateBody { grace }): ApiBody<RotateBody>,
) -> Result<Json<MadeKey>, Problem> {
    check_alone(&state)?;
    let grace = grace.map(|grace| grace.limit().unwrap_or_default()).unwrap_or_default();
    let (listed, key) = on_disk(&state, move |keys| keys.rotate(&id, grace)).await?;
    tracing::info!(id = listed.principal.id, ?grace, "a key is rotated");
    Ok(Json(MadeKey { key: key.reveal().to_owned(), view: listed.into() }))
}

/// Revokes a key, and cuts its open requests.
pub(super) async fn revoke(
    State(state): State<Arc<ControlState>>,
    Path(id): Path<String>,
) -> Result<Json<RevokedKey>, Problem> {
    check_alone(&state)?;
    let name = id.clone();
    let principal = on_disk(&state, move |keys| keys.revoke(&name)).await?;
    let legs_cut = state.parts.manager.cut_legs_of(&[principal]);
    tracing::info!(id, legs_cut, "a key is revoked");
    Ok(Json(RevokedKey { id, legs_cut }))
}

/// Runs work that writes to disk where it may block; it is completed even when the operator's connection breaks.
async fn on_disk<T: Send + 'static>(
    state: &ControlState,
    work: impl FnOnce(&ClientKeys) -> Result<T, KeyError> + Send + 'static,
) -> Result<T, Problem> {
    let keys = Arc::clone(&state.parts.keys);
    let done = tokio::task::spawn_blocking(move || work(&keys)).await;
    done.map_err(|_| Problem::internal("the change of a key failed; see the server log"))?.map_err(problem)
}

/// Instances of a fleet do not tell each other of keys: one that is revoked here would be valid elsewhere.
fn check_alone(state: &ControlState) -> Result<(), Problem> {
    if state.parts.manager.is_shared() {
        let detail = "the instances of a fleet do not share keys that are made through the API; declare them in \
                      auth.principals of each instance";
        return Err(Problem::new(ErrorCode::KeysNotShared, detail));
    }
    Ok(())
}

/// Returns the time of an expiry that is written as a duration; anything else as it is.
fn expiry(text: &str) -> Result<String, Problem> {
    let span: Result<DurationText, serde::de::value::Error> =
        DurationText::deserialize(text.into_deserializer());
    let Ok(span) = span else { return Ok(text.to_owned()) };
    let until = span.limit().and_then(|span| Timestamp::now().checked_add(span).ok());
    let until = until.ok_or_else(|| Problem::bad_request("expires: the time is 0 or too long"))?;
    Ok(until.to_string())
}

fn problem(fault: KeyError) -> Problem {
    let code = match &fault {
        KeyError::Invalid(_) => ErrorCode::BadRequest,
        KeyError::Exists(_) => ErrorCode::KeyExists,
        KeyError::ManagedByFile(_) => ErrorCode::ManagedByFile,
        KeyError::Unknown(_) => ErrorCode::KeyNotFound,
        KeyError::Storage(_) => ErrorCode::StateUnavailable,
    };
    Problem::new(code, fault.to_string())
}
