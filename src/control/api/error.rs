//! Error responses: `application/problem+json` (RFC 9457), each with a stable code.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, Uid};
use crate::session::SessionState;
use crate::settings::fault::Fault;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $code:ident = $status:literal $name:literal,)*) => {
        /// Stable code of an error; `type` is `urn:elida:` and this code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $name)] $code,)*
        }

        impl ErrorCode {
            /// All codes, in the order of their statuses.
            pub const ALL: &[Self] = &[$(Self::$code,)*];

            /// The code as it is written.
            pub fn name(self) -> &'static str {
                match self { $(Self::$code => $name,)* }
            }

            /// The HTTP status of an error with this code.
            pub fn status(self) -> u16 {
                match self { $(Self::$code => $status,)* }
            }
        }
    };
}

error_codes! {
    /// Unknown or invalid parameters or body; `detail` names each.
    BadRequest = 400 "bad_request",
    /// The token is missing or wrong.
    Unauthorized = 401 "unauthorized",
    /// The name or the password is wrong, or the refresh token is not valid.
    LoginFailed = 401 "login_failed",
    /// `Host` is not in `control.allowed_hosts`.
    HostNotAllowed = 403 "host_not_allowed",
    /// `Origin` is not in `control.cors.allow_origins`.
    OriginNotAllowed = 403 "origin_not_allowed",
    /// No role of the caller permits this; `detail` names those that do.
    RoleRequired = 403 "role_required",
    /// The caller cannot decide on its own call.
    OwnApproval = 403 "own_approval",
    /// A suppression does not hold for whoever makes it.
    OwnSuppression = 403 "own_suppression",
    /// Accounts are made by admins (`auth.people.registration`), or the invitation is not valid.
    RegistrationClosed = 403 "registration_closed",
    /// No endpoint has this path.
    NotFound = 404 "not_found",
    /// No session has this id or uid.
    SessionNotFound = 404 "session_not_found",
    /// No key has this id.
    KeyNotFound = 404 "key_not_found",
    /// No backend has this name.
    BackendNotFound = 404 "backend_not_found",
    /// No budget has this name.
    BudgetNotFound = 404 "budget_not_found",
    /// The budget has no override in force with this id.
    OverrideNotFound = 404 "override_not_found",
    /// No approval has this id.
    ApprovalNotFound = 404 "approval_not_found",
    /// No suppression in force has this id.
    SuppressionNotFound = 404 "suppression_not_found",
    /// No account has this name.
    UserNotFound = 404 "user_not_found",
    /// People do not log in here (`auth.people.login`).
    LoginDisabled = 404 "login_disabled",
    /// The history has no record of this session.
    RecordNotFound = 404 "record_not_found",
    /// The history is disabled, or its file cannot be used.
    HistoryDisabled = 404 "history_disabled",
    /// No kill order is in force against this session or agent; `agents` lists the agents that have one.
    NotKilled = 404 "not_killed",
    /// The session has no such agent; `agents` lists those it has.
    AgentNotFound = 404 "agent_not_found",
    /// The endpoint has other methods; see the header `Allow`.
    MethodNotAllowed = 405 "method_not_allowed",
    /// The request body did not arrive within 10 s.
    RequestTimeout = 408 "request_timeout",
    /// Several sessions have this name; `uids` lists them.
    SessionAmbiguous = 409 "session_ambiguous",
    /// The session has already ended, in `state`; `"force": true` blocks its id anyway.
    SessionEnded = 409 "session_ended",
    /// A key with this id exists.
    KeyExists = 409 "key_exists",
    /// An account with this name exists.
    UserExists = 409 "user_exists",
    /// The approval is decided, used or expired, or the caller has approved it already.
    ApprovalOver = 409 "approval_over",
    /// The configuration declares the key; it is changed there.
    ManagedByFile = 409 "managed_by_file",
    /// The kill order is permanent.
    BlockPermanent = 409 "block_permanent",
    /// The request body is larger than 64 KiB.
    BodyTooLarge = 413 "body_too_large",
    /// The new configuration is invalid and was not applied; `faults` lists every fault.
    ConfigInvalid = 422 "config_invalid",
    /// Four exports are running.
    TooManyExports = 429 "too_many_exports",
    /// The event feed has `control.limits.max_event_feeds` readers.
    TooManyFeeds = 429 "too_many_feeds",
    /// Too many attempts to log in: five a minute for an account, and for an address.
    TooManyAttempts = 429 "too_many_attempts",
    /// The gateway failed; see the server log.
    Internal = 500 "internal",
    /// The session store did not accept the order.
    StoreUnavailable = 503 "store_unavailable",
    /// `state.db` cannot be written; nothing was changed.
    StateUnavailable = 503 "state_unavailable",
    /// The history cannot be read; see the server log.
    HistoryUnavailable = 503 "history_unavailable",
    /// The history did not answer within 30 s.
    HistorySlow = 503 "history_slow",
    /// Too many history queries are running, and none finished within 10 s.
    HistoryBusy = 503 "history_busy",
    /// Another reload is running and did not finish within 10 s.
    ReloadBusy = 503 "reload_busy",
}

impl ErrorCode {
    /// True when the response says in `Retry-After` when to try again.
    pub fn has_retry_after(self) -> bool {
        matches!(
            self,
            Self::TooManyAttempts
                | Self::TooManyExports
                | Self::TooManyFeeds
                | Self::HistoryBusy
                | Self::ReloadBusy
        )
    }
}

/// Body of every error response. The members after `request_id` are present with the codes that document them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Problem")]
pub struct ProblemDetails {
    /// `urn:elida:` and the code.
    pub r#type: Cow<'static, str>,
    /// The reason phrase of the status.
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// One sentence about this case.
    pub detail: String,
    /// The stable code.
    // A string, so that a client can read the codes of newer versions.
    #[schemars(with = "ErrorCode")]
    pub code: Cow<'static, str>,
    /// The request's id, also in the header `X-Request-ID`.
    pub request_id: String,
    /// `session_ambiguous`: the uids to choose from, at most 100, the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<Uid>>")]
    pub uids: Option<Vec<String>>,
    /// `session_ended`: the state of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<SessionState>,
    /// `agent_not_found`: the agents of the session; `not_killed`: its agents with a kill order in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<AgentId>>,
    /// `config_invalid`: always false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<bool>,
    /// `config_invalid`: every fault of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<Vec<Fault>>,
}
