//! Rules of the control API: which are in force, what they found, and what is suppressed.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::params::{Cursor, Limit};
use crate::policy::facts::Phase;
use crate::policy::rule::{Action, Mode, Severity};
use crate::policy::settings::PolicyConfig;
use crate::policy::suppressions::{Scope, Suppression};
use crate::policy::trial::Trial;
use crate::session::FindingEvent;

/// Answer of `GET /control/policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyView {
    /// `audit`: no rule acts, except for those that say otherwise.
    pub mode: Mode,
    /// The presets in use.
    pub presets: Vec<String>,
    /// Changes whenever the rules do.
    pub generation: u64,
    /// The rules in force, by phase, those of presets first.
    pub rules: Vec<RuleView>,
}

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleView {
    /// Its name.
    pub id: String,
    /// When it is judged.
    pub on: Phase,
    /// Where it comes from: `file`, or a preset.
    pub origin: String,
    /// The condition; null without one.
    pub when: Option<String>,
    /// Whether it looks for patterns in texts.
    pub matches_text: bool,
    /// What happens.
    pub action: Action,
    /// Whether it acts.
    pub mode: Mode,
    /// How bad it is.
    pub severity: Severity,
    /// Its class in the OWASP Top 10 for LLM applications.
    pub owasp: Option<String>,
    /// The mark that it sets.
    pub mark: Option<String>,
    /// The message of the refusal that the client receives.
    pub message: Option<String>,
    /// How often it has held on this instance since the start, each text counted once.
    pub findings: u64,
}

/// Body of `POST /control/policy/test`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyTest {
    /// What the rules are tried on.
    #[serde(flatten)]
    pub trial: Trial,
    /// Other rules than those in force, as in the section `policy` of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyConfig>,
}

/// Findings on one page: 100, at most 1000.
pub type FindingLimit = Limit<100, 1000>;

/// Query of `GET /control/flags`; each absent parameter matches every finding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlagsQuery {
    /// Findings of this rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Findings in this session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Findings in requests of this principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Findings of rules with this action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Findings of this severity and above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// Findings in this phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<Phase>,
    /// Findings on this page.
    pub limit: FindingLimit,
    /// `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
}

/// Answer of `GET /control/flags`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlagPage {
    /// The last findings on this instance, newest first.
    pub flags: Vec<FindingEvent>,
    /// Cursor of the next page; null on the last one.
    pub next_cursor: Option<u64>,
}

/// Body of `POST /control/policy/suppressions`; `rule`, `until` and `reason` are required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewSuppression {
    /// The rule whose findings count for nothing.
    pub rule: String,
    /// Only in requests of this principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Only in this session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Only in this text, by the `digest` of the finding. It tells texts apart until this process ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// For how long (`24h`), or until when: a day (its first moment, UTC) or a time (RFC 3339).
    pub until: String,
    /// Why.
    pub reason: String,
}

/// A suppression in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SuppressionView {
    /// Its id.
    pub id: String,
    /// What is suppressed.
    #[serde(flatten)]
    pub scope: Scope,
    /// Why.
    pub reason: String,
    /// Until when.
    pub until: Timestamp,
    /// When it was made.
    pub made: Timestamp,
    /// Who made it.
    pub by: String,
    /// The principal that made it, whose own requests it does not free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_for: Option<String>,
}

/// Answer of `GET /control/policy/suppressions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SuppressionList {
    /// The suppressions in force, the oldest first.
    pub suppressions: Vec<SuppressionView>,
}

impl From<Suppression> for SuppressionView {
    fn from(one: Suppression) -> Self {
        let Suppression {
            id,
            scope,
            reason,
            until,
            made,
            by,
            not_for,
            revision: _,
            tenants: _,
            taken_back: _,
        } = one;
        Self { id, scope, reason, until, made, by, not_for }
    }
}
