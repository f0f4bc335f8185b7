//! Ends a stream when its budgets do not last for the next step of its answer (`hold: steps`).

use super::request_ctx::{RequestCtx, Stage};
use super::{finish, spending};
use crate::error::{ErrorKind, Refusal};

/// Holds the next step of the answer when it is needed. Returns why the answer must end: what it costs is spent before, so that
/// its client cannot ask for it again.
pub(super) fn hold(ctx: &mut RequestCtx) -> Option<Refusal> {
    let RequestCtx { app, stage, outcome, reservation, .. } = ctx;
    let (Stage::Routed(routed), Some(held)) = (&mut *stage, reservation) else { return None };
    let short = routed.steps.as_deref_mut()?.follow(app, &outcome.answer, held)?.clone();
    if let Some(mut summary) = finish::summary(app, stage, outcome, Some(ErrorKind::BudgetExceeded)) {
        let charged = spending::charge(app, stage, outcome, &mut summary);
        spending::spend_all(held, charged);
    }
    let budget = &*short.budget;
    app.metrics.budget_refused(budget, ErrorKind::BudgetExceeded.code());
    let message = format!("the budget '{budget}' does not last for the rest of this answer");
    if let Some(routed) = stage.routed()
        && routed.who.received.handle.settings.budgets.kills(budget)
    {
        drop(spending::kill(app, &routed.leg, budget, &message));
    }
    Some(Refusal::new(ErrorKind::BudgetExceeded, message))
}
