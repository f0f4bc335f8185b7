//! Is it alive, has it started, should it be sent work, how is it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde_json::json;

use crate::control::auth::Trusted;
use crate::control::service::Door;

/// 200 as long as this runtime answers at all.
pub(super) async fn liveness() -> Response {
    Json(json!({"status": "alive"})).into_response()
}

/// 200 once the start is over, else 503.
pub(super) async fn startup(State(door): State<Arc<Door>>) -> Response {
    match door.parts.readiness.is_started() {
        true => Json(json!({"status": "started"})).into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "starting", "reason": "starting"})))
            .into_response(),
    }
}

/// 200 when work may be sent here, else 503 with the reason.
pub(super) async fn readiness(State(door): State<Arc<Door>>) -> Response {
    match door.parts.readiness.check() {
        Ok(()) => {
            let mut body = json!({"status": "ready", "store": door.parts.store});
            if let Some(warning) = door.parts.readiness.warning() {
                body["warning"] = warning.into();
            }
            Json(body).into_response()
        }
        Err(reason) => {
            let body = json!({"status": "not_ready", "reason": reason, "store": door.parts.store});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// What the backends are and how they are.
pub(super) async fn backends(State(door): State<Arc<Door>>) -> Json<serde_json::Value> {
    Json(json!({"backends": (door.parts.backends)()}))
}

/// The whole picture; names of backends are for trusted callers only.
pub(super) async fn control(
    State(door): State<Arc<Door>>,
    Extension(trusted): Extension<Trusted>,
) -> Json<serde_json::Value> {
    let readiness = door.parts.readiness.check();
    let mut body = json!({
        "status": if readiness.is_ok() { "healthy" } else { "not_ready" },
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": door.opened.elapsed().as_secs(),
        "store": door.parts.store,
    });
    if let Err(reason) = readiness {
        body["reason"] = reason.into();
    }
    if let Some(warning) = door.parts.readiness.warning() {
        body["warning"] = warning.into();
    }
    if trusted.0 {
        body["backends"] = (door.parts.backends)();
    }
    Json(body)
}
