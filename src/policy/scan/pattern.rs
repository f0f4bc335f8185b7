//! What is searched and what is found.

use crate::policy::secrets::Detector;

/// The pattern of the hit that tells of hidden text: characters that are not shown, such as tag characters (U+E0000 to
/// U+E007F) or zero-width ones. It is reported once for each lane, whatever patterns there are.
pub const HIDDEN_TEXT: u32 = u32::MAX;

/// What to search.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The kind of pattern.
    pub kind: PatternKind,
    /// A regular expression without a literal of three bytes, which is searched in all text, is permitted.
    pub slow: bool,
}

/// The kinds of patterns.
#[derive(Clone, Debug)]
pub enum PatternKind {
    /// Words that stand anywhere in the text; case and the amount of white space do not matter.
    Phrase(String),
    /// A regular expression; case and the amount of white space do not matter.
    Regex(String),
    /// A row of the table of secrets and personal data.
    Detector(&'static Detector),
}

/// Why patterns cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {hint}")]
pub struct PatternFault {
    /// The pattern, by its place in the list.
    pub index: usize,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// Something that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The pattern, by its place in the list, or [`HIDDEN_TEXT`].
    pub pattern: u32,
    /// Where it starts, in bytes of the lane's text.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// How the text had to be read.
    pub via: Via,
}

/// How a text was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// As it is; case and white space aside.
    Plain,
    /// Look-alikes, marks and hidden characters were resolved.
    Folded,
    /// Base64 or base64url.
    Base64,
    /// Hexadecimal digits.
    Hex,
    /// Percent-coding.
    Percent,
    /// Escapes of program texts, such as `\u0069`.
    Escapes,
    /// Character references of HTML.
    Html,
}

impl Via {
    /// The name in findings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Folded => "folded",
            Self::Base64 => "base64",
            Self::Hex => "hex",
            Self::Percent => "percent",
            Self::Escapes => "escapes",
            Self::Html => "html",
        }
    }
}
