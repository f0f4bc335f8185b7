//! What is valid and probably not meant.

use super::compiled::as_written;
use crate::identity::roles::Role;
use crate::protocol::dialects::own_paths;
use crate::routing::{BackendRule, Table};
use crate::settings::fault::Faults;
use crate::upstream::credentials::Auth;
use crate::{control, identity, upstream};

/// Warns about roles of which none is `admin`: nobody can make a key or reload the configuration through the API.
pub(super) fn of_roles(
    auth: Option<&identity::Auth>,
    control: Option<&control::settings::Settings>,
    faults: &mut Faults,
) {
    let (Some(auth), Some(control)) = (auth, control) else { return };
    let roles = auth.roles();
    if !roles.is_empty() && !roles.grant(Role::Admin) && control.token().is_none() {
        let message =
            "nobody is admin, so nobody makes keys or reloads the configuration through the control API";
        let hint = "add { role: admin, principals: [key:…] }, or set ELIDA_CONTROL_TOKEN";
        faults.warn("auth.roles", message, hint);
    }
}

/// Warns about backends: what they get of callers, and what never reaches them.
pub(super) fn of_backends(
    (auth, routing): (Option<&identity::Auth>, Option<&Table>),
    rules: &[BackendRule],
    backends: &[upstream::settings::Settings],
    shorthand: bool,
    faults: &mut Faults,
) {
    of_passthrough(auth, backends, shorthand, faults);
    of_realms(rules, backends, faults);
    of_own_paths(routing, backends, faults);
}

/// Warns about backends that get the caller's own credential, which it then has to send beside its key of this gateway.
fn of_passthrough(
    auth: Option<&identity::Auth>,
    backends: &[upstream::settings::Settings],
    shorthand: bool,
    faults: &mut Faults,
) {
    if auth.is_none_or(identity::Auth::is_off) {
        return;
    }
    for backend in backends.iter().filter(|backend| *backend.auth() == Auth::Passthrough) {
        let path = as_written(format!("backends.{}.auth.mode", backend.name()), shorthand);
        let message = "passthrough: a caller with a key of this gateway must send a credential of the provider beside it";
        let hint = "write mode: inject, or mode: none if it needs no credential (under backends), or let callers send \
                    their key in the header x-elida-key";
        faults.warn(path, message, hint);
    }
}

/// Warns about fallbacks and equals of another realm, which are skipped for requests with a client's credential.
fn of_realms(rules: &[BackendRule], backends: &[upstream::settings::Settings], faults: &mut Faults) {
    let says =
        |rule: &BackendRule, text: &String| rule.models.iter().any(|own| own.eq_ignore_ascii_case(text));
    for (at, first) in rules.iter().enumerate() {
        for (place, other) in rules.iter().enumerate() {
            let is_fallback = first.fallback == other.name;
            let is_equal =
                at < place && first.kind == other.kind && first.models.iter().any(|text| says(other, text));
            if (is_fallback || is_equal) && !backends[place].may_take(&backends[at]) {
                let path = match is_fallback {
                    true => format!("backends.{}.fallback", first.name),
                    false => format!("backends.{}.models", other.name),
                };
                let message = format!(
                    "'{}' never gets requests that carry a client's credential for '{}'",
                    other.name, first.name
                );
                faults.warn(path, message, "give both the same auth.realm, or auth.mode: inject or none");
            }
        }
    }
}

/// Warns about a backend whose name is the first segment of another service's own paths (or of its own): path routing takes
/// such a path to it, and removes the segment.
fn of_own_paths(routing: Option<&Table>, backends: &[upstream::settings::Settings], faults: &mut Faults) {
    if !routing.is_some_and(Table::reads_paths) {
        return;
    }
    for owner in backends {
        for root in own_paths::first_segments(owner.host()) {
            let is_in_url = owner.base_path().split('/').nth(1) == Some(root);
            let named = backends.iter().find(|backend| backend.name().as_str() == root);
            let Some(named) = named.filter(|_| !is_in_url) else { continue };
            let (name, owner) = (named.name(), owner.name());
            let message = format!(
                "/{root}/… also begins the own paths of the service behind '{owner}': such a request goes to '{name}', \
                 without /{root}, unless the header or the model names another backend"
            );
            let hint =
                format!("rename this backend, or write /{root} in backends.{owner}.url and not in requests");
            faults.warn(format!("backends.{name}"), message, hint);
        }
    }
}
