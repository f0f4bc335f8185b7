//! Identifiers as newtypes, so that they cannot be confused.

pub mod documents;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use jiff::Timestamp;
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
            /// Wraps the text without validating it.
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// Lets maps be searched by `&str` without an allocation.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

shared_name! {
    /// The id of a session, as clients and operators write it: correlation, not authority.
    SessionId
}
shared_name! {
    /// The caller: `key:<id>`, `cred:<digest>` or `anon:<address>`.
    PrincipalId
}
shared_name! {
    /// The namespace of a session id: the principal's id, or empty with `session.scope: global`.
    Scope
}
shared_name! {
    /// Identifies a key of principals without revealing it.
    KeyId
}
shared_name! {
    /// An agent inside a session, as the client names it: a label, not authority.
    AgentId
}
shared_name! {
    /// The name of a configured backend.
    BackendName
}
/// The field that carries a request's id, from the client and to backend and client.
pub const REQUEST_ID: &str = "x-request-id";

shared_name! {
    /// The id of a request, sent upstream and downstream as `X-Request-ID`.
    RequestId
}

/// Where a principal belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Membership {
    /// The tenant; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// The groups, in the order of the configuration.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub groups: Box<[Arc<str>]>,
    /// What else is said of it, by name.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// What is said of a principal, by name.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

impl Membership {
    /// Returns the membership of a principal; `None` if it has no tenant, no groups and no labels.
    pub fn of(tenant: Option<Arc<str>>, groups: Box<[Arc<str>]>, labels: Labels) -> Option<Arc<Self>> {
        let is_member = tenant.is_some() || !groups.is_empty() || !labels.is_empty();
        is_member.then(|| Arc::new(Self { tenant, groups, labels }))
    }
}

impl Scope {
    /// Returns the namespace of a principal's session ids; shares the text of the principal.
    pub fn of(principal: &PrincipalId) -> Self {
        Self(Arc::clone(&principal.0))
    }
}

impl RequestId {
    /// Creates an id (UUID version 7, RFC 9562: sortable by time).
    pub fn fresh() -> Self {
        let mut text = Uuid::encode_buffer();
        Self::new(&*Uuid::now_v7().hyphenated().encode_lower(&mut text))
    }
}

/// What counts as one client address in limits and in the health of backends: an IPv4 address, or the /64 of an IPv6
/// address, which is what one customer usually gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork(u64);

impl ClientNetwork {
    /// Returns the network of an address. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(u32::from(address))),
            // Global IPv6 addresses begin with 2 or 3, so none equals an IPv4 address.
            IpAddr::V6(address) => Self((u128::from(address) >> 64) as u64),
        }
    }

    /// Returns the network as a number; the same for equal networks only.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

/// A session id in its scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The namespace of the id.
    pub scope: Scope,
    /// The id within the scope.
    pub id: SessionId,
}

/// One incarnation of a session, globally unique: `s_` and a UUID version 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Uuid);

impl Uid {
    /// Sorts after every uid.
    pub const MAX: Self = Self(Uuid::max());

    /// Creates a uid; later ones sort after earlier ones.
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }

    /// Parses only the form that `Display` writes, so that each incarnation has exactly one textual uid; `None` for any
    /// other text.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("s_")?;
        let is_written_so = digits.len() == 32
            && digits.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
        is_written_so.then(|| Uuid::try_parse(digits).ok().map(Self)).flatten()
    }

    /// Returns the UUID as a number.
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

/// A leg (request, stream, WebSocket) of a session; unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LegId(pub u64);

/// For how long a caller is accepted. Its open requests share it and end with it.
#[derive(Debug, Default)]
pub struct Validity {
    is_revoked: AtomicBool,
    /// Unix milliseconds; 0 without an end.
    expires_ms: AtomicI64,
}

/// Why a caller is no longer accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// Its credential was revoked, or what it may do was narrowed.
    Revoked,
    /// Its credential has expired.
    Expired,
}

impl Validity {
    /// Returns one that ends at this time; never without one.
    pub fn until(expires: Option<Timestamp>) -> Arc<Self> {
        let validity = Arc::<Self>::default();
        validity.set_expiry(expires);
        validity
    }

    /// Ends it for good.
    pub fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Release);
    }

    /// Replaces the time at which it ends.
    pub fn set_expiry(&self, expires: Option<Timestamp>) {
        self.expires_ms.store(expires.map_or(0, Timestamp::as_millisecond), Ordering::Release);
    }

    /// Returns when it ends by itself.
    pub fn expires(&self) -> Option<Timestamp> {
        let at = Some(self.expires_ms.load(Ordering::Acquire)).filter(|at| *at != 0);
        Timestamp::from_millisecond(at?).ok()
    }

    /// Returns whether it was revoked.
    pub fn is_revoked(&self) -> bool {
        self.is_revoked.load(Ordering::Acquire)
    }

    /// Returns why it has ended; `None` while it lasts.
    pub fn fault(&self, now: Timestamp) -> Option<Invalid> {
        if self.is_revoked() {
            return Some(Invalid::Revoked);
        }
        self.expires().filter(|at| *at <= now).map(|_| Invalid::Expired)
    }
}

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

/// The digits of base62.
pub const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Returns the CRC-32 of a text in six digits of base62, with which keys of this gateway, of GitHub and of npm end.
pub fn base62_checksum(text: &[u8]) -> [u8; 6] {
    let mut rest = crc32fast::hash(text);
    let mut digits = [b'0'; 6];
    for place in digits.iter_mut().rev() {
        *place = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// A document that all instances keep: the one with the higher revision counts, and of equal ones the greater text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDocument {
    /// Its name.
    pub id: String,
    /// Grows with each change.
    pub revision: u64,
    /// Its JSON.
    pub text: String,
}
