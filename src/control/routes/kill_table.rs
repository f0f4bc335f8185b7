//! The endpoints that kill sessions, lift kills and list them.

use super::super::api::error::ErrorCode::*;
use super::super::api::kill_selector::{KillWhere, KillWhereReply};
use super::super::api::kills::{KillBody, KillList, KillReply, ResumeBody};
use super::super::api::params::SessionQuery;
use super::super::openapi::Operation;
use super::endpoint::{Endpoint, on_get, on_post};
use super::table::SESSIONS;
use super::{kill_selected, kills};
use crate::identity::roles::Right;
use crate::session::Resumed;

/// Returns the endpoints, in the order of the document.
pub(super) fn kill_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(SESSIONS, id, summary, Right::Operate);
    vec![
        on_post(
            "/control/sessions/{id}/kill",
            kills::kill,
            operation(
                "killSession",
                "Cuts every open leg of a session, or of an agent, and refuses what follows",
            )
            .by_tenant()
            .query::<SessionQuery>()
            .body::<KillBody>()
            .ok::<KillReply>("The kill order is in force and the legs are cut.")
            .errors(&[
                BadRequest,
                SessionNotFound,
                AgentNotFound,
                SessionAmbiguous,
                SessionEnded,
                Internal,
                StoreUnavailable,
            ]),
        ),
        on_post(
            "/control/kill",
            kill_selected::kill,
            operation("killSessions", "Kills every active session that a selector fits, or lists them")
                .by_tenant()
                .body::<KillWhere>()
                .ok::<KillWhereReply>("The orders are in force and the legs are cut.")
                .errors(&[BadRequest]),
        ),
        on_post(
            "/control/sessions/{id}/resume",
            kills::resume,
            operation("resumeSession", "Lifts the kill order against a session or an agent")
                .by_tenant()
                .query::<SessionQuery>()
                .body::<ResumeBody>()
                .ok::<Resumed>("The order is lifted.")
                .errors(&[BadRequest, NotKilled, SessionAmbiguous, BlockPermanent]),
        ),
        on_get(
            "/control/kills",
            kills::list,
            operation("listKills", "Lists the kill orders in force, newest first")
                .needs(Right::Read)
                .ok::<KillList>("The orders."),
        ),
    ]
}
