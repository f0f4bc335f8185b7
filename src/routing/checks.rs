//! Checks of the `routing:` section that need no compiled table.

use super::settings::RoutingConfig;
use super::table::BackendRule;
use crate::model_patterns::Matcher;
use crate::settings::fault::Faults;
use crate::telemetry::metrics::RouteMethod;

/// Checks that each method is named once.
pub(super) fn check_methods(methods: &[RouteMethod], faults: &mut Faults) {
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

/// Warns about backends and models that no request can reach.
pub(super) fn warn_of_idle(
    written: &RoutingConfig,
    backends: &[BackendRule],
    default: Option<usize>,
    faults: &mut Faults,
) {
    let has = |method| written.methods.contains(&method);
    let blocked = |model: &str| written.blocked_models.iter().any(|text| text.eq_ignore_ascii_case(model));
    for (i, backend) in backends.iter().enumerate() {
        let path = format!("backends.{}", backend.name);
        let by_model = has(RouteMethod::Model) && !(backend.models.is_empty() && backend.aliases.is_empty());
        let by_default = has(RouteMethod::Default) && default == Some(i);
        let by_fallback = backends.iter().any(|other| other.fallback == backend.name);
        if !(has(RouteMethod::Header) || has(RouteMethod::Path) || by_model || by_default || by_fallback) {
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
