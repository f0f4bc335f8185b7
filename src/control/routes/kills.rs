//! Kills a session, lifts a kill, and lists the orders in force.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, Path, State};

use super::sessions;
use crate::control::api::error::ErrorCode;
use crate::control::api::kills::{KillBody, KillList, KillReply, ResumeBody};
use crate::control::api::params::SessionQuery;
use crate::control::extract::{ApiBody, ApiQuery};
use crate::control::listen::Peer;
use crate::control::operator::{Change, Operator};
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::roles::Reach;
use crate::ids::AgentId;
use crate::session::{KillError, KillRequest, NamedBy, ResumeError, Resumed, SessionRef};

/// The longest reason, in bytes; clients see it.
const REASON_MAX: usize = 1024;
/// How long an answer waits until the history has written a kill or its lifting.
const WRITE_WAIT: Duration = Duration::from_millis(100);
/// The reason of a kill that names none.
const NO_REASON: &str = "no reason given";

/// Cuts every leg of a session, or of an agent and those below it, and refuses what follows.
pub(super) async fn kill(
    State(state): State<Arc<ControlState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(operator): Extension<Operator>,
    Extension(reach): Extension<Reach>,
    Path(target): Path<String>,
    ApiQuery(SessionQuery { by: named_by }): ApiQuery<SessionQuery>,
    ApiBody(body): ApiBody<KillBody>,
) -> Result<(Extension<Change>, Json<KillReply>), Problem> {
    let request = kill_request(body, operator.author(peer.address))?;
    let reason = request.reason.clone();
    let (name, named_by) = name_within(&state, &target, named_by, &reach).await?;
    let manager = Arc::clone(&state.parts.manager);
    // A task of its own: the kill is complete even when the operator's connection breaks.
    let done =
        tokio::spawn(async move { manager.kill(SessionRef::new(&name, named_by), request).await }).await;
    match done.map_err(|_| Problem::internal("the kill failed; see the server log"))? {
        Ok(killed) => {
            wait_until_written(&state).await;
            let change = Change { reason: Some(reason.clone()), ..Change::default() };
            Ok((Extension(change), Json(KillReply { killed, reason })))
        }
        Err(fault) => Err(not_killed(&target, fault)),
    }
}

/// Lifts the order against a session, or against an agent in it.
pub(super) async fn resume(
    State(state): State<Arc<ControlState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(operator): Extension<Operator>,
    Extension(reach): Extension<Reach>,
    Path(target): Path<String>,
    ApiQuery(SessionQuery { by: named_by }): ApiQuery<SessionQuery>,
    ApiBody(ResumeBody { agent }): ApiBody<ResumeBody>,
) -> Result<Json<Resumed>, Problem> {
    let (name, named_by) = name_within(&state, &target, named_by, &reach).await?;
    let name = SessionRef::new(&name, named_by);
    let resumed = state.parts.manager.resume(name, agent.as_deref(), &operator.author(peer.address)).await;
    if resumed.is_ok() {
        wait_until_written(&state).await;
    }
    resumed.map(Json).map_err(|fault| match fault {
        ResumeError::NotKilled { agents } => not_resumed(&target, agent.as_deref(), agents),
        ResumeError::Ambiguous(uids) => Problem::ambiguous(&target, uids),
        ResumeError::Permanent => Problem::new(ErrorCode::BlockPermanent, "the kill order is permanent"),
    })
}

/// Returns the name of a session as it is, or, for an operator of some tenants only, its uid.
///
/// # Errors
/// 404 when no session within reach has this name.
async fn name_within(
    state: &ControlState,
    target: &str,
    by: Option<NamedBy>,
    reach: &Reach,
) -> Result<(String, Option<NamedBy>), Problem> {
    if *reach == Reach::All {
        return Ok((target.to_owned(), by));
    }
    let found = sessions::find(state, SessionRef::new(target, by), reach).await?;
    let session = found.ok_or_else(|| Problem::session_not_found(target))?;
    Ok((session.uid.to_string(), Some(NamedBy::Uid)))
}

