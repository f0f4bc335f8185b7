//! The rules in force, trials of rules, their findings, and suppressions.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, Path, State};
use axum::response::IntoResponse;
use http::StatusCode;

use super::budgets::end;
use super::documents;
use crate::control::api::error::ErrorCode;
use crate::control::api::policy::{
    FlagPage, FlagsQuery, NewSuppression, PolicyTest, PolicyView, RuleView, SuppressionList, SuppressionView,
};
use crate::control::extract::{ApiBody, ApiQuery};
use crate::control::listen::Peer;
use crate::control::operator::{Change, Operator, digest_of};
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::roles::Reach;
use crate::ids::SharedDocument;
use crate::policy::facts::Phase;
use crate::policy::suppressions::{Maker, Scope, Suppression, SuppressionError, Suppressions};
use crate::policy::trial::TrialReport;
use crate::session::FindingEvent;
use crate::settings::fault::Faults;

/// The longest text of a suppression, in bytes.
const MAX_TEXT: usize = 1024;

/// Returns the rules in force.
pub(super) async fn show(State(state): State<Arc<ControlState>>) -> Json<PolicyView> {
    let rules = state.parts.runtime.rules();
    let counts = state.parts.manager.finding_counts();
    let all = Phase::ALL.into_iter().flat_map(|phase| rules.rules(phase));
    let view = |rule: &Arc<crate::policy::rule::Rule>| RuleView {
        id: rule.id.to_string(),
        on: rule.phase,
        origin: rule.origin.to_owned(),
        when: Some(rule.condition()).filter(|when| !when.is_empty()),
        matches_text: rule.matching.is_some(),
        action: rule.action,
        mode: rule.mode,
        severity: rule.severity,
        owasp: rule.owasp.as_deref().map(str::to_owned),
        mark: rule.mark.as_deref().map(str::to_owned),
        message: rule.message.as_deref().map(str::to_owned),
        findings: counts.get(&*rule.id).copied().unwrap_or_default(),
    };
    Json(PolicyView {
        mode: rules.written().mode,
        presets: rules.written().presets.clone(),
        generation: rules.generation(),
        rules: all.map(view).collect(),
    })
}

/// Tries rules on what is given.
pub(super) async fn test(
    State(state): State<Arc<ControlState>>,
    ApiBody(PolicyTest { trial, policy }): ApiBody<PolicyTest>,
) -> Result<Json<TrialReport>, Problem> {
    let (in_force, runtime) = (state.parts.runtime.rules(), Arc::clone(&state.parts.runtime));
    // Compiling many patterns takes a while.
    let tried = state.blocking.run(move || {
        let rules = match policy {
            None => in_force,
            Some(policy) => {
                let mut faults = Faults::default();
                policy.compile(&mut faults).ok_or_else(|| faults.to_string())?
            }
        };
        runtime.try_rules(&rules, &trial)
    });
    let report = tried.await.map_err(|_| Problem::internal("the trial failed; see the server log"))?;
    report.map(Json).map_err(Problem::bad_request)
}

/// Lists the last findings.
pub(super) async fn flags(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiQuery(query): ApiQuery<FlagsQuery>,
) -> Json<FlagPage> {
    let is_it = |wanted: &Option<String>, found: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
    };
    let matches = |finding: &FindingEvent| {
        let session = finding.session_id.as_ref().map(|session| session.as_str());
        reach.covers(finding.tenant.as_deref())
            && is_it(&query.rule, Some(&finding.rule))
            && is_it(&query.session, session)
            && is_it(&query.principal, Some(finding.principal.as_str()))
            && query.action.is_none_or(|action| finding.action == action)
            && query.severity.is_none_or(|severity| finding.severity >= severity)
            && query.on.is_none_or(|phase| finding.phase == phase)
    };
    let limit = query.limit.get();
    let before = query.cursor.map(|cursor| cursor.0);
    let mut found = state.parts.manager.findings(before, limit + 1, matches);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| has_more).map(|(number, _)| *number);
    Json(FlagPage { flags: found.into_iter().map(|(_, finding)| (*finding).clone()).collect(), next_cursor })
}

