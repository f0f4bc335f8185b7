//! The configuration in force, and reading it again.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use http::StatusCode;
use serde_json::{Value, json};

use crate::control::listen::Peer;
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::settings::fault::{Fault, Faults};

/// The configuration in force; secrets are masked.
pub(super) async fn show(State(state): State<Arc<ControlState>>) -> Json<Value> {
    Json((state.parts.config)())
}

/// Reads the configuration again. A faulty one changes nothing and is answered with all its faults.
pub(super) async fn reload(
    State(state): State<Arc<ControlState>>,
    ConnectInfo(Peer { address: peer, .. }): ConnectInfo<Peer>,
) -> Result<Json<Value>, Problem> {
    tracing::info!(by = %peer.ip(), "control_reload");
    let reload = Arc::clone(&state.parts.reload);
    // It reads files, and this runtime must stay free for a kill.
    let turn = state.blocking.reload().await?;
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        reload()
    })
    .await;
    match done.map_err(|_| Problem::internal("the reload broke off; the log says why"))? {
        Ok(report) => Ok(Json(json!({"applied": true, "restart_required": report.restart_required}))),
        Err(faults) => Err(rejected(&faults)),
    }
}

fn rejected(faults: &Faults) -> Problem {
    let list: Vec<&Fault> = faults.iter().collect();
    let detail = format!("the configuration is faulty, the running one stays: {faults}");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "config_invalid", detail)
        .with("applied", false)
        .with("faults", json!(list))
}
