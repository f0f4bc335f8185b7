//! How many tokens a request lets its answer have, and in which service tier; how many images it names.

use std::ops::Range;

use super::spec::Dialect;
use crate::protocol::facts::model_request::ModelRequest;

/// Where bodies say it, in all dialects. The first [`PLAIN`] are members of the body itself.
const LIMITS: [&str; 13] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens_to_sample",
    "generationConfig.maxOutputTokens",
    "generationConfig.max_output_tokens",
    "generation_config.maxOutputTokens",
    "generation_config.max_output_tokens",
    "inferenceConfig.maxTokens",
    "options.num_predict",
    "parameters.maxOutputTokens",
    // llama.cpp, in the paths of OpenAI's API too.
    "n_predict",
    "num_predict",
];

/// How many of [`LIMITS`] are members of the body itself.
const PLAIN: usize = 4;
/// How many of them, the last ones, local servers have beside those of the API that they imitate.
const LOCAL: usize = 2;

/// Where bodies say how many answers they ask for.
const CHOICES: [&str; 6] = [
    "n",
    "best_of",
    "generationConfig.candidateCount",
    "generationConfig.candidate_count",
    "generation_config.candidateCount",
    "generation_config.candidate_count",
];

/// Where bodies name the service tier that they want.
const TIERS: [&str; 2] = ["service_tier", "speed"];

/// Where bodies name an image or a document that the provider fetches: its bytes are not in the body.
const IMAGES: [&str; 11] = [
    "messages[].content[].image_url.url",
    "messages[].content[].image_url",
    "messages[].content[].source.url",
    "messages[].content[].source.file_id",
    "messages[].content[].content[].source.url",
    "messages[].content[].content[].source.file_id",
    "input[].content[].image_url",
    "input[].content[].file_id",
    "input[].output[].image_url",
    "contents[].parts[].fileData.fileUri",
    "contents[].parts[].file_data.file_uri",
];

/// The paths to look up in a body, behind those of other hints.
pub fn paths() -> impl Iterator<Item = &'static str> {
    LIMITS.into_iter().chain(CHOICES).chain(TIERS).chain(IMAGES)
}

/// Returns how many images and documents the body names, without those whose bytes it has: of all [`paths`] only theirs can be
/// there more than once. `first` as in [`of`].
pub fn images(call: &ModelRequest, first: usize) -> u64 {
    let begin = first + LIMITS.len() + CHOICES.len() + TIERS.len();
    let named = (begin..begin + IMAGES.len()).filter(|index| call.hint(*index).is_some()).count() as u64;
    if named == 0 { 0 } else { named + u64::from(call.more_hints) }
}

/// Returns the service tier that the body asks for; `None` if it names none. `first` as in [`of`].
pub fn tier(call: &ModelRequest, first: usize) -> Option<&str> {
    let begin = first + LIMITS.len() + CHOICES.len();
    (begin..begin + TIERS.len()).find_map(|index| call.hint(index))
}

/// Returns the most tokens that the answer may have: the largest limit in the body that a backend of this dialect reads, times
/// the number of answers. `first` is the position of the first of [`paths`] among the hints. `None` if the body sets no limit.
pub fn of(call: &ModelRequest, first: usize, dialect: Dialect) -> Option<u64> {
    let limit = largest(call, first, read_by(dialect))?;
    let choices = largest(call, first, LIMITS.len()..LIMITS.len() + CHOICES.len()).unwrap_or(1.0);
    // A float becomes the nearest integer in range.
    Some((limit * choices).ceil() as u64)
}

/// What a request says of how long its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// At most so many tokens.
    AtMost(u64),
    /// Without a limit, by a negative number: `num_predict: -1` or `-2` in Ollama.
    Unlimited,
    /// Servers may read different limits: one is there twice, is no number, or differs from another.
    Unclear,
}

/// Returns what a request says of the limit of its answer, in any of the words that a server may read at a backend of this
/// dialect. `first` as in [`of`].
pub fn asked(call: &ModelRequest, first: usize, dialect: Dialect) -> Asked {
    if is_unclear(call, first, dialect) {
        return Asked::Unclear;
    }
    let numbers = || may_read(dialect).filter_map(|index| call.hint(first + index)?.parse::<f64>().ok());
    let choices = largest(call, first, LIMITS.len()..LIMITS.len() + CHOICES.len()).unwrap_or(1.0);
    match numbers().reduce(f64::max) {
        _ if numbers().any(|number| number < 0.0) => Asked::Unlimited,
        // A float becomes the nearest integer in range.
        Some(limit) if limit >= 1.0 => Asked::AtMost((limit * choices).ceil() as u64),
        _ => Asked::Nothing,
    }
}

/// The positions of limits that a server may read: those of its API, and words of local servers.
fn may_read(dialect: Dialect) -> impl Iterator<Item = usize> {
    let local = LIMITS.iter().position(|path| *path == "options.num_predict").into_iter();
    let local = local.chain(LIMITS.len() - LOCAL..LIMITS.len());
    let read = read_by(dialect);
    read.clone().chain(local.filter(move |index| dialect.is_llm() && !read.contains(index)))
}