/// Lists the suppressions in force.
pub(super) async fn suppressions(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
) -> Json<SuppressionList> {
    let all = state.parts.suppressions.all().into_iter().filter(|one| is_within(&reach, one));
    Json(SuppressionList { suppressions: all.map(Into::into).collect() })
}

/// Suppresses findings until some time.
pub(super) async fn suppress(
    State(state): State<Arc<ControlState>>,
    Extension(operator): Extension<Operator>,
    Extension(reach): Extension<Reach>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    ApiBody(body): ApiBody<NewSuppression>,
) -> Result<impl IntoResponse, Problem> {
    let NewSuppression { rule, principal, session, digest, until, reason } = body;
    let rules = state.parts.runtime.rules();
    let is_known = Phase::ALL.into_iter().any(|phase| rules.rules(phase).iter().any(|one| *one.id == *rule));
    if !is_known {
        return Err(Problem::bad_request(format!(
            "rule: no rule is called '{rule}'; see GET /control/policy"
        )));
    }
    if reason.is_empty() {
        return Err(Problem::bad_request("reason: write why the findings count for nothing"));
    }
    let texts = [&principal, &session, &digest, &Some(reason.clone())];
    if texts.into_iter().flatten().any(|text| text.len() > MAX_TEXT) {
        return Err(Problem::bad_request(format!("a text has more than {MAX_TEXT} bytes")));
    }
    // Nobody frees its own calls of the rule that holds them.
    let maker = operator.principal_id();
    if maker.is_some() && principal.as_deref() == maker {
        let message = "principal: a suppression does not hold for whoever makes it; ask another operator";
        return Err(Problem::new(ErrorCode::OwnSuppression, message));
    }
    let (until, by) = (end(&until)?, operator.author(peer.address));
    let not_for = maker.map(str::to_owned);
    let tenants = Some(reach.tenants()).filter(|tenants| !tenants.is_empty());
    let scope = Scope { rule, principal, session, digest };
    let made =
        change(&state, move |all| all.add(scope, reason, until, Maker { by, tenants, not_for })).await?;
    tracing::info!(rule = made.scope.rule, until = %made.until, by = made.by, "findings of a rule are suppressed");
    let change = Change {
        made: Some(made.id.clone()),
        after: Some(digest_of_document(&made)),
        reason: Some(made.reason.clone()),
        ..Change::default()
    };
    Ok((StatusCode::CREATED, Extension(change), Json(SuppressionView::from(made))))
}

/// Takes a suppression back.
pub(super) async fn take_back(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    Path(id): Path<String>,
) -> Result<(Extension<Change>, Json<SuppressionView>), Problem> {
    let gone = change(&state, move |all| all.take_back(&id, |one| is_within(&reach, one))).await?;
    tracing::info!(rule = gone.scope.rule, id = gone.id, "a suppression is taken back");
    let change = Change { before: Some(digest_of_document(&gone)), ..Change::default() };
    Ok((Extension(change), Json(gone.into())))
}

/// One that an operator of all tenants made is out of reach for those of one.
fn is_within(reach: &Reach, one: &Suppression) -> bool {
    match &one.tenants {
        None => reach.covers(None),
        Some(tenants) => tenants.iter().all(|tenant| reach.covers(Some(tenant))),
    }
}

async fn change(
    state: &ControlState,
    work: impl FnOnce(&Suppressions) -> Result<(Suppression, SharedDocument), SuppressionError> + Send + 'static,
) -> Result<Suppression, Problem> {
    let suppressions = Arc::clone(&state.parts.suppressions);
    documents::change(state, "a suppression", problem, move || work(&suppressions)).await
}

fn digest_of_document(document: &Suppression) -> String {
    digest_of(&serde_json::to_value(document).unwrap_or_default())
}

fn problem(fault: &SuppressionError) -> Problem {
    let code = match fault {
        SuppressionError::Full => ErrorCode::BadRequest,
        SuppressionError::Unknown(_) => ErrorCode::SuppressionNotFound,
        SuppressionError::Storage(_) => ErrorCode::StateUnavailable,
    };
    Problem::new(code, fault.to_string())
}
