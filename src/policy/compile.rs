//! Compiles the section `policy:` to rules.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::check::{check, never_holds};
use super::expr::{Expression, SourceFault};
use super::external;
use super::facts::{Fact, Phase};
use super::loops::builtin::{LoopSet, loop_levels};
use super::pattern_faults::compile_all;
use super::presets::{Chosen, PRESETS};
use super::rule::{Action, Condition, FILE, Matching, Mode, Places, Rule, RuleKind, Severity, built_in};
use super::ruleset::{PhaseRules, RuleSet};
use super::scan::{Pattern, PatternKind, folded_name};
use super::secrets::{DETECTORS, Detector, detector};
use super::settings::{MatchConfig, OnLimit, OnUnknown, PatternConfig, PolicyConfig, RuleConfig};
use crate::settings::fault::Faults;
use crate::settings::nearest::did_you_mean;
use crate::settings::rate::{Period, RateText};

/// The most rules, with those of presets.
const MAX_RULES: usize = 1024;
/// The rate to which a score slows a session down.
const SLOW: RateText = RateText { count: 6, period: Period::Minute };

/// Tells one set of rules from the next.
static GENERATION: AtomicU64 = AtomicU64::new(1);

impl PolicyConfig {
    /// Compiles the section.
    pub fn compile(self, faults: &mut Faults) -> Option<Arc<RuleSet>> {
        let before = faults.iter().count();
        let mut compiler = Compiler::default();
        let on_limit = self.add_presets(&mut compiler, faults);
        let mut ids = BTreeSet::new();
        for (place, rule) in self.rules.iter().enumerate() {
            let path = format!("policy.rules[{place}]");
            if !ids.insert(&rule.id) {
                let hint = "give each rule an id of its own";
                faults.add(format!("{path}.id"), format!("another rule is called '{}', too", rule.id), hint);
            }
            compiler.add(rule, self.mode, FILE, &path, faults);
        }
        if compiler.count() > MAX_RULES {
            let message = format!("{} rules are more than {MAX_RULES}", compiler.count());
            faults.add("policy.rules", message, "join rules that differ in a text with `in`");
        }
        self.add_tools(&mut compiler, faults);
        let score = self.scores(faults);
        let loops = self.loops.and_then(|loops| loops.compile("policy.loops", faults));
        let loops = loops.map(|rules| LoopSet { rules, levels: loop_levels(self.mode) });
        let externals = external::compile(&self.external, self.mode, faults);
        let phases = compiler.phases(faults)?;
        let mut rules = RuleSet { phases, score, loops, externals, ..RuleSet::default() };
        if !rules.is_empty() {
            rules.scan_limit = Some(Arc::new(scan_limit(on_limit, self.mode)));
        }
        if !rules.is_empty() || self.mcp.redefined.is_some() {
            rules.redefined = Some(Arc::new(redefined(self.mcp.redefined, self.mode)));
        }
        let all = || rules.phases.iter().flat_map(|phase| &phase.rules);
        let asks = |fact| all().any(|rule| rule.asks_for().contains(&fact));
        // Services are told all facts.
        let reads = |fact| asks(fact) || !rules.externals.is_empty();
        let (tools, messages) = (asks(Fact::RequestTools), reads(Fact::MessagesCount));
        let model = asks(Fact::RequestModel);
        let instructions = reads(Fact::RequestSystemDigest);
        rules.asks_for_backend = all().any(|rule| rule.depends_on_backend());
        (rules.asks_for_tools, rules.asks_for_messages) = (tools, messages);
        rules.asks_for_instructions = instructions;
        rules.asks_for_model = model;
        rules.generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        rules.written = self;
        (faults.iter().count() == before).then(|| Arc::new(rules))
    }

    /// Adds the rules of presets. Returns what happens when a bound of scanning is reached.
    fn add_presets(&self, compiler: &mut Compiler, faults: &mut Faults) -> Option<OnLimit> {
        let mut chosen = Chosen::default();
        for (place, name) in self.presets.iter().enumerate() {
            if let Err(fault) = chosen.add(name) {
                let hint = did_you_mean(name, PRESETS.map(|(name, _)| name));
                faults.add(format!("policy.presets[{place}]"), fault, hint);
            }
        }
        for (place, id) in self.disable.iter().enumerate() {
            if !chosen.rules.iter().any(|(_, rule)| rule.id == *id) {
                let known = chosen.rules.iter().map(|(_, rule)| rule.id.as_str());
                let message = format!("no rule of the presets is called '{id}'");
                faults.add(format!("policy.disable[{place}]"), message, did_you_mean(id, known));
            }
        }
        let written: BTreeSet<&str> = self.rules.iter().map(|rule| rule.id.as_str()).collect();
        for (origin, rule) in &chosen.rules {
            // A rule of the file with the same id takes its place.
            if !self.disable.contains(&rule.id) && !written.contains(rule.id.as_str()) {
                compiler.add(rule, self.mode, origin, "policy.presets", faults);
            }
        }
        self.on_limit.or(chosen.on_limit)
    }

