//! `elida usage`: tokens and cost of ended sessions by caller, tenant, group or model.

use clap::Args;
use serde::Serialize;

use super::client::Client;
use super::commands::{PlainArgs, show};
use super::table::{plain as plain_text, table};
use crate::control::api::history::UsageReport;
use crate::history::read::filter::GroupBy;

/// Arguments of `elida usage`; they are the query of `GET /control/usage`.
#[derive(Args, Debug, Serialize)]
pub(super) struct UsageArgs {
    /// What to sum by: principal, tenant, group, model, client, backend, session
    #[arg(long, value_name = "WHAT", default_value = "principal", value_parser = read_by)]
    by: GroupBy,
    /// Sessions that ended at this time or later: a time, or an age such as 30d
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Sessions that ended before this time
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// Only those of this principal, such as key:ci
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    /// Only those of this tenant
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// Only those of this group
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// Only those that used this model
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[command(flatten)]
    #[serde(skip)]
    plain: PlainArgs,
}

fn read_by(text: &str) -> Result<GroupBy, String> {
    let words = "must be principal, tenant, group, model, client, backend or session";
    serde_json::from_value(text.into()).map_err(|_| words.to_owned())
}

/// Runs the command.
///
/// # Errors
/// The gateway refuses or cannot be reached.
pub(super) fn usage(arguments: &UsageArgs) -> anyhow::Result<()> {
    let answer = Client::new(&arguments.plain.control)?.get(&["control", "usage"], arguments)?;
    show(&arguments.plain, answer, report)
}

/// Formats a table of usage.
fn report(report: &UsageReport) -> String {
    if report.usage.is_empty() {
        return "no session has ended in this time\n".into();
    }
    let heading = ["NAME", "REQUESTS", "INPUT", "CACHED", "OUTPUT", "ESTIMATED", "UNPRICED", "USD"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for line in &report.usage {
        let tokens = &line.tokens;
        rows.push(vec![
            line.name.as_deref().map_or_else(|| "-".into(), plain_text),
            line.requests.to_string(),
            tokens.input_tokens.saturating_add(tokens.cache_write_tokens).to_string(),
            tokens.cache_read_tokens.to_string(),
            tokens.output_tokens.to_string(),
            tokens.estimated_answers.to_string(),
            tokens.unpriced_answers.to_string(),
            tokens.cost_usd.map_or_else(|| "-".into(), |usd| format!("{usd:.4}")),
        ]);
    }
    table(&rows, &[1, 2, 3, 4, 5, 6, 7])
}
