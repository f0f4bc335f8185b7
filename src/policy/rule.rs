//! A rule: when it is judged, what it asks for, and what happens if that is so.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expr::{Expression, Truth, glob};
use super::facts::{Fact, Facts, Phase, Value};
use super::scan::folded_name;
use crate::settings::rate::RateText;

/// The origin of rules that the file has.
pub(super) const FILE: &str = "file";

/// What happens when a rule holds, the weakest first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is noted.
    #[default]
    Flag,
    /// The session is slowed down to a rate.
    Throttle,
    /// It waits until an operator approves it.
    Hold,
    /// It is refused.
    Block,
    /// The session is killed.
    Kill,
}

impl Action {
    /// The word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Throttle => "throttle",
            Self::Hold => "hold",
            Self::Block => "block",
            Self::Kill => "kill",
        }
    }
}

/// How bad it is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Unlikely to do harm.
    Low,
    /// May do harm.
    #[default]
    Medium,
    /// Likely to do harm.
    High,
    /// Does great harm.
    Critical,
}

impl Severity {
    /// The word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// What a finding adds to the score of its session.
    pub fn weight(self) -> f64 {
        match self {
            Self::Info => 0.0,
            Self::Low => 1.0,
            Self::Medium => 4.0,
            Self::High => 10.0,
            Self::Critical => 25.0,
        }
    }
}

/// Whether rules act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They act.
    #[default]
    Enforce,
    /// They only flag.
    Audit,
}

impl Mode {
    /// The word in the file.
    pub fn name(self) -> &'static str {
        if self == Self::Enforce { "enforce" } else { "audit" }
    }
}

/// Who wrote a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The user, or the program that speaks for him.
    User,
    /// The model.
    Assistant,
    /// A tool, by its result.
    Tool,
    /// Whoever wrote the instructions of the program.
    System,
}

impl Role {
    /// The word in expressions.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::System => "system",
        }
    }

    /// By how much a finding in its text counts for the score of its session.
    pub fn weight(self) -> f64 {
        match self {
            Self::User | Self::Tool => 1.0,
            Self::Assistant => 0.3,
            Self::System => 0.0,
        }
    }
}

/// Where a text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Place {
    /// Text of a message.
    #[serde(rename = "text")]
    Text,
    /// What a model has thought.
    #[serde(rename = "reasoning")]
    Reasoning,
    /// Instructions.
    #[serde(rename = "system")]
    System,
    /// The definition of a tool.
    #[serde(rename = "tool.definition")]
    ToolDefinition,
    /// The arguments of a tool call.
    #[serde(rename = "tool.args")]
    ToolArgs,
    /// The name of the tool that is called.
    #[serde(rename = "tool.name")]
    ToolName,
    /// The result of a tool.
    #[serde(rename = "tool.result")]
    ToolResult,
    /// Any other text.
    #[serde(rename = "other")]
    Other,
}

impl Place {
    /// Returns where a text of an answer stands in a phase: all that an MCP server says beside its definitions is a result.
    pub fn in_phase(self, phase: Phase) -> Self {
        match self {
            Self::Text | Self::Reasoning if phase == Phase::ToolResult => Self::ToolResult,
            other => other,
        }
    }

    /// The word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Reasoning => "reasoning",
            Self::System => "system",
            Self::ToolDefinition => "tool.definition",
            Self::ToolArgs => "tool.args",
            Self::ToolName => "tool.name",
            Self::ToolResult => "tool.result",
            Self::Other => "other",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places(u8);

impl Places {
    /// All places.
    pub const ALL: Self = Self(u8::MAX);

    pub(super) fn of(places: &[Place]) -> Self {
        Self(places.iter().fold(0, |bits, place| bits | place.bit()))
    }

    /// Whether it has the place.
    pub fn has(self, place: Place) -> bool {
        self.0 & place.bit() != 0
    }
}

/// Which texts a rule looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matching {
    /// Where.
    pub places: Places,
}

/// What a rule asks the facts.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    /// An expression.
    When(Expression),
    /// Whether the tool's name, in small letters, matches one of these patterns.
    IsTool(Box<[Box<str>]>),
    /// Whether it matches none of them.
    IsOtherTool(Box<[Box<str>]>),
}

impl Condition {
    pub(super) fn truth(&self, facts: &dyn Facts) -> Truth {
        match self {
            Self::When(expression) => expression.truth(facts),
            Self::IsTool(patterns) => is_tool(patterns, facts, true),
            Self::IsOtherTool(patterns) => match is_tool(patterns, facts, false) {
                Truth::Yes => Truth::No,
                Truth::No => Truth::Yes,
                Truth::Unknown => Truth::Unknown,
            },
        }
    }

