//! Who calls the control API, and whether they may.
//!
//! [`super::auth`] finds the [`Operator`] before any route is looked at; [`permit`] runs before each endpoint: it checks the
//! right that the endpoint needs, and writes a line of the audit log for each change. An endpoint without an operator is
//! refused, so that a route that is added wrongly is closed, not open.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::timeout;

use super::api::error::ErrorCode;
use super::listen::Peer;
use super::problem::Problem;
use super::service::ControlState;
use crate::history::audit::line::SCHEMA;
use crate::history::audit::{AuditEntry, OperatorLine};
use crate::history::proof::hash_chain::{canonical, digest};
use crate::identity::KnownOperator;
use crate::identity::roles::{Grants, Reach, Right, Role};
use crate::ids::{Membership, RequestId};
use crate::notify::AUDIT;

/// How long an answer waits for its line of the audit log. The change is done already, and the line is written even if it
/// takes longer.
const AUDIT_WAIT: Duration = Duration::from_secs(2);

/// The caller of the control API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operator {
    /// The principal; `token` for the control token, `local` where none is required.
    id: Arc<str>,
    grants: Grants,
    membership: Option<Arc<Membership>>,
    /// The name and the log-in of a person who logged in here.
    person: Option<(String, String)>,
    credential: Option<Credential>,
}

/// What the caller has shown. It is looked up again while a stream is open, and when a ticket is used.
#[derive(Clone, PartialEq, Eq)]
struct Credential(Arc<[u8]>);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The paths that a ticket may be for: streams, which browsers open without header fields.
pub(super) const TICKET_PATHS: [&str; 1] = ["/control/events"];

impl Operator {
    fn new(id: &str, grants: Grants) -> Self {
        Self { id: id.into(), grants, membership: None, person: None, credential: None }
    }

    /// Who shows the control token.
    pub(super) fn with_token() -> Self {
        Self::new("token", Grants::admin())
    }

    /// Anyone on this machine, where neither a token nor a role is configured.
    pub(super) fn local() -> Self {
        Self::new("local", Grants::admin())
    }

    /// A principal with these roles.
    pub(super) fn principal(known: KnownOperator) -> Self {
        let KnownOperator { id, grants, membership, person } = known;
        Self { membership, person, ..Self::new(id.as_str(), grants) }
    }

    /// Returns the operator with the credential that it has shown.
    pub(super) fn showing(self, credential: &[u8]) -> Self {
        Self { credential: Some(Credential(credential.into())), ..self }
    }

    /// Returns the credential that the caller has shown; `None` where none is required.
    pub(super) fn credential(&self) -> Option<&Arc<[u8]>> {
        self.credential.as_ref().map(|Credential(shown)| shown)
    }

    /// Returns the name and the log-in of a person who logged in here.
    pub(super) fn person(&self) -> Option<(&str, &str)> {
        self.person.as_ref().map(|(name, login)| (name.as_str(), login.as_str()))
    }

    /// Returns tenant and groups; `None` if the caller has neither.
    pub(super) fn membership(&self) -> Option<&Membership> {
        self.membership.as_deref()
    }

    /// Nobody: a probe needs no credential.
    pub(super) fn nobody() -> Self {
        Self::new("", Grants::default())
    }

    /// Returns whether a credential was checked, or none is required.
    pub(super) fn is_known(&self) -> bool {
        !self.grants.is_empty()
    }

    /// Returns the id of the principal.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the id of the principal; `None` for the control token, and where none is required.
    pub(super) fn principal_id(&self) -> Option<&str> {
        Some(self.id()).filter(|id| id.contains(':'))
    }

    /// Returns the roles.
    pub(super) fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Returns the author of an order: the principal, or the address where the token is shared.
    pub(super) fn author(&self, peer: SocketAddr) -> String {
        match self.id.contains(':') {
            true => self.id.to_string(),
            false => format!("control:{}", peer.ip().to_canonical()),
        }
    }
}

/// What the caller of an endpoint needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: probes, and what makes credentials.
    Nothing,
    /// A credential; no role.
    Credential,
    /// A role that grants this.
    Right(Right),
}

/// An endpoint, as [`permit`] sees it.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) state: Arc<ControlState>,
    /// Its `operationId`.
    pub(super) action: &'static str,
    pub(super) need: Need,
    /// Whether it covers the objects of one tenant, where the caller's role is for one.
    pub(super) is_by_tenant: bool,
    /// Whether a line is written for it although it changes nothing.
    pub(super) is_audited: bool,
}

/// What a handler adds to the line of the audit log, as an extension of its response.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    /// Who made it, where no credential said so.
    pub(super) by: Option<String>,
    /// The name of an object that the path does not name, because it is new.
    pub(super) made: Option<String>,
    /// The reason that the operator gave.
    pub(super) reason: Option<String>,
    /// The digest of the object before.
    pub(super) before: Option<String>,
    /// The digest of the object after.
    pub(super) after: Option<String>,
}

