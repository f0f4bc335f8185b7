//! The `history:` section of the configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::fault::Faults;
use crate::settings::units::{ByteSize, DurationText};

/// The file name in `data_dir` unless `history.file` is set.
const DEFAULT_FILE: &str = "history.db";

/// The smallest `max_size`: a few batches of the writer must fit.
const MIN_SIZE: ByteSize = ByteSize::mib(16);

/// The `history:` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "History")]
pub struct HistoryConfig {
    /// False: nothing is kept once a session has left memory. Needs a restart.
    pub enabled: bool,
    /// The SQLite file; empty means `history.db` in `data_dir`. Needs a restart.
    pub file: String,
    /// What ended longer ago is deleted.
    pub retention: DurationText,
    /// The largest size of the file; beyond it the oldest entries are deleted: bodies first, then requests, then records.
    pub max_size: ByteSize,
    /// Which requests of a session are kept individually. Needs a restart.
    pub legs: Legs,
}

/// The values of `history.legs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Legs {
    /// The last 20, written with the session's record.
    #[default]
    Last,
    /// Every request, written when it ends, with its token counts.
    All,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            file: String::new(),
            retention: DurationText(Duration::from_secs(30 * 24 * 3600)),
            max_size: ByteSize::mib(4 << 10),
            legs: Legs::default(),
        }
    }
}

/// Compiled settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    enabled: bool,
    file: PathBuf,
    /// What ended longer ago is deleted.
    pub retention: Duration,
    /// The largest size of the file, in bytes.
    pub max_size: u64,
    legs: Legs,
}

impl Settings {
    /// Returns the history's file, or `None` if the history is disabled.
    pub fn file(&self, data_dir: &Path) -> Option<PathBuf> {
        self.enabled.then(|| data_dir.join(&self.file))
    }

    /// Returns true if every request of a session is kept, not only the last ones.
    pub fn keeps_all_legs(&self) -> bool {
        self.legs == Legs::All
    }
}

impl HistoryConfig {
    /// Compiles the section. Returns `None` and adds to `faults` if it is invalid.
    pub fn compile(self, faults: &mut Faults) -> Option<Settings> {
        let mut good = true;
        if self.retention.0.is_zero() {
            let hint = "write a time such as 30d, or history.enabled: false";
            faults.add("history.retention", "with a retention of 0 nothing would be kept", hint);
            good = false;
        }
        if self.max_size.0 < MIN_SIZE.0 {
            let message = format!("{} is too small for a history", self.max_size);
            faults.add("history.max_size", message, format!("write {MIN_SIZE} or more, such as 4GiB"));
            good = false;
        }
        let file = if self.file.is_empty() { DEFAULT_FILE.into() } else { PathBuf::from(self.file) };
        good.then_some(Settings {
            enabled: self.enabled,
            file,
            retention: self.retention.0,
            max_size: self.max_size.0,
            legs: self.legs,
        })
    }
}
