//! The content of an error for a request that is refused or cut; a dialect serializes it.

use super::rpc::Rpc;
use crate::error::RefusalMetadata;

/// The class of an error; it determines the `type` word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The caller does not show who it is.
    Authentication,
    /// The caller may not do this (a killed session, a policy).
    Permission,
    /// The request makes no sense.
    InvalidRequest,
    /// Its header fields do not say what its body says.
    HeaderMismatch,
    /// The request is too large.
    TooLarge,
    /// No such route or backend.
    NotFound,
    /// Too many requests.
    RateLimit,
    /// No capacity now.
    Overloaded,
    /// Something took too long.
    Timeout,
    /// A fault of the gateway or the backend.
    Api,
}

impl ErrorClass {
    /// The `type` word; both vendors' clients treat it as an open set.
    pub fn word(self) -> &'static str {
        match self {
            Self::Authentication => "authentication_error",
            Self::Permission => "permission_error",
            Self::InvalidRequest | Self::HeaderMismatch => "invalid_request_error",
            Self::TooLarge => "request_too_large",
            Self::NotFound => "not_found_error",
            Self::RateLimit => "rate_limit_error",
            Self::Overloaded => "overloaded_error",
            Self::Timeout => "timeout_error",
            Self::Api => "api_error",
        }
    }
}

/// A refusal to be worded.
#[derive(Clone, Copy, Debug)]
pub struct ErrorBody<'a> {
    /// The stable code, `session_killed`.
    pub code: &'a str,
    /// Its class.
    pub kind: ErrorClass,
    /// The HTTP status that goes with it, which some dialects repeat.
    pub status: u16,
    /// The sentence the user sees.
    pub message: &'a str,
    /// The session, when one is known.
    pub session_id: Option<&'a str>,
    /// The request.
    pub request_id: &'a str,
    /// The JSON-RPC request, when it was read.
    pub rpc: Option<&'a Rpc>,
    /// The limit or budget that is used up, if that is the reason.
    pub metadata: Option<&'a RefusalMetadata>,
}
