//! `elida token`: signs a token of a program with the secret of the configuration.

use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use super::commands::read_span;
use super::{Failure, FileArgs, explain_at, failed, print, sources};
use crate::config::Flags;
use crate::identity::jwt::own::sign_local;
use crate::settings::units::DurationText;

/// Commands for tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Print a token that is signed with auth.jwt.local.secret_file; nothing keeps it, and nothing revokes it
    Create(CreateArgs),
}

/// Arguments of `elida token create`.
#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Who calls: user:SUBJECT@local
    subject: String,
    /// A group; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// How long it is valid; at most auth.jwt.local.ttl, which is the default
    #[arg(long, value_name = "TIME", value_parser = read_span)]
    ttl: Option<DurationText>,
    #[command(flatten)]
    file: FileArgs,
}

/// Runs the command.
///
/// # Errors
/// The configuration is not valid or has no secret, or the token would be valid for too long.
pub(super) fn token(command: TokenCommand) -> Result<(), Failure> {
    let TokenCommand::Create(CreateArgs { subject, groups, ttl, file }) = command;
    let sources = sources(file, Flags::default());
    let config = sources.load().map_err(|faults| explain_at(faults.into(), sources.file()))?;
    let settings = config.auth.people();
    let Some(secret) = &settings.secret else {
        return Err(failed(anyhow!(
            "there is no secret to sign with: write auth.jwt.local.secret_file (openssl rand -hex 32)"
        )));
    };
    let valid = ttl.map_or(settings.ttl, |ttl| ttl.0);
    if valid > settings.ttl || valid == Duration::ZERO {
        let most = DurationText(settings.ttl);
        return Err(failed(anyhow!("the gateway accepts tokens for at most {most} (auth.jwt.local.ttl)")));
    }
    let token = sign_local(secret, &subject, &groups, valid).map_err(|fault| failed(anyhow!(fault)))?;
    print(&format!("{token}\n"));
    Ok(())
}
