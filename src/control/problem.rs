//! What a refusal looks like: `application/problem+json` (RFC 9457).
//!
//! A handler returns a [`Problem`]; the outermost layer writes it, since only that knows the request's id.
//! That layer also turns the bare error answers of axum (404, 405) into problems.

use std::fmt;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::ids::{RequestId, Uid};

/// Header that carries the request's id.
const REQUEST_ID: &str = "x-request-id";

/// A refusal.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    more: Map<String, Value>,
    /// Seconds after which the caller may come again (`Retry-After`).
    retry_after: Option<u32>,
}

impl Problem {
    /// A refusal with its status, its stable code and a sentence about this case.
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), more: Map::new(), retry_after: None }
    }

    /// 400: the request makes no sense.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 404: no such session.
    pub(super) fn session_not_found(target: &str) -> Self {
        let detail = format!("no session with the id or uid '{target}' is known here");
        Self::new(StatusCode::NOT_FOUND, "session_not_found", detail)
    }

    /// 409: the name means several sessions; lists what to name instead.
    pub(super) fn ambiguous(target: &str, uids: impl IntoIterator<Item = Uid>) -> Self {
        let uids: Vec<String> = uids.into_iter().map(|uid| uid.to_string()).collect();
        let detail = match uids.iter().any(|uid| uid == target) {
            true => {
                "this is the uid of one session and the id of another; add ?by=uid or ?by=id (--by), or name \
                     the other one by its uid"
                    .to_owned()
            }
            false => format!("{} callers have a session with this id; name one by its uid", uids.len()),
        };
        Self::new(StatusCode::CONFLICT, "session_ambiguous", detail).with("uids", uids)
    }

    /// 500: a fault of ours.
    pub(super) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// Adds a member of its own to the problem.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// The caller may come again after so many seconds.
    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// A bare status, as axum answers unknown paths and methods.
    fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("not_found", "there is no such endpoint"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method_not_allowed", "this endpoint has other methods, see Allow")
            }
            status if status.is_client_error() => ("bad_request", "the request makes no sense"),
            _ => ("internal", "the request failed"),
        };
        Self::new(status, code, detail)
    }

    fn body(&self, request_id: &RequestId) -> Value {
        let mut body = json!({
            "type": format!("urn:elida:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        });
        if let Some(body) = body.as_object_mut() {
            body.extend(self.more.clone());
        }
        body
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives an answer its request id and, if it is a refusal, its body.
pub(super) fn finish(mut response: Response, request_id: &RequestId) -> Response {
    let problem = response.extensions_mut().remove::<Problem>().or_else(|| {
        let status = response.status();
        (status.is_client_error() || status.is_server_error())
            .then(|| Problem::of_status(status))
            // A probe that answers 503 has a body of its own.
            .filter(|_| !response.headers().contains_key(header::CONTENT_TYPE))
    });
    if let Some(problem) = problem {
        *response.body_mut() = Body::from(problem.body(request_id).to_string());
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = problem.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
    }
    if let Ok(id) = HeaderValue::from_str(request_id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
