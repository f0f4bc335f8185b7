//! Counts panics and logs each once. A panic ends one request, not the process.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::thread;

use serde::Serialize;

use crate::telemetry::log::Log;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::settings::Level;

/// The `message` of the log line of a panic.
const PANIC: &str = "panic";

/// How many characters of a panic's message are logged; it may contain bytes that a peer sent.
const MAX_MESSAGE: usize = 512;

/// Fields of the log line of a panic.
#[derive(Serialize)]
struct PanicLine {
    /// File, line and column.
    location: String,
    thread: String,
    words: String,
    /// Only with `RUST_BACKTRACE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    backtrace: Option<String>,
}

impl PanicLine {
    fn of(panic: &PanicHookInfo<'_>) -> Self {
        let backtrace = Backtrace::capture();
        Self {
            location: panic.location().map(ToString::to_string).unwrap_or_default(),
            thread: thread::current().name().unwrap_or_default().to_owned(),
            words: panic.payload_as_str().unwrap_or_default().chars().take(MAX_MESSAGE).collect(),
            backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
        }
    }
}

/// Installs a panic hook that logs and counts panics instead of printing them.
pub(super) fn report(log: Arc<Log>, metrics: Arc<Metrics>) {
    panic::set_hook(Box::new(move |panic| {
        metrics.panicked();
        log.log_event(Level::Error, PANIC, &PanicLine::of(panic));
    }));
}

#[cfg(test)]
mod tests;
