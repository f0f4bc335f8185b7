//! Killing a session, lifting a kill, and the orders in force.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, Path, RawQuery, State};
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::query;
use crate::control::listen::Peer;
use crate::control::problem::Problem;
use crate::control::service::Door;
use crate::ids::AgentId;
use crate::session::{Block, KillError, KillRequest, Killed, ResumeError, SessionRef};

/// A reason is shown to the client; more bytes than this are refused.
const REASON_MAX: usize = 1024;
/// An answer waits so long for the history to have a kill or its lifting.
const KEPT: Duration = Duration::from_millis(100);
/// The reason of a kill that names none.
const NO_REASON: &str = "no reason given";

/// What a kill may say; all of it is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KillBody {
    reason: Option<String>,
    block: Option<Block>,
    /// How far the order reaches; there is one answer so far.
    scope: Option<Reach>,
    force: bool,
    /// Only this agent of the session and all below it.
    agent: Option<String>,
}

/// What a resume may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ResumeBody {
    /// The agent whose block is lifted, instead of the session's.
    agent: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reach {
    Session,
}

/// Cuts every leg of a session, or of an agent and those below it, and refuses them from now on.
pub(super) async fn kill(
    State(door): State<Arc<Door>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(target): Path<String>,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let by_what = query::named_by(query.as_deref())?;
    let request = kill_request(&body.map_err(unreadable)?, by(peer))?;
    let reason = request.reason.clone();
    let (manager, name) = (Arc::clone(&door.parts.manager), target.clone());
    // A task of its own: an operator whose connection breaks has still killed.
    let done =
        tokio::spawn(async move { manager.kill(SessionRef::new(&name, by_what), request).await }).await;
    match done.map_err(|_| Problem::internal("the kill broke off; the log says why"))? {
        Ok(killed) => {
            kept(&door).await;
            Ok(Json(json!(KillReply { killed, reason })))
        }
        Err(fault) => Err(not_killed(&target, fault)),
    }
}

/// Lifts the order against a session, or against an agent in it.
pub(super) async fn resume(
    State(door): State<Arc<Door>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(target): Path<String>,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let name = SessionRef::new(&target, query::named_by(query.as_deref())?);
    let ResumeBody { agent } = read(&body.map_err(unreadable)?)?;
    let resumed = door.parts.manager.resume(name, agent.as_deref(), &by(peer)).await;
    if resumed.is_ok() {
        kept(&door).await;
    }
    resumed.map(|resumed| Json(json!(resumed))).map_err(|fault| match fault {
        ResumeError::NotKilled { agents } => not_resumed(&target, agent.as_deref(), &agents),
        ResumeError::Ambiguous(uids) => Problem::ambiguous(&target, uids),
        ResumeError::Permanent => {
            Problem::new(StatusCode::CONFLICT, "block_permanent", "the kill order is permanent")
        }
    })
}

/// Waits until the history has it, where that alone carries orders over a restart. The cut does not wait, nor
/// does the operator for long.
async fn kept(door: &Door) {
    let Some(history) = door.parts.history.clone().filter(|_| !door.parts.manager.is_shared()) else {
        return;
    };
    if !history.flush(KEPT).await {
        tracing::warn!(
            "a kill or its lifting holds, but is not in the history yet: a crash now would undo it"
        );
    }
}

/// The orders in force, newest first.
pub(super) async fn list(State(door): State<Arc<Door>>) -> Json<Value> {
    Json(json!({"kills": door.parts.manager.kills()}))
}

/// The answer to a kill.
#[derive(Serialize)]
struct KillReply {
    #[serde(flatten)]
    killed: Killed,
    reason: String,
}

/// Reads a body all of whose members are optional.
fn read<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    match body.trim_ascii() {
        b"" => Ok(T::default()),
        // serde would also take an array for a struct, member by member.
        json if json.first() != Some(&b'{') => {
            Err(Problem::bad_request("the body cannot be read: it is no JSON object"))
        }
        json => serde_json::from_slice(json)
            .map_err(|fault| Problem::bad_request(format!("the body cannot be read: {fault}"))),
    }
}

fn kill_request(body: &[u8], by: String) -> Result<KillRequest, Problem> {
    let body: KillBody = read(body)?;
    let reason = body.reason.unwrap_or_else(|| NO_REASON.to_owned());
    if reason.len() > REASON_MAX {
        return Err(Problem::bad_request(format!("reason is longer than {REASON_MAX} bytes")));
    }
    let agent = body.agent.map(AgentId::new);
    Ok(KillRequest { reason, by, block: body.block, force: body.force, scope: None, agent })
}

fn not_killed(target: &str, fault: KillError) -> Problem {
    match fault {
        KillError::Unknown => Problem::session_not_found(target),
        KillError::AlreadyEnded { state } => Problem::new(
            StatusCode::CONFLICT,
            "session_ended",
            format!("the session has already ended ({state}); \"force\": true blocks its id all the same"),
        )
        .with("state", state.name()),
        KillError::Ambiguous(uids) => Problem::ambiguous(target, uids),
        KillError::UnknownAgent { known } => Problem::new(
            StatusCode::NOT_FOUND,
            "agent_not_found",
            "the session has no such agent; name one of those in \"agents\"",
        )
        .with("agents", json!(known)),
        KillError::MainAgent => Problem::bad_request(
            "the main agent and all it started are the whole session; kill that, without \"agent\"",
        ),
        KillError::EmptyBlock => Problem::bad_request("block.duration is 0: the kill would block nothing"),
        KillError::Store(fault) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", fault.to_string())
        }
    }
}

/// Nothing to lift: names the agents against which orders do stand.
fn not_resumed(target: &str, agent: Option<&str>, killed: &[AgentId]) -> Problem {
    let whom = agent.map_or_else(String::new, |agent| format!("the agent '{agent}' of "));
    let detail = format!("no kill order stands against {whom}a session with the id or uid '{target}'");
    let problem = |detail: String| Problem::new(StatusCode::NOT_FOUND, "not_killed", detail);
    match killed {
        [] => problem(detail),
        killed => {
            problem(detail + "; orders stand against those in \"agents\"").with("agents", json!(killed))
        }
    }
}

/// Who gives an order: there is one token without a name, so the address says most.
fn by(peer: Peer) -> String {
    format!("control:{}", peer.address.ip().to_canonical())
}

fn unreadable(rejection: BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body is larger than 64 KiB")
        }
        _ => Problem::bad_request("the body broke off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<KillRequest, String> {
        kill_request(body.as_bytes(), "control:test".into()).map_err(|problem| format!("{problem:?}"))
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
