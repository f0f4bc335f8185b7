//! `elida healthcheck`: is the gateway ready, as one exit code. For Docker's HEALTHCHECK, so it asks
//! where the gateway of the same container listens.

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::client::Client;
use super::{print, table};
use crate::settings::address::listen_address;
use crate::settings::fault::Faults;

/// Arguments of `elida healthcheck`.
#[derive(Args, Debug)]
pub(super) struct HealthArgs {
    /// Address of the control API; else the one that ELIDA_CONTROL_LISTEN says, else port 9090 here
    #[arg(long, value_name = "URL", env = "ELIDA_CONTROL")]
    control: Option<String>,
    /// Print the JSON of the control API
    #[arg(long)]
    json: bool,
}

/// Ready, or an error that says why not. Probes need no token.
pub(super) fn check(arguments: &HealthArgs) -> anyhow::Result<()> {
    let listen = std::env::var("ELIDA_CONTROL_LISTEN").ok();
    let address = arguments.control.clone().unwrap_or_else(|| here(listen.as_deref()));
    let client = Client::with_token(&address, None)?;
    let (status, body) = client.probe(&["health", "readiness"])?;
    let body = body.unwrap_or_default();
    let is_ready = status == 200 && body["status"] == "ready";
    if arguments.json {
        print(&format!("{}\n", json!({"ready": is_ready, "status": status, "answer": body})));
    } else if is_ready {
        print("ready\n");
    }
    match body["reason"].as_str() {
        _ if is_ready => Ok(()),
        Some(reason) => bail!("{} is not ready: {}", client.address(), table::plain(reason)),
        None => bail!("{} answered {status}; is it the control API of ELIDA?", client.address()),
    }
}

/// The control API of a gateway with the same environment.
fn here(listen: Option<&str>) -> String {
    let address = listen.and_then(|text| listen_address("", text, &mut Faults::default()));
    match address {
        Some(address) => url_of(address),
        None => "http://127.0.0.1:9090".into(),
    }
}

/// The URL under which this machine reaches a listener.
pub(super) fn url_of(mut address: std::net::SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_of_this_container_is_asked() {
        assert_eq!(here(None), "http://127.0.0.1:9090");
        assert_eq!(here(Some(":9191")), "http://127.0.0.1:9191");
        assert_eq!(here(Some("[::]:9191")), "http://[::1]:9191");
        assert_eq!(here(Some("10.0.0.1:1")), "http://10.0.0.1:1");
        assert_eq!(here(Some("nonsense")), "http://127.0.0.1:9090");
    }
}
