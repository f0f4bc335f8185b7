//! The compiled routing table and the decision.
//!
//! Order: a blocked model is refused first, whatever else the request says. Then the methods in the
//! configured order; the first that knows the request decides:
//! - `header`: the header names a backend; a name that is not configured is refused, not passed over;
//! - `rule`: the first of `routing.rules` whose condition holds;
//! - `model`: the most specific pattern that matches the model (see `model_patterns.rs`);
//! - `path`: the first segment of the path is exactly a backend's name, or the one behind the prefix of OAuth discovery;
//!   discovery and message endpoints of MCP without a name belong to the only MCP server;
//! - `default`: the default backend, unless `strict_models` is set and the request has a model.
//!
//! While `path` is among the methods, a first segment that names the chosen backend is stripped, whichever method decided:
//! a client with the base URL `http://elida/anthropic` whose model already matches `claude-*` must still arrive at
//! `/v1/messages`. A segment that names another backend is a part of the path (some providers' own paths begin so).
//!
//! A decision also lists the backends that may serve the request instead: if the model decided, the backends of the same
//! type with a matching pattern (tier 0 where the pattern is the same text, then by specificity); and in any case the
//! `fallback` of the chosen backend, the `fallback` of that one, and so on.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use http::HeaderName;

use super::checks::{check_aliases, check_methods, default_backend, fallbacks, warn_of_idle};
use super::decision::{Choice, Decision, RouteError, RuleDecision};
use super::rules::Rules;
use super::server_paths::{discovery_prefix, is_message_endpoint};
use super::settings::RoutingConfig;
use crate::model_patterns::{Matcher, Pattern, PatternMatch};
use crate::policy::facts::Facts;
use crate::protocol::BackendKind;
use crate::settings::fault::Faults;
use crate::telemetry::metrics::RouteMethod;

/// What routing knows of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRule {
    /// The key under `backends:`.
    pub name: String,
    /// `backends.NAME.type`.
    pub kind: BackendKind,
    /// `backends.NAME.models`.
    pub models: Vec<String>,
    /// `backends.NAME.aliases`.
    pub aliases: BTreeMap<String, String>,
    /// `backends.NAME.rewrite_model`.
    pub rewrite_model: bool,
    /// `backends.NAME.fallback`.
    pub fallback: String,
    /// `backends.NAME.default`.
    pub default: bool,
    /// It is the target of a rule: nothing but rules leads to it.
    pub is_target: bool,
}

/// The compiled table.
#[derive(Clone, Debug)]
pub struct Table {
    methods: Vec<RouteMethod>,
    rules: Rules,
    header: HeaderName,
    strict_models: bool,
    blocked: Matcher,
    models: Matcher,
    /// The backends behind the patterns of `models`.
    services: Vec<Service>,
    /// Whether any backend rewrites the model in bodies.
    rewrites: bool,
    /// The names by which requests may ask for backends.
    names: Vec<Option<String>>,
    kinds: Vec<BackendKind>,
    fallbacks: Vec<Option<usize>>,
    default: Option<usize>,
}

/// A backend that serves a model, possibly under another name.
#[derive(Clone, Debug)]
struct Service {
    backend: usize,
    served_as: Option<Arc<str>>,
}

impl Table {
    /// Compiles the section and the backends, in the order of the configuration.
    pub fn compile(written: RoutingConfig, backends: &[BackendRule], faults: &mut Faults) -> Option<Self> {
        check_methods(&written.methods, faults);
        let header = HeaderName::from_bytes(written.header.as_bytes()).ok();
        if header.is_none() {
            faults.add(
                "routing.header",
                format!("'{}' is not a header name", written.header),
                "use letters, digits and -",
            );
        }
        let blocked = written.blocked_models.iter().enumerate().map(|(i, text)| Pattern {
            text,
            target: i,
            path: format!("routing.blocked_models[{i}]"),
            owner: (0, ""),
        });
        let blocked = Matcher::compile(blocked.collect(), faults);
        let (services, patterns) = services(backends);
        let models = Matcher::compile(patterns, faults);
        if let Some(blocked) = &blocked {
            check_aliases(backends, blocked, faults);
        }
        let rules = Rules::compile(&written.rules, backends, faults);
        let default = default_backend(&written.default_backend, backends, faults);
        let fallbacks = fallbacks(backends, faults);
        warn_of_idle(&written, backends, default, faults);
        Some(Self {
            methods: written.methods,
            rules: rules?,
            header: header?,
            strict_models: written.strict_models,
            blocked: blocked?,
            models: models?,
            rewrites: services.iter().any(|service| service.served_as.is_some()),
            services,
            names: backends.iter().map(|rule| (!rule.is_target).then(|| rule.name.clone())).collect(),
            kinds: backends.iter().map(|backend| backend.kind).collect(),
            fallbacks: fallbacks?,
            default,
        })
    }

