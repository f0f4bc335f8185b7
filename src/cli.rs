//! The command line: `elida run`, `check`, `doctor`, `demo`, and the commands that use the control API of a running gateway.
//!
//! Duty: flags to [`Sources`], results to text, errors to exit codes: 0 success, 1 failure, 2 wrong usage or invalid
//! configuration. Neighbours: `app` runs the gateway for `run` and `demo`; the other commands use the control API over
//! HTTP (`cli/client.rs`) with the types of `control::api`.

mod admin;
mod approval;
mod audit;
mod backends;
mod budget;
mod cdr;
mod check;
mod client;
mod commands;
mod doctor;
mod flags;
mod health;
mod key;
mod kill;
mod output;
mod policy;
mod replay;
mod report;
mod table;
#[cfg(test)]
mod testing;
mod token;
mod top;
mod usage;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::app;
use crate::config::{Environment, Flags, Sources, schema};
use crate::control::openapi;
use crate::history::read::record_schema;
use crate::policy::approval::Answer;
use crate::settings::fault::Faults;

/// Exit code of a failure.
const FAILED: u8 = 1;
/// Exit code of wrong usage or an invalid configuration.
const INVALID: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "elida",
    version,
    about = "Session border controller for AI agents",
    after_help = AFTER_HELP,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Examples, exit codes and variables below the help.
const AFTER_HELP: &str = "\
Examples:
  elida demo                          try it: gateway and provider, without key or configuration
  elida check -c conf/elida.yaml      check a configuration file
  elida run -c conf/elida.yaml        run the gateway
  elida top                           watch live sessions; k kills one
  elida kill ID --reason runaway      cut a session and refuse what follows
  elida session ID                    show its agents; kill ID --agent A kills one of them
  elida completions bash              print shell completions

Exit codes: 0 success, 1 failure, 2 wrong usage or invalid configuration.
Variables: NO_COLOR, ELIDA_CONFIG, ELIDA_CONTROL, ELIDA_CONTROL_TOKEN_FILE; any key of the file as
ELIDA__SECTION__KEY.";

// In the order of their use: run, watch, kill, and the rest.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Run(RunArgs),
    /// Run the gateway with a bundled demo provider: no key, no configuration
    Demo(DemoArgs),
    /// Check a configuration and print every fault and warning
    Check(check::CheckArgs),
    /// Check whether the gateway can work on this host: backends, ports, folders, limits
    Doctor(doctor::DoctorArgs),
    /// Show live sessions in the terminal; kill one with k
    Top(commands::PlainArgs),
    /// List sessions
    Sessions(commands::SessionsArgs),
    /// Show a session and the tree of its agents
    Session(commands::SessionArgs),
    /// Show totals
    Stats(commands::PlainArgs),
    /// Sum tokens and cost of ended sessions by caller, tenant, group or model
    Usage(usage::UsageArgs),
    /// Kill a session, an agent in it, or all sessions that fit: cut what is open and refuse what follows
    Kill(kill::KillArgs),
    /// Lift the kill of a session or agent
    Resume(commands::ResumeArgs),
    /// List kill orders in force
    Kills(commands::PlainArgs),
    /// List calls that are held until an operator answers
    Approvals(approval::ApprovalsArgs),
    /// Let a held call go on, once
    Approve(approval::DecisionArgs),
    /// Refuse a held call
    Deny(approval::DecisionArgs),
    /// List the backends and their health; drain one, so that it gets no new requests
    Backends(backends::BackendsArgs),
    /// What was spent of the budgets, and what is added to their limits
    #[command(subcommand)]
    Budget(budget::BudgetCommand),
    /// Rules for requests, answers and tool calls: show them, or test them
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Records of ended sessions: export them, or verify an exported file
    #[command(subcommand)]
    Cdr(cdr::CdrCommand),
    /// Keys for callers: make, list, rotate and revoke them in a running gateway, or make them for its configuration
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Make the account of an admin, who logs in with a password
    #[command(subcommand)]
    Admin(admin::AdminCommand),
    /// Sign tokens of programs with the secret of the configuration
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Show what operators changed; export and verify it
    Audit(audit::AuditArgs),
    /// Ask a running gateway whether it is ready: exit code 0 or 1, for containers
    Healthcheck(health::HealthArgs),
    /// Print the JSON Schema of the configuration or of the records, or the OpenAPI document
    Schema(SchemaArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        #[arg(value_parser = ["bash", "zsh", "fish"])]
        shell: String,
    },
}

#[derive(Args, Debug)]
struct SchemaArgs {
    /// config: the file that elida run reads; record: a line of elida cdr export; openapi: the control API
    #[arg(long, value_name = "FORM", default_value = "config")]
    of: SchemaOf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaOf {
    Config,
    Record,
    Openapi,
}

#[derive(Args, Debug)]
struct FileArgs {
    /// Configuration file; every key has a default [env: ELIDA_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Address of the proxy, such as :8080 [env: ELIDA_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// URL of the only backend [env: ELIDA_BACKEND]
    #[arg(long, value_name = "URL")]
    backend: Option<String>,
    /// Address of the control API [env: ELIDA_CONTROL_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    control_listen: Option<String>,
    /// debug, info, warn or error [env: ELIDA_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Args, Debug)]
struct DemoArgs {
    /// Address of the proxy
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Address of the control API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    control_listen: String,
    /// Folder of the history and keys, kept at the end; without it a new temporary folder, removed at the end
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Let some agents play against the gateway, one of which runs away
    #[arg(long)]
    play: bool,
    /// Run only the provider, on this address (IP:PORT), without a gateway
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["listen", "control_listen", "data_dir", "play"])]
    only_provider: Option<SocketAddr>,
}

