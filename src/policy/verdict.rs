//! What the rules say to one request, answer or call.

use std::sync::Arc;

use super::rule::{Action, Mode, Role, Rule};
use super::scan::Via;

/// The most findings that are kept of one unit.
const MOST: usize = 64;

/// A rule that holds.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Whether it acts.
    pub mode: Mode,
    /// Its condition could not be decided, which counts as yes.
    pub unknown: bool,
    /// Who wrote the text that it was found in.
    pub role: Option<Role>,
    /// How the text had to be read.
    pub via: Option<Via>,
    /// What it was found in; 0 for a rule about facts alone.
    pub digest: u64,
    /// How often.
    pub count: u32,
}

impl Finding {
    /// The answer of a service.
    pub fn of_service(rule: &Arc<Rule>) -> Self {
        let (mode, rule) = (rule.mode, Arc::clone(rule));
        Self { rule, mode, unknown: false, role: None, via: None, digest: 0, count: 1 }
    }
}

/// The findings of one unit.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The rules that hold, each once for each element.
    pub findings: Vec<Finding>,
    /// Rules whose conditions cannot be decided, whatever that counts as.
    pub undecided: Vec<Arc<Rule>>,
}

impl Verdict {
    /// Whether no rule holds, and all were decided.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty() && self.undecided.is_empty()
    }

    /// The strongest action of the rules that act; `None` if none does.
    pub fn action(&self) -> Option<Action> {
        self.deciding().map(|finding| finding.rule.action)
    }

    /// The finding with the strongest action; of several, the first.
    pub fn deciding(&self) -> Option<&Finding> {
        strongest(&self.findings)
    }

    /// Adds the findings of the same unit by other facts: what was found by both counts once.
    pub fn merge(&mut self, other: Self) {
        for finding in other.findings {
            let is_same =
                |known: &Finding| Arc::ptr_eq(&known.rule, &finding.rule) && known.digest == finding.digest;
            if !self.findings.iter().any(is_same) {
                self.add(finding);
            }
        }
        for rule in other.undecided {
            if !self.undecided.iter().any(|known| Arc::ptr_eq(known, &rule)) {
                self.undecided.push(rule);
            }
        }
    }

    /// Adds a finding. The same one in the same element is counted.
    pub(super) fn add(&mut self, finding: Finding) {
        let is_same = |known: &Finding| {
            Arc::ptr_eq(&known.rule, &finding.rule)
                && known.digest == finding.digest
                && known.role == finding.role
        };
        match self.findings.iter().position(is_same) {
            Some(at) => self.findings[at].count = self.findings[at].count.saturating_add(finding.count),
            None if self.findings.len() < MOST => self.findings.push(finding),
            // What acts must not be crowded out by what does not.
            None => {
                let weakest = self.findings.iter_mut().min_by_key(|known| strength(known));
                if let Some(weakest) = weakest.filter(|weakest| strength(weakest) < strength(&finding)) {
                    *weakest = finding;
                }
            }
        }
    }
}

/// Returns the finding with the strongest action that acts; of several, the first.
pub fn strongest<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Option<&'a Finding> {
    let acting = findings.into_iter().filter(|finding| finding.mode == Mode::Enforce);
    acting.reduce(|most, one| if one.rule.action > most.rule.action { one } else { most })
}

fn strength(finding: &Finding) -> Option<Action> {
    (finding.mode == Mode::Enforce).then_some(finding.rule.action)
}
