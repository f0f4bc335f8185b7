//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use super::super::service::ControlState;
use super::{config, events, export, health, history, kills, metrics, sessions, stats};

/// Every endpoint.
pub(in crate::control) fn all() -> Router<Arc<ControlState>> {
    Router::new()
        .route("/health", get(health::readiness))
        .route("/health/liveness", get(health::liveness))
        .route("/health/readiness", get(health::readiness))
        .route("/health/startup", get(health::startup))
        .route("/metrics", get(metrics::text))
        .route("/control/health", get(health::control))
        .route("/control/backends", get(health::backends))
        .route("/control/stats", get(stats::stats))
        .route("/control/sessions", get(sessions::list))
        .route("/control/sessions/{id}", get(sessions::one))
        .route("/control/sessions/{id}/kill", post(kills::kill))
        .route("/control/sessions/{id}/resume", post(kills::resume))
        .route("/control/kills", get(kills::list))
        .route("/control/events", get(events::feed))
        .route("/control/history", get(history::list))
        .route("/control/history/events", get(history::events))
        .route("/control/history/series", get(history::series))
        .route("/control/history/{id}/captures", get(history::captures))
        .route("/control/records/export", get(export::export))
        .route("/control/records/{id}", get(history::one))
        .route("/control/records/{id}/requests", get(history::requests))
        .route("/control/usage", get(history::usage))
        .route("/control/config", get(config::show))
        .route("/control/config/reload", post(config::reload))
}
