//! Tries rules on facts and texts that are given: for `elida policy test` and `POST /control/policy/test`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Given;

pub use super::exchange::{GivenAnswer, GivenRequest};
use super::expr::Truth;
use super::facts::{Fact, Facts, Phase, Step, Type, Value};
use super::json::Json;
use super::rule::{Action, Mode, Place, Role, Rule};
use super::ruleset::{Element, RuleSet};
use super::scan::{Hit, Work};
use super::verdict::{Verdict, strongest};
use crate::settings::nearest::did_you_mean;

/// What rules are tried on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Trial {
    /// The phase; if absent, `tool_call` with `tool.args` among the facts, else `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<Phase>,
    /// Facts by their names, such as `"request.model": "gpt-5"`. One that is not given is absent.
    pub facts: BTreeMap<String, Given>,
    /// Names of facts that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    /// A text that patterns are looked for in; without it the arguments of a tool call are one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A whole request, in place of a phase and a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<GivenRequest>,
    /// The answer to the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<GivenAnswer>,
    /// Who wrote the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Where the text stands; if absent, where texts of the phase do.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrialReport {
    /// The phase; of a request, that of the rule which decides.
    pub on: Phase,
    /// What would happen; null if nothing, not even a flag.
    pub action: Option<Action>,
    /// The rule that decides on that.
    pub rule: Option<String>,
    /// The rules of the phase, or of all that a request passes, each with its answer.
    pub rules: Vec<RuleAnswer>,
}

/// What one rule says, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleAnswer {
    /// The rule.
    pub rule: String,
    /// Where it comes from: `file`, or a preset.
    pub origin: String,
    /// When it is judged.
    pub on: Phase,
    /// What it asks for.
    pub action: Action,
    /// Whether it acts.
    pub mode: Mode,
    /// `yes`, `no` or `unknown`.
    pub result: Answer,
    /// Whether it holds: yes, or unknown where that counts as yes.
    pub holds: bool,
    /// The condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// How often its patterns were found; absent for a rule without `match`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<u32>,
    /// The facts that its condition asks for, as they were given; null for an absent one, `?` for one that cannot be read.
    pub facts: BTreeMap<String, Given>,
}

/// An answer of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It holds.
    Yes,
    /// It does not.
    No,
    /// It asks for something that cannot be read.
    Unknown,
}

impl From<Truth> for Answer {
    fn from(truth: Truth) -> Self {
        match truth {
            Truth::Yes => Self::Yes,
            Truth::No => Self::No,
            Truth::Unknown => Self::Unknown,
        }
    }
}

/// The facts of a trial.
#[derive(Default)]
pub struct GivenFacts {
    known: Vec<(Fact, Json)>,
    unknown: Vec<Fact>,
}

impl GivenFacts {
    /// Reads the facts of a trial.
    ///
    /// # Errors
    /// One is not known, or has another type; in words for people.
    pub fn of(trial: &Trial) -> Result<Self, String> {
        let mut facts = Self::default();
        for (name, value) in &trial.facts {
            let fact = named(name)?;
            let value: Json =
                serde_json::from_value(value.clone()).map_err(|fault| format!("{name}: {fault}"))?;
            if !fits(fact.kind(), &value) {
                return Err(format!("{name} is a {}, and this is something else", fact.kind().name()));
            }
            facts.known.push((fact, value));
        }
        for name in &trial.unknown {
            facts.unknown.push(named(name)?);
        }
        Ok(facts)
    }

    /// # Errors
    /// A fact is not known in the phase, or no phase is named and the facts are of one that must be.
    fn check_phase(&self, on: Option<Phase>) -> Result<(), String> {
        let has_args = self.known.iter().any(|(fact, _)| *fact == Fact::ToolArgs);
        let phase = on.unwrap_or(if has_args { Phase::ToolCall } else { Phase::Request });
        let given = self.known.iter().map(|(fact, _)| fact).chain(&self.unknown);
        let Some(stray) = given.into_iter().find(|fact| !phase.knows(fact.phases())) else { return Ok(()) };
        let (name, phases) = (stray.name(), stray.phases().names());
        Err(match on {
            Some(_) => format!("{name} is not known in the phase {}; it is known in: {phases}", phase.name()),
            None => format!(
                "without `on` the rules of the phase {} are tried, which does not know {name}: add `on`, one of: {phases}",
                phase.name()
            ),
        })
    }

    /// Adds a fact, unless it was given.
    pub fn give(&mut self, fact: Fact, value: Given) {
        if let (None, false, Ok(value)) =
            (self.json(fact), self.is_unknown(fact), serde_json::from_value(value))
        {
            self.known.push((fact, value));
        }
    }

