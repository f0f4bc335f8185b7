//! What rules say about the tools that MCP servers list.

use std::sync::Arc;

use super::expr::Truth;
use super::facts::{Facts, Phase};
use super::rule::{Mode, Role, Rule, RuleKind};
use super::ruleset::RuleSet;
use super::verdict::{Finding, Verdict};

impl RuleSet {
    /// Whether the tools that MCP servers list are looked at.
    pub fn watches_tools(&self) -> bool {
        self.redefined.is_some() || self.written.mcp.hide_denied
    }

    /// Whether tools that may not be called are taken out of lists (`policy.mcp.hide_denied`).
    pub fn hides_tools(&self) -> bool {
        self.written.mcp.hide_denied
    }

    /// Whether `policy.tools` denies a tool.
    pub fn denies_tool(&self, facts: &dyn Facts) -> bool {
        let denies = |rule: &&Arc<Rule>| rule.kind == RuleKind::Tools && rule.mode == Mode::Enforce;
        self.rules(Phase::ToolCall).iter().filter(denies).any(|rule| rule.truth(facts) != Truth::No)
    }

    /// Returns that a server has changed the definition of a tool (`policy.mcp.redefined`); the digest is of the new one.
    pub fn tool_redefined(&self, digest: u64) -> Verdict {
        let mut verdict = Verdict::default();
        if let Some(rule) = &self.redefined {
            let (mode, role) = (rule.mode, Some(Role::Tool));
            let rule = Arc::clone(rule);
            verdict.add(Finding { rule, mode, unknown: false, role, via: None, digest, count: 1 });
        }
        verdict
    }
}
