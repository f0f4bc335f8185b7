//! Services that decide besides the rules (`policy.external`): when they are asked, and which facts they are told.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Given};

use super::expr::{Expression, Truth};
use super::facts::{Fact, Facts, Phase, Type, Value};
use super::rule::{Action, Mode, Rule, RuleKind, built_in, is_word};
use crate::settings::fault::Faults;
use crate::settings::units::DurationText;

/// The most services.
const MOST: usize = 16;
/// The longest time that a service may take to answer.
const MAX_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time that an answer may be used again.
const MAX_CACHE: Duration = Duration::from_secs(3600);

/// A service that decides besides the rules, such as OPA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ExternalPolicy")]
pub struct ExternalConfig {
    /// Its name in refusals, findings and metrics.
    pub name: String,
    /// Where it is asked: `http://…`, `https://…`, or `unix:/run/opa.sock:/v1/data/…` over a Unix socket.
    pub url: String,
    /// The phases in which it is asked.
    pub on: Vec<Phase>,
    /// A condition for asking it; it is always asked, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// How long it may take to answer, at most `10s`.
    #[serde(default = "timeout")]
    pub timeout: DurationText,
    /// What follows when it does not answer: `closed` refuses, `open` lets pass. Must be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// How long its answer to the same question is used again, at most `1h`; not at all, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<DurationText>,
    /// A file with the secret that questions are signed with, as those of webhooks are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<String>,
    /// What it is told: `facts`, `args` (the arguments of a tool call), `text` (what is said).
    #[serde(default = "facts_alone")]
    pub send: Vec<Content>,
    /// `audit`: what it answers is noted and not done; the mode of the section, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

fn timeout() -> DurationText {
    DurationText(Duration::from_millis(500))
}

fn facts_alone() -> Vec<Content> {
    vec![Content::Facts]
}

/// What follows when a service does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// What it was asked about passes.
    Open,
    /// It is refused.
    Closed,
}

/// What a service is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// The facts of the phase.
    Facts,
    /// The arguments of a tool call.
    Args,
    /// What is said.
    Text,
}

/// A service, compiled.
#[derive(Debug)]
pub struct External {
    /// Its name.
    pub name: Arc<str>,
    /// Its position in the file.
    pub index: usize,
    phases: Vec<Phase>,
    when: Option<Expression>,
    /// What is not decided is refused.
    pub fails_closed: bool,
    send: Vec<Content>,
    /// Whether its answers are done.
    pub mode: Mode,
}

impl External {
    /// Whether it is asked in this phase.
    pub fn knows(&self, phase: Phase) -> bool {
        self.phases.contains(&phase)
    }

    /// Whether it is asked about what has these facts. A condition that cannot be decided counts as yes.
    pub fn is_asked(&self, phase: Phase, facts: &dyn Facts) -> bool {
        self.knows(phase) && self.when.as_ref().is_none_or(|when| when.truth(facts) != Truth::No)
    }

    /// Whether it is told this.
    pub fn sends(&self, content: Content) -> bool {
        self.send.contains(&content)
    }

    /// Returns the rule that stands for its answer.
    pub fn rule(&self, phase: Phase, action: Action, reason: Option<&str>) -> Arc<Rule> {
        Arc::new(Rule {
            phase,
            message: reason.map(Box::from),
            ..built_in(&self.name, action, self.mode, RuleKind::External)
        })
    }
}

/// Compiles `policy.external`.
pub(super) fn compile(written: &[ExternalConfig], mode: Mode, faults: &mut Faults) -> Vec<Arc<External>> {
    if written.len() > MOST {
        let message = format!("there are {} services", written.len());
        faults.add("policy.external", message, format!("write at most {MOST}"));
    }
    for (at, one) in written.iter().enumerate() {
        check(one, &written[..at], &format!("policy.external[{at}]"), faults);
    }
    let compiled = |(index, one): (usize, &ExternalConfig)| {
        let path = format!("policy.external[{index}].when");
        Arc::new(External {
            name: one.name.as_str().into(),
            index,
            when: one.when.as_deref().and_then(|when| condition(when, &one.on, &path, faults)),
            phases: one.on.clone(),
            fails_closed: one.on_error != Some(OnError::Open),
            send: one.send.clone(),
            mode: one.mode.unwrap_or(mode),
        })
    };
    written.iter().enumerate().map(compiled).collect()
}

