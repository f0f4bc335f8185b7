//! The endpoints of rules and their findings.

use super::super::api::error::ErrorCode::*;
use super::super::api::policy::{
    FlagPage, FlagsQuery, NewSuppression, PolicyTest, PolicyView, SuppressionList, SuppressionView,
};
use super::super::openapi::Operation;
use super::endpoint::{Endpoint, on_delete, on_get, on_post};
use super::policy;
use crate::identity::roles::Right;
use crate::policy::trial::TrialReport;

/// The tag of these endpoints.
pub(super) const POLICY: &str = "policy";

pub(super) fn policy_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(POLICY, id, summary, Right::Operate);
    vec![
        on_get(
            "/control/policy",
            policy::show,
            operation("getPolicy", "Returns the rules in force, and how often each has held")
                .needs(Right::Read)
                .ok::<PolicyView>("The rules."),
        ),
        on_post(
            "/control/policy/test",
            policy::test,
            operation("testPolicy", "Tries rules on facts and a text, and says what each answers and why")
                .body::<PolicyTest>()
                .ok::<TrialReport>("The answers of the rules.")
                .errors(&[BadRequest, Internal]),
        ),
        on_get(
            "/control/flags",
            policy::flags,
            operation("listFlags", "Lists the last findings of rules on this instance, newest first")
                .needs(Right::Read)
                .by_tenant()
                .query::<FlagsQuery>()
                .ok::<FlagPage>("A page of findings.")
                .errors(&[BadRequest]),
        ),
        on_get(
            "/control/policy/suppressions",
            policy::suppressions,
            operation("listSuppressions", "Lists the suppressions in force")
                .by_tenant()
                .ok::<SuppressionList>("The suppressions."),
        ),
        on_post(
            "/control/policy/suppressions",
            policy::suppress,
            operation("addSuppression", "Suppresses findings of a rule until some time")
                .by_tenant()
                .body::<NewSuppression>()
                .answer::<SuppressionView>(201, "The findings are suppressed.")
                .errors(&[BadRequest, OwnSuppression, StateUnavailable, Internal]),
        ),
        on_delete(
            "/control/policy/suppressions/{id}",
            policy::take_back,
            operation("removeSuppression", "Takes a suppression back")
                .names("The id of a suppression.")
                .by_tenant()
                .ok::<SuppressionView>("It suppresses nothing from now on.")
                .errors(&[SuppressionNotFound, StateUnavailable, Internal]),
        ),
    ]
}
