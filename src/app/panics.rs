//! A panic ends one request, not the process. It is a fault of ours all the same: counted, and told once.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::thread;

use serde::Serialize;

use crate::telemetry::log::Log;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::settings::Level;

/// The `message` of a line that tells of a panic.
const PANIC: &str = "panic";

/// More characters of a panic's own words are not kept; they may hold what a peer has sent.
const WORDS_MAX: usize = 512;

/// One panic, as the log tells it.
#[derive(Serialize)]
struct Told {
    /// File, line and column.
    location: String,
    thread: String,
    words: String,
    /// Only when `RUST_BACKTRACE` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    backtrace: Option<String>,
}

impl Told {
    fn of(panic: &PanicHookInfo<'_>) -> Self {
        let backtrace = Backtrace::capture();
        Self {
            location: panic.location().map(ToString::to_string).unwrap_or_default(),
            thread: thread::current().name().unwrap_or_default().to_owned(),
            words: panic.payload_as_str().unwrap_or_default().chars().take(WORDS_MAX).collect(),
            backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
        }
    }
}

/// From now on panics go to the log and are counted, instead of being printed.
pub(super) fn report(log: Arc<Log>, metrics: Arc<Metrics>) {
    panic::set_hook(Box::new(move |panic| {
        metrics.panicked();
        log.log_event(Level::Error, PANIC, &Told::of(panic));
    }));
}

#[cfg(test)]
mod tests;
