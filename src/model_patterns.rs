//! Model patterns: `gpt-*`, `o[0-9]*`, `claude-sonnet-4-6`.
//!
//! Matching ignores case: providers differ in it, and capitals must not get a blocked model through.
//! `*` matches `/` as well, as in `meta-llama/*`.
//! Used by `routing` (backends of a model) and `pricing` (prices of a model).

use std::collections::HashMap;

use globset::{GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use crate::settings::fault::Faults;

/// A pattern before it is compiled.
pub(crate) struct Pattern<'a> {
    pub(crate) text: &'a str,
    /// What a match returns: an index into a list of the caller's.
    pub(crate) target: usize,
    /// The configuration key, named in faults.
    pub(crate) path: String,
    /// The backend's index and kind. Equal patterns of backends of one kind share the load and are no mistake;
    /// any other repetition is warned of.
    pub(crate) owner: (usize, &'static str),
}

/// Compiled patterns; finds the targets of those that match a model.
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    set: GlobSet,
    /// What each glob of `set` stands for, the most specific one first.
    targets: Vec<PatternMatch>,
}

/// A pattern that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PatternMatch {
    pub(crate) target: usize,
    /// Equal for patterns with the same text, whatever its case.
    pub(crate) rank: usize,
}

/// One pattern.
#[derive(Clone, Debug)]
pub(crate) struct ModelPattern(GlobMatcher);

impl ModelPattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let glob = GlobBuilder::new(text).case_insensitive(true).build();
        glob.map(|glob| Self(glob.compile_matcher())).map_err(|error| error.kind().to_string())
    }

    /// Returns whether a model fits.
    pub(crate) fn fits(&self, model: &str) -> bool {
        self.0.is_match(model)
    }
}

impl Matcher {
    /// True without any pattern.
    pub(crate) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Compiles the patterns; each bad one is a fault.
    ///
    /// The most specific pattern comes first: one without wildcards before all others, then the
    /// longer text, then the one written earlier.
    pub(crate) fn compile(mut patterns: Vec<Pattern<'_>>, faults: &mut Faults) -> Option<Self> {
        // The sort is stable, so equals stay in the order in which they were written.
        patterns.sort_by_key(|pattern| (is_wild(pattern.text), usize::MAX - pattern.text.len()));
        let mut set = GlobSetBuilder::new();
        let mut targets = Vec::with_capacity(patterns.len());
        let mut seen: HashMap<String, (String, (usize, &str), usize)> = HashMap::new();
        for Pattern { text, target, path, owner } in patterns {
            if text.is_empty() {
                faults.add(path, "the pattern is empty", "write a model name or a pattern such as gpt-*");
                continue;
            }
            match GlobBuilder::new(text).case_insensitive(true).build() {
                Ok(glob) => {
                    let fresh = seen.len();
                    let (first, of, rank) =
                        seen.entry(text.to_lowercase()).or_insert_with(|| (path.clone(), owner, fresh));
                    if *first != path && (of.0 == owner.0 || of.1 != owner.1) {
                        let message = format!("'{text}' is never used: {first} says the same");
                        faults.warn(path, message, "remove one of the two");
                    }
                    set.add(glob);
                    targets.push(PatternMatch { target, rank: *rank });
                }
                Err(error) => faults.add(
                    path,
                    format!("'{text}' is not a pattern: {}", error.kind()),
                    "use * for any text, ? for one character, [a-z] for a set, {a,b} for a choice",
                ),
            }
        }
        match set.build() {
            Ok(set) => Some(Self { set, targets }),
            Err(error) => {
                faults.add("", format!("the model patterns are too large: {error}"), "use fewer patterns");
                None
            }
        }
    }

    /// Returns all patterns that match, the most specific first.
    pub(crate) fn find(&self, model: &str) -> impl Iterator<Item = PatternMatch> {
        // Even a set without globs prepares the text for them.
        let places = if self.is_empty() { Vec::new() } else { self.set.matches(model) };
        places.into_iter().filter_map(|place| self.targets.get(place).copied())
    }

    /// True if any pattern matches.
    pub(crate) fn matches(&self, model: &str) -> bool {
        !self.is_empty() && self.set.is_match(model)
    }
}

/// Returns true for a pattern that is more than the name of one model.
pub(crate) fn is_wild(text: &str) -> bool {
    text.contains(['*', '?', '[', '{', '\\'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(texts: &[&str]) -> Matcher {
        let mut faults = Faults::default();
        let patterns = texts.iter().enumerate().map(|(target, text)| {
            let path = format!("backends.b{target}.models[0]");
            Pattern { text, target, path, owner: (target, "openai") }
        });
        let matcher = Matcher::compile(patterns.collect(), &mut faults).unwrap();
        assert!(faults.is_empty(), "{faults}");
        matcher
    }

    fn first(matcher: &Matcher, model: &str) -> Option<usize> {
        matcher.find(model).next().map(|found| found.target)
    }

    #[test]
    fn the_most_specific_pattern_wins_wherever_it_stands() {
        let matcher = matcher(&["*", "gpt-*", "gpt-4*", "gpt-4o", "gpt-4o-mini*"]);
        assert_eq!(first(&matcher, "llama3"), Some(0));
        assert_eq!(first(&matcher, "gpt-5"), Some(1));
        assert_eq!(first(&matcher, "gpt-4.1"), Some(2));
        assert_eq!(first(&matcher, "gpt-4o"), Some(3), "a name without wildcards beats any pattern");
        assert_eq!(first(&matcher, "gpt-4o-mini-2024"), Some(4));
    }

    #[test]
    fn equals_go_to_the_one_written_first() {
        assert_eq!(first(&matcher(&["a*b", "a?b", "axb"]), "axb"), Some(2));
        assert_eq!(first(&matcher(&["a*b", "a?b"]), "axb"), Some(0));
        assert_eq!(first(&matcher(&["same", "same"]), "same"), Some(0));
    }

    #[test]
    fn those_who_say_the_same_share_a_rank() {
        let matcher = matcher(&["*", "gpt-*", "GPT-*", "gpt-4o"]);
        let found: Vec<(usize, usize)> = matcher.find("gpt-4o").map(|at| (at.target, at.rank)).collect();
        assert_eq!(found, [(3, 0), (1, 1), (2, 1), (0, 2)]);
    }

    #[test]
    fn case_is_ignored_and_a_star_crosses_slashes() {
        let matcher = matcher(&["meta-llama/*", "o[0-9]*"]);
        assert_eq!(first(&matcher, "Meta-Llama/Llama-3/70B"), Some(0));
        assert_eq!(first(&matcher, "O3-mini"), Some(1));
        assert_eq!(first(&matcher, "omni"), None);
    }

    #[test]
    fn a_bad_pattern_is_a_fault_that_names_it() {
        let mut faults = Faults::default();
        let patterns = vec![
            Pattern { text: "gpt-[", target: 0, path: "backends.openai.models".into(), owner: (0, "openai") },
            Pattern { text: "", target: 0, path: "backends.openai.models".into(), owner: (0, "openai") },
        ];
        assert!(Matcher::compile(patterns, &mut faults).is_some());
        assert_eq!(
            faults.to_string(),
            "backends.openai.models: the pattern is empty (write a model name or a pattern such as gpt-*)\n\
             backends.openai.models: 'gpt-[' is not a pattern: unclosed character class; missing ']' \
             (use * for any text, ? for one character, [a-z] for a set, {a,b} for a choice)"
        );
    }
}
