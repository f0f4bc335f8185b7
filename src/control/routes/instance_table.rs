//! The endpoints of the instance: its backends, configuration, totals, metrics and probes.

use serde_json::{Map, Value};

use super::super::api::config::ReloadReply;
use super::super::api::error::ErrorCode::*;
use super::super::api::health::{
    BackendList, BackendStatus, ControlHealth, Liveness, ReadinessReport, Startup,
};
use super::super::api::overview::{InstanceList, RecentSeries};
use super::super::openapi::Operation;
use super::endpoint::{Endpoint, on_get, on_post};
use super::{config, dashboard, health, metrics, schema, stats};
use crate::identity::roles::Right;
use crate::session::Stats;

pub(super) const INSTANCE: &str = "instance";
pub(super) const PROBES: &str = "probes";

pub(super) fn instance_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(INSTANCE, id, summary, Right::Read);
    let drain = |id, summary| {
        let operation = operation(id, summary).names("The name of a backend.").needs(Right::Operate);
        operation.ok::<BackendStatus>("The backend.").errors(&[BackendNotFound, ReloadBusy, Internal])
    };
    vec![
        on_get(
            "/control/health",
            health::control,
            operation("getHealth", "Returns status, version and backends; the status is always 200")
                .token_optional()
                .ok::<ControlHealth>("The health."),
        ),
        on_get(
            "/control/backends",
            health::backends,
            operation("listBackends", "Returns the backends and their health")
                .ok::<BackendList>("The backends."),
        ),
        on_post(
            "/control/backends/{id}/drain",
            health::drain,
            drain("drainBackend", "Keeps new requests away from a backend"),
        ),
        on_post(
            "/control/backends/{id}/undrain",
            health::undrain,
            drain("undrainBackend", "Sends requests to a drained backend again"),
        ),
        on_get(
            "/control/stats",
            stats::stats,
            operation("getStats", "Returns totals since the start").ok::<Stats>("The totals."),
        ),
        on_get(
            "/metrics",
            metrics::text,
            operation("getMetrics", "Returns the metrics").text(&["text/plain"], "Prometheus text format."),
        ),
        on_get(
            "/openapi.json",
            schema::openapi,
            operation("getOpenApi", "Returns this document").ok::<Map<String, Value>>("OpenAPI 3.1."),
        ),
    ]
}

pub(super) fn config_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(INSTANCE, id, summary, Right::Config);
    vec![
        on_get(
            "/control/config",
            config::show,
            operation("getConfig", "Returns the configuration in force, after file, environment and flags")
                .ok::<Map<String, Value>>(
                    "Keys as in conf/schema.json, secrets as `***`, restart_required, and sources.",
                )
                .errors(&[ReloadBusy, Internal]),
        ),
        on_post(
            "/control/config/reload",
            config::reload,
            operation("reloadConfig", "Reads the configuration again, as SIGHUP does")
                .ok::<ReloadReply>("The new configuration is in force.")
                .errors(&[ConfigInvalid, Internal, ReloadBusy]),
        ),
    ]
}

pub(super) fn overview_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(INSTANCE, id, summary, Right::Read);
    vec![
        on_get(
            "/control/series",
            dashboard::series,
            operation("getRecentSeries", "Returns the last hour of this instance in steps of a minute")
                .ok::<RecentSeries>("The steps, the oldest first."),
        ),
        on_get(
            "/control/instances",
            dashboard::instances,
            operation("listInstances", "Returns the instances, their versions and what is open there")
                .ok::<InstanceList>("The instances."),
        ),
    ]
}

pub(super) fn probes() -> Vec<Endpoint> {
    let probe = |id, summary| Operation::probe(PROBES, id, summary);
    let readiness = |id| {
        probe(id, "Tells whether requests may be sent to this instance")
            .ok::<ReadinessReport>("Ready.")
            .answer::<ReadinessReport>(503, "Starting or draining.")
    };
    vec![
        on_get("/health", health::readiness, readiness("probe")),
        on_get("/health/readiness", health::readiness, readiness("probeReadiness")),
        on_get(
            "/health/liveness",
            health::liveness,
            probe("probeLiveness", "Answers as long as the control API works").ok::<Liveness>("Alive."),
        ),
        on_get(
            "/health/startup",
            health::startup,
            probe("probeStartup", "Tells whether the instance was ready once")
                .ok::<Startup>("Started.")
                .answer::<Startup>(503, "Starting."),
        ),
    ]
}
