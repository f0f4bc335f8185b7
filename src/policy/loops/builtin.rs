//! The rules that stand for loops, so that they are judged, counted and told like any other.

use std::sync::Arc;

use super::settings::{FoundLoop, LoopLevel, LoopRules};
use super::watch::{Observation, Signal};
use crate::policy::facts::Phase;
use crate::policy::rule::{Action, Mode, Rule, RuleKind, Severity, built_in};
use crate::policy::verdict::{Finding, Verdict};

/// How loops are found, and a rule for each level.
#[derive(Clone, Debug)]
pub struct LoopSet {
    pub(in crate::policy) rules: LoopRules,
    /// In the order of [`LoopLevel`].
    pub(in crate::policy) levels: [Arc<Rule>; 4],
}

impl LoopSet {
    /// Judges a turn. Returns the loop, if there is one and it acts.
    pub fn judge(&self, seen: &Observation, verdict: &mut Verdict) -> Option<FoundLoop> {
        let found = self.rules.judge(seen)?;
        let rule = &self.levels[found.level as usize];
        // A finding is told once, when the count is reached; a hold and a kill act as long as it lasts.
        if found.is_new || found.level >= LoopLevel::Hold {
            let message = Some(message(found, seen).into());
            let rule = Arc::new(Rule { message, ..Rule::clone(rule) });
            let finding = Finding {
                mode: rule.mode,
                rule,
                unknown: false,
                role: None,
                via: None,
                digest: if found.is_new { 0 } else { 1 + found.signal as u64 },
                count: found.count,
            };
            verdict.add(finding);
        }
        (rule.mode == Mode::Enforce).then_some(found)
    }
}

/// The rules that stand for loops, by level.
pub(in crate::policy) fn loop_levels(mode: Mode) -> [Arc<Rule>; 4] {
    [
        ("loop-flag", Action::Flag, Severity::Low),
        ("loop-hint", Action::Flag, Severity::Medium),
        ("loop-hold", Action::Hold, Severity::High),
        ("loop-kill", Action::Kill, Severity::High),
    ]
    .map(|(id, action, severity)| {
        let rule = built_in(id, action, mode, RuleKind::Loop);
        Arc::new(Rule { severity, phase: Phase::Turn, owasp: Some("LLM10".into()), ..rule })
    })
}

/// Returns the message of the refusal that the client receives.
fn message(FoundLoop { signal, count, .. }: FoundLoop, seen: &Observation) -> String {
    let tool = seen.tool.as_deref().unwrap_or("a tool");
    match signal {
        Signal::Repeat => {
            format!("{tool} was called {count} times with the same arguments and the same result")
        }
        Signal::Poll => format!("{tool} was called {count} times with the same arguments"),
        Signal::Cycle => format!("the same calls with the same results came {count} times in a row"),
        Signal::Stall => format!("all calls of {count} turns in a row have failed"),
        Signal::Storm => format!("the same request came {count} times within a minute"),
    }
}
