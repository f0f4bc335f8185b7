//! What the program tells its operators: logs, metrics, traces, and readiness.
//!
//! - [`log`], [`access`], [`settings`]: log lines, the access line of each request, the `logging:` section.
//! - [`metrics`]: Prometheus metrics. `metrics/table.rs` lists every metric, `metrics/labels.rs` the label values.
//! - [`otlp`]: spans, log records and histograms for an OpenTelemetry collector.
//! - [`trace`]: W3C Trace Context.
//! - [`readiness`]: what the health probes answer from.
//! - [`series`]: the last hour in steps of a minute.
//!
//! Every module may use telemetry. It takes plain values and depends on row 0 only.
//! Invariants: nothing here blocks or fails its caller; the set of label values is bounded; a session id is never a
//! label; a log line is always one valid line, whatever bytes a peer sends.

pub mod access;
pub mod log;
pub mod metrics;
pub mod otlp;
pub mod readiness;
pub mod series;
pub mod settings;
pub mod trace;
