//! `elida healthcheck`: exit code 0 when the gateway is ready. Made for Docker's `HEALTHCHECK`, so by default it asks the
//! gateway of the same container.

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::client::Client;
use super::{print, table};
use crate::control::api::health::{ReadinessReport, ReadinessStatus};
use crate::settings::address::listen_address;
use crate::settings::fault::Faults;

/// Arguments of `elida healthcheck`.
#[derive(Args, Debug)]
pub(super) struct HealthArgs {
    /// Address of the control API [default: the address in ELIDA_CONTROL_LISTEN, else port 9090 of this host]
    #[arg(long, value_name = "URL", env = "ELIDA_CONTROL")]
    control: Option<String>,
    /// Print the JSON of the control API
    #[arg(long)]
    json: bool,
}

/// Succeeds when the gateway is ready. Probes need no token.
pub(super) fn check(arguments: &HealthArgs) -> anyhow::Result<()> {
    let listen = std::env::var("ELIDA_CONTROL_LISTEN").ok();
    let address = arguments.control.clone().unwrap_or_else(|| here(listen.as_deref()));
    let client = Client::with_token(&address, None)?;
    let (status, body) = client.probe(&["health", "readiness"])?;
    let json = body.as_ref().map(|body| body.json().clone()).unwrap_or_default();
    let report: Option<ReadinessReport> = body.and_then(|body| body.read().ok());
    let is_ready =
        status == 200 && report.as_ref().is_some_and(|report| report.status == ReadinessStatus::Ready);
    if arguments.json {
        print(&format!("{}\n", json!({"ready": is_ready, "status": status, "answer": json})));
    } else if is_ready {
        print("ready\n");
    }
    match report.and_then(|report| report.reason) {
        _ if is_ready => Ok(()),
        Some(reason) => bail!("{} is not ready: {}", client.address(), table::plain(&reason)),
        None => bail!("{} answered {status}; is it the control API of ELIDA?", client.address()),
    }
}

/// Returns the URL of a gateway with the same environment.
fn here(listen: Option<&str>) -> String {
    let address = listen.and_then(|text| listen_address("", text, &mut Faults::default()));
    match address {
        Some(address) => url_of(address),
        None => "http://127.0.0.1:9090".into(),
    }
}

/// Returns the URL at which this host reaches a listener.
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
