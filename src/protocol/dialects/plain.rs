//! HTTP that is not read.

use super::request_shape::RequestShape;
use super::spec::{BackendKind, Content, Dialect, DialectSpec, ProviderSpec};

/// What no rule matches.
pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "plain",
    content: Content::Unread,
    request_shape: &RequestShape::UNKNOWN,
    ..DialectSpec::MODEL
};

pub(super) static PROVIDER: ProviderSpec =
    ProviderSpec { name: "http", summary: "Anything else that speaks HTTP.", ..ProviderSpec::SERVER };

impl Dialect {
    /// Not an API that is known here.
    pub const PLAIN: Self = Self(&SPEC);
}

impl BackendKind {
    /// Anything else that speaks HTTP.
    pub const HTTP: Self = Self(&PROVIDER);
}
