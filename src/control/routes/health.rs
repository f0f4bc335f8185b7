//! Liveness, startup, readiness, health and backends.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;

use crate::control::api::error::ErrorCode;
use crate::control::api::health::{
    BackendList, BackendStatus, ControlHealth, HealthStatus, Liveness, LivenessStatus, ReadinessReport,
    ReadinessStatus, Startup, StartupStatus,
};
use crate::control::operator::Operator;
use crate::control::problem::Problem;
use crate::control::service::ControlState;

/// Answers 200 as long as this runtime answers at all.
pub(super) async fn liveness() -> Json<Liveness> {
    Json(Liveness { status: LivenessStatus::Alive })
}

/// Answers 200 once the instance was ready, else 503.
pub(super) async fn startup(State(state): State<Arc<ControlState>>) -> (StatusCode, Json<Startup>) {
    match state.parts.readiness.is_started() {
        true => (StatusCode::OK, Json(Startup { status: StartupStatus::Started, reason: None })),
        false => {
            let startup = Startup { status: StartupStatus::Starting, reason: Some("starting".into()) };
            (StatusCode::SERVICE_UNAVAILABLE, Json(startup))
        }
    }
}

/// Answers 200 when requests may be sent here, else 503 with the reason.
pub(super) async fn readiness(State(state): State<Arc<ControlState>>) -> (StatusCode, Json<ReadinessReport>) {
    let (readiness, store) = (&state.parts.readiness, state.parts.store.into());
    match readiness.check() {
        Ok(()) => {
            let (status, warning) = (ReadinessStatus::Ready, readiness.warning());
            (StatusCode::OK, Json(ReadinessReport { status, store, reason: None, warning }))
        }
        Err(reason) => {
            let (status, reason) = (ReadinessStatus::NotReady, Some(reason));
            let report = ReadinessReport { status, store, reason, warning: None };
            (StatusCode::SERVICE_UNAVAILABLE, Json(report))
        }
    }
}

/// Returns the backends and their health.
pub(super) async fn backends(State(state): State<Arc<ControlState>>) -> Json<BackendList> {
    Json(BackendList { backends: state.parts.runtime.backends() })
}

/// Keeps new requests away from a backend.
pub(super) async fn drain(state: State<Arc<ControlState>>, name: Path<String>) -> Drained {
    set_drained(state, name, true).await
}

/// Sends requests to a drained backend again.
pub(super) async fn undrain(state: State<Arc<ControlState>>, name: Path<String>) -> Drained {
    set_drained(state, name, false).await
}

type Drained = Result<Json<BackendStatus>, Problem>;

async fn set_drained(
    State(state): State<Arc<ControlState>>,
    Path(name): Path<String>,
    drained: bool,
) -> Drained {
    let runtime = Arc::clone(&state.parts.runtime);
    // A reload may be running, which reads files.
    let permit = state.blocking.reload().await?;
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let status =
            runtime.drain_backend(&name, drained).then(|| runtime.backends().remove(&name)).flatten();
        status.ok_or_else(|| {
            let known = runtime.backends().into_keys().collect::<Vec<_>>().join(", ");
            let detail = format!("no backend is called '{name}'; there are {known}");
            Problem::new(ErrorCode::BackendNotFound, detail)
        })
    });
    done.await.map_err(|_| Problem::internal("the backend cannot be changed; see the server log"))?.map(Json)
}

/// Returns the health of the instance; the backends only to authenticated clients.
pub(super) async fn control(
    State(state): State<Arc<ControlState>>,
    Extension(operator): Extension<Operator>,
) -> Json<ControlHealth> {
    let reason = state.parts.readiness.check().err();
    Json(ControlHealth {
        status: if reason.is_none() { HealthStatus::Healthy } else { HealthStatus::NotReady },
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_s: state.opened.elapsed().as_secs(),
        store: state.parts.store.into(),
        reason,
        warning: state.parts.readiness.warning(),
        backends: operator.is_known().then(|| state.parts.runtime.backends()),
    })
}
