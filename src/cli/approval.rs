//! `elida approvals`, `elida approve` and `elida deny`: calls that rules hold until an operator answers.

use clap::{Args, ValueEnum};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::Client;
use super::commands::{PlainArgs, show};
use super::print;
use super::report::{optional, time, word};
use super::table::{plain as plain_text, table};
use crate::control::api::approvals::{ApprovalList, ApprovalView, ApprovalsQuery, DecisionBody, StateFilter};
use crate::control::api::params::Limit;
use crate::policy::approval::shown::both_ends;
use crate::policy::approval::{Answer, ApprovalState};

/// The longest part of the arguments in a table, in bytes: both ends of longer ones.
const SHOWN: usize = 60;

/// Arguments of `elida approvals`.
#[derive(Args, Debug)]
pub(super) struct ApprovalsArgs {
    /// Those in this state
    #[arg(long, value_name = "STATE", default_value = "pending")]
    state: StateArg,
    #[command(flatten)]
    plain: PlainArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateArg {
    Pending,
    Approved,
    Denied,
    Used,
    Expired,
    All,
}

/// Arguments of `elida approve` and `elida deny`.
#[derive(Args, Debug)]
pub(super) struct DecisionArgs {
    /// Id of the approval, as `elida approvals` prints it
    id: String,
    /// Why; the client sees it when the call is denied
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Lists approvals.
///
/// # Errors
/// The gateway refuses or cannot be reached.
pub(super) fn approvals(ApprovalsArgs { state, plain }: &ApprovalsArgs) -> anyhow::Result<()> {
    let state = Some(match state {
        StateArg::Pending => StateFilter::Pending,
        StateArg::Approved => StateFilter::Approved,
        StateArg::Denied => StateFilter::Denied,
        StateArg::Used => StateFilter::Used,
        StateArg::Expired => StateFilter::Expired,
        StateArg::All => StateFilter::All,
    });
    let client = Client::new(&plain.control)?;
    if plain.json {
        print(&format!("{}\n", json!({"approvals": all_pages::<Value>(&client, state)?})));
    } else {
        print(&list(&all_pages(&client, state)?));
    }
    Ok(())
}

/// Reads the approvals of all pages.
fn all_pages<V: DeserializeOwned>(client: &Client, state: Option<StateFilter>) -> anyhow::Result<Vec<V>> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let query = ApprovalsQuery { state, limit: Limit::new(usize::MAX), cursor };
        let mut page: ApprovalList<V> = client.get(&["control", "approvals"], &query)?.read()?;
        all.append(&mut page.approvals);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(all);
        }
    }
}

/// Approves or denies a held call.
///
/// # Errors
/// The gateway refuses or cannot be reached.
pub(super) fn decide(decision: Answer, arguments: DecisionArgs) -> anyhow::Result<()> {
    let DecisionArgs { id, reason, plain } = arguments;
    let body = DecisionBody { decision: Some(decision), reason };
    let answer = Client::new(&plain.control)?.post(&["control", "approvals", &id], &(), &body)?;
    show(&plain, answer, outcome)
}

/// Formats approvals (`GET /control/approvals`).
fn list(approvals: &[ApprovalView]) -> String {
    if approvals.is_empty() {
        return "no such call is held\n".into();
    }
    let heading = ["ID", "STATE", "SESSION", "PRINCIPAL", "RULE", "TOOL", "ARGUMENTS", "ASKED", "EXPIRES"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for one in approvals {
        let arguments = one.arguments.as_deref().map(|text| arguments(text, one.arguments_bytes));
        rows.push(vec![
            word(&one.id),
            one.state.name().to_owned(),
            optional(one.session_id.as_ref()),
            word(one.principal.as_str()),
            word(&one.rule),
            optional(one.tool.as_ref()),
            optional(arguments),
            time(one.asked),
            time(one.expires),
        ]);
    }
    table(&rows, &[])
}

/// Returns both ends of the arguments, and how long all of them are where that cannot be seen.
fn arguments(text: &str, bytes: u64) -> String {
    let whole = usize::try_from(bytes).unwrap_or(usize::MAX);
    match text.len() <= SHOWN && ![0, text.len()].contains(&whole) {
        true => format!("{text} ({whole} bytes)"),
        false => both_ends(text, SHOWN, whole.max(text.len())),
    }
}

/// Says what has become of a held call.
fn outcome(view: &ApprovalView) -> String {
    let what = match &view.session_id {
        Some(session) => format!("{} of session {}", call(view), plain_text(session.as_str())),
        None => format!("{} of {}", call(view), plain_text(view.principal.as_str())),
    };
    match view.state {
        ApprovalState::Pending => {
            let approved = view.decisions.len();
            format!("{what}: {approved} of {} operators have approved\n", view.need)
        }
        state => format!("{what}: {}\n", state.name()),
    }
}

fn call(view: &ApprovalView) -> String {
    view.tool
        .as_deref()
        .map_or_else(|| format!("the {} ", plain_text(&view.phase)).trim_end().to_owned(), plain_text)
}
