//! All rules, by phase, with the patterns that they look for.

use std::collections::HashMap;
use std::sync::Arc;

use super::expr::Truth;
use super::external::External;
use super::facts::{Fact, Facts, Phase, Step, Value};
use super::loops::LoopSet;
use super::rule::{Action, Condition, Mode, Place, Role, Rule};
use super::scan::{HIDDEN_TEXT, Hit, Patterns, Via};
use super::settings::PolicyConfig;
use super::verdict::{Finding, Verdict};

/// What is judged: a text with what was found in it.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    /// Who wrote it; `None` if that is not known.
    pub role: Option<Role>,
    /// Where it stands.
    pub place: Place,
    /// What was found in it.
    pub hits: &'a [Hit],
    /// Tells it from other elements of the session.
    pub digest: u64,
}

/// A position in the rules of a phase.
type Index = u16;

/// The rules of a phase.
#[derive(Debug, Default)]
pub(super) struct PhaseRules {
    pub(super) rules: Vec<Arc<Rule>>,
    /// Rules without `match` that are asked in any case.
    always: Vec<Index>,
    /// Rules without `match` that only hold if a fact is one of some texts.
    guarded: Vec<Guarded>,
    /// Rules without `match` that ask for the findings of the others.
    last: Vec<Index>,
    /// What the rules with `match` look for.
    pub(super) patterns: Option<Patterns>,
    /// The rules that look for a pattern, by its number.
    owners: Vec<Vec<Index>>,
    /// The rules that look for hidden text.
    hidden: Vec<Index>,
}

/// Rules that only hold if this fact is one of these texts.
#[derive(Debug)]
struct Guarded {
    fact: Fact,
    by_text: HashMap<Box<str>, Vec<Index>>,
    all: Vec<Index>,
}

impl PhaseRules {
    /// Sorts the rules. `owners` and `hidden` are those of `patterns`.
    pub(super) fn new(
        rules: Vec<Arc<Rule>>,
        patterns: Option<Patterns>,
        owners: Vec<Vec<Index>>,
        hidden: Vec<Index>,
    ) -> Self {
        let mut sorted = Self { patterns, owners, hidden, ..Self::default() };
        for (index, rule) in rules.iter().enumerate() {
            let index = index as Index;
            if rule.matching.is_some() {
                continue;
            }
            match &rule.when {
                Some(Condition::When(when)) if when.asks_for(Fact::Findings) => sorted.last.push(index),
                Some(Condition::When(when)) => match when.guard() {
                    Some((fact, texts)) => sorted.guard(fact, &texts, index),
                    None => sorted.always.push(index),
                },
                _ => sorted.always.push(index),
            }
        }
        Self { rules, ..sorted }
    }

    fn guard(&mut self, fact: Fact, texts: &[&str], index: Index) {
        let at = self.guarded.iter().position(|guarded| guarded.fact == fact).unwrap_or_else(|| {
            self.guarded.push(Guarded { fact, by_text: HashMap::new(), all: Vec::new() });
            self.guarded.len() - 1
        });
        let guarded = &mut self.guarded[at];
        guarded.all.push(index);
        for text in texts {
            let rules = guarded.by_text.entry((*text).into()).or_default();
            if rules.last() != Some(&index) {
                rules.push(index);
            }
        }
    }

    fn asks_facts(&self) -> bool {
        !(self.always.is_empty() && self.guarded.is_empty() && self.last.is_empty())
    }

    fn rule(&self, index: Index) -> &Arc<Rule> {
        &self.rules[usize::from(index)]
    }

    /// Asks the rules without `match`.
    fn ask(&self, facts: &dyn Facts, verdict: &mut Verdict) {
        let ask = |indexes: &[Index], verdict: &mut Verdict| {
            for index in indexes {
                ask_one(self.rule(*index), facts, &About::UNIT, verdict);
            }
        };
        ask(&self.always, verdict);
        for Guarded { fact, by_text, all } in &self.guarded {
            match facts.get(*fact) {
                Value::Text(text) => {
                    if let Some(indexes) = by_text.get(&*text) {
                        ask(indexes, verdict);
                    }
                }
                Value::Absent => {}
                _ => ask(all, verdict),
            }
        }
        ask(&self.last, verdict);
    }
}

/// What a finding is about.
struct About {
    role: Option<Role>,
    via: Option<Via>,
    digest: u64,
}

impl About {
    /// The unit as a whole.
    const UNIT: Self = Self { role: None, via: None, digest: 0 };
}