fn largest(call: &ModelRequest, first: usize, places: Range<usize>) -> Option<f64> {
    let number = |index: usize| call.hint(first + index)?.parse::<f64>().ok().filter(|number| *number >= 1.0);
    places.filter_map(number).reduce(f64::max)
}

/// A backend ignores the members of other dialects: what it does not read limits nothing.
fn read_by(dialect: Dialect) -> Range<usize> {
    match dialect.name() {
        "gemini" | "ollama" => PLAIN..LIMITS.len() - LOCAL,
        "bedrock" => 0..LIMITS.len() - LOCAL,
        _ => 0..PLAIN,
    }
}

fn is_unclear(call: &ModelRequest, first: usize, dialect: Dialect) -> bool {
    let choices = LIMITS.len()..LIMITS.len() + CHOICES.len();
    let is_odd = |index: usize| call.odd_hints.has(first + index);
    let mut limits = may_read(dialect).filter_map(|index| call.hint(first + index));
    let differ = limits.next().is_some_and(|one| limits.any(|other| other != one));
    call.irregular || differ || may_read(dialect).chain(choices).any(is_odd)
}

#[cfg(test)]
mod tests {
    use super::Dialect;
    use crate::protocol::request::{RequestPaths, RequestScan};

    #[test]
    fn images_are_counted_where_the_body_only_names_them() {
        let paths: Vec<String> = super::paths().map(str::to_owned).collect();
        let paths = RequestPaths::new(&paths);
        let long = format!("data:image/png;base64,{}", "A".repeat(100_000));
        let part = |url: &str| format!(r#"{{"type": "image_url", "image_url": {{"url": "{url}"}}}}"#);
        let chat = |parts: &str| format!(r#"{{"messages": [{{"content": [{parts}]}}]}}"#);
        let two = [part("https://a/1.png"), part("https://a/1.png")].join(",");
        for (dialect, body, expected) in [
            (Dialect::OPENAI_CHAT, chat(&two), 2),
            (Dialect::OPENAI_CHAT, chat(&part(&long)), 0),
            (
                Dialect::ANTHROPIC,
                chat(r#"{"type": "image", "source": {"type": "url", "url": "https://a"}}"#),
                1,
            ),
            (
                Dialect::GEMINI,
                r#"{"contents": [{"parts": [{"fileData": {"fileUri": "gs://a"}}]}]}"#.to_owned(),
                1,
            ),
            (Dialect::OPENAI_CHAT, chat(r#"{"type": "text", "text": "image_url"}"#), 0),
        ] {
            let mut scan = RequestScan::speaking(dialect, &paths);
            scan.feed(body.as_bytes());
            assert_eq!(super::images(&scan.finish(), 0), expected, "{}", &body[..body.len().min(200)]);
        }
    }

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
            (
                Dialect::GEMINI,
                r#"{"generation_config": {"max_output_tokens": 9, "candidate_count": 2}}"#,
                Some(18),
            ),
        ] {
            let mut scan = RequestScan::speaking(dialect, &paths);
            scan.feed(body.as_bytes());
            assert_eq!(super::of(&scan.finish(), 1, dialect), expected, "{body}");
        }
    }

    #[test]
    fn what_is_asked_for_in_the_words_of_any_server_counts() {
        use super::Asked;
        let paths: Vec<String> = super::paths().map(str::to_owned).collect();
        let paths = RequestPaths::new(&paths);
        for (dialect, body, expected) in [
            (Dialect::OPENAI_CHAT, r#"{"n_predict": 9}"#, Asked::AtMost(9)),
            (Dialect::OPENAI_CHAT, r#"{"options": {"num_predict": 9}}"#, Asked::AtMost(9)),
            (Dialect::OPENAI_CHAT, r#"{"options": {"num_predict": 9}, "max_tokens": 1}"#, Asked::Unclear),
            (Dialect::OPENAI_CHAT, r#"{"n_predict": 9, "max_tokens": 9}"#, Asked::AtMost(9)),
            (Dialect::OPENAI_CHAT, r#"{"max_tokens": -1}"#, Asked::Unlimited),
            (Dialect::OPENAI_CHAT, r#"{"n_predict": "9"}"#, Asked::Unclear),
            (Dialect::OLLAMA, r#"{"options": {"num_predict": -1}}"#, Asked::Unlimited),
            (Dialect::OLLAMA, r#"{"options": {"num_predict": -2}}"#, Asked::Unlimited),
            (Dialect::OLLAMA, r#"{"options": {"num_predict": 3}}"#, Asked::AtMost(3)),
            (Dialect::OLLAMA, r#"{"options": {}}"#, Asked::Nothing),
            (Dialect::OPENAI_CHAT, r#"{"max_tokens": 7, "n": 2}"#, Asked::AtMost(14)),
        ] {
            let mut scan = RequestScan::speaking(dialect, &paths);
            scan.feed(body.as_bytes());
            assert_eq!(super::asked(&scan.finish(), 0, dialect), expected, "{body}");
        }
    }
}
