//! Backends beside their callers: keys that strangers could spend, credentials that are missing.

use std::net::SocketAddr;

use super::config_file::Guard;
use super::warnings;
use crate::routing::{BackendRule, Table};
use crate::settings::fault::Faults;
use crate::{identity, proxy, upstream};

/// What is known of callers, and of where their requests go.
type Known<'a> = (Option<&'a proxy::settings::Settings>, Option<&'a identity::Auth>, Option<&'a Table>);

/// Checks backends beside the callers whose requests they get.
pub(super) fn check_backends(
    backends: Option<&[upstream::settings::Settings]>,
    (server, auth, routing): Known<'_>,
    (mode, listen, shorthand): (Guard, Option<SocketAddr>, bool),
    rules: &[BackendRule],
    faults: &mut Faults,
) {
    let Some(backends) = backends else { return };
    guard((mode, listen), (server, auth), backends, faults);
    warnings::of_backends((auth, routing), rules, backends, shorthand, faults);
}

/// Refuses injected keys on a public listener: clients are not authenticated, so anyone could spend them.
fn guard(
    (guard, listen): (Guard, Option<SocketAddr>),
    (server, auth): (Option<&proxy::settings::Settings>, Option<&identity::Auth>),
    backends: &[upstream::settings::Settings],
    faults: &mut Faults,
) {
    let Some(listen) = listen.filter(|_| !knows_clients(server, auth)) else { return };
    let Some(backend) = backends.iter().find(|backend| backend.auth().is_injected()) else { return };
    if listen.ip().is_loopback() {
        return;
    }
    let path = format!("backends.{}.auth.mode", backend.name());
    let message =
        format!("anyone who reaches {listen} can spend this key, because clients are not authenticated");
    match guard {
        Guard::Enforce => {
            let hint = "require keys of this gateway (auth.proxy: required), or listen on 127.0.0.1, or let clients send \
                        their own keys (mode: passthrough), or require client certificates (server.tls.client_ca), \
                        or keep strangers out by the network and set startup_guard: warn";
            faults.add(path, message, hint);
        }
        Guard::Warn => faults.warn(path, message, "keep strangers out by the network"),
    }
}

/// Whether clients show a certificate or a key.
fn knows_clients(server: Option<&proxy::settings::Settings>, auth: Option<&identity::Auth>) -> bool {
    let by_certificate = server.and_then(|server| server.tls()).is_some_and(|tls| tls.knows_clients());
    by_certificate || auth.is_some_and(identity::Auth::is_required)
}
