//! Rules of routing: the first condition that holds decides on the backend.

use super::decision::RouteError;
use super::settings::RouteRuleConfig;
use super::table::BackendRule;
use crate::policy::expr::{Expression, Truth};
use crate::policy::facts::{Facts, Phase};
use crate::settings::fault::Faults;
use crate::settings::nearest::did_you_mean;

/// The most rules.
const MOST: usize = 256;

/// Conditions with the positions of the backends that they lead to.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(Vec<(Expression, usize)>);

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
        let mut compile = |(at, rule): (usize, &RouteRuleConfig)| {
            let name = &rule.forward.backend;
            let backend = backends.iter().position(|backend| backend.name == *name);
            if backend.is_none() {
                let hint = did_you_mean(name, backends.iter().map(|backend| backend.name.as_str()));
                let path = format!("routing.rules[{at}].forward.backend");
                faults.add(path, format!("no backend is called '{name}'"), hint);
            }
            let when = Expression::condition(&rule.when, Phase::Routing).map_err(|fault| {
                let path = format!("routing.rules[{at}].when");
                faults.add_within(path, &rule.when, fault.at, fault.message, fault.hint);
            });
            Some((when.ok()?, backend?))
        };
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
        self.0.iter().any(|(when, _)| when.phase() != Phase::Connect)
    }

    /// Returns the backend of the first rule that holds.
    ///
    /// # Errors
    /// A rule before it asks for something that cannot be read.
    pub(super) fn decide(&self, facts: &dyn Facts) -> Result<Option<usize>, RouteError> {
        for (at, (when, backend)) in self.0.iter().enumerate() {
            match when.truth(facts) {
                Truth::Yes => return Ok(Some(*backend)),
                Truth::No => {}
                Truth::Unknown => return Err(RouteError::Undecided(at)),
            }
        }
        Ok(None)
    }
}
