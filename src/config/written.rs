//! The whole file as serde reads it.
//!
//! The `session:` section belongs to two modules, which do not know each other: [`split_session`]
//! hands each its keys before serde sees them.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_yaml::{Mapping, Value};

use crate::{capture, control, history, identity, limits, proxy, routing, session, telemetry, upstream};

/// The only `version:` there is.
pub(super) const VERSION: u32 = 1;

/// The key that stands for the part of `session:` that is `identity`'s. The space keeps it apart
/// from every key a person writes.
pub(super) const IDENTITY_PART: &str = "session identity";

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Elida")]
pub(super) struct Written {
    /// Format of the file; 1 is the only one.
    pub(super) version: u32,
    /// Address of the proxy; `:8080` means every address. Needs a restart.
    pub(super) listen: String,
    /// URL of the one backend (an Ollama), used while `backends` is empty.
    pub(super) backend: String,
    /// Threads, timeouts and limits of the proxy listener.
    pub(super) server: proxy::settings::Written,
    /// The control API.
    pub(super) control: control::settings::Written,
    /// The life of sessions, and how the session of a request is found.
    pub(super) session: session::Written,
    #[serde(rename = "session identity")]
    pub(super) identity: identity::Written,
    /// The backends by name.
    pub(super) backends: Backends,
    /// Which backend a request goes to.
    pub(super) routing: routing::Written,
    /// Lists of models.
    pub(super) models: proxy::models::Written,
    /// What is kept of ended sessions.
    pub(super) history: history::HistoryConfig,
    /// Bodies that are kept in the history.
    pub(super) capture: capture::CaptureConfig,
    /// What calls cost.
    pub(super) usage: limits::Written,
    /// What is logged.
    pub(super) logging: telemetry::settings::LoggingConfig,
    /// What a collector of OpenTelemetry is told. Needs a restart.
    pub(super) telemetry: telemetry::otlp::settings::TelemetryConfig,
    /// Folder for keys and other state. Needs a restart.
    pub(super) data_dir: String,
    /// What becomes of settings that let strangers spend a key.
    pub(super) startup_guard: Guard,
}

/// What becomes of settings that let strangers spend a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Guard {
    /// They are a fault.
    #[default]
    Enforce,
    /// They are warned of.
    Warn,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            version: VERSION,
            listen: "0.0.0.0:8080".into(),
            backend: "http://localhost:11434".into(),
            server: Default::default(),
            control: Default::default(),
            session: Default::default(),
            identity: Default::default(),
            backends: Backends::default(),
            routing: Default::default(),
            models: Default::default(),
            history: Default::default(),
            capture: Default::default(),
            usage: Default::default(),
            logging: Default::default(),
            telemetry: Default::default(),
            data_dir: "/var/lib/elida".into(),
            startup_guard: Guard::default(),
        }
    }
}

impl JsonSchema for Backends {
    fn schema_name() -> Cow<'static, str> {
        "Backends".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let backend = generator.subschema_for::<upstream::settings::Written>();
        json_schema!({"type": "object", "additionalProperties": backend})
    }
}

/// `backends:` in the order in which it is written, since that order breaks ties in routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Backends(pub(super) Vec<(String, upstream::settings::Written)>);

impl Serialize for Backends {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, backend)| (name, backend)))
    }
}

impl<'de> Deserialize<'de> for Backends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Backends;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("backends by name")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Backends, A::Error> {
                let mut backends = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    backends.push(entry);
                }
                Ok(Backends(backends))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Moves the keys of `session:` that are `identity`'s to [`IDENTITY_PART`].
pub(super) fn split_session(root: &mut Mapping) {
    let Some(Value::Mapping(session)) = root.get_mut("session") else {
        return;
    };
    let mut part = Mapping::new();
    for key in identity::settings::KEYS {
        if let Some(value) = session.shift_remove(key) {
            part.insert(key.into(), value);
        }
    }
    root.insert(IDENTITY_PART.into(), Value::Mapping(part));
}