/// Runs the command given by the arguments of this process and returns its exit code.
pub fn main() -> ExitCode {
    // Wrong usage ends the process here, with exit code 2.
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run(arguments) => run(arguments),
        Command::Demo(arguments) => demo(arguments).map_err(explain),
        Command::Check(arguments) => {
            return check::check(&sources(arguments.file, Flags::default()), arguments.json);
        }
        Command::Doctor(arguments) => {
            return doctor::doctor(&sources(arguments.file, Flags::default()), arguments.json);
        }
        Command::Top(arguments) => top::top(&arguments).map_err(failed),
        Command::Sessions(arguments) => commands::sessions(&arguments).map_err(failed),
        Command::Session(arguments) => commands::session(&arguments).map_err(failed),
        Command::Stats(arguments) => commands::stats(&arguments).map_err(failed),
        Command::Usage(arguments) => usage::usage(&arguments).map_err(failed),
        Command::Kill(arguments) => kill::kill(&arguments).map_err(failed),
        Command::Resume(arguments) => commands::resume(&arguments).map_err(failed),
        Command::Approvals(arguments) => approval::approvals(&arguments).map_err(failed),
        Command::Approve(arguments) => approval::decide(Answer::Approve, arguments).map_err(failed),
        Command::Deny(arguments) => approval::decide(Answer::Deny, arguments).map_err(failed),
        Command::Backends(arguments) => backends::backends(arguments).map_err(failed),
        Command::Budget(command) => budget::budget(command).map_err(failed),
        Command::Kills(arguments) => commands::kills(&arguments).map_err(failed),
        Command::Policy(command) => match policy::policy(command) {
            Ok(code) => return code,
            Err(error) => Err(explain(error)),
        },
        Command::Cdr(command) => cdr::cdr(command).map_err(failed),
        Command::Key(command) => key::key(command).map_err(failed),
        Command::Admin(command) => admin::admin(command),
        Command::Token(command) => token::token(command),
        Command::Audit(arguments) => audit::audit(&arguments).map_err(failed),
        Command::Healthcheck(arguments) => health::check(&arguments).map_err(failed),
        Command::Schema(arguments) => {
            let schema = match arguments.of {
                SchemaOf::Config => schema(),
                SchemaOf::Record => record_schema::schema(),
                SchemaOf::Openapi => openapi::document(),
            };
            print(&format!("{schema:#}\n"));
            Ok(())
        }
        Command::Completions { shell } => {
            complete(&shell);
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            complain(&text);
            ExitCode::from(code)
        }
    }
}

fn demo(arguments: DemoArgs) -> anyhow::Result<()> {
    match arguments.only_provider {
        Some(address) => app::demo_provider(address),
        None => app::demo(arguments.listen, arguments.control_listen, arguments.data_dir, arguments.play),
    }
}

/// A failure and its exit code.
struct Failure {
    code: u8,
    text: String,
}

fn failed(error: anyhow::Error) -> Failure {
    Failure { code: FAILED, text: format!("elida: {error:#}") }
}

/// Returns the failure of an error; an invalid configuration has its own exit code.
fn explain(error: anyhow::Error) -> Failure {
    explain_at(error, None)
}

/// Returns the failure of an error in this file.
fn explain_at(error: anyhow::Error, file: Option<&Path>) -> Failure {
    match error.downcast_ref::<Faults>() {
        Some(faults) => Failure { code: INVALID, text: check::fault_lines(faults, file) },
        None => failed(error),
    }
}

/// Prints completions, generated from the definitions of the flags.
fn complete(shell: &str) {
    let shell = match shell {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "elida", &mut script);
    print(&String::from_utf8_lossy(&script));
}

fn sources(file: FileArgs, flags: Flags) -> Sources {
    Sources::new(file.config, Environment::of_process(), flags)
}

fn run(arguments: RunArgs) -> Result<(), Failure> {
    let RunArgs { file, listen, backend, control_listen, log_level } = arguments;
    let sources = sources(file, Flags { listen, backend, control_listen, log_level });
    let file = sources.file().map(Path::to_owned);
    app::run(sources).map_err(|error| explain_at(error, file.as_deref()))
}

/// Writes to standard output; a closed pipe (`| head`) is not an error.
fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// True when output must not be coloured: NO_COLOR is set (<https://no-color.org>), or it is not a terminal.
fn is_plain() -> bool {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    no_colour || is_dumb() || !io::stdout().is_terminal()
}

/// True for a terminal without escape sequences.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_invalid_configuration_has_its_own_exit_code() {
        let sources = Sources::new(None, Environment::default(), Flags::default());
        let faults = sources.load_text("version: 2").unwrap_err();
        assert_eq!(explain(faults.into()).code, INVALID);
        assert_eq!(explain(anyhow::anyhow!("no port")).code, FAILED);
    }

    #[test]
    fn flags_are_read() {
        let cli = Cli::try_parse_from(["elida", "run", "-c", "x.yaml", "--control-listen", ":1"]).unwrap();
        let Command::Run(arguments) = cli.command else { panic!("{cli:?}") };
        assert_eq!(arguments.file.config.as_deref(), Some(Path::new("x.yaml")));
        assert_eq!(arguments.control_listen.as_deref(), Some(":1"));
        let two_blocks = ["elida", "kill", "a", "--permanent", "--for", "1h"];
        assert!(Cli::try_parse_from(two_blocks).is_err());
        assert!(Cli::try_parse_from(["elida", "kill", "a", "--for", "soon"]).is_err());
        assert!(Cli::try_parse_from(["elida"]).is_err());
    }
}
