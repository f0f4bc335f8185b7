//! Tool calls of an answer: one that is complete, and how many by name.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

/// Names that are counted apart; calls of further ones count as [`OTHER`].
const DISTINCT: usize = 32;
/// Bytes that are kept of a name.
pub(in crate::protocol) const NAME_MAX: usize = 128;
/// The name under which calls without a name, or with one too many, are counted.
const OTHER: &str = "other";

/// A tool call whose arguments are complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The provider's id of the call; empty when it gave none.
    pub id: String,
    /// The tool; the first 128 bytes of its name.
    pub name: String,
    /// Its arguments as the model wrote them, mostly a JSON object.
    pub arguments: String,
    /// Not all arguments were kept.
    pub truncated: bool,
    /// Programs may read another name than this: it came in pieces, or is too long to be kept.
    pub name_is_unclear: bool,
    /// The name with those of the pieces before it, where programs may read them as one; empty otherwise.
    pub joined_name: String,
}

impl ToolCall {
    /// The name as programs read it that join all pieces.
    pub(in crate::protocol) fn whole_name(&self) -> &str {
        if self.joined_name.is_empty() { &self.name } else { &self.joined_name }
    }
}

/// Calls by the tool's name, in the order of the first calls; bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::type_complexity,
    reason = "most answers call nothing, and every request's line has one of these"
)]
pub struct ToolCounts(Option<Box<Vec<(Box<str>, u64)>>>);

impl ToolCounts {
    /// Adds `calls` calls of a tool.
    pub fn add(&mut self, name: &str, calls: u64) {
        let name = &name[..name.floor_char_boundary(NAME_MAX)];
        let counts = self.0.get_or_insert_default();
        let is_known = |name: &str| counts.iter().position(|(known, _)| **known == *name);
        let full = counts.len() >= DISTINCT;
        let name = if name.is_empty() || full && is_known(name).is_none() { OTHER } else { name };
        match is_known(name) {
            Some(at) => counts[at].1 = counts[at].1.saturating_add(calls),
            None => counts.push((name.into(), calls)),
        }
    }

    /// Adds the calls of another answer.
    pub fn add_all(&mut self, other: &Self) {
        other.iter().for_each(|(name, calls)| self.add(name, calls));
    }

    /// The names with their numbers of calls.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().flat_map(|counts| counts.iter()).map(|(name, calls)| (&**name, *calls))
    }

    /// True when nothing was called.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for ToolCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for ToolCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ToolCounts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("numbers of calls by name")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<ToolCounts, A::Error> {
                let mut counts = ToolCounts::default();
                while let Some((name, calls)) = map.next_entry::<String, u64>()? {
                    counts.add(&name, calls);
                }
                Ok(counts)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_are_bounded() {
        let mut counts = ToolCounts::default();
        counts.add("Bash", 1);
        counts.add("", 1);
        let mut more = ToolCounts::default();
        (0..100).for_each(|number| more.add(&format!("tool-{number}"), 1));
        more.add(&"é".repeat(100), 2);
        counts.add_all(&more);
        counts.add("Bash", u64::MAX);
        let all: Vec<_> = counts.iter().collect();
        assert_eq!(all.len(), DISTINCT);
        assert_eq!(&all[..3], [("Bash", u64::MAX), ("other", 73), ("tool-0", 1)]);
    }

    #[test]
    fn counts_are_written_as_a_map() {
        let mut counts = ToolCounts::default();
        assert_eq!(serde_json::to_string(&counts).unwrap(), "{}");
        counts.add("Read", 2);
        counts.add(&"é".repeat(100), 1);
        let text = serde_json::to_string(&counts).unwrap();
        assert_eq!(text, format!("{{\"Read\":2,\"{}\":1}}", "é".repeat(NAME_MAX / 2)));
    }
}