    /// Returns whether any model is blocked. Then a request whose model cannot be read is rejected.
    pub fn blocks_models(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// Returns whether rules have to be asked.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty() && self.methods.contains(&RouteMethod::Rule)
    }

    /// Returns whether the first segment of a path may name a backend.
    pub fn reads_paths(&self) -> bool {
        self.methods.contains(&RouteMethod::Path)
    }

    /// Returns whether this model is blocked.
    pub fn blocks(&self, model: &str) -> bool {
        self.blocked.matches(model)
    }

    /// Returns whether a pattern of a backend matches this model.
    pub fn serves(&self, model: &str) -> bool {
        self.models.matches(model)
    }

    /// Returns the name of this model at a backend, if it has to be written into the body.
    pub fn served_as(&self, backend: usize, model: &str) -> Option<Arc<str>> {
        if !self.rewrites {
            return None;
        }
        let services = self.models.find(model).map(|found| &self.services[found.target]);
        services.filter(|service| service.backend == backend).find_map(|service| service.served_as.clone())
    }

    /// Returns whether some models are refused.
    pub fn restricts_models(&self) -> bool {
        self.blocks_models() || self.strict_models
    }

    /// Returns whether a model that no pattern matches is refused.
    pub fn is_strict(&self) -> bool {
        self.strict_models
    }

