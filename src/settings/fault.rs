//! Faults of a configuration: all at once, each with its position and a hint.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A fault of the configuration, or a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct Fault {
    /// The key, dotted from the top: `backends.openai.url`.
    pub path: String,
    /// Line in the file, from 1; `None` when the value does not come from the file.
    pub line: Option<usize>,
    /// Column of the key in that line, from 1.
    pub column: Option<usize>,
    /// What is wrong, with the value.
    pub message: String,
    /// How to fix it; empty for no hint.
    pub hint: String,
    /// The value and the position in it, in bytes, when the fault concerns a part of the value.
    #[serde(skip)]
    pub within: Option<Box<(String, usize)>>,
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

/// Collects faults, so that compiling continues after the first one. Warnings are separate: a configuration with only
/// warnings is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Faults {
    /// Adds a fault at the key `path`.
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(unplaced(path, message, hint));
    }

    /// Adds a fault at the byte `at` of the text at the key `path`.
    pub fn add_within(
        &mut self,
        path: impl Into<String>,
        text: &str,
        at: usize,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let within = Some(Box::new((text.to_owned(), at)));
        self.faults.push(Fault { within, ..unplaced(path, message, hint) });
    }

    /// Adds a warning about a value that is valid but rarely intended.
    pub fn warn(&mut self, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.warnings.push(unplaced(path, message, hint));
    }

    /// Adds the fault that the file named at the key `path` cannot be read.
    pub fn unreadable(&mut self, path: impl Into<String>, file: &str, error: &std::io::Error) {
        self.add(path, format!("'{file}' cannot be read: {error}"), "check the path and its permissions");
    }

    /// Adds a fault that already has its position.
    pub fn push(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Whether there is no fault; warnings do not count.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Iterates over the faults in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }

    /// Returns the warnings in the order they were added.
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    /// Moves the contents of `other` here, with paths mapped by `rename`.
    pub fn absorb(&mut self, other: Self, rename: impl Fn(String) -> String) {
        let renamed = |fault: Fault| Fault { path: rename(fault.path), ..fault };
        self.faults.extend(other.faults.into_iter().map(&renamed));
        self.warnings.extend(other.warnings.into_iter().map(&renamed));
    }

    /// Calls `place` to add the position of every fault and warning, and sorts them by line; those without a line come
    /// last.
    pub fn arrange(&mut self, place: impl Fn(&mut Fault)) {
        for list in [&mut self.faults, &mut self.warnings] {
            list.iter_mut().for_each(&place);
            list.sort_by_key(|fault| (fault.line.unwrap_or(usize::MAX), fault.column));
        }
    }
}

fn unplaced(path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Fault {
    Fault {
        path: path.into(),
        line: None,
        column: None,
        message: message.into(),
        hint: hint.into(),
        within: None,
    }
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
