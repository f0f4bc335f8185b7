//! Is it alive, has it started, should it be sent work, how is it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde_json::json;

use crate::control::auth::Authenticated;
use crate::control::service::ControlState;

/// 200 as long as this runtime answers at all.
pub(super) async fn liveness() -> Response {
    Json(json!({"status": "alive"})).into_response()
}

/// 200 once the start is over, else 503.
pub(super) async fn startup(State(state): State<Arc<ControlState>>) -> Response {
    match state.parts.readiness.is_started() {
        true => Json(json!({"status": "started"})).into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "starting", "reason": "starting"})))
            .into_response(),
    }
}

/// 200 when work may be sent here, else 503 with the reason.
pub(super) async fn readiness(State(state): State<Arc<ControlState>>) -> Response {
    match state.parts.readiness.check() {
        Ok(()) => {
            let mut body = json!({"status": "ready", "store": state.parts.store});
            if let Some(warning) = state.parts.readiness.warning() {
                body["warning"] = warning.into();
            }
            Json(body).into_response()
        }
        Err(reason) => {
            let body = json!({"status": "not_ready", "reason": reason, "store": state.parts.store});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// What the backends are and how they are.
pub(super) async fn backends(State(state): State<Arc<ControlState>>) -> Json<serde_json::Value> {
    Json(json!({"backends": (state.parts.backends)()}))
}

/// The whole picture; names of backends are for authenticated callers only.
pub(super) async fn control(
    State(state): State<Arc<ControlState>>,
    Extension(authenticated): Extension<Authenticated>,
) -> Json<serde_json::Value> {
    let readiness = state.parts.readiness.check();
    let mut body = json!({
        "status": if readiness.is_ok() { "healthy" } else { "not_ready" },
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": state.opened.elapsed().as_secs(),
        "store": state.parts.store,
    });
    if let Err(reason) = readiness {
        body["reason"] = reason.into();
    }
    if let Some(warning) = state.parts.readiness.warning() {
        body["warning"] = warning.into();
    }
    if authenticated.0 {
        body["backends"] = (state.parts.backends)();
    }
    Json(body)
}