    /// Adds the rules that `policy.tools` is short for.
    fn add_tools(&self, compiler: &mut Compiler, faults: &mut Faults) {
        for (key, written) in [("deny", &self.tools.deny), ("allow", &self.tools.allow)] {
            for (place, pattern) in written.iter().enumerate() {
                if pattern.is_empty() || pattern.len() > 256 {
                    let message = "a pattern has 1 to 256 bytes";
                    faults.add(format!("policy.tools.{key}[{place}]"), message, "write Bash or mcp__prod__*");
                }
            }
            if !written.is_empty() {
                // Programs differ in how they spell a tool: what is denied is so as it reads, what is allowed as it is written.
                let patterns = match key {
                    "deny" => written.iter().map(|pattern| folded_name(pattern).into()).collect(),
                    _ => written.iter().map(|pattern| pattern.as_str().into()).collect(),
                };
                let condition = if key == "deny" { Condition::IsTool } else { Condition::IsOtherTool };
                compiler.push(
                    Rule {
                        when: Some(condition(patterns)),
                        phase: Phase::ToolCall,
                        severity: Severity::High,
                        owasp: Some("LLM06".into()),
                        ..built_in(&format!("tools-{key}"), Action::Block, self.mode, RuleKind::Tools)
                    },
                    Vec::new(),
                );
            }
        }
    }

    fn scores(&self, faults: &mut Faults) -> [Option<(f64, Arc<Rule>)>; 3] {
        let written = [
            ("throttle", self.score.throttle, Action::Throttle),
            ("block", self.score.block, Action::Block),
            ("kill", self.score.kill, Action::Kill),
        ];
        let mut most = 0.0;
        written.map(|(key, threshold, action)| {
            let threshold = threshold?;
            if threshold <= most || !threshold.is_finite() {
                let message = format!("the score is not above {most}");
                let hint = "write scores above zero that grow: throttle, block, kill";
                faults.add(format!("policy.score.{key}"), message, hint);
                return None;
            }
            most = threshold;
            let rate = (action == Action::Throttle).then_some(SLOW);
            let rule = built_in(&format!("score-{key}"), action, self.mode, RuleKind::Score);
            Some((threshold, Arc::new(Rule { rate, ..rule })))
        })
    }
}

fn scan_limit(on_limit: Option<OnLimit>, mode: Mode) -> Rule {
    let action = if on_limit == Some(OnLimit::Block) { Action::Block } else { Action::Flag };
    let message = "it is too large or too deeply packed to be judged whole";
    Rule {
        severity: Severity::Low,
        message: Some(message.into()),
        ..built_in("scan-limit", action, mode, RuleKind::ScanLimit)
    }
}

fn redefined(on_change: Option<OnLimit>, mode: Mode) -> Rule {
    let action = if on_change == Some(OnLimit::Block) { Action::Block } else { Action::Flag };
    Rule {
        phase: Phase::ToolResult,
        severity: Severity::High,
        owasp: Some("LLM03".into()),
        message: Some("The server has changed the definition of a tool within the session".into()),
        ..built_in("tool-redefined", action, mode, RuleKind::Redefined)
    }
}

/// Collects the rules and what they look for.
#[derive(Default)]
struct Compiler {
    phases: [Collected; Phase::ALL.len()],
}

/// The rules of a phase.
#[derive(Default)]
struct Collected {
    rules: Vec<Arc<Rule>>,
    patterns: Vec<Pattern>,
    /// Where each pattern is written.
    places: Vec<String>,
    owners: Vec<Vec<u16>>,
    hidden: Vec<u16>,
}

impl Compiler {
    fn count(&self) -> usize {
        self.phases.iter().map(|phase| phase.rules.len()).sum()
    }

    /// Compiles a rule and adds it, if it has no fault.
    fn add(
        &mut self,
        written: &RuleConfig,
        mode: Mode,
        origin: &'static str,
        path: &str,
        faults: &mut Faults,
    ) {
        let before = faults.iter().count();
        check(written, path, faults);
        let when = written.when.as_deref().and_then(|when| {
            let path = format!("{path}.when");
            let compiled = Expression::condition(when, written.on);
            let compiled = compiled.map_err(|fault| note(&path, when, fault, faults)).ok()?;
            if written.matching.is_none() && compiled.asks_for(Fact::TextRole) {
                let hint = "add match:, or leave it out";
                faults.add(
                    path,
                    "text.role is that of a text which is found, and this rule looks for none",
                    hint,
                );
            }
            Some(compiled)
        });
        never_holds(written, when.as_ref(), path, faults);
        let patterns =
            written.matching.as_ref().map_or_else(Vec::new, |matching| patterns(matching, path, faults));
        if faults.iter().count() > before {
            return;
        }
        let text = |text: &Option<String>| text.as_deref().map(Box::from);
        let rule = Rule {
            id: written.id.as_str().into(),
            phase: written.on,
            when: when.map(Condition::When),
            matching: written.matching.as_ref().map(|matching| Matching {
                places: matching.places.as_ref().map_or(Places::ALL, |places| Places::of(&places.0)),
            }),
            action: written.action,
            severity: written.severity,
            owasp: text(&written.owasp),
            message: text(&written.message),
            mark: written.mark.as_deref().map(Arc::from),
            mode: written.mode.unwrap_or(mode),
            unknown_skips: written.unknown == Some(OnUnknown::Skip),
            rate: written.rate,
            origin,
            kind: RuleKind::Written,
        };
        self.push(rule, patterns);
    }