fn ask_one(rule: &Arc<Rule>, facts: &dyn Facts, about: &About, verdict: &mut Verdict) {
    let facts = Judging { facts, role: about.role, findings: &verdict.findings };
    let truth = rule.truth(&facts);
    if truth == Truth::Unknown {
        verdict.undecided.push(Arc::clone(rule));
    }
    if truth == Truth::Yes || truth == Truth::Unknown && rule.holds_when_unknown() {
        verdict.add(Finding {
            rule: Arc::clone(rule),
            mode: rule.mode,
            unknown: truth == Truth::Unknown,
            role: about.role,
            via: about.via,
            digest: about.digest,
            count: 1,
        });
    }
}

/// The facts with those that the judging itself knows.
struct Judging<'a> {
    facts: &'a dyn Facts,
    role: Option<Role>,
    findings: &'a [Finding],
}

impl Facts for Judging<'_> {
    fn get(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::TextRole => Value::text(self.role.map(Role::name)),
            _ => self.facts.get(fact),
        }
    }

    fn entry(&self, fact: Fact, key: &str) -> Value<'_> {
        self.facts.entry(fact, key)
    }

    fn has(&self, fact: Fact, text: &str) -> bool {
        match fact {
            Fact::Findings => self.findings.iter().any(|finding| *finding.rule.id == *text),
            _ => self.facts.has(fact, text),
        }
    }

    fn count(&self, fact: Fact) -> usize {
        if fact == Fact::Findings { self.findings.len() } else { self.facts.count(fact) }
    }

    fn is_partial(&self, fact: Fact) -> bool {
        self.facts.is_partial(fact)
    }

    fn element(&self, fact: Fact, index: usize) -> Value<'_> {
        match fact {
            Fact::Findings => Value::text(self.findings.get(index).map(|finding| &*finding.rule.id)),
            _ => self.facts.element(fact, index),
        }
    }

    fn at(&self, fact: Fact, path: &[Step]) -> Value<'_> {
        self.facts.at(fact, path)
    }
}

/// All rules.
#[derive(Debug, Default)]
pub struct RuleSet {
    pub(super) phases: [PhaseRules; Phase::ALL.len()],
    pub(super) scan_limit: Option<Arc<Rule>>,
    pub(super) redefined: Option<Arc<Rule>>,
    pub(super) score: [Option<(f64, Arc<Rule>)>; 3],
    pub(super) loops: Option<LoopSet>,
    pub(super) externals: Vec<Arc<External>>,
    pub(super) written: PolicyConfig,
    pub(super) generation: u64,
    /// A rule asks which backend or server is called.
    pub(super) asks_for_backend: bool,
    /// A rule asks which tools a request offers.
    pub(super) asks_for_tools: bool,
    /// A rule asks how many messages a request has.
    pub(super) asks_for_messages: bool,
    /// A rule asks for the model.
    pub(super) asks_for_model: bool,
    /// A rule asks for the instructions of a request.
    pub(super) asks_for_instructions: bool,
}

