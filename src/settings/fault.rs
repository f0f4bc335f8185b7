//! What is wrong with a configuration: all of it at once, each with its place and the remedy.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One fault of the written configuration, or one thing to be warned of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct Fault {
    /// The key, dotted from the top: `backends.openai.url`.
    pub path: String,
    /// Line in the file (1 is the first); `None` when the value does not come from the file.
    pub line: Option<usize>,
    /// Column of the key in that line (1 is the first).
    pub column: Option<usize>,
    /// What is wrong, naming the value.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

/// The faults found so far; compiling goes on after the first one. Warnings are kept apart: a
/// configuration that has nothing worse is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Faults {
    /// Notes a fault at the key `path`.
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(placeless(path, message, hint));
    }

    /// Notes what is allowed and rarely meant.
    pub fn warn(&mut self, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.warnings.push(placeless(path, message, hint));
    }

    /// Notes that the file named at the key `path` cannot be read.
    pub fn unreadable(&mut self, path: impl Into<String>, file: &str, error: &std::io::Error) {
        self.add(path, format!("'{file}' cannot be read: {error}"), "check the path and its permissions");
    }

    /// Notes a fault that already knows its place.
    pub fn push(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// True while nothing is wrong; warnings do not count.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// The faults in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }

    /// The warnings in the order in which they were found.
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    /// Takes over what another list holds, with the paths that `rename` gives them.
    pub fn absorb(&mut self, other: Self, rename: impl Fn(String) -> String) {
        let renamed = |fault: Fault| Fault { path: rename(fault.path), ..fault };
        self.faults.extend(other.faults.into_iter().map(&renamed));
        self.warnings.extend(other.warnings.into_iter().map(&renamed));
    }

    /// Lets `place` complete every fault and warning, and orders them as one reads the file: those
    /// without a line come last.
    pub fn arrange(&mut self, place: impl Fn(&mut Fault)) {
        for list in [&mut self.faults, &mut self.warnings] {
            list.iter_mut().for_each(&place);
            list.sort_by_key(|fault| (fault.line.unwrap_or(usize::MAX), fault.column));
        }
    }
}

fn placeless(path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Fault {
    Fault { path: path.into(), line: None, column: None, message: message.into(), hint: hint.into() }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
