//! `elida admin`: makes the account of an admin, in `state.db` of the configuration.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{FileArgs, complain, explain_at, print, sources};
use crate::app::make_admin;
use crate::config::Flags;

/// Commands for admins.
#[derive(Debug, Subcommand)]
pub(super) enum AdminCommand {
    /// Make an account with the role admin and print its password, the only time it is shown
    Create(CreateArgs),
}

/// Arguments of `elida admin create`.
#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// The name; capitals do not matter
    name: String,
    /// Give a known account the role admin and a new password
    #[arg(long)]
    reset: bool,
    /// Print one JSON object: name, password
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: FileArgs,
}

/// Runs the command.
///
/// # Errors
/// The configuration is not valid, the name is taken, or `state.db` cannot be written.
pub(super) fn admin(command: AdminCommand) -> Result<(), super::Failure> {
    let AdminCommand::Create(CreateArgs { name, reset, json, file }) = command;
    let sources = sources(file, Flags::default());
    let config = sources.load().map_err(|faults| explain_at(faults.into(), sources.file()))?;
    if !config.auth.people().login {
        complain("elida: people do not log in yet: write auth.people.login: true, and reload");
    }
    let password = make_admin(&config, &name, reset).map_err(super::failed)?;
    print(&match json {
        true => format!("{}\n", json!({"name": name.to_lowercase(), "password": password.reveal()})),
        false => format!("{}\n", password.reveal()),
    });
    Ok(())
}
