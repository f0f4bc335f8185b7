//! The section `policy:`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::external::ExternalConfig;
use super::facts::Phase;
use super::loops::LoopsConfig;
use super::rule::{Action, Mode, Place, Severity};
use crate::settings::rate::RateText;
use crate::settings::units::ByteSize;

/// The section `policy:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Policy")]
pub struct PolicyConfig {
    /// `audit` makes all rules flag only, except for those that say otherwise themselves.
    pub mode: Mode,
    /// Sets of rules that come with ELIDA (`elida policy show`): minimal, standard, strict, coding-agent, mcp.
    pub presets: Vec<String>,
    /// Rules of presets that are left out, by their ids.
    pub disable: Vec<String>,
    /// The rules.
    pub rules: Vec<RuleConfig>,
    /// Tools that may and may not be called.
    pub tools: ToolsConfig,
    /// What MCP servers list.
    #[serde(skip_serializing_if = "McpConfig::is_default")]
    pub mcp: McpConfig,
    /// Services that decide besides the rules, such as OPA. They can only make the outcome stricter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<ExternalConfig>,
    /// What the score of a session leads to.
    pub score: ScoreConfig,
    /// How agents that go in circles are found; they are not looked for, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loops: Option<LoopsConfig>,
    /// What happens when a bound of scanning is reached: `flag` or `block`. Presets may say `block`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_limit: Option<OnLimit>,
    /// Bytes of an answer's text that are always kept back until more has come, for patterns that begin without a sign.
    pub hold_back: ByteSize,
    /// Memory for what was judged before and is not scanned again.
    pub judged: ByteSize,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            presets: Vec::new(),
            disable: Vec::new(),
            rules: Vec::new(),
            tools: ToolsConfig::default(),
            mcp: McpConfig::default(),
            external: Vec::new(),
            score: ScoreConfig::default(),
            loops: None,
            on_limit: None,
            hold_back: ByteSize(0),
            judged: ByteSize::mib(16),
        }
    }
}

/// What happens when a bound of scanning is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnLimit {
    /// It is noted.
    Flag,
    /// What could not be read whole is refused.
    Block,
}

/// Tools that may and may not be called, by patterns of their names; `*` is any text and `?` any character.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "PolicyTools")]
pub struct ToolsConfig {
    /// The only ones that may be called; all, if it is empty.
    pub allow: Vec<String>,
    /// Those that may not be called.
    pub deny: Vec<String>,
}

/// What is done about the tools that MCP servers list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "PolicyMcp")]
pub struct McpConfig {
    /// Takes tools out of lists that `policy.tools` or the caller's key does not permit.
    pub hide_denied: bool,
    /// What happens when a server changes the definition of a tool within a session: `flag` or `block`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redefined: Option<OnLimit>,
}

impl McpConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The scores of a session from which on something happens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "PolicyScore")]
pub struct ScoreConfig {
    /// Its requests are slowed down to 6 a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle: Option<f64>,
    /// Its requests are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<f64>,
    /// It is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill: Option<f64>,
}

/// It is compared to find out what a reload changes; a float that is read is never NaN.
impl Eq for ScoreConfig {}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rule")]
pub struct RuleConfig {
    /// Its name in findings, refusals and metrics.
    pub id: String,
    /// When it is judged.
    pub on: Phase,
    /// A condition for the facts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What is looked for in texts.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<MatchConfig>,
    /// What happens: flag, throttle, hold, block or kill.
    #[serde(default)]
    pub action: Action,
    /// How bad it is: info, low, medium, high or critical.
    #[serde(default)]
    pub severity: Severity,
    /// Its class in the OWASP Top 10 for LLM applications, such as LLM01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owasp: Option<String>,
    /// The message of the refusal that the client receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// A mark for the session, which later rules read as `session.saw["MARK"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// Whether it acts; the mode of the section, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// `skip`: a condition that cannot be decided counts as no. Without it that counts as yes, but for `flag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<OnUnknown>,
    /// The rate of the session, such as `6/min`, for `throttle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateText>,
}

/// What a condition that cannot be decided counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// As no.
    Skip,
}

/// What is looked for in texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Match")]
pub struct MatchConfig {
    /// Where: a place or a list of places; everywhere, if absent.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub places: Option<PlaceList>,
    /// Any of these suffices.
    pub any: Vec<PatternConfig>,
}

/// One place, or a list of places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceList(pub Vec<Place>);

impl Serialize for PlaceList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PlaceList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = PlaceList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a place such as text or tool.args, or a list of places")
            }
            fn visit_str<E: de::Error>(self, place: &str) -> Result<PlaceList, E> {
                Place::deserialize(de::value::StrDeserializer::new(place)).map(|place| PlaceList(vec![place]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<PlaceList, A::Error> {
                let mut places = Vec::new();
                while let Some(place) = items.next_element()? {
                    places.push(place);
                }
                Ok(PlaceList(places))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for PlaceList {
    fn schema_name() -> Cow<'static, str> {
        "Places".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let place = generator.subschema_for::<Place>();
        json_schema!({"anyOf": [place, {"type": "array", "items": place}]})
    }
}

/// A pattern: a phrase, or one of the other kinds by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternConfig {
    /// Words, whose case and spacing do not matter.
    Phrase(String),
    /// A regular expression.
    Regex {
        /// Its text.
        regex: String,
        /// It may be searched in all text, which is slow.
        slow: bool,
    },
    /// A row of the table of secrets and personal data, or `vendor-keys`, `secrets` or `pii` for all such rows, or
    /// `hidden-text`.
    Detector(String),
}

/// A pattern that is no phrase, as it is written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Pattern")]
struct Written {
    /// A regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
    /// A row of the table of secrets and personal data; `vendor-keys` for those that are secrets beyond doubt, `secrets` or
    /// `pii` for all such rows; `hidden-text` for characters that are not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detector: Option<String>,
    /// Permits a regular expression without three letters that each match has, which is searched in all text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    slow: bool,
}

impl Serialize for PatternConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self.clone() {
            Self::Phrase(phrase) => return phrase.serialize(serializer),
            Self::Regex { regex, slow } => Written { regex: Some(regex), detector: None, slow },
            Self::Detector(detector) => Written { regex: None, detector: Some(detector), slow: false },
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PatternConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = PatternConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a phrase, { regex: … } or { detector: … }")
            }
            fn visit_str<E: de::Error>(self, phrase: &str) -> Result<PatternConfig, E> {
                Ok(PatternConfig::Phrase(phrase.to_owned()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<PatternConfig, A::Error> {
                let written = Written::deserialize(de::value::MapAccessDeserializer::new(map))?;
                match written {
                    Written { regex: Some(regex), detector: None, slow } => {
                        Ok(PatternConfig::Regex { regex, slow })
                    }
                    Written { regex: None, detector: Some(detector), slow: false } => {
                        Ok(PatternConfig::Detector(detector))
                    }
                    _ => Err(de::Error::custom("write one of regex and detector; slow goes with regex")),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for PatternConfig {
    fn schema_name() -> Cow<'static, str> {
        "PhraseOrPattern".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let written = generator.subschema_for::<Written>();
        json_schema!({"anyOf": [{"type": "string"}, written]})
    }
}
