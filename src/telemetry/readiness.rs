//! Readiness of this instance, for the health probes of both listeners.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// The reason for not being ready during startup.
const STARTING: &str = "starting";

/// A source of further warnings.
type Warnings = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// The readiness of the process. Initially it is not ready, with the reason `starting`.
pub struct Readiness {
    ready: AtomicBool,
    started: AtomicBool,
    reason: Mutex<String>,
    warning: Mutex<Option<String>>,
    of_history: Mutex<Option<String>>,
    more: OnceLock<Warnings>,
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness").field("ready", &self.ready).finish_non_exhaustive()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            ready: AtomicBool::new(false),
            started: AtomicBool::new(false),
            reason: Mutex::new(STARTING.to_owned()),
            warning: Mutex::default(),
            more: OnceLock::new(),
            of_history: Mutex::default(),
        }
    }
}

impl Readiness {
    /// Marks the instance as ready.
    pub fn ready(&self) {
        self.started.store(true, Ordering::Release);
        self.ready.store(true, Ordering::Release);
    }

    /// Marks the instance as not ready, for a reason such as `draining`.
    pub fn not_ready(&self, reason: impl Into<String>) {
        *self.reason.lock() = reason.into();
        self.ready.store(false, Ordering::Release);
    }

    /// Sets a warning that does not affect readiness; `None` clears it.
    pub fn warn(&self, warning: Option<String>) {
        *self.warning.lock() = warning;
    }

    /// Sets the warning of the history, independently of [`Readiness::warn`]; `None` clears it.
    pub fn warn_of_history(&self, warning: Option<String>) {
        *self.of_history.lock() = warning;
    }

    /// Sets a source of further warnings, which is called on each query. Only the first call has an effect.
    pub fn watch(&self, warnings: impl Fn() -> Vec<String> + Send + Sync + 'static) {
        let _ = self.more.set(Box::new(warnings));
    }

    /// Returns the current warnings, joined by `; `, or `None`.
    pub fn warning(&self) -> Option<String> {
        let read = |warning: &Mutex<Option<String>>| warning.lock().clone();
        let more = self.more.get().into_iter().flat_map(|more| more());
        let all: Vec<String> =
            read(&self.warning).into_iter().chain(read(&self.of_history)).chain(more).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Returns true once the instance has been ready, and from then on.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Returns the reason as an error if the instance is not ready.
    pub fn check(&self) -> Result<(), String> {
        if self.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.reason.lock().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_gets_ready_and_drains() {
        let readiness = Readiness::default();
        assert_eq!((readiness.check(), readiness.is_started()), (Err("starting".into()), false));
        readiness.ready();
        assert_eq!((readiness.check(), readiness.is_started()), (Ok(()), true));
        readiness.warn(Some("one".to_owned()));
        readiness.watch(|| vec!["two".to_owned()]);
        assert_eq!(readiness.warning().as_deref(), Some("one; two"));
        readiness.not_ready("draining");
        assert_eq!((readiness.check(), readiness.is_started()), (Err("draining".into()), true));
    }
}
