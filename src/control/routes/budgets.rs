//! What was spent of the budgets, and what is added to their limits.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, Path, State};
use axum::response::IntoResponse;
use http::StatusCode;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde::de::IntoDeserializer;

use super::documents;
use crate::control::api::budgets::{BudgetList, BudgetsQuery, NewOverride, OverrideList, OverrideView};
use crate::control::api::error::ErrorCode;
use crate::control::extract::{ApiBody, ApiQuery};
use crate::control::listen::Peer;
use crate::control::operator::{Change, Operator, digest_of};
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::ids::SharedDocument;
use crate::limits::amount::CostUnit;
use crate::limits::overrides::{Override, OverrideError, Overrides};
use crate::settings::units::DurationText;

/// Longest name of an account, in bytes.
const MAX_ACCOUNT: usize = 1024;

/// Lists the accounts of budgets.
///
/// # Errors
/// The list could not be made.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    ApiQuery(BudgetsQuery { budget, account, limit }): ApiQuery<BudgetsQuery>,
) -> Result<Json<BudgetList>, Problem> {
    let runtime = Arc::clone(&state.parts.runtime);
    // Callers make accounts, so there may be very many.
    let listed = state.blocking.run(move || {
        let mut budgets = runtime.budgets();
        let is_it =
            |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        budgets.retain(|one| is_it(&budget, &one.budget) && is_it(&account, &one.name));
        let truncated = budgets.len() > limit.get();
        budgets.truncate(limit.get());
        BudgetList { budgets, truncated }
    });
    let listed =
        listed.await.map_err(|_| Problem::internal("budgets cannot be listed; see the server log"))?;
    Ok(Json(listed))
}

/// Lists the overrides of a budget.
pub(super) async fn overrides(
    State(state): State<Arc<ControlState>>,
    Path(budget): Path<String>,
) -> Result<Json<OverrideList>, Problem> {
    unit_of(&state, &budget)?;
    let found = state.parts.overrides.of(&budget);
    Ok(Json(OverrideList { overrides: found.into_iter().map(Into::into).collect() }))
}

/// Adds to the limit of a budget until some time.
pub(super) async fn add(
    State(state): State<Arc<ControlState>>,
    Extension(operator): Extension<Operator>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(budget): Path<String>,
    ApiBody(body): ApiBody<NewOverride>,
) -> Result<impl IntoResponse, Problem> {
    let NewOverride { add, until, account } = body;
    let unit = unit_of(&state, &budget)?;
    let add = add.ok_or_else(|| Problem::bad_request("add: write what to add, such as 100 USD"))?;
    if add.unit != unit {
        let word = if unit == CostUnit::Usd { "US dollars, like 100 USD" } else { "tokens, like 2M tokens" };
        return Err(Problem::bad_request(format!("add: the budget '{budget}' is in {word}")));
    }
    if account.as_ref().is_some_and(|name| name.len() > MAX_ACCOUNT) {
        return Err(Problem::bad_request(format!("account: the name has more than {MAX_ACCOUNT} bytes")));
    }
    let (until, by) = (end(&until)?, operator.author(peer.address));
    let made = change(&state, move |overrides| overrides.add(budget, account, add, until, by)).await?;
    tracing::info!(budget = made.budget, add = %made.add, until = %made.until, by = made.by, "a budget is raised");
    let id = Some(made.id.clone());
    let change = Change { made: id, after: Some(digest(&made)), ..Change::default() };
    Ok((StatusCode::CREATED, Extension(change), Json(OverrideView::from(made))))
}

/// Takes an override back.
pub(super) async fn take_back(
    State(state): State<Arc<ControlState>>,
    Path((budget, id)): Path<(String, String)>,
) -> Result<(Extension<Change>, Json<OverrideView>), Problem> {
    let gone = change(&state, move |overrides| overrides.take_back(&budget, &id)).await?;
    tracing::info!(budget = gone.budget, add = %gone.add, id = gone.id, "an override of a budget is taken back");
    let change = Change { before: Some(digest(&gone)), ..Change::default() };
    Ok((Extension(change), Json(gone.into())))
}

async fn change(
    state: &ControlState,
    work: impl FnOnce(&Overrides) -> Result<(Override, SharedDocument), OverrideError> + Send + 'static,
) -> Result<Override, Problem> {
    let overrides = Arc::clone(&state.parts.overrides);
    documents::change(state, "an override", problem, move || work(&overrides)).await
}

/// Returns what the budget counts.
///
/// # Errors
/// No budget has this name.
fn unit_of(state: &ControlState, budget: &str) -> Result<CostUnit, Problem> {
    state.parts.runtime.budget_unit(budget).ok_or_else(|| {
        let detail = format!("no budget is called '{budget}'; see the section budgets of the configuration");
        Problem::new(ErrorCode::BudgetNotFound, detail)
    })
}

/// Reads the end of an override.
///
/// # Errors
/// It is neither a time nor a length of time, or in the past.
pub(super) fn end(text: &str) -> Result<Timestamp, Problem> {
    let now = Timestamp::now();
    let span: Result<DurationText, serde::de::value::Error> =
        DurationText::deserialize(text.into_deserializer());
    let until = match span {
        Ok(span) => span.limit().and_then(|span| now.checked_add(span).ok()),
        Err(_) => text.parse().ok().or_else(|| {
            let day: Date = text.parse().ok()?;
            Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp())
        }),
    };
    until.filter(|until| *until > now).ok_or_else(|| {
        Problem::bad_request("until: write a time to come, such as 24h, 2027-01-31 or 2027-01-31T18:00:00Z")
    })
}

fn digest(document: &Override) -> String {
    digest_of(&serde_json::to_value(document).unwrap_or_default())
}

fn problem(fault: &OverrideError) -> Problem {
    let code = match fault {
        OverrideError::Full => ErrorCode::BadRequest,
        OverrideError::Unknown(..) => ErrorCode::OverrideNotFound,
        OverrideError::Storage(_) => ErrorCode::StateUnavailable,
    };
    Problem::new(code, fault.to_string())
}
