//! Tests of texts.

use std::net::IpAddr;

use ipnet::IpNet;
use regex::{Regex, RegexBuilder};

/// The most memory of a compiled pattern, in bytes.
const MAX_PATTERN: usize = 128 << 10;

/// A regular expression, compiled when the configuration is loaded.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern. Like RE2 it takes time in proportion to the text.
    ///
    /// # Errors
    /// It is not valid, or too large.
    pub(super) fn new(source: &str) -> Result<Self, String> {
        let mut builder = RegexBuilder::new(source);
        builder.size_limit(MAX_PATTERN).nest_limit(32);
        builder.build().map(Self).map_err(|fault| match fault {
            regex::Error::CompiledTooBig(_) => "the pattern is too large".to_owned(),
            other => format!("this is no regular expression: {}", last_line(&other.to_string())),
        })
    }

    pub(super) fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// What is wrong stands in the last line; those above draw the place.
fn last_line(message: &str) -> &str {
    message.lines().last().unwrap_or_default().trim_start_matches("error: ")
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// A test of one text by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
    /// The whole text matches a pattern.
    Glob,
}

impl TextTest {
    /// Applies the test.
    pub(super) fn holds(self, text: &str, other: &str) -> bool {
        match self {
            Self::StartsWith => text.starts_with(other),
            Self::EndsWith => text.ends_with(other),
            Self::Contains => text.contains(other),
            Self::Glob => glob(text.as_bytes(), other.as_bytes()),
        }
    }
}

/// Returns whether the whole text matches: `*` is any number of bytes, `?` is one byte; everything else is itself.
/// Takes at most `text × pattern` steps.
pub(in crate::policy) fn glob(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut next) = (0, 0);
    // The last star, and where the text after it begins.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(next) {
            Some(b'*') => {
                star = Some((next, at));
                next += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[at] => {
                at += 1;
                next += 1;
            }
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                (at, next) = (taken + 1, place + 1);
            }
        }
    }
    pattern[next..].iter().all(|byte| *byte == b'*')
}

/// Returns whether the address is in the network; `None` when the text is no address.
pub(super) fn is_in(address: &str, network: &IpNet) -> Option<bool> {
    let address: IpAddr = address.parse().ok()?;
    Some(network.contains(&address.to_canonical()))
}

/// Parses a network; a single address is a network of one.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()
}