impl RuleSet {
    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.externals.is_empty() && self.phases.iter().all(|phase| phase.rules.is_empty())
    }

    /// Whether the phase has rules, or a service is asked in it.
    pub fn has(&self, phase: Phase) -> bool {
        !self.of(phase).rules.is_empty() || self.asks_services(phase)
    }

    /// Whether a service is asked in this phase.
    pub fn asks_services(&self, phase: Phase) -> bool {
        self.externals.iter().any(|external| external.knows(phase))
    }

    /// The services that decide besides the rules, in the order of the file.
    pub fn externals(&self) -> &[Arc<External>] {
        &self.externals
    }

    /// Whether rules ask for what bodies of requests and answers say, or may do so.
    pub fn read_bodies(&self) -> bool {
        use Phase::{Request, Response, ToolCall, ToolResult, Turn};
        [Request, Response, ToolCall, ToolResult, Turn].into_iter().any(|phase| self.has(phase))
    }

    /// Whether rules ask for what a model says or calls, and for the results of its tools.
    pub fn hears(&self) -> bool {
        [Phase::Response, Phase::ToolCall, Phase::ToolResult].into_iter().any(|phase| self.has(phase))
    }

    /// Whether they act on it.
    pub fn acts_on_what_is_heard(&self) -> bool {
        [Phase::Response, Phase::ToolCall, Phase::ToolResult].into_iter().any(|phase| self.acts(phase))
    }

    /// Whether a rule that found something stops the request for one backend and perhaps not for another.
    pub fn refuses_backend(&self, verdict: &Verdict) -> bool {
        let stops = |finding: &Finding| finding.mode == Mode::Enforce && finding.rule.action >= Action::Hold;
        verdict.findings.iter().any(|finding| stops(finding) && finding.rule.depends_on_backend())
    }

    /// What the rules of the phase look for in texts; `None` if they look for nothing.
    pub fn patterns(&self, phase: Phase) -> Option<&Patterns> {
        self.of(phase).patterns.as_ref()
    }

    /// Whether rules of the phase ask for facts alone, so that a text that was clean before may not be left out.
    pub fn asks_facts(&self, phase: Phase) -> bool {
        self.of(phase).asks_facts() || self.asks_services(phase)
    }

    /// The rules of the phase, in the order of the file; those of presets before them.
    pub fn rules(&self, phase: Phase) -> &[Arc<Rule>] {
        &self.of(phase).rules
    }

    fn of(&self, phase: Phase) -> &PhaseRules {
        &self.phases[phase as usize]
    }

    /// Judges a text by the rules with `match` that what was found in it belongs to.
    pub fn judge(&self, phase: Phase, facts: &dyn Facts, element: &Element<'_>, verdict: &mut Verdict) {
        let rules = self.of(phase);
        for hit in element.hits {
            let owners = match hit.pattern {
                HIDDEN_TEXT => Some(&rules.hidden),
                pattern => rules.owners.get(pattern as usize),
            };
            let about = About { role: element.role, via: Some(hit.via), digest: element.digest };
            for index in owners.into_iter().flatten() {
                let rule = rules.rule(*index);
                if rule.matching.as_ref().is_some_and(|matching| matching.places.has(element.place)) {
                    ask_one(rule, facts, &about, verdict);
                }
            }
        }
    }

    /// Judges a request, an answer, a call, a result or a turn by the rules without `match`: once, after its texts.
    pub fn finish(&self, phase: Phase, facts: &dyn Facts, verdict: &mut Verdict) {
        self.of(phase).ask(facts, verdict);
    }

    /// Notes that a bound of scanning was reached (`policy.on_limit`).
    pub fn scan_limit(&self, verdict: &mut Verdict) {
        if let Some(rule) = &self.scan_limit {
            let mode = rule.mode;
            let rule = Arc::clone(rule);
            verdict.add(Finding { rule, mode, unknown: false, role: None, via: None, digest: 0, count: 1 });
        }
    }

    /// Whether reaching a bound of scanning does more than flag (`policy.on_limit`).
    pub fn limit_acts(&self) -> bool {
        let acts = |rule: &Arc<Rule>| rule.mode == Mode::Enforce && rule.action > Action::Flag;
        self.scan_limit.as_ref().is_some_and(acts)
    }

    /// Returns the rule of the highest threshold that a score has reached (`policy.score`).
    pub fn of_score(&self, score: f64) -> Option<&Arc<Rule>> {
        let reached = self.score.iter().flatten().filter(|(threshold, _)| score >= *threshold);
        reached.map(|(_, rule)| rule).next_back()
    }

    /// Returns how loops are found; `None` if they are not looked for.
    pub fn loops(&self) -> Option<&LoopSet> {
        self.loops.as_ref()
    }

    /// Whether scores have consequences.
    pub fn has_scores(&self) -> bool {
        self.score.iter().any(Option::is_some)
    }

    /// Bytes of an answer's text that are always kept back (`policy.hold_back`).
    pub fn hold_back(&self) -> u64 {
        self.written.hold_back.0
    }

    /// The size of the table of elements that were found clean (`policy.judged`).
    pub fn judged(&self) -> u64 {
        self.written.judged.0
    }

    /// The section as it was written.
    pub fn written(&self) -> &PolicyConfig {
        &self.written
    }

    /// Changes whenever the rules do.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether rules may hold something in this phase.
    pub fn may_hold(&self, phase: Phase) -> bool {
        let holds = |rule: &Arc<Rule>| rule.mode == Mode::Enforce && rule.action == Action::Hold;
        self.service_acts(phase) || self.of(phase).rules.iter().chain(&self.scan_limit).any(holds)
    }

    /// Whether rules may act in this phase, so that what is judged has to wait for them.
    pub fn acts(&self, phase: Phase) -> bool {
        let acts = |rule: &Arc<Rule>| rule.mode == Mode::Enforce && rule.action > Action::Flag;
        self.service_acts(phase) || self.of(phase).rules.iter().any(acts)
    }

    fn service_acts(&self, phase: Phase) -> bool {
        let acts = |external: &&Arc<External>| external.mode == Mode::Enforce;
        self.externals.iter().filter(acts).any(|external| external.knows(phase))
    }
}
