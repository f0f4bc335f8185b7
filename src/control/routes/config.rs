//! The configuration in force and its reload.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, State};
use serde_json::{Value, json};

use crate::control::api::config::ReloadReply;
use crate::control::api::error::ErrorCode;
use crate::control::listen::Peer;
use crate::control::operator::{Change, digest_of};
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::settings::fault::Faults;

/// Returns the configuration in force, and where its keys are set; secrets are masked.
pub(super) async fn show(State(state): State<Arc<ControlState>>) -> Result<Json<Value>, Problem> {
    let runtime = Arc::clone(&state.parts.runtime);
    let permit = state.blocking.reload().await?;
    let shown = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut config = runtime.config();
        config["sources"] = json!(runtime.config_sources());
        config
    });
    Ok(Json(
        shown
            .await
            .map_err(|_| Problem::internal("the configuration cannot be shown; see the server log"))?,
    ))
}

/// Reads the configuration again. An invalid one changes nothing; the answer lists all its faults.
pub(super) async fn reload(
    State(state): State<Arc<ControlState>>,
    ConnectInfo(Peer { address: peer, .. }): ConnectInfo<Peer>,
) -> Result<(Extension<Change>, Json<ReloadReply>), Problem> {
    tracing::info!(by = %peer.ip(), "control_reload");
    let runtime = Arc::clone(&state.parts.runtime);
    // A reload reads files, and this runtime must stay free for a kill.
    let permit = state.blocking.reload().await?;
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let before = Some(digest_of(&runtime.config()));
        runtime.reload().map(|report| (report, before, Some(digest_of(&runtime.config()))))
    })
    .await;
    match done.map_err(|_| Problem::internal("the reload failed; see the server log"))? {
        Ok((report, before, after)) => {
            let change = Change { before, after, ..Change::default() };
            let reply = ReloadReply { applied: true, restart_required: report.restart_required };
            Ok((Extension(change), Json(reply)))
        }
        Err(faults) => Err(invalid(&faults)),
    }
}

fn invalid(faults: &Faults) -> Problem {
    let detail = format!("the configuration is invalid and was not applied: {faults}");
    Problem::new(ErrorCode::ConfigInvalid, detail).faults(faults.iter().cloned().collect())
}
