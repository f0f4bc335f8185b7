//! Checks that the ports are free, or held by a running ELIDA.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use serde::Deserialize;

use super::{Finding, Health};
use crate::cli::client::{Answer, Client};
use crate::cli::health::url_of;
use crate::config::Config;
use crate::control::api::health::ControlHealth;

/// Checks both listeners.
pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let control = config.control.listen();
    let listeners = [("listen", config.listen), ("control.listen", control)];
    let mut running = None;
    let finding = |(key, address): (&str, SocketAddr)| match TcpListener::bind(address) {
        Ok(_) => Finding::ok(key, format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let running = running.get_or_insert_with(|| Running::ask(config));
            running.holds(key, address)
        }
        Err(error) => {
            let remedy = match error.kind() {
                ErrorKind::PermissionDenied => format!("choose a port above 1023 for {key}"),
                _ => format!("write an address of this machine for {key}"),
            };
            Finding::new(Health::Fail, key, format!("cannot listen on {address}: {error}"), remedy)
        }
    };
    listeners.into_iter().map(finding).collect()
}

/// The part of the configuration in force that is compared.
#[derive(Deserialize)]
struct InForce {
    listen: String,
}

/// What answers at the control address.
enum Running {
    /// ELIDA of this version; with its `listen`, if the configuration can be read.
    Elida { version: String, listen: Option<String> },
    /// Something else, or nothing.
    Other,
}

impl Running {
    fn ask(config: &Config) -> Self {
        let token = config.control.token().map(|token| token.reveal());
        let Ok(client) = Client::with_token(&url_of(config.control.listen()), token) else {
            return Self::Other;
        };
        let health = client.get(&["control", "health"], &()).and_then(Answer::read::<ControlHealth>);
        let Ok(ControlHealth { version, .. }) = health else { return Self::Other };
        let config = client.get(&["control", "config"], &()).and_then(Answer::read::<InForce>);
        Self::Elida { version: version.into_owned(), listen: config.ok().map(|config| config.listen) }
    }

    fn holds(&self, key: &str, address: SocketAddr) -> Finding {
        match self {
            Self::Elida { version, listen }
                if key == "control.listen" || is_same(listen.as_deref(), address) =>
            {
                Finding::ok(key, format!("{address} is held by ELIDA {version}, which runs already"))
            }
            Self::Elida { .. } | Self::Other => {
                let message = format!("{address} is held by another program");
                Finding::new(Health::Fail, key, message, format!("end that program, or choose another {key}"))
            }
        }
    }
}

/// True when the running ELIDA listens there; it reports the address as it was written.
fn is_same(written: Option<&str>, address: SocketAddr) -> bool {
    let mut faults = crate::settings::fault::Faults::default();
    let read = |text| crate::settings::address::listen_address("listen", text, &mut faults);
    written.and_then(read) == Some(address)
}