fn check(one: &ExternalConfig, before: &[ExternalConfig], path: &str, faults: &mut Faults) {
    let mut at = |key: &str, message: &str, hint: &str| faults.add(format!("{path}{key}"), message, hint);
    if !is_word(&one.name) {
        at(".name", "a name has 1 to 64 letters, digits, '-', '_' and '.'", "write a short word");
    }
    if before.iter().any(|other| other.name == one.name) {
        at(".name", "another service has this name", "give each a name of its own");
    }
    if one.on.is_empty() {
        at(".on", "it is asked in no phase", "write on: [tool_call]");
    }
    if one.on_error.is_none() {
        let hint = "write closed to refuse what it does not decide on, or open to let that pass";
        at("", "on_error is missing: it says what follows when the service does not answer", hint);
    }
    if one.timeout.0.is_zero() || one.timeout.0 > MAX_TIMEOUT {
        at(".timeout", "a service has 1ms to 10s to answer", "write timeout: 500ms");
    }
    if one.cache.is_some_and(|cache| cache.0 > MAX_CACHE) {
        at(".cache", "an answer is used again for 1h at most", "write cache: 60s");
    }
    if one.send.contains(&Content::Args) && !one.on.contains(&Phase::ToolCall) {
        at(".send", "args are those of a tool call", "add on: [tool_call], or leave args out");
    }
}

/// Compiles the condition for each of the phases: all must know its facts.
fn condition(when: &str, phases: &[Phase], path: &str, faults: &mut Faults) -> Option<Expression> {
    let mut last = None;
    for phase in phases {
        match Expression::condition(when, *phase) {
            Ok(compiled) => last = Some(compiled),
            Err(fault) => {
                faults.add_within(path, when, fault.at, fault.message, fault.hint);
                return None;
            }
        }
    }
    last
}

/// Returns the facts of a phase as JSON, nested by the parts of their names: `{"tool": {"name": "Bash"}}`. Absent ones are left
/// out; the names of those that cannot be read are in `unknown`. Arguments, findings and header fields are not among them.
pub fn facts_as_json(phase: Phase, facts: &dyn Facts) -> Map<String, Given> {
    let (mut all, mut unknown) = (Map::new(), Vec::new());
    let is_known =
        |fact: &&Fact| phase.knows(fact.phases()) && !matches!(fact, Fact::TextRole | Fact::Findings);
    for fact in Fact::ALL.iter().filter(is_known) {
        let value = match fact.kind() {
            Type::Map | Type::Marks | Type::Any => continue,
            Type::List => {
                let texts = (0..facts.count(*fact)).map(|at| as_json(facts.element(*fact, at)));
                Some(texts.map(Option::unwrap_or_default).collect())
            }
            Type::Bool | Type::Int | Type::Float | Type::Text => match facts.get(*fact) {
                Value::Absent => continue,
                value => as_json(value),
            },
        };
        match value {
            Some(value) => put(&mut all, fact.name(), value),
            None => unknown.push(Given::from(fact.name())),
        }
    }
    if !unknown.is_empty() {
        all.insert("unknown".to_owned(), unknown.into());
    }
    all
}

/// Puts a value under a name with a dot.
fn put(all: &mut Map<String, Given>, name: &str, value: Given) {
    match name.split_once('.') {
        None => drop(all.insert(name.to_owned(), value)),
        Some((group, member)) => {
            let group = all.entry(group).or_insert_with(|| Map::new().into());
            if let Given::Object(group) = group {
                group.insert(member.to_owned(), value);
            }
        }
    }
}

fn as_json(value: Value<'_>) -> Option<Given> {
    match value {
        Value::Bool(value) => Some(value.into()),
        Value::Int(number) => Some(number.into()),
        Value::Float(number) => Some(number.into()),
        Value::Text(text) => Some(text.into_owned().into()),
        Value::Absent | Value::Unknown | Value::Json(_) => None,
    }
}
