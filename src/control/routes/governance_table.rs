//! The endpoints of budgets, approvals and the HTTP cache.

use super::super::api::approvals::{ApprovalList, ApprovalView, ApprovalsQuery, DecisionBody};
use super::super::api::budgets::{BudgetList, BudgetsQuery, NewOverride, OverrideList, OverrideView};
use super::super::api::cache::{PurgeQuery, PurgeReport};
use super::super::api::error::ErrorCode::*;
use super::super::openapi::Operation;
use super::endpoint::{Endpoint, on_delete, on_get, on_post};
use super::{approvals, budgets, cache};
use crate::cache::CacheStats;
use crate::identity::roles::Right;

pub(super) const APPROVALS: &str = "approvals";
pub(super) const BUDGETS: &str = "budgets";
pub(super) const CACHE: &str = "cache";

pub(super) fn approval_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| {
        Operation::new(APPROVALS, id, summary, Right::Operate).names("The id of an approval.").by_tenant()
    };
    vec![
        on_get(
            "/control/approvals",
            approvals::list,
            operation("listApprovals", "Lists calls that are held, newest first")
                .query::<ApprovalsQuery>()
                .ok::<ApprovalList>("The approvals.")
                .errors(&[BadRequest]),
        ),
        on_get(
            "/control/approvals/{id}",
            approvals::one,
            operation("getApproval", "Returns an approval with its answers")
                .ok::<ApprovalView>("The approval.")
                .errors(&[ApprovalNotFound]),
        ),
        on_post(
            "/control/approvals/{id}",
            approvals::decide,
            operation("decideApproval", "Approves or denies a held call")
                .body::<DecisionBody>()
                .ok::<ApprovalView>("The answer is taken.")
                .errors(&[OwnApproval, ApprovalNotFound, ApprovalOver, StateUnavailable, Internal]),
        ),
    ]
}

pub(super) fn budget_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(BUDGETS, id, summary, Right::Budgets);
    vec![
        on_get(
            "/control/budgets",
            budgets::list,
            operation("listBudgets", "Returns what was spent of the budgets on this instance")
                .needs(Right::Usage)
                .query::<BudgetsQuery>()
                .ok::<BudgetList>("The accounts.")
                .errors(&[BadRequest, Internal]),
        ),
        on_get(
            "/control/budgets/{name}/override",
            budgets::overrides,
            operation("listOverrides", "Lists what is added to the limit of a budget, and until when")
                .needs(Right::Usage)
                .ok::<OverrideList>("The overrides in force.")
                .errors(&[BudgetNotFound]),
        ),
        on_post(
            "/control/budgets/{name}/override",
            budgets::add,
            operation("addOverride", "Adds to the limit of a budget until some time")
                .body::<NewOverride>()
                .answer::<OverrideView>(201, "The limit is raised.")
                .errors(&[BadRequest, BudgetNotFound, StateUnavailable, Internal]),
        ),
        on_delete(
            "/control/budgets/{name}/override/{id}",
            budgets::take_back,
            operation("removeOverride", "Takes back what was added to the limit of a budget")
                .names_override()
                .ok::<OverrideView>("It adds nothing from now on.")
                .errors(&[OverrideNotFound, StateUnavailable, Internal]),
        ),
    ]
}

pub(super) fn cache_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(CACHE, id, summary, Right::Operate);
    vec![
        on_get(
            "/control/cache/stats",
            cache::stats,
            operation(
                "getCacheStats",
                "Returns what the HTTP cache of this instance holds and how it was used",
            )
            .also(&["/admin/cache/stats"])
            .ok::<CacheStats>("The statistics."),
        ),
        on_delete(
            "/control/cache",
            cache::purge,
            operation("purgeCache", "Forgets stored answers, on all instances")
                .also(&["/admin/cache"])
                .query::<PurgeQuery>()
                .ok::<PurgeReport>("What was forgotten.")
                .errors(&[BadRequest, StoreUnavailable]),
        ),
    ]
}