    /// Returns what depends on the model of a request with this header and path, as part of a sentence; `None` when its
    /// model changes neither the backend nor the body that the backend gets.
    pub fn depends_on_model(&self, header: Option<&str>, path: &str) -> Option<&'static str> {
        if self.rewrites {
            return Some("its model may have to be rewritten (backends.NAME.rewrite_model)");
        }
        for via in &self.methods {
            match via {
                RouteMethod::Header if header.is_some_and(|name| !name.trim().is_empty()) => return None,
                RouteMethod::Rule if self.rules.ask_for_body() => {
                    return Some("a rule may ask for what it says (routing.rules)");
                }
                RouteMethod::Model if !self.models.is_empty() => {
                    return Some("its model decides on the backend (backends.NAME.models)");
                }
                RouteMethod::Path if self.prefix(path).is_some() => return None,
                RouteMethod::Default if self.strict_models => {
                    return Some("the default backend takes no model (routing.strict_models)");
                }
                RouteMethod::Header
                | RouteMethod::Rule
                | RouteMethod::Model
                | RouteMethod::Path
                | RouteMethod::Default => {}
            }
        }
        None
    }

    /// Returns the header that names a backend. It is never forwarded.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Chooses the backend of a request without its rules. `header` is the value of [`Table::header`]; `path` may include a
    /// query; `model` is the one in the body.
    pub fn decide(
        &self,
        header: Option<&str>,
        path: &str,
        model: Option<&str>,
    ) -> Result<Decision, RouteError> {
        self.decide_by(header, path, model, None)
    }

    /// Chooses the backend of a request; `facts` are what rules ask for.
    pub fn decide_by(
        &self,
        header: Option<&str>,
        path: &str,
        model: Option<&str>,
        facts: Option<&dyn Facts>,
    ) -> Result<Decision, RouteError> {
        if let Some(model) = model.filter(|model| self.blocks(model)) {
            return Err(RouteError::BlockedModel(model.to_owned()));
        }
        let prefix = if self.reads_paths() { self.prefix(path) } else { None };
        let is_for_server = || discovery_prefix(path) > 0 || is_message_endpoint(path);
        let matching: Vec<PatternMatch> = match model {
            Some(model) if self.rewrites || self.methods.contains(&RouteMethod::Model) => {
                self.models.find(model).collect()
            }
            _ => Vec::new(),
        };
        for &via in &self.methods {
            let mut strip = 0..0;
            let found = match via {
                RouteMethod::Header => self.named(header)?,
                RouteMethod::Rule => {
                    let decided = facts.map_or(Ok(None), |facts| self.rules.decide(facts, path))?;
                    decided.map(|decided| {
                        strip = decided.strip;
                        decided.backend
                    })
                }
                RouteMethod::Model => matching.first().map(|best| self.services[best.target].backend),
                RouteMethod::Path => match &prefix {
                    Some((backend, _)) => Some(*backend),
                    None if is_for_server() => self.only_mcp_server()?,
                    None => None,
                },
                RouteMethod::Default => self.default.filter(|_| !(self.strict_models && model.is_some())),
            };
            if let Some(backend) = found {
                if strip.is_empty() {
                    strip = prefix.filter(|(named, _)| *named == backend).map_or(0..0, |(_, name)| name);
                }
                return Ok(self.decision(backend, via, strip, &matching));
            }
        }
        Err(RouteError::NoRoute)
    }

    /// Returns where the first rule that holds sends a request with this path.
    ///
    /// # Errors
    /// A rule asks for something that cannot be read.
    pub fn decide_by_rules(&self, facts: &dyn Facts, path: &str) -> Result<Option<RuleDecision>, RouteError> {
        if self.has_rules() { self.rules.decide(facts, path) } else { Ok(None) }
    }

    /// Returns the whole decision for a request with this model.
    pub fn decide_for(&self, RuleDecision { backend, strip }: RuleDecision, model: Option<&str>) -> Decision {
        let matching: Vec<PatternMatch> = model
            .filter(|_| self.rewrites)
            .map(|model| self.models.find(model).collect())
            .unwrap_or_default();
        self.decision(backend, RouteMethod::Rule, strip, &matching)
    }

    /// Returns the decision for a target that this backend has announced to a client; `None` when its name is no longer
    /// configured, or the client names another one.
    pub fn decide_announced(&self, backend: &str, header: Option<&str>, path: &str) -> Option<Decision> {
        let is_named = header.is_some_and(|name| !name.trim().is_empty()) || self.prefix(path).is_some();
        let backend = self.position(backend).filter(|_| !is_named)?;
        let via = RouteMethod::Path;
        Some(Decision { backend, served_as: None, via, strip: 0..0, is_announced: true, others: Vec::new() })
    }

    /// Returns the MCP server if there is only one.
    fn only_mcp_server(&self) -> Result<Option<usize>, RouteError> {
        let mut servers = self.kinds.iter().enumerate().filter(|(_, kind)| **kind == BackendKind::MCP);
        match (servers.next(), servers.next()) {
            (Some(_), Some(_)) => Err(RouteError::UnnamedServer),
            (first, _) => Ok(first.map(|(at, _)| at)),
        }
    }

    /// Returns the decision for `backend` with its alternatives. `matching` are the backends that serve the model, the most
    /// specific first.
    fn decision(
        &self,
        backend: usize,
        via: RouteMethod,
        strip: Range<usize>,
        matching: &[PatternMatch],
    ) -> Decision {
        let by_model = via == RouteMethod::Model;
        let served_as = |backend: usize| {
            let services = matching.iter().map(|found| &self.services[found.target]);
            services
                .filter(|service| service.backend == backend)
                .find_map(|service| service.served_as.clone())
        };
        let mut others: Vec<Choice> = Vec::new();
        let mut tier = 0;
        let mut rank = matching.first().map(|found| found.rank);
        for found in matching.iter().filter(|_| by_model) {
            let other = self.services[found.target].backend;
            let is_known = other == backend || others.iter().any(|choice| choice.backend == other);
            if is_known || self.kinds[other] != self.kinds[backend] {
                continue;
            }
            if rank != Some(found.rank) {
                (rank, tier) = (Some(found.rank), tier + 1);
            }
            others.push(Choice { backend: other, served_as: served_as(other), tier });
        }
        let mut last = backend;
        while let Some(next) = self.fallbacks[last] {
            last = next;
            let is_known = next == backend || others.iter().any(|choice| choice.backend == next);
            if is_known {
                break;
            }
            tier += 1;
            others.push(Choice { backend: next, served_as: served_as(next), tier });
        }
        Decision { backend, served_as: served_as(backend), via, strip, is_announced: false, others }
    }

    fn named(&self, header: Option<&str>) -> Result<Option<usize>, RouteError> {
        let Some(name) = header.map(str::trim).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        match self.position(name) {
            Some(backend) => Ok(Some(backend)),
            None => Err(RouteError::UnknownBackend(name.to_owned())),
        }
    }

    /// Returns the backend named by the first segment of the path, or by the first one behind the prefix of OAuth discovery,
    /// and where `/name` is.
    fn prefix(&self, path: &str) -> Option<(usize, Range<usize>)> {
        let start = discovery_prefix(path);
        let segment = path[start..].strip_prefix('/')?;
        let end = segment.find(['/', '?']).unwrap_or(segment.len());
        self.position(&segment[..end]).map(|backend| (backend, start..start + end + 1))
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known.as_deref() == Some(name))
    }
}

/// Returns all patterns with their backends. An alias precedes an equal pattern of the same backend.
fn services(backends: &[BackendRule]) -> (Vec<Service>, Vec<Pattern<'_>>) {
    let (mut services, mut patterns) = (Vec::new(), Vec::new());
    for (at, backend) in backends.iter().enumerate() {
        let aliases = backend.aliases.iter().map(|(text, name)| {
            let served_as = backend.rewrite_model.then(|| Arc::from(name.as_str()));
            (text, served_as, format!("backends.{}.aliases.{text}", backend.name))
        });
        let models = backend.models.iter().enumerate();
        let models = models.map(|(i, text)| (text, None, format!("backends.{}.models[{i}]", backend.name)));
        for (text, served_as, path) in aliases.chain(models) {
            patterns.push(Pattern { text, target: services.len(), path, owner: (at, backend.kind.name()) });
            services.push(Service { backend: at, served_as });
        }
    }
    (services, patterns)
}

#[cfg(test)]
mod tests;
