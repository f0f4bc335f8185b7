//! The names things go by: newtypes, so that one id is never taken for another.

use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! shared_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the name as it is; whoever reads it from a peer has validated it.
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// Maps can be searched with a borrowed text, without an allocation.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

shared_name! {
    /// The id of a session as the client or operator writes it: correlation, not authority.
    SessionId
}
shared_name! {
    /// Who calls: `cred:<digest>` or `anon:<address>`.
    PrincipalId
}
shared_name! {
    /// The namespace of a session id: the principal's id, or empty with `session.scope: global`.
    Scope
}
shared_name! {
    /// What a principals' key goes by; the key cannot be found from it.
    KeyId
}
shared_name! {
    /// One agent inside a session, as its client names it: a label, not authority.
    AgentId
}
shared_name! {
    /// The name of a configured backend.
    BackendName
}
shared_name! {
    /// One request's id, sent upstream and back as `X-Request-ID`.
    RequestId
}

impl Scope {
    /// The namespace of a principal's own ids; it shares the principal's text.
    pub fn of(principal: &PrincipalId) -> Self {
        Self(Arc::clone(&principal.0))
    }
}

impl RequestId {
    /// A fresh id (UUID version 7, RFC 9562: sortable by time).
    pub fn fresh() -> Self {
        let mut text = Uuid::encode_buffer();
        Self::new(&*Uuid::now_v7().hyphenated().encode_lower(&mut text))
    }
}

/// Which session: a session id inside its scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The namespace the id lives in.
    pub scope: Scope,
    /// The id inside it.
    pub id: SessionId,
}

/// One incarnation of a session, unique for ever: `s_` and a UUID version 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Uuid);

impl Uid {
    /// A fresh uid; later ones sort after earlier ones.
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads the written form and no other one of a UUID, so that a text that is a uid is one name of one
    /// incarnation; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("s_")?;
        let is_written_so = digits.len() == 32
            && digits.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
        is_written_so.then(|| Uuid::try_parse(digits).ok().map(Self)).flatten()
    }

    /// The number it is.
    pub fn as_u128(self) -> u128 {
        self.0.as_u128()
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s_{}", self.0.simple())
    }
}

impl JsonSchema for Uid {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Uid".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "One incarnation of a session, unique for ever: a UUID version 7.",
            "type": "string",
            "pattern": "^s_[0-9a-f]{32}$",
        })
    }
}

impl Serialize for Uid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a uid"))
    }
}

/// One leg (request, stream, socket) inside a session; unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LegId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_reads_back_what_it_wrote() {
        let uid = Uid::fresh();
        assert_eq!(Uid::parse(&uid.to_string()), Some(uid));
        assert_eq!(Uid::parse("s_nonsense"), None);
        assert_eq!(Uid::parse(&uid.to_string()[2..]), None);
        let upper = format!("s_{}", uid.to_string()[2..].to_uppercase());
        assert_eq!(Uid::parse(&format!("s_{}", Uuid::now_v7())), None, "with hyphens");
        assert_eq!(Uid::parse(&upper), None);
    }

    #[test]
    fn later_uids_sort_after_earlier_ones() {
        let first = Uid::fresh();
        assert!(first.to_string() <= Uid::fresh().to_string());
    }
}