    /// Adds a fact that cannot be read, unless it was given.
    pub fn give_unknown(&mut self, fact: Fact) {
        if self.json(fact).is_none() {
            self.unknown.push(fact);
        }
    }

    fn json(&self, fact: Fact) -> Option<&Json> {
        self.known.iter().find(|(known, _)| *known == fact).map(|(_, json)| json)
    }

    fn list(&self, fact: Fact) -> &[Json] {
        match self.json(fact) {
            Some(Json::List(elements)) => elements,
            _ => &[],
        }
    }

    fn is_unknown(&self, fact: Fact) -> bool {
        self.unknown.contains(&fact)
    }
}

fn named(name: &str) -> Result<Fact, String> {
    let found = Fact::ALL.iter().find(|fact| fact.name() == name).copied();
    found.ok_or_else(|| {
        let hint = did_you_mean(name, Fact::ALL.iter().map(|fact| fact.name()));
        let hint = if hint.starts_with("did") { format!(" ({hint})") } else { String::new() };
        format!("no fact is called '{name}'{hint}")
    })
}

fn fits(kind: Type, value: &Json) -> bool {
    let is_text = |json: &Json| matches!(json, Json::Text(_));
    match (kind, value) {
        (Type::Bool, Json::Bool(_))
        | (Type::Int, Json::Int(_))
        | (Type::Float, Json::Int(_) | Json::Float(_))
        | (Type::Text, Json::Text(_))
        | (Type::Any, _) => true,
        (Type::List, Json::List(elements)) => elements.iter().all(is_text),
        (Type::Map, Json::Object(members)) => members.iter().all(|(_, member)| is_text(member)),
        (Type::Marks, Json::Object(members)) => {
            members.iter().all(|(_, member)| matches!(member, Json::Bool(_)))
        }
        _ => false,
    }
}

impl Facts for GivenFacts {
    fn get(&self, fact: Fact) -> Value<'_> {
        match self.json(fact) {
            _ if self.is_unknown(fact) => Value::Unknown,
            Some(Json::Int(number)) if fact.kind() == Type::Float => Value::Float(*number as f64),
            json => json.map_or(Value::Absent, Json::value),
        }
    }

    fn entry(&self, fact: Fact, key: &str) -> Value<'_> {
        if self.is_unknown(fact) {
            return Value::Unknown;
        }
        let member = match self.json(fact) {
            Some(Json::Object(members)) => {
                members.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, member)| member)
            }
            _ => None,
        };
        match (member, fact.kind()) {
            (Some(member), _) => member.value(),
            (None, Type::Marks) => Value::Bool(false),
            (None, _) => Value::Absent,
        }
    }

    fn has(&self, fact: Fact, text: &str) -> bool {
        self.list(fact).iter().any(|element| element.value() == Value::text(Some(text)))
    }

    fn count(&self, fact: Fact) -> usize {
        self.list(fact).len()
    }

    fn is_partial(&self, fact: Fact) -> bool {
        self.is_unknown(fact)
    }

    fn element(&self, fact: Fact, index: usize) -> Value<'_> {
        self.list(fact).get(index).map_or(Value::Absent, Json::value)
    }

    fn at(&self, fact: Fact, path: &[Step]) -> Value<'_> {
        match self.json(fact) {
            _ if self.is_unknown(fact) => Value::Unknown,
            Some(json) => json.at(path),
            None => Value::Absent,
        }
    }
}

impl Trial {
    /// The call of a tool that is given by its facts alone: what they are, and its arguments as JSON.
    ///
    /// # Errors
    /// A fact is not known, or has another type; in words for people.
    pub fn call(&self) -> Result<Option<(GivenFacts, String)>, String> {
        let args = self.facts.get(Fact::ToolArgs.name()).filter(|_| self.text.is_none());
        let Some(args) = args.filter(|_| self.on.is_none_or(|on| on == Phase::ToolCall)) else {
            return Ok(None);
        };
        let facts = GivenFacts::of(self)?;
        facts.check_phase(self.on)?;
        Ok(Some((facts, args.to_string())))
    }
}

