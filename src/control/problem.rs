//! Error responses: `application/problem+json` (RFC 9457).
//!
//! A handler returns a [`Problem`]; the outermost layer writes it, since only that layer knows the request's id.
//! That layer also turns the bare error responses of axum (404, 405) into problems.

use std::fmt;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use super::api::error::{ErrorCode, ProblemDetails};
use crate::ids::{AgentId, REQUEST_ID, RequestId, Uid};
use crate::session::SessionState;
use crate::settings::fault::Fault;

/// The most uids that an error lists.
const MOST_UIDS: usize = 100;

/// An error response.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    details: Box<ProblemDetails>,
    /// Seconds after which the client may try again (`Retry-After`).
    retry_after: Option<u32>,
}

impl Problem {
    /// Returns an error with the status of its code and a sentence about this case.
    pub(super) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::with_status(status, code, detail)
    }

    fn with_status(status: StatusCode, code: ErrorCode, detail: impl Into<String>) -> Self {
        let details = ProblemDetails {
            r#type: format!("urn:elida:{}", code.name()).into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.name().into(),
            ..ProblemDetails::default()
        };
        Self { status, details: Box::new(details), retry_after: None }
    }

    /// Returns 400: the query or the body is invalid.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, detail)
    }

    /// Returns 404: no session has this name.
    pub(super) fn session_not_found(target: &str) -> Self {
        let detail = format!("no session has the id or uid '{target}'");
        Self::new(ErrorCode::SessionNotFound, detail)
    }

    /// Returns 409: several sessions have this name; lists the uids to choose from, within a bound. A single uid
    /// means that too many callers have used the id to tell whether there are others.
    pub(super) fn ambiguous(target: &str, uids: impl IntoIterator<Item = Uid>) -> Self {
        let mut uids: Vec<String> = uids.into_iter().map(|uid| uid.to_string()).collect();
        let detail = if uids.iter().any(|uid| uid == target) {
            "this is the uid of one session and the id of another; add ?by=uid or ?by=id (--by), or name the other \
             session by its uid"
                .to_owned()
        } else if uids.len() > MOST_UIDS {
            format!(
                "more than {MOST_UIDS} callers have a session with this id (the newest are listed); name one by its uid"
            )
        } else if uids.len() == 1 {
            "too many callers have used this id to tell whether another has a session with it; name the session by its \
             uid"
                .to_owned()
        } else {
            format!("{} callers have a session with this id; name one by its uid", uids.len())
        };
        uids.truncate(MOST_UIDS);
        let mut problem = Self::new(ErrorCode::SessionAmbiguous, detail);
        problem.details.uids = Some(uids);
        problem
    }

    /// Returns 500: the gateway failed.
    pub(super) fn internal(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, detail)
    }

    /// Returns the stable code.
    pub(super) fn code(&self) -> &str {
        &self.details.code
    }

    /// Adds the session's state.
    pub(super) fn state(mut self, state: SessionState) -> Self {
        self.details.state = Some(state);
        self
    }

    /// Adds the agents to choose from.
    pub(super) fn agents(mut self, agents: Vec<AgentId>) -> Self {
        self.details.agents = Some(agents);
        self
    }

    /// Adds the faults of a configuration that was not applied.
    pub(super) fn faults(mut self, faults: Vec<Fault>) -> Self {
        (self.details.applied, self.details.faults) = (Some(false), Some(faults));
        self
    }

    /// Tells the client to try again after this many seconds.
    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Returns the problem of a bare status, as axum answers unknown paths and methods.
    fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => (ErrorCode::NotFound, "there is no such endpoint"),
            StatusCode::METHOD_NOT_ALLOWED => {
                (ErrorCode::MethodNotAllowed, "this endpoint does not have this method; see the header Allow")
            }
            status if status.is_client_error() => (ErrorCode::BadRequest, "the request is invalid"),
            _ => (ErrorCode::Internal, "the request failed; see the server log"),
        };
        Self::with_status(status, code, detail)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.details.code, self.details.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Adds the request's id to a response and, if it is an error, writes its body.
pub(super) fn finish(mut response: Response, request_id: &RequestId) -> Response {
    let problem = response.extensions_mut().remove::<Problem>().or_else(|| {
        let status = response.status();
        (status.is_client_error() || status.is_server_error())
            .then(|| Problem::of_status(status))
            // A probe that answers 503 has a body of its own.
            .filter(|_| !response.headers().contains_key(header::CONTENT_TYPE))
    });
    if let Some(Problem { mut details, retry_after, .. }) = problem {
        details.request_id = request_id.to_string();
        // Only a map with keys that are not strings can fail, and there is none.
        *response.body_mut() = Body::from(serde_json::to_string(&details).unwrap_or_default());
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
    }
    if let Ok(id) = HeaderValue::from_str(request_id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
