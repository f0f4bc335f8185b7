//! The `session:` section. Two modules read it that do not know each other: `session` (lifetimes, limits, kills) and
//! `identity` (how the session of a request is found).

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::identity::{self, IdentityConfig};
use crate::session::{self, SessionConfig};
use crate::settings::fault::Faults;

/// The keys of both modules in one section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct SessionSection {
    #[serde(flatten)]
    pub(super) session: SessionConfig,
    #[serde(flatten)]
    pub(super) identity: IdentityConfig,
}

impl SessionSection {
    /// Compiles the keys of both modules.
    pub(super) fn compile(
        self,
        faults: &mut Faults,
    ) -> (Option<session::Settings>, Option<identity::Settings>) {
        (self.session.compile(faults), self.identity.compile(faults))
    }
}

/// Written by hand: `#[serde(flatten)]` would lose the path of a fault and accept unknown keys.
impl<'de> Deserialize<'de> for SessionSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Visitor)
    }
}

/// A key of the section. An unknown one fails while the key is read, so that the fault has the path of the key.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Store,
    IdleTimeout,
    MaxDuration,
    CompletedAfter,
    Retention,
    MaxActive,
    MaxActivePerPrincipal,
    StartsPerAddress,
    KillBlock,
    Redis,
    Header,
    IdPattern,
    Scope,
    Missing,
    Derive,
    Identity,
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = SessionSection;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<SessionSection, A::Error> {
        let SessionSection { mut session, mut identity } = SessionSection::default();
        while let Some(key) = map.next_key()? {
            match key {
                Key::Store => session.store = map.next_value()?,
                Key::IdleTimeout => session.idle_timeout = map.next_value()?,
                Key::MaxDuration => session.max_duration = map.next_value()?,
                Key::CompletedAfter => session.completed_after = map.next_value()?,
                Key::Retention => session.retention = map.next_value()?,
                Key::MaxActive => session.max_active = map.next_value()?,
                Key::MaxActivePerPrincipal => session.max_active_per_principal = map.next_value()?,
                Key::StartsPerAddress => session.starts_per_address = map.next_value()?,
                Key::KillBlock => session.kill_block = map.next_value()?,
                Key::Redis => session.redis = map.next_value()?,
                Key::Header => identity.header = map.next_value()?,
                Key::IdPattern => identity.id_pattern = map.next_value()?,
                Key::Scope => identity.scope = map.next_value()?,
                Key::Missing => identity.missing = map.next_value()?,
                Key::Derive => identity.derive = map.next_value()?,
                Key::Identity => identity.identity = map.next_value()?,
            }
        }
        Ok(SessionSection { session, identity })
    }
}

impl JsonSchema for SessionSection {
    fn schema_name() -> Cow<'static, str> {
        "Session".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut section = SessionConfig::json_schema(generator);
        let mut identity = IdentityConfig::json_schema(generator);
        let keys = identity.ensure_object().remove("properties").unwrap_or_default();
        if let Some(properties) = section.ensure_object()["properties"].as_object_mut() {
            properties.extend(keys.as_object().cloned().unwrap_or_default());
        }
        section
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_both_modules_is_read() {
        let default = SessionSection::default();
        let written = serde_json::to_value(&default).unwrap();
        assert_eq!(serde_json::from_value::<SessionSection>(written).unwrap(), default);
    }
}
