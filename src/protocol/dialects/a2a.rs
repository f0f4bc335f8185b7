//! A2A (Agent2Agent), in JSON-RPC or plain HTTP: `message/send`, `message/stream` and the agent card.

use super::json_rpc;
use super::plain;
use super::request_shape::{Part, RequestShape};
use super::spec::PathRule::{Any, EndsWith};
use super::spec::{BackendKind, Content, Dialect, DialectSpec, ProviderSpec};
use crate::policy::rule::Role;

/// a2a-protocol.org/latest/specification: `Message`, in either binding.
static REQUEST: RequestShape = RequestShape {
    members: &[("params", Part::Envelope), ("message", Part::Turns), ("request", Part::Turns)],
    roles: &[
        ("user", Role::User),
        ("ROLE_USER", Role::User),
        ("agent", Role::Assistant),
        ("ROLE_AGENT", Role::Assistant),
    ],
    ..RequestShape::UNKNOWN
};

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "a2a",
    content: Content::JsonRpc,
    rules: &[
        (Any, Some("a2a-version")),
        (EndsWith("/message:send"), None),
        (EndsWith("/message:stream"), None),
        (EndsWith("/.well-known/agent-card.json"), None),
    ],
    request_shape: &REQUEST,
    answers: Some(&json_rpc::ANSWERS),
    errors: json_rpc::ERRORS,
    ..DialectSpec::MODEL
};

pub(super) static PROVIDER: ProviderSpec = ProviderSpec {
    name: "a2a",
    summary: "An A2A agent, at whatever path.",
    reads: &[(&plain::SPEC, &SPEC)],
    ..ProviderSpec::SERVER
};

impl Dialect {
    /// A2A, in JSON-RPC or plain HTTP.
    pub const A2A: Self = Self(&SPEC);
}

impl BackendKind {
    /// An A2A agent, at whatever path.
    pub const A2A: Self = Self(&PROVIDER);
}
