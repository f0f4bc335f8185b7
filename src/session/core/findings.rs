//! The last findings of rules on this instance, and how often each rule has held.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::event::Event;
use super::manager::Manager;
use crate::session::views::finding::FindingEvent;

/// The most findings that are kept.
const MOST: usize = 2000;
/// The most rules that are counted apart: more than a configuration may have.
const MAX_RULES: usize = 4096;

/// The last findings.
#[derive(Default)]
pub(super) struct FindingLog(Mutex<Log>);

#[derive(Default)]
struct Log {
    /// How many there were before those that are kept.
    gone: u64,
    recent: VecDeque<Arc<FindingEvent>>,
    counts: HashMap<String, u64>,
}

impl FindingLog {
    fn push(&self, finding: Arc<FindingEvent>) {
        let log = &mut *self.0.lock();
        if log.counts.len() < MAX_RULES || log.counts.contains_key(&finding.rule) {
            *log.counts.entry(finding.rule.clone()).or_default() += 1;
        }
        if log.recent.len() == MOST {
            log.recent.pop_front();
            log.gone += 1;
        }
        log.recent.push_back(finding);
    }
}

impl Manager {
    /// Publishes that a rule holds.
    pub fn found(&self, finding: FindingEvent) {
        let finding = Arc::new(finding);
        self.findings.push(Arc::clone(&finding));
        self.publish(Event::Finding(finding));
    }

    /// Returns up to `limit` of the last findings that match, newest first, each with its number; only those with a number
    /// below `before`.
    pub fn findings(
        &self,
        before: Option<u64>,
        limit: usize,
        matches: impl Fn(&FindingEvent) -> bool,
    ) -> Vec<(u64, Arc<FindingEvent>)> {
        let log = self.findings.0.lock();
        let numbered = log.recent.iter().enumerate().map(|(at, finding)| (log.gone + at as u64, finding));
        let wanted = numbered
            .rev()
            .filter(|(number, finding)| before.is_none_or(|before| *number < before) && matches(finding));
        wanted.take(limit).map(|(number, finding)| (number, Arc::clone(finding))).collect()
    }

    /// Returns how often each rule has held here since the start, each text counted once.
    pub fn finding_counts(&self) -> HashMap<String, u64> {
        self.findings.0.lock().counts.clone()
    }
}
