//! A line of the audit log.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The schema of a line.
pub const SCHEMA: &str = "elida.audit/1";

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperatorLine {
    /// The principal, such as `key:ada`; `token` for the control token, `local` where none is required.
    pub id: String,
    /// The roles, without those that do not concern the action.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// The address of the connection; absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// What is written about a change. Contains no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Always `elida.audit/1`.
    pub schema: String,
    /// When it was done.
    pub at: Timestamp,
    /// Who did it.
    pub operator: OperatorLine,
    /// What was done: the `operationId` of the endpoint, such as `killSession`.
    pub action: String,
    /// The path of the request, which names the object.
    pub target: String,
    /// The status of the answer: 403 is an attempt without the right.
    pub status: u16,
    /// The code of the error; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The id of the request; absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The reason that the operator gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// SHA-256 of the object before, in hexadecimal; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// SHA-256 of the object after, in hexadecimal; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// The place of a line in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditLink {
    /// The number of the line, from 1.
    pub seq: u64,
    /// The digest of the line before it.
    pub prev: String,
    /// SHA-256 of the canonical form (RFC 8785) of the line without this member and without `seal`.
    pub hash: String,
}

/// A line as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditLine {
    /// What was done.
    #[serde(flatten)]
    pub entry: AuditEntry,
    /// Its place in the chain.
    pub chain: AuditLink,
    /// Ed25519 signature over number and digest, in hexadecimal.
    pub seal: String,
}
