//! The `logging:` section.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::settings::fault::Faults;

/// The `logging:` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Logging")]
pub struct LoggingConfig {
    /// The lowest level that is logged.
    pub level: Level,
    /// The format of log lines.
    pub format: Format,
    /// True: log one line per request.
    pub access_log: bool,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { level: Level::Info, format: Format::Json, access_log: true }
    }
}

/// The level of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Details for debugging.
    Debug,
    /// Normal operation: one line per request and session.
    Info,
    /// Something is wrong, but work continues.
    Warn,
    /// Work failed.
    Error,
}

/// Case is ignored, since the variable `LOG_LEVEL` is written in any case.
impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        match word.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" | "warning" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            _ => Err(de::Error::unknown_variant(&word, &["debug", "info", "warn", "error"])),
        }
    }
}

impl Level {
    /// The name used in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// `key=value` text for people.
    Text,
}

/// The compiled section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    level: Level,
    format: Format,
    access_log: bool,
}

impl Settings {
    /// The lowest level that is logged.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The format of log lines.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether requests are logged.
    pub fn access_log(&self) -> bool {
        self.access_log
    }
}

impl LoggingConfig {
    /// Compiles the section. Every value that can be parsed is valid.
    pub fn compile(self, _faults: &mut Faults) -> Option<Settings> {
        Some(Settings { level: self.level, format: self.format, access_log: self.access_log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_in_the_cases_people_write() {
        for (text, level) in [("debug", Level::Debug), ("INFO", Level::Info), ("warning", Level::Warn)] {
            assert_eq!(serde_yaml::from_str::<Level>(text).unwrap(), level);
        }
        assert!(serde_yaml::from_str::<Level>("loud").is_err());
        assert!(Level::Debug < Level::Error);
    }
}