    pub(super) fn source(&self) -> String {
        match self {
            Self::When(expression) => expression.source().to_owned(),
            Self::IsTool(patterns) => format!("tool.name is one of: {}", patterns.join(", ")),
            Self::IsOtherTool(patterns) => format!("tool.name is none of: {}", patterns.join(", ")),
        }
    }
}

/// Compares the name of a tool; one of an MCP server also as models know it, `mcp__SERVER__TOOL`.
fn is_tool(patterns: &[Box<str>], facts: &dyn Facts, as_it_reads: bool) -> Truth {
    let name = match facts.get(Fact::ToolName) {
        Value::Text(name) => name,
        Value::Absent => return Truth::No,
        _ => return Truth::Unknown,
    };
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
    let is_one = |name: &str| {
        let read = (as_it_reads && !name.bytes().all(is_plain)).then(|| folded_name(name));
        let name = read.as_deref().unwrap_or(name).as_bytes();
        patterns.iter().any(|pattern| glob(name, pattern.as_bytes()))
    };
    if is_one(&name) {
        return Truth::Yes;
    }
    match facts.get(Fact::ToolServer) {
        Value::Text(server) if !name.starts_with("mcp__") => is_one(&format!("mcp__{server}__{name}")).into(),
        _ => Truth::No,
    }
}

/// What a refusal by a rule is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// A rule of the file or of a preset.
    Written,
    /// `policy.tools`.
    Tools,
    /// A bound of scanning was reached.
    ScanLimit,
    /// An MCP server has changed the definition of a tool (`policy.mcp.redefined`).
    Redefined,
    /// The score of the session.
    Score,
    /// `policy.loops`.
    Loop,
    /// The answer of a service (`policy.external`).
    External,
}

/// A compiled rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name.
    pub id: Arc<str>,
    /// When it is judged.
    pub phase: Phase,
    /// What the facts must be.
    pub(super) when: Option<Condition>,
    /// What is looked for in the text.
    pub matching: Option<Matching>,
    /// What happens.
    pub action: Action,
    /// How bad it is.
    pub severity: Severity,
    /// Its class in the OWASP Top 10 for LLM applications.
    pub owasp: Option<Box<str>>,
    /// The message of the refusal that the client receives.
    pub message: Option<Box<str>>,
    /// The mark that it sets in the session.
    pub mark: Option<Arc<str>>,
    /// Whether it acts.
    pub mode: Mode,
    /// A condition that cannot be decided counts as no.
    pub unknown_skips: bool,
    /// The rate of the session, for `throttle`.
    pub rate: Option<RateText>,
    /// Where it comes from: the file, or a preset.
    pub origin: &'static str,
    /// What it is.
    pub kind: RuleKind,
}

impl Rule {
    /// The condition in words; empty without one.
    pub fn condition(&self) -> String {
        self.when.as_ref().map(Condition::source).unwrap_or_default()
    }

    /// The facts that its condition asks for.
    pub(super) fn asks_for(&self) -> Vec<Fact> {
        match &self.when {
            None => Vec::new(),
            Some(Condition::When(when)) => {
                Fact::ALL.iter().copied().filter(|fact| when.asks_for(*fact)).collect()
            }
            Some(Condition::IsTool(_) | Condition::IsOtherTool(_)) => vec![Fact::ToolName, Fact::ToolServer],
        }
    }

    /// Whether its condition may have another answer for another backend.
    pub(super) fn depends_on_backend(&self) -> bool {
        let depends = |fact: &Fact| matches!(fact, Fact::RequestBackend | Fact::ToolServer | Fact::Findings);
        self.asks_for().iter().any(depends)
    }

    pub(super) fn truth(&self, facts: &dyn Facts) -> Truth {
        self.when.as_ref().map_or(Truth::Yes, |when| when.truth(facts))
    }

    /// Whether a condition that cannot be decided counts as yes.
    pub(super) fn holds_when_unknown(&self) -> bool {
        self.action != Action::Flag && !self.unknown_skips
    }
}

/// Whether this is an id: 1 to 64 letters, digits, `-`, `_` and `.`.
pub(super) fn is_word(word: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&word.len()) && word.bytes().all(is_plain)
}

/// A rule that no file writes.
pub(in crate::policy) fn built_in(id: &str, action: Action, mode: Mode, kind: RuleKind) -> Rule {
    Rule {
        id: id.into(),
        phase: Phase::Request,
        when: None,
        matching: None,
        action,
        severity: Severity::Info,
        owasp: None,
        message: None,
        mark: None,
        mode,
        unknown_skips: false,
        rate: None,
        origin: FILE,
        kind,
    }
}
