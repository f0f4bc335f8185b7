//! `elida policy flags`, `suppress`, `suppressions` and `unsuppress`: what rules found, and which findings count for nothing.

use clap::Args;

use super::client::Client;
use super::commands::{PlainArgs, show};
use super::report::{optional, time, word};
use super::table::table;
use crate::control::api::policy::{
    FindingLimit, FlagPage, FlagsQuery, NewSuppression, SuppressionList, SuppressionView,
};

/// Arguments of `elida policy flags`.
#[derive(Args, Debug)]
pub(super) struct FlagsArgs {
    /// Only findings of this rule
    #[arg(long)]
    rule: Option<String>,
    /// Only those in this session
    #[arg(long)]
    session: Option<String>,
    /// Only those in requests of this principal
    #[arg(long)]
    principal: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Arguments of `elida policy suppress`.
#[derive(Args, Debug)]
pub(super) struct SuppressArgs {
    /// The rule whose findings count for nothing
    rule: String,
    /// For how long (24h, 30d), or until when: a day or a time
    #[arg(long, value_name = "TIME")]
    until: String,
    /// Why
    #[arg(long)]
    reason: String,
    /// Only in this session
    #[arg(long)]
    session: Option<String>,
    /// Only in requests of this principal
    #[arg(long)]
    principal: Option<String>,
    /// Only in this text, by the digest that `elida policy flags` prints
    #[arg(long)]
    digest: Option<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Arguments of `elida policy unsuppress`.
#[derive(Args, Debug)]
pub(super) struct UnsuppressArgs {
    /// Id of the suppression, as `elida policy suppressions` prints it
    id: String,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Lists the last findings.
///
/// # Errors
/// The gateway refuses or cannot be reached.
pub(super) fn flags(arguments: FlagsArgs) -> anyhow::Result<()> {
    let FlagsArgs { rule, session, principal, limit, plain } = arguments;
    let limit = FindingLimit::new(limit.into());
    let query = FlagsQuery { rule, session, principal, limit, ..FlagsQuery::default() };
    show(&plain, Client::new(&plain.control)?.get(&["control", "flags"], &query)?, flag_list)
}

/// Suppresses findings.
///
/// # Errors
/// The gateway refuses or cannot be reached.
pub(super) fn suppress(arguments: SuppressArgs) -> anyhow::Result<()> {
    let SuppressArgs { rule, until, reason, session, principal, digest, plain } = arguments;
    let body = NewSuppression { rule, principal, session, digest, until, reason };
    let answer = Client::new(&plain.control)?.post(&["control", "policy", "suppressions"], &(), &body)?;
    show(&plain, answer, |made: &SuppressionView| {
        format!(
            "{}: findings of {} count for nothing until {}\n",
            word(&made.id),
            word(&made.scope.rule),
            made.until
        )
    })
}

/// Lists the suppressions in force.
///
/// # Errors
/// The gateway refuses or cannot be reached.
pub(super) fn suppressions(plain: &PlainArgs) -> anyhow::Result<()> {
    let answer = Client::new(&plain.control)?.get(&["control", "policy", "suppressions"], &())?;
    show(plain, answer, suppression_list)
}

/// Takes a suppression back.
///
/// # Errors
/// The gateway refuses or cannot be reached.
pub(super) fn unsuppress(UnsuppressArgs { id, plain }: &UnsuppressArgs) -> anyhow::Result<()> {
    let answer = Client::new(&plain.control)?.delete(&["control", "policy", "suppressions", id])?;
    show(plain, answer, |gone: &SuppressionView| {
        format!("{}: findings of {} count again\n", word(&gone.id), word(&gone.scope.rule))
    })
}

fn flag_list(page: &FlagPage) -> String {
    if page.flags.is_empty() {
        return "no rule has found anything\n".into();
    }
    let heading = ["AT", "RULE", "ACTION", "MODE", "SEVERITY", "SESSION", "PRINCIPAL", "TOOL", "DIGEST"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(page.flags.iter().map(|flag| {
        vec![
            time(flag.at),
            word(&flag.rule),
            flag.action.name().to_owned(),
            flag.mode.name().to_owned(),
            flag.severity.name().to_owned(),
            optional(flag.session_id.as_ref()),
            word(flag.principal.as_str()),
            optional(flag.tool.as_ref()),
            optional(flag.digest.as_ref()),
        ]
    }));
    table(&rows, &[])
}

fn suppression_list(list: &SuppressionList) -> String {
    if list.suppressions.is_empty() {
        return "nothing is suppressed\n".into();
    }
    let heading = ["ID", "RULE", "SESSION", "PRINCIPAL", "DIGEST", "UNTIL", "BY", "REASON"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(list.suppressions.iter().map(|one| {
        vec![
            word(&one.id),
            word(&one.scope.rule),
            optional(one.scope.session.as_ref()),
            optional(one.scope.principal.as_ref()),
            optional(one.scope.digest.as_ref()),
            time(one.until),
            word(&one.by),
            word(&one.reason),
        ]
    }));
    table(&rows, &[])
}
