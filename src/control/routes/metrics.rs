//! The metrics, for Prometheus.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::header;

use crate::control::service::ControlState;
use crate::telemetry::metrics::Metrics;

/// Returns all metrics in the text format.
pub(super) async fn text(State(state): State<Arc<ControlState>>) -> impl IntoResponse {
    state.parts.metrics.dashboards(state.cookies.open());
    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], state.parts.metrics.encode())
}