/// Waits until the history has written the order, where only the history carries orders over a restart. The legs are
/// cut already, and the operator does not wait longer than [`WRITE_WAIT`].
pub(super) async fn wait_until_written(state: &ControlState) {
    let Some(history) = state.parts.history.clone().filter(|_| !state.parts.manager.is_shared()) else {
        return;
    };
    if !history.flush(WRITE_WAIT).await {
        tracing::warn!(
            "a kill or its lifting holds, but is not in the history yet: a crash now would undo it"
        );
    }
}

/// Returns the orders in force, newest first.
pub(super) async fn list(State(state): State<Arc<ControlState>>) -> Json<KillList> {
    Json(KillList { kills: state.parts.manager.kills() })
}

/// Returns the reason of a kill.
pub(super) fn read_reason(reason: Option<String>) -> Result<String, Problem> {
    let reason = reason.unwrap_or_else(|| NO_REASON.to_owned());
    if reason.len() > REASON_MAX {
        return Err(Problem::bad_request(format!("reason is longer than {REASON_MAX} bytes")));
    }
    Ok(reason)
}

fn kill_request(body: KillBody, by: String) -> Result<KillRequest, Problem> {
    let reason = read_reason(body.reason)?;
    let agent = body.agent.map(AgentId::new);
    Ok(KillRequest { reason, by, block: body.block.map(Into::into), force: body.force, scope: None, agent })
}

fn not_killed(target: &str, fault: KillError) -> Problem {
    match fault {
        KillError::Unknown => Problem::session_not_found(target),
        KillError::AlreadyEnded { state } => Problem::new(
            ErrorCode::SessionEnded,
            format!("the session has already ended ({state}); \"force\": true blocks its id anyway"),
        )
        .state(state),
        KillError::Ambiguous(uids) => Problem::ambiguous(target, uids),
        KillError::UnknownAgent { known } => {
            let detail = "the session has no such agent; \"agents\" lists those it has";
            Problem::new(ErrorCode::AgentNotFound, detail).agents(known)
        }
        KillError::MainAgent => Problem::bad_request(
            "all agents are below the main agent; kill the session instead, without \"agent\"",
        ),
        KillError::EmptyBlock => Problem::bad_request("block.duration is 0: the kill would block nothing"),
        KillError::Store(fault) => Problem::new(ErrorCode::StoreUnavailable, fault.to_string()),
    }
}

/// Returns the problem of a resume without an order; lists the agents that have one.
fn not_resumed(target: &str, agent: Option<&str>, killed: Vec<AgentId>) -> Problem {
    let against = agent.map_or_else(String::new, |agent| format!("the agent '{agent}' of "));
    let detail =
        format!("no kill order is in force against {against}a session with the id or uid '{target}'");
    match killed.is_empty() {
        true => Problem::new(ErrorCode::NotKilled, detail),
        false => {
            Problem::new(ErrorCode::NotKilled, detail + "; \"agents\" lists its killed agents").agents(killed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::extract::read_body;

    fn read(body: &str) -> Result<KillRequest, String> {
        let request = read_body(body.as_bytes()).and_then(|body| kill_request(body, "control:test".into()));
        request.map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn everything_in_a_kill_is_optional() {
        for body in ["", " \n", "{}"] {
            let request = read(body).unwrap();
            assert_eq!((request.reason.as_str(), request.force), (NO_REASON, false), "{body:?}");
            assert!(request.block.is_none());
        }
        let body = r#"{"reason":"runaway","block":{"mode":"until_resumed"},"scope":"session","force":true}"#;
        let request = read(body).unwrap();
        assert_eq!((request.reason.as_str(), request.force), ("runaway", true));
        assert!(request.block.is_some());
    }

    #[test]
    fn what_a_kill_does_not_know_it_refuses() {
        for (body, part) in [
            (r#"{"raison":"x"}"#, "raison"),
            (r#"{"block":{"mode":"forever"}}"#, "forever"),
            (r#"{"block":{"duration":"24"}}"#, "with its unit"),
            (r#"{"scope":"principal"}"#, "principal"),
            ("nonsense", "cannot be read"),
            ("[]", "cannot be read"),
            (r#"["x"]"#, "cannot be read"),
            (r#"{"reason":"a","reason":"b"}"#, "duplicate"),
        ] {
            let fault = read(body).unwrap_err();
            assert!(fault.contains(part), "{body}: {fault}");
        }
        let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(REASON_MAX + 1));
        assert!(read(&long).unwrap_err().contains("longer than"));
    }
}
