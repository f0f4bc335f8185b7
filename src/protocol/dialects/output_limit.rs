//! How many tokens a request lets its answer have, and in which service tier.

use super::spec::Dialect;
use crate::protocol::facts::model_request::ModelRequest;

/// Where bodies say it, in all dialects. The first [`PLAIN`] are members of the body itself.
const LIMITS: [&str; 8] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens_to_sample",
    "generationConfig.maxOutputTokens",
    "inferenceConfig.maxTokens",
    "options.num_predict",
    "parameters.maxOutputTokens",
];

/// How many of [`LIMITS`] are members of the body itself.
const PLAIN: usize = 4;

/// Where bodies say how many answers they ask for.
const CHOICES: [&str; 3] = ["n", "best_of", "generationConfig.candidateCount"];

/// Where bodies name the service tier that they want.
const TIERS: [&str; 2] = ["service_tier", "speed"];

/// The paths to look up in a body, behind those of other hints.
pub fn paths() -> impl Iterator<Item = &'static str> {
    LIMITS.into_iter().chain(CHOICES).chain(TIERS)
}

/// Returns the service tier that the body asks for; `None` if it names none. `first` as in [`of`].
pub fn tier(call: &ModelRequest, first: usize) -> Option<&str> {
    let begin = first + LIMITS.len() + CHOICES.len();
    (begin..begin + TIERS.len()).find_map(|index| call.hint(index))
}

/// Returns the most tokens that the answer may have: the largest limit in the body that a backend of this dialect reads, times
/// the number of answers. `first` is the position of the first of [`paths`] among the hints. `None` if the body sets no limit.
pub fn of(call: &ModelRequest, first: usize, dialect: Dialect) -> Option<u64> {
    // A backend ignores the members of other dialects: what it does not read limits nothing.
    let read = match dialect.name() {
        "gemini" | "ollama" => PLAIN..LIMITS.len(),
        "bedrock" => 0..LIMITS.len(),
        _ => 0..PLAIN,
    };
    let number = |index: usize| call.hint(first + index)?.parse::<f64>().ok().filter(|number| *number >= 1.0);
    let largest = |from: usize, len: usize| (from..from + len).filter_map(number).reduce(f64::max);
    let limit = largest(read.start, read.len())?;
    let choices = largest(LIMITS.len(), CHOICES.len()).unwrap_or(1.0);
    // A float becomes the nearest integer in range.
    Some((limit * choices).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::Dialect;
    use crate::protocol::request::{RequestPaths, RequestScan};

    #[test]
    fn each_dialect_says_it_somewhere_else() {
        let paths: Vec<String> = ["other"].into_iter().chain(super::paths()).map(str::to_owned).collect();
        let paths = RequestPaths::new(&paths);
        let openai = Dialect::OPENAI_OTHER;
        for (dialect, body, expected) in [
            (openai, r#"{"max_tokens": 100}"#, Some(100)),
            (openai, r#"{"max_completion_tokens": 7, "n": 3}"#, Some(21)),
            (openai, r#"{"max_tokens": 7, "best_of": 3}"#, Some(21)),
            (openai, r#"{"max_output_tokens": 1e3}"#, Some(1000)),
            (
                Dialect::GEMINI,
                r#"{"generationConfig": {"maxOutputTokens": 5, "candidateCount": 2}}"#,
                Some(10),
            ),
            (Dialect::OLLAMA, r#"{"options": {"num_predict": 3}, "max_tokens": 9}"#, Some(3)),
            (Dialect::OLLAMA, r#"{"options": {"num_predict": -1}}"#, None),
            (openai, r#"{"max_tokens": 1, "max_completion_tokens": 8}"#, Some(8)),
            (openai, r#"{"max_tokens": null}"#, None),
            (openai, r#"{"max_tokens": 1e99}"#, Some(u64::MAX)),
            (openai, r#"{"messages": [{"max_tokens": 3}]}"#, None),
            // Members of other dialects limit nothing.
            (openai, r#"{"options": {"num_predict": 1}, "parameters": {"maxOutputTokens": 1}}"#, None),
            (Dialect::GEMINI, r#"{"max_tokens": 1}"#, None),
        ] {
            let mut scan = RequestScan::speaking(dialect, &paths);
            scan.feed(body.as_bytes());
            assert_eq!(super::of(&scan.finish(), 1, dialect), expected, "{body}");
        }
    }
}
