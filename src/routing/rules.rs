//! Rules of routing: the first one that holds decides on the backend.

use super::decision::{RouteError, RuleDecision};
use super::settings::{ForwardConfig, RouteRuleConfig};
use super::table::BackendRule;
use crate::policy::expr::{Expression, Truth};
use crate::policy::facts::{Facts, Phase};
use crate::settings::fault::Faults;
use crate::settings::nearest::did_you_mean;

/// The most rules.
const MOST: usize = 256;

/// The rules in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

/// Conditions that must all hold, and where the request goes then.
#[derive(Clone, Debug)]
struct Rule {
    conditions: Vec<Expression>,
    backend: usize,
    strip_prefix: String,
}

impl Rules {
    pub(super) fn compile(
        written: &[RouteRuleConfig],
        backends: &[BackendRule],
        faults: &mut Faults,
    ) -> Option<Self> {
        if written.len() > MOST {
            let hint = format!("write at most {MOST}");
            faults.add("routing.rules", format!("there are {} rules", written.len()), hint);
        }
        let mut compile = |(at, rule)| Rule::compile(&format!("routing.rules[{at}]"), rule, backends, faults);
        let compiled: Vec<_> = written.iter().enumerate().map(&mut compile).collect();
        compiled.into_iter().collect::<Option<_>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any leads to this backend.
    pub(super) fn lead_to(written: &[RouteRuleConfig], backend: &str) -> bool {
        written.iter().any(|rule| rule.forward.backend == backend)
    }

    /// Whether any asks for what the body says.
    pub(super) fn ask_for_body(&self) -> bool {
        self.0.iter().flat_map(|rule| &rule.conditions).any(|when| when.phase() != Phase::Connect)
    }

    /// Returns where the first rule that holds sends a request with this path.
    ///
    /// # Errors
    /// A rule before it asks for something that cannot be read.
    pub(super) fn decide(&self, facts: &dyn Facts, path: &str) -> Result<Option<RuleDecision>, RouteError> {
        for (at, rule) in self.0.iter().enumerate() {
            match rule.truth(facts) {
                Truth::Yes => return Ok(Some(rule.decision(path))),
                Truth::No => {}
                Truth::Unknown => return Err(RouteError::Undecided(at)),
            }
        }
        Ok(None)
    }
}

impl Rule {
    fn compile(
        path: &str,
        rule: &RouteRuleConfig,
        backends: &[BackendRule],
        faults: &mut Faults,
    ) -> Option<Self> {
        let ForwardConfig { backend: name, strip_prefix, .. } = &rule.forward;
        let backend = backends.iter().position(|backend| backend.name == *name);
        if name.is_empty() {
            let hint = "write backend with the name of one, or target with a URL";
            faults.add(format!("{path}.forward"), "it names neither a backend nor a target", hint);
        } else if backend.is_none() {
            let hint = did_you_mean(name, backends.iter().map(|backend| backend.name.as_str()));
            faults.add(format!("{path}.forward.backend"), format!("no backend is called '{name}'"), hint);
        }
        let is_prefix =
            strip_prefix.is_empty() || strip_prefix.starts_with('/') && !strip_prefix.ends_with('/');
        if !is_prefix {
            let message = format!("'{strip_prefix}' is not the beginning of a path");
            faults.add(format!("{path}.forward.strip_prefix"), message, "write it like /files");
        }
        let conditions = Self::conditions(path, rule, faults);
        Some(Self { conditions: conditions?, backend: backend?, strip_prefix: strip_prefix.clone() })
            .filter(|_| is_prefix)
    }

    /// Compiles `match` and `when`.
    fn conditions(path: &str, rule: &RouteRuleConfig, faults: &mut Faults) -> Option<Vec<Expression>> {
        let mut conditions = Vec::new();
        if let Some(matching) = &rule.matching {
            let path = format!("{path}.match");
            let text = matching.condition(&path, faults)?;
            let condition = Expression::condition(&text, Phase::Routing);
            conditions.push(condition.map_err(|fault| faults.add(path, fault.message, fault.hint)).ok()?);
        }
        if !rule.when.is_empty() {
            let condition = Expression::condition(&rule.when, Phase::Routing).map_err(|fault| {
                faults.add_within(format!("{path}.when"), &rule.when, fault.at, fault.message, fault.hint);
            });
            conditions.push(condition.ok()?);
        }
        if conditions.is_empty() {
            faults.add(path, "the rule has no condition", "write match, when or both");
            return None;
        }
        Some(conditions)
    }

    /// Whether all conditions hold: one that does not decides, whatever cannot be read.
    fn truth(&self, facts: &dyn Facts) -> Truth {
        let truths = self.conditions.iter().map(|condition| condition.truth(facts));
        truths.fold(Truth::Yes, |all, truth| match (all, truth) {
            (Truth::No, _) | (_, Truth::No) => Truth::No,
            (Truth::Unknown, _) | (_, Truth::Unknown) => Truth::Unknown,
            (Truth::Yes, Truth::Yes) => Truth::Yes,
        })
    }

    fn decision(&self, path: &str) -> RuleDecision {
        let rest = path.strip_prefix(&*self.strip_prefix);
        let is_whole = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        RuleDecision { backend: self.backend, strip: 0..if is_whole { self.strip_prefix.len() } else { 0 } }
    }
}