/// Returns the digest of an object for the audit log: SHA-256 of its canonical form (RFC 8785), in hexadecimal.
pub(super) fn digest_of(object: &Value) -> String {
    digest(&canonical(object))
}

/// Lets a request pass to its endpoint, and writes what it changed into the audit log before the answer is sent.
pub(super) async fn permit(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let Some(operator) = request.extensions().get::<Operator>().cloned() else {
        return Problem::internal("the request was not checked; see the server log").into_response();
    };
    let is_audited = gate.is_audited || !matches!(*request.method(), Method::GET | Method::HEAD);
    let line = is_audited.then(|| entry(&gate, &operator, &request));
    match gate.need {
        Need::Nothing => {}
        Need::Credential if operator.id.is_empty() => {
            return Problem::new(ErrorCode::Unauthorized, "this endpoint needs a credential").into_response();
        }
        Need::Credential => {}
        Need::Right(right) => match gate.reach(&operator, right) {
            Ok(reach) => drop(request.extensions_mut().insert(reach)),
            Err(problem) => return recorded(&gate.state, line, problem.into_response()).await,
        },
    }
    if line.is_none() {
        return next.run(request).await;
    }
    // A task of its own: a change is whole, and is in the audit log, even when its caller hangs up at once.
    let done = tokio::spawn(async move {
        let response = next.run(request).await;
        // Strangers must not fill the disk: what needs no credential says itself what is worth a line.
        let line =
            line.filter(|_| gate.need != Need::Nothing || response.extensions().get::<Change>().is_some());
        recorded(&gate.state, line, response).await
    });
    done.await.unwrap_or_else(|_| Problem::internal("the change failed; see the server log").into_response())
}

impl Gate {
    /// Returns the objects that the operator may see or change here.
    ///
    /// # Errors
    /// No role of the operator grants this.
    fn reach(&self, operator: &Operator, right: Right) -> Result<Reach, Problem> {
        let id = operator.id();
        match operator.grants().reach(right) {
            None => {
                let allowed: Vec<&str> = right.roles().map(|role| role.name()).collect();
                let detail = match allowed[..] {
                    [role] => format!("{id} has no role that permits this; it takes the role {role}"),
                    _ => {
                        format!("{id} has no role that permits this; it takes one of {}", allowed.join(", "))
                    }
                };
                Err(Problem::new(ErrorCode::RoleRequired, detail))
            }
            Some(reach @ Reach::Tenants(_)) if !self.is_by_tenant => {
                let detail = format!(
                    "the roles of {id} cover {}; this endpoint cannot be limited to a tenant",
                    reach.tenants().join(", ")
                );
                Err(Problem::new(ErrorCode::RoleRequired, detail))
            }
            Some(reach) => Ok(reach),
        }
    }
}

/// Returns the line of a request, without its outcome.
fn entry(gate: &Gate, operator: &Operator, request: &Request) -> AuditEntry {
    let address = request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| peer.address.ip());
    let is_granting = |role: Role| matches!(gate.need, Need::Right(right) if role.grants(right));
    let roles = operator.grants().iter().filter(|(role, _)| is_granting(*role));
    AuditEntry {
        schema: SCHEMA.to_owned(),
        at: Timestamp::now(),
        operator: OperatorLine {
            id: if operator.id.is_empty() { "nobody" } else { operator.id() }.to_owned(),
            roles: roles.map(|(role, _)| role.name().to_owned()).collect(),
            address: address.map(|address| address.to_canonical().to_string()),
        },
        action: gate.action.to_owned(),
        target: gate.state.parts.runtime.auth().without_keys(request.uri().path()).into_owned(),
        status: 0,
        code: None,
        request_id: request.extensions().get::<RequestId>().map(ToString::to_string),
        reason: None,
        before: None,
        after: None,
    }
}

/// Returns the response after its line, if there is one, was written. A line that cannot be written is logged whole and
/// counted: a kill must not wait for a full disk.
async fn recorded(state: &Arc<ControlState>, line: Option<AuditEntry>, mut response: Response) -> Response {
    let Some(mut line) = line else { return response };
    line.status = response.status().as_u16();
    line.code = response.extensions().get::<Problem>().map(|problem| problem.code().to_owned());
    if let Some(Change { by, made, reason, before, after }) = response.extensions_mut().remove() {
        let auth = state.parts.runtime.auth();
        if let Some(made) = made {
            line.target = format!("{}/{}", line.target, auth.without_keys(&made));
        }
        line.reason = reason.map(|reason| auth.without_keys(&reason).into_owned());
        (line.before, line.after) = (before, after);
        line.operator.id = by.unwrap_or(line.operator.id);
    }
    if state.parts.notifier.wants(AUDIT)
        && let Ok(line) = serde_json::to_value(&line)
    {
        state.parts.notifier.tell(AUDIT, &line);
    }
    let written = state.parts.audit.submit(line);
    if timeout(AUDIT_WAIT, written).await.is_err() {
        tracing::warn!("a change is done, but its line of the audit log is still being written");
    }
    response
}
