//! Checks of the `routing:` section that need no compiled table, and the backends that stand in for others.

use super::rules::Rules;
use super::settings::RoutingConfig;
use super::table::BackendRule;
use crate::model_patterns::Matcher;
use crate::settings::fault::Faults;
use crate::settings::nearest::did_you_mean;
use crate::telemetry::metrics::RouteMethod;

/// Checks that each method is named once.
pub(super) fn check_methods(methods: &[RouteMethod], faults: &mut Faults) {
    let known = "header, rule, model, path and default exist";
    if methods.is_empty() {
        faults.add("routing.methods", "no method is left, so no request finds a backend", known);
    }
    for (i, method) in methods.iter().enumerate() {
        if methods[..i].contains(method) {
            faults.add("routing.methods", format!("'{method}' stands twice"), "name each method once");
        }
    }
}

/// Warns about backends and models that no request can reach.
pub(super) fn warn_of_idle(
    written: &RoutingConfig,
    backends: &[BackendRule],
    default: Option<usize>,
    faults: &mut Faults,
) {
    let has = |method| written.methods.contains(&method);
    let blocked = |model: &str| written.blocked_models.iter().any(|text| text.eq_ignore_ascii_case(model));
    if !written.rules.is_empty() && !has(RouteMethod::Rule) {
        let hint = "add rule to routing.methods";
        faults.warn("routing.rules", "they are never asked: routing.methods has no rule", hint);
    }
    for (i, backend) in backends.iter().enumerate() {
        let path = format!("backends.{}", backend.name);
        let by_model = has(RouteMethod::Model) && !(backend.models.is_empty() && backend.aliases.is_empty());
        let by_default = has(RouteMethod::Default) && default == Some(i);
        let by_fallback = backends.iter().any(|other| other.fallback == backend.name);
        let by_rule = has(RouteMethod::Rule) && Rules::lead_to(&written.rules, &backend.name);
        if !(by_rule
            || has(RouteMethod::Header)
            || has(RouteMethod::Path)
            || by_model
            || by_default
            || by_fallback)
        {
            let hint = "give it models, make it the default, or add header or path to routing.methods";
            faults.warn(&path, "nothing routes to this backend", hint);
        }
        for (i, model) in backend.models.iter().enumerate().filter(|(_, model)| blocked(model)) {
            let message = format!("'{model}' is never used: routing.blocked_models blocks it");
            faults.warn(format!("{path}.models[{i}]"), message, "remove one of the two");
        }
    }
}

/// Checks that no alias leads to a blocked model.
pub(super) fn check_aliases(backends: &[BackendRule], blocked: &Matcher, faults: &mut Faults) {
    for backend in backends {
        for (text, name) in &backend.aliases {
            let path = format!("backends.{}.aliases.{text}", backend.name);
            if name.is_empty() {
                faults.add(path, "the name is empty", "write the model's name at this backend");
            } else if blocked.matches(name) {
                let hint = "name another model, or unblock it";
                faults.add(path, format!("'{name}' is blocked by routing.blocked_models"), hint);
            }
        }
    }
}

/// Compiles the fallbacks.
pub(super) fn fallbacks(backends: &[BackendRule], faults: &mut Faults) -> Option<Vec<Option<usize>>> {
    let mut good = true;
    let mut found = Vec::with_capacity(backends.len());
    for (at, backend) in backends.iter().enumerate() {
        let position = backends.iter().position(|other| other.name == backend.fallback);
        let path = || format!("backends.{}.fallback", backend.name);
        if backend.fallback.is_empty() {
            found.push(None);
        } else if position == Some(at) {
            faults.add(path(), "a backend cannot stand in for itself", "name another one, or leave it out");
            good = false;
        } else if position.is_none() {
            let names = backends.iter().map(|backend| backend.name.as_str());
            let message = format!("no backend is called '{}'", backend.fallback);
            faults.add(path(), message, did_you_mean(&backend.fallback, names));
            good = false;
        } else {
            found.push(position);
        }
    }
    good.then_some(found)
}

/// Returns the backend with `default: true`, else `routing.default_backend`, else the only backend.
pub(super) fn default_backend(written: &str, backends: &[BackendRule], faults: &mut Faults) -> Option<usize> {
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
        (None, None) => {
            let mut own = backends.iter().enumerate().filter(|(_, backend)| !backend.is_target);
            own.next().filter(|_| own.next().is_none()).map(|(only, _)| only)
        }
    }
}
