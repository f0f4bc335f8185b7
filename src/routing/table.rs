//! The compiled routing table and the decision.
//!
//! Order: a blocked model is refused first, whatever else the request says. Then the methods in the
//! configured order; the first that knows the request decides:
//! - `header`: the header names a backend; a name that is not configured is refused, not passed over;
//! - `model`: the most specific pattern that matches the model (see `matcher.rs`);
//! - `path`: the first segment of the path is exactly a backend's name;
//! - `default`: the default backend, unless `strict_models` is set and the request has a model.
//!
//! While `path` is among the methods, a first segment that names a backend is the gateway's own
//! address and is stripped whoever decided: a client with the base URL `http://elida/anthropic`
//! whose model already matches `claude-*` must still arrive at `/v1/messages`.

use http::HeaderName;

use super::decision::{Decision, Method, RouteError};
use super::matcher::{Matcher, Pattern};
use super::settings::Written;
use crate::settings::fault::Faults;
use crate::settings::nearest::did_you_mean;

/// What routing knows of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRule {
    /// The key under `backends:`.
    pub name: String,
    /// `backends.NAME.models`.
    pub models: Vec<String>,
    /// `backends.NAME.default`.
    pub default: bool,
}

/// The compiled table.
#[derive(Clone, Debug)]
pub struct Table {
    methods: Vec<Method>,
    header: HeaderName,
    strict_models: bool,
    blocked: Matcher,
    models: Matcher,
    names: Vec<String>,
    default: Option<usize>,
}

impl Table {
    /// Compiles the section together with the backends, in the order in which they are written.
    pub fn compile(written: Written, backends: &[BackendRule], faults: &mut Faults) -> Option<Self> {
        check_methods(&written.methods, faults);
        let header = HeaderName::from_bytes(written.header.as_bytes()).ok();
        if header.is_none() {
            faults.add(
                "routing.header",
                format!("'{}' is not a header name", written.header),
                "use letters, digits and -",
            );
        }
        let blocked = written.blocked_models.iter();
        let blocked =
            blocked.enumerate().map(|(i, text)| pattern(text, 0, format!("routing.blocked_models[{i}]")));
        let blocked = Matcher::compile(blocked.collect(), faults);
        let models = backends.iter().enumerate().flat_map(|(target, backend)| {
            let path = move |i| format!("backends.{}.models[{i}]", backend.name);
            backend.models.iter().enumerate().map(move |(i, text)| pattern(text, target, path(i)))
        });
        let models = Matcher::compile(models.collect(), faults);
        let default = default_backend(&written.default_backend, backends, faults);
        warn_of_idle(&written, backends, default, faults);
        Some(Self {
            methods: written.methods,
            header: header?,
            strict_models: written.strict_models,
            blocked: blocked?,
            models: models?,
            names: backends.iter().map(|backend| backend.name.clone()).collect(),
            default,
        })
    }

    /// Whether any model is blocked, so that a model that cannot be read matters.
    pub fn blocks_models(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// Whether nobody may call this model.
    pub fn blocks(&self, model: &str) -> bool {
        self.blocked.matches(model)
    }

    /// The header that names a backend; it is read and never forwarded.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Decides. `header` is the value of [`Table::header`]; `path` may carry its query; `model` is
    /// the one in the body.
    pub fn decide(
        &self,
        header: Option<&str>,
        path: &str,
        model: Option<&str>,
    ) -> Result<Decision, RouteError> {
        if let Some(model) = model.filter(|model| self.blocks(model)) {
            return Err(RouteError::BlockedModel(model.to_owned()));
        }
        let prefix = if self.methods.contains(&Method::Path) { self.prefix(path) } else { None };
        let strip = prefix.map_or(0, |(_, length)| length);
        for &via in &self.methods {
            let found = match via {
                Method::Header => self.named(header)?,
                Method::Model => model.and_then(|model| self.models.find(model)),
                Method::Path => prefix.map(|(backend, _)| backend),
                Method::Default => self.default.filter(|_| !(self.strict_models && model.is_some())),
            };
            if let Some(backend) = found {
                return Ok(Decision { backend, via, strip });
            }
        }
        Err(RouteError::NoRoute)
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

    /// The backend named by the first segment of the path, and the bytes `/name` takes.
    fn prefix(&self, path: &str) -> Option<(usize, usize)> {
        let segment = path.strip_prefix('/')?;
        let end = segment.find(['/', '?']).unwrap_or(segment.len());
        self.position(&segment[..end]).map(|backend| (backend, end + 1))
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }
}

fn pattern(text: &str, target: usize, path: String) -> Pattern<'_> {
    Pattern { text, target, path }
}

fn check_methods(methods: &[Method], faults: &mut Faults) {
    let known = "header, model, path and default exist";
    if methods.is_empty() {
        faults.add("routing.methods", "no method is left, so no request finds a backend", known);
    }
    for (i, method) in methods.iter().enumerate() {
        if methods[..i].contains(method) {
            faults.add("routing.methods", format!("'{method}' stands twice"), "name each method once");
        }
    }
}

/// Warns of backends and models that no request can reach.
fn warn_of_idle(written: &Written, backends: &[BackendRule], default: Option<usize>, faults: &mut Faults) {
    let has = |method| written.methods.contains(&method);
    let blocked = |model: &str| written.blocked_models.iter().any(|text| text.eq_ignore_ascii_case(model));
    for (i, backend) in backends.iter().enumerate() {
        let path = format!("backends.{}", backend.name);
        let by_model = has(Method::Model) && !backend.models.is_empty();
        let by_default = has(Method::Default) && default == Some(i);
        if !(has(Method::Header) || has(Method::Path) || by_model || by_default) {
            let hint = "give it models, make it the default, or add header or path to routing.methods";
            faults.warn(&path, "nothing routes to this backend", hint);
        }
        for (i, model) in backend.models.iter().enumerate().filter(|(_, model)| blocked(model)) {
            let message = format!("'{model}' is never used: routing.blocked_models blocks it");
            faults.warn(format!("{path}.models[{i}]"), message, "remove one of the two");
        }
    }
}

/// The backend with `default: true`, else `routing.default_backend`, else the only one there is.
fn default_backend(written: &str, backends: &[BackendRule], faults: &mut Faults) -> Option<usize> {
    let mut marked = backends.iter().enumerate().filter(|(_, backend)| backend.default);
    let first = marked.next();
    if let Some((_, first)) = first {
        for (_, other) in marked {
            faults.add(
                format!("backends.{}.default", other.name),
                format!("'{}' is the default backend already", first.name),
                "leave default: true on one of them",
            );
        }
    }
    let named = (!written.is_empty()).then(|| backends.iter().position(|backend| backend.name == written));
    match (first, named) {
        (_, Some(None)) => {
            let names = backends.iter().map(|backend| backend.name.as_str());
            faults.add(
                "routing.default_backend",
                format!("no backend is called '{written}'"),
                did_you_mean(written, names),
            );
            None
        }
        (Some((marked, backend)), Some(Some(named))) if marked != named => {
            faults.add(
                "routing.default_backend",
                format!("'{written}' is named here, but backends.{} says default: true", backend.name),
                "keep one of the two",
            );
            None
        }
        (Some((marked, _)), _) => Some(marked),
        (None, Some(named)) => named,
        (None, None) => (backends.len() == 1).then_some(0),
    }
}

#[cfg(test)]
mod tests;
