//! `elida backends`: lists the backends and their health, and drains one of them.

use clap::{Args, Subcommand};

use super::client::Client;
use super::commands::{PlainArgs, show};
use super::table::{plain as plain_text, table};
use crate::control::api::health::{BackendList, BackendStatus};

/// Arguments of `elida backends`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BackendsArgs {
    #[command(subcommand)]
    command: Option<BackendsCommand>,
    #[command(flatten)]
    plain: PlainArgs,
}

#[derive(Debug, Subcommand)]
enum BackendsCommand {
    /// Send no new requests to a backend, on this instance and until it restarts; those that are open go on
    Drain(NameArgs),
    /// Send requests to a drained backend again
    Undrain(NameArgs),
}

#[derive(Args, Debug)]
struct NameArgs {
    /// The backend
    name: String,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Runs the command.
///
/// # Errors
/// The gateway refuses or cannot be reached.
pub(super) fn backends(BackendsArgs { command, plain }: BackendsArgs) -> anyhow::Result<()> {
    let (verb, NameArgs { name, plain }) = match command {
        None => {
            let answer = Client::new(&plain.control)?.get(&["control", "backends"], &())?;
            return show(&plain, answer, list);
        }
        Some(BackendsCommand::Drain(named)) => ("drain", named),
        Some(BackendsCommand::Undrain(named)) => ("undrain", named),
    };
    let answer = Client::new(&plain.control)?.post(&["control", "backends", &name, verb], &(), &())?;
    show(&plain, answer, |backend: &BackendStatus| {
        let (name, open) = (plain_text(&name), backend.open);
        match backend.drained {
            true => format!("{name} gets no new requests; {open} are open\n"),
            false => format!("{name} gets requests again\n"),
        }
    })
}

/// Formats the backends (`GET /control/backends`).
fn list(list: &BackendList) -> String {
    let mut rows = vec![["NAME", "STATE", "TYPE", "OPEN", "URL"].map(String::from).to_vec()];
    rows.extend(list.backends.iter().map(|(name, backend)| {
        let (kind, url) = (plain_text(&backend.r#type), plain_text(&backend.url));
        vec![plain_text(name), state(backend), kind, backend.open.to_string(), url]
    }));
    table(&rows, &[3])
}

fn state(backend: &BackendStatus) -> String {
    match (backend.drained, backend.healthy, backend.rests_for_ms) {
        (true, ..) => "drained".into(),
        (_, true, _) => "healthy".into(),
        (_, _, Some(rest)) => format!("ejected for {} s", rest.div_ceil(1000)),
        _ => "down".into(),
    }
}
