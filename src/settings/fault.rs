//! What is wrong with a configuration: all of it at once, each with its place and the remedy.

use std::fmt;

/// One fault of the written configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, dotted from the top: `backends.openai.url`.
    pub path: String,
    /// Line in the file (1 is the first); `None` when the value does not come from the file.
    pub line: Option<usize>,
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

/// The faults found so far; compiling goes on after the first one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Notes a fault at the key `path`.
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.0.push(Fault { path: path.into(), line: None, message: message.into(), hint: hint.into() });
    }

    /// Notes a fault that already knows its place.
    pub fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// True while nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The faults in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// Gives faults without a line the line on which `locate` finds their key.
    pub fn locate(&mut self, locate: impl Fn(&str) -> Option<usize>) {
        for fault in &mut self.0 {
            fault.line = fault.line.or_else(|| locate(&fault.path));
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
