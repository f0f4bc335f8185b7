//! `elida budget`: lists what was spent of budgets, and adds to their limits for a time.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde::de::IntoDeserializer;

use super::client::Client;
use super::commands::{PlainArgs, show};
use super::report;
use super::table::plain as plain_text;
use crate::control::api::budgets::{BudgetsQuery, NewOverride, OverrideView};
use crate::control::api::params::Limit;
use crate::limits::amount::AmountText;

/// Commands for budgets.
#[derive(Debug, Subcommand)]
pub(super) enum BudgetCommand {
    /// List what was spent and is held of each budget
    List(PlainArgs),
    /// Add to the limit of a budget until some time
    Override(OverrideArgs),
    /// List what is added to the limit of a budget
    Overrides(NameArgs),
    /// Take back what was added to the limit of a budget
    Restore(RestoreArgs),
}

/// Arguments of `elida budget override`.
#[derive(Args, Debug)]
pub(super) struct OverrideArgs {
    /// The budget
    name: String,
    /// What to add, in the unit of the budget: 100USD, 2Mtokens
    #[arg(long, value_name = "AMOUNT", value_parser = read_amount)]
    add: AmountText,
    /// For how long (24h), or until when: a day (2027-01-31) or a time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: String,
    /// Only for this account, as `elida budget list` names it; all without it
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Arguments of `elida budget overrides`.
#[derive(Args, Debug)]
pub(super) struct NameArgs {
    /// The budget
    name: String,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Arguments of `elida budget restore`.
#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    /// The budget
    name: String,
    /// Id of the override, as `elida budget overrides` prints it
    id: String,
    #[command(flatten)]
    plain: PlainArgs,
}

fn read_amount(text: &str) -> Result<AmountText, String> {
    let amount: Result<AmountText, serde::de::value::Error> =
        AmountText::deserialize(text.into_deserializer());
    amount.map_err(|_| "write an amount above zero, such as 100USD, 0.25USD or 2Mtokens".to_owned())
}

/// Runs the command.
///
/// # Errors
/// The gateway refuses or cannot be reached.
pub(super) fn budget(command: BudgetCommand) -> anyhow::Result<()> {
    match command {
        BudgetCommand::List(plain) => {
            let query = BudgetsQuery { limit: Limit::new(usize::MAX), ..BudgetsQuery::default() };
            let answer = Client::new(&plain.control)?.get(&["control", "budgets"], &query)?;
            show(&plain, answer, report::budgets)
        }
        BudgetCommand::Override(OverrideArgs { name, add, until, account, plain }) => {
            let path = ["control", "budgets", &name, "override"];
            let body = NewOverride { add: Some(add), until, account };
            let answer = Client::new(&plain.control)?.post(&path, &(), &body)?;
            show(&plain, answer, |made: &OverrideView| format!("{}\n", plain_text(&made.id)))
        }
        BudgetCommand::Overrides(NameArgs { name, plain }) => {
            let path = ["control", "budgets", &name, "override"];
            let answer = Client::new(&plain.control)?.get(&path, &())?;
            show(&plain, answer, report::overrides)
        }
        BudgetCommand::Restore(RestoreArgs { name, id, plain }) => {
            let path = ["control", "budgets", &name, "override", &id];
            let answer = Client::new(&plain.control)?.delete(&path)?;
            show(&plain, answer, |gone: &OverrideView| {
                format!("{} of {} are taken back\n", gone.add, plain_text(&gone.budget))
            })
        }
    }
}
