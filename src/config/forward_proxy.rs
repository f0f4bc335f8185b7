//! `forward_proxy:` beside what it depends on: who may use it, and from where.

use std::net::SocketAddr;

use super::config_file::Guard;
use crate::forward::{ForwardConfig, SecurityConfig, Settings};
use crate::identity::Auth;
use crate::routing::BackendRule;
use crate::settings::fault::Faults;
use crate::upstream::settings::FORWARD;

/// Compiles the section, beside the address that callers come to, their keys, and the names of backends.
pub(super) fn compile(
    written: ForwardConfig,
    security: &SecurityConfig,
    (guard, listen, auth, backends): (Guard, Option<SocketAddr>, Option<&Auth>, &[BackendRule]),
    faults: &mut Faults,
) -> Option<Settings> {
    let settings = written.compile(security, faults)?;
    if !settings.is_on() {
        return Some(settings);
    }
    if settings.requires_auth() && auth.is_some_and(Auth::is_off) {
        let message = "callers must show a key, and no keys are read";
        let hint = "write auth.proxy: required (or optional) and make keys with `elida key create`; on a loopback address \
                    require_auth: false lets every program of this machine in";
        faults.add("forward_proxy.require_auth", message, hint);
    }
    if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback() && !settings.requires_auth()) {
        let message = format!("anyone who reaches {listen} can use this gateway to reach other hosts");
        match guard {
            Guard::Enforce => {
                let hint = "remove require_auth: false, or listen on 127.0.0.1";
                faults.add("forward_proxy.require_auth", message, hint);
            }
            Guard::Warn => {
                faults.warn("forward_proxy.require_auth", message, "keep strangers out by the network");
            }
        }
    }
    if !settings.intercept().hosts().is_empty() && !settings.requires_auth() {
        let message = "whoever reaches the gateway would be answered in place of these hosts";
        let hint = "remove require_auth: false; tunnels are opened only for callers that are known";
        faults.add("forward_proxy.intercept.hosts", message, hint);
    }
    if backends.iter().any(|backend| backend.name == FORWARD) {
        let message = "hosts that no backend serves have this name in records and keys";
        faults.add(format!("backends.{FORWARD}"), message, "give the backend another name");
    }
    Some(settings)
}
