//! Whether this instance should be sent work: what the probes of both listeners answer from.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Why nothing should be sent here yet.
const STARTING: &str = "starting";

/// The readiness of one process. It begins as "starting".
#[derive(Debug)]
pub struct Readiness {
    ready: AtomicBool,
    started: AtomicBool,
    reason: Mutex<String>,
    warning: Mutex<Option<String>>,
    of_history: Mutex<Option<String>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            ready: AtomicBool::new(false),
            started: AtomicBool::new(false),
            reason: Mutex::new(STARTING.to_owned()),
            warning: Mutex::default(),
            of_history: Mutex::default(),
        }
    }
}

impl Readiness {
    /// Work may be sent here.
    pub fn ready(&self) {
        self.started.store(true, Ordering::Release);
        self.ready.store(true, Ordering::Release);
    }

    /// No work may be sent here for this reason, such as `draining`.
    pub fn not_ready(&self, reason: impl Into<String>) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason.into();
        self.ready.store(false, Ordering::Release);
    }

    /// Work may be sent here, but an operator should know this; `None` when it is over.
    pub fn warn(&self, warning: Option<String>) {
        *self.warning.lock().unwrap_or_else(PoisonError::into_inner) = warning;
    }

    /// The same of the history, apart from what [`Readiness::warn`] is told.
    pub fn warn_of_history(&self, warning: Option<String>) {
        *self.of_history.lock().unwrap_or_else(PoisonError::into_inner) = warning;
    }

    /// What an operator should know.
    pub fn warning(&self) -> Option<String> {
        let read =
            |warning: &Mutex<Option<String>>| warning.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (read(&self.warning), read(&self.of_history)) {
            (Some(one), Some(other)) => Some(format!("{one}; {other}")),
            (one, other) => one.or(other),
        }
    }

    /// True once it has been ready; it stays true.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// `Ok` when work may be sent here, else the reason why not.
    pub fn check(&self) -> Result<(), String> {
        if self.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone())
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
        readiness.not_ready("draining");
        assert_eq!((readiness.check(), readiness.is_started()), (Err("draining".into()), true));
    }
}