impl RuleSet {
    /// Tries the rules of a phase on what is given; the arguments of a call are one text ([`Trial::call`] has them as a call).
    ///
    /// # Errors
    /// A fact is not known, or has another type; in words for people.
    pub fn try_on(&self, trial: &Trial) -> Result<TrialReport, String> {
        let facts = GivenFacts::of(trial)?;
        facts.check_phase(trial.on)?;
        let on = trial.on.unwrap_or(match facts.json(Fact::ToolArgs) {
            Some(_) => Phase::ToolCall,
            None => Phase::Request,
        });
        let args = (on == Phase::ToolCall).then(|| trial.facts.get(Fact::ToolArgs.name())).flatten();
        let text = trial.text.clone().or_else(|| args.map(Given::to_string)).unwrap_or_default();
        let mut hits: Vec<Hit> = Vec::new();
        if let Some(patterns) = self.patterns(on) {
            let mut work = Work::new(2 * text.len());
            patterns.whole(text.as_bytes(), &mut work, &mut |hit| hits.push(hit));
        }
        let place = trial.place.unwrap_or(match on {
            Phase::ToolCall => Place::ToolArgs,
            Phase::ToolResult => Place::ToolResult,
            Phase::Connect
            | Phase::Request
            | Phase::Response
            | Phase::Turn
            | Phase::Session
            | Phase::Routing => Place::Text,
        });
        let element = Element { role: trial.role, place, hits: &hits, digest: 1 };
        let mut verdict = Verdict::default();
        self.judge(on, &facts, &element, &mut verdict);
        self.finish(on, &facts, &mut verdict);
        let rules = self.rules(on).iter().map(|rule| answer(rule, &facts, &verdict)).collect();
        let deciding = verdict.deciding().map(|finding| &finding.rule);
        Ok(TrialReport {
            on,
            action: deciding.map(|rule| rule.action),
            rule: deciding.map(|rule| rule.id.to_string()),
            rules,
        })
    }
}

/// Returns what rules say to a request, by the verdicts of the phases that it has passed; a phase may have several.
pub fn report(rules: &RuleSet, facts: &GivenFacts, verdicts: &[(Phase, Verdict)]) -> TrialReport {
    let mut joined: Vec<(Phase, Verdict)> = Vec::new();
    for (phase, verdict) in verdicts {
        match joined.iter_mut().find(|(known, _)| known == phase) {
            None => joined.push((*phase, verdict.clone())),
            Some((_, known)) => {
                known.findings.extend(verdict.findings.iter().cloned());
                known.undecided.extend(verdict.undecided.iter().cloned());
            }
        }
    }
    let deciding = strongest(joined.iter().flat_map(|(_, verdict)| &verdict.findings));
    let deciding = deciding.map(|finding| &finding.rule);
    let answers = joined
        .iter()
        .flat_map(|(phase, verdict)| rules.rules(*phase).iter().map(|rule| answer(rule, facts, verdict)));
    TrialReport {
        on: deciding.map_or(Phase::Request, |rule| rule.phase),
        action: deciding.map(|rule| rule.action),
        rule: deciding.map(|rule| rule.id.to_string()),
        rules: answers.collect(),
    }
}

/// Reads the answer of a rule from the verdict, which is what a request would meet.
fn answer(rule: &Rule, facts: &GivenFacts, verdict: &Verdict) -> RuleAnswer {
    let is_it =
        |other: &Rule| other.id == rule.id && other.phase == rule.phase && other.origin == rule.origin;
    let found = verdict.findings.iter().find(|finding| is_it(&finding.rule));
    let is_undecided = verdict.undecided.iter().any(|other| is_it(other));
    let result = match found {
        _ if is_undecided => Answer::Unknown,
        Some(_) => Answer::Yes,
        None => Answer::No,
    };
    let asked = rule.asks_for();
    let shown = asked.into_iter().map(|fact| {
        let value = match facts.json(fact) {
            _ if facts.is_unknown(fact) => Given::from("?"),
            Some(json) => shown(json),
            None => Given::Null,
        };
        (fact.name().to_owned(), value)
    });
    RuleAnswer {
        rule: rule.id.to_string(),
        origin: rule.origin.to_owned(),
        on: rule.phase,
        action: rule.action,
        mode: rule.mode,
        result,
        holds: found.is_some(),
        when: Some(rule.condition()).filter(|when| !when.is_empty()),
        found: rule.matching.is_some().then(|| found.map_or(0, |finding| finding.count)),
        facts: shown.collect(),
    }
}

fn shown(json: &Json) -> Given {
    match json {
        Json::Null => Given::Null,
        Json::Bool(value) => (*value).into(),
        Json::Int(number) => (*number).into(),
        Json::Float(number) => (*number).into(),
        Json::Text(text) => (&**text).into(),
        Json::List(elements) => elements.iter().map(shown).collect(),
        Json::Object(members) => {
            members.iter().map(|(name, member)| (name.to_string(), shown(member))).collect()
        }
    }
}