    fn push(&mut self, rule: Rule, patterns: Vec<(Option<Pattern>, String)>) {
        let phase = &mut self.phases[rule.phase as usize];
        let index = u16::try_from(phase.rules.len()).unwrap_or(u16::MAX);
        phase.rules.push(Arc::new(rule));
        for (pattern, place) in patterns {
            match pattern {
                None => phase.hidden.push(index),
                Some(pattern) => phase.look_for(pattern, place, index),
            }
        }
    }

    fn phases(self, faults: &mut Faults) -> Option<[PhaseRules; Phase::ALL.len()]> {
        let compiled = self.phases.map(|phase| phase.compile(faults));
        let mut all: [PhaseRules; Phase::ALL.len()] = Default::default();
        for (place, phase) in all.iter_mut().zip(compiled) {
            *place = phase?;
        }
        Some(all)
    }
}

impl Collected {
    /// Notes that a rule looks for a pattern. Rules share the rows of the table of secrets.
    fn look_for(&mut self, pattern: Pattern, place: String, rule: u16) {
        let same = self.patterns.iter().position(|known| match (&known.kind, &pattern.kind) {
            (PatternKind::Detector(known), PatternKind::Detector(new)) => known.id == new.id,
            (PatternKind::Phrase(known), PatternKind::Phrase(new)) => known == new,
            _ => false,
        });
        match same {
            Some(at) if !self.owners[at].contains(&rule) => self.owners[at].push(rule),
            Some(_) => {}
            None => {
                self.patterns.push(pattern);
                self.places.push(place);
                self.owners.push(vec![rule]);
            }
        }
    }

    fn compile(self, faults: &mut Faults) -> Option<PhaseRules> {
        let Self { rules, patterns, places, owners, hidden } = self;
        let looks = !patterns.is_empty() || !hidden.is_empty();
        let patterns = if looks { Some(compile_all(patterns, places, faults)?) } else { None };
        Some(PhaseRules::new(rules, patterns, owners, hidden))
    }
}

fn note(path: &str, text: &str, fault: SourceFault, faults: &mut Faults) {
    faults.add_within(path, text, fault.at, fault.message, fault.hint);
}

/// Returns what a rule looks for, and where each pattern is written; `None` stands for hidden text.
fn patterns(written: &MatchConfig, path: &str, faults: &mut Faults) -> Vec<(Option<Pattern>, String)> {
    let mut found = Vec::new();
    if written.any.is_empty() {
        faults.add(format!("{path}.match.any"), "it looks for nothing", "add a phrase");
    }
    for (place, pattern) in written.any.iter().enumerate() {
        let path = format!("{path}.match.any[{place}]");
        match pattern {
            PatternConfig::Phrase(phrase) => {
                let kind = PatternKind::Phrase(phrase.clone());
                found.push((Some(Pattern { kind, slow: false }), path));
            }
            PatternConfig::Regex { regex, slow } => {
                let kind = PatternKind::Regex(regex.clone());
                found.push((Some(Pattern { kind, slow: *slow }), path));
            }
            PatternConfig::Detector(name) => detectors(name, path, &mut found, faults),
        }
    }
    found
}

/// Adds the rows of the table of secrets that a name stands for.
fn detectors(name: &str, path: String, found: &mut Vec<(Option<Pattern>, String)>, faults: &mut Faults) {
    const GROUPS: [&str; 4] = ["vendor-keys", "secrets", "pii", "hidden-text"];
    let rows: Vec<_> = match name {
        "hidden-text" => {
            found.push((None, path));
            return;
        }
        "vendor-keys" => DETECTORS.iter().filter(|row| is_certain(row)).collect(),
        "secrets" => DETECTORS.iter().filter(|row| !row.is_pii).collect(),
        "pii" => DETECTORS.iter().filter(|row| row.is_pii).collect(),
        _ => detector(name).into_iter().collect(),
    };
    if rows.is_empty() {
        let known = GROUPS.into_iter().chain(DETECTORS.iter().map(|row| row.id));
        faults.add(path, format!("no detector is called '{name}'"), did_you_mean(name, known));
        return;
    }
    found.extend(
        rows.into_iter()
            .map(|row| (Some(Pattern { kind: PatternKind::Detector(row), slow: false }), path.clone())),
    );
}

/// Whether what is found is a secret beyond doubt: it has the form of one vendor's keys, or it is a private key.
fn is_certain(row: &Detector) -> bool {
    const VAGUE: [&str; 4] = ["jwt", "bearer-token", "url-password", "generic-secret"];
    row.is_secret && !row.is_pii && !VAGUE.contains(&row.id)
}
