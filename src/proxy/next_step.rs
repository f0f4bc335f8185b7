//! Ends a stream when its budgets do not last for the next step of its answer (`hold: steps`).

use super::request_ctx::{RequestCtx, Stage};
use super::{finish, spending};
use crate::error::{ErrorKind, Refusal};
use crate::limits::ledger::{Short, Shortage};
use crate::session::BY_BUDGET;

/// Holds the next step of the answer when it is needed. Returns why the answer must end: what it costs is spent before, so that
/// its client cannot ask for it again.
pub(super) fn hold(ctx: &mut RequestCtx) -> Option<Refusal> {
    let RequestCtx { app, stage, outcome, reservation, .. } = ctx;
    let (Stage::Routed(routed), Some(held)) = (&mut *stage, reservation) else { return None };
    let routed = &mut **routed;
    let budgets = &routed.who.received.handle.settings.budgets;
    let short = routed.steps.as_deref_mut()?.follow(app, budgets, &outcome.answer, held)?.clone();
    let (kind, message) = why(&short);
    if let Some(mut summary) = finish::summary(app, stage, outcome, Some(kind)) {
        let charged = spending::charge(app, stage, outcome, &mut summary);
        spending::spend_all(app, held, charged);
    }
    let budget = &*short.budget;
    app.metrics.budget_refused(budget, kind.code());
    if short.shortage == Shortage::Spent
        && let Some(routed) = stage.routed()
        && routed.who.received.handle.settings.budgets.kills(budget)
    {
        drop(spending::kill(app, routed.leg.session(), format!("{BY_BUDGET}{budget}"), &message));
    }
    Some(Refusal::new(kind, message))
}

/// Words why the answer must end. Only what is spent is final, and may kill its session.
fn why(short: &Short) -> (ErrorKind, String) {
    let budget = &*short.budget;
    match short.shortage {
        Shortage::Spent => (
            ErrorKind::BudgetExceeded,
            format!("the budget '{budget}' does not last for the rest of this answer"),
        ),
        Shortage::Held => (
            ErrorKind::BudgetBusy,
            format!(
                "open requests hold what the budget '{budget}' has for the rest of this answer; try again"
            ),
        ),
        Shortage::Unknown => (
            ErrorKind::BudgetBusy,
            format!(
                "what is left of the budget '{budget}' for the rest of this answer is not known, because redis does not \
                 answer; try again"
            ),
        ),
    }
}
