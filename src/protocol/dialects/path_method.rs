//! Paths of Google's APIs that call a method of a model: `…/models/MODEL:METHOD`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::protocol::facts::model_request::{ModelPlace, ModelRequest};

/// The methods of a model: the word after the colon.
const VERBS: [&str; 13] = [
    "asyncBatchEmbedContent",
    "batchEmbedContents",
    "batchGenerateContent",
    "computeTokens",
    "countTokens",
    "embedContent",
    "generateContent",
    "predict",
    "predictLongRunning",
    "rawPredict",
    "serverStreamingPredict",
    "streamRawPredict",
    "streamGenerateContent",
];

/// Those of them whose answers are streams.
const STREAMS: [&str; 3] = ["serverStreamingPredict", "streamGenerateContent", "streamRawPredict"];

/// Whether the answer of this method is a stream.
pub(super) fn is_stream(method: &str) -> bool {
    STREAMS.iter().any(|known| known.eq_ignore_ascii_case(method))
}

/// Whether a path calls a method of a model.
pub(super) fn is_call(path: &str) -> bool {
    has_colon(path) && calls(&spelled_out(path)).next().is_some()
}

/// Sets the model that the path names. Any segment counts, not only the last: a server that normalizes dots or
/// empty segments after it must not find another model than was checked here.
pub(super) fn read_path(path: &str, call: &mut ModelRequest) {
    let path = spelled_out(path);
    for (model, verb) in calls(&path) {
        if is_stream(verb) {
            call.streams_by_path();
        }
        // Bodies repeat it as `models/MODEL`.
        let same = |known: &str| known.strip_prefix("models/").unwrap_or(known) == model;
        call.model_doubled |= call.model.as_deref().is_some_and(|known| !same(known));
        call.model = Some(model.to_owned());
        call.model_place = ModelPlace::Fixed;
    }
    if let Some(batch) = &mut call.batch {
        batch.remove_prefix("models/");
    }
}

fn has_colon(path: &str) -> bool {
    path.bytes().any(|byte| matches!(byte, b':' | b'%'))
}

/// Models and their methods: `MODEL:VERB` in a segment, with or without `;parameters`.
pub(super) fn calls(path: &str) -> impl Iterator<Item = (&str, &str)> {
    path.split(['/', '\\']).filter_map(|segment| {
        let segment = segment.split(';').next()?;
        let (model, verb) = segment.rsplit_once(':')?;
        VERBS.iter().any(|known| known.eq_ignore_ascii_case(verb)).then_some((model, verb))
    })
}

/// The path with its percent-escapes resolved, as servers see it.
pub(super) fn spelled_out(path: &str) -> Cow<'_, str> {
    percent_decode_str(path).decode_utf8_lossy()
}

/// The usual spelling of a path: in small letters, without percent-escapes, empty segments, dots and `;parameters`. `None`
/// when it is written so.
pub(super) fn plain_spelling(path: &str) -> Option<String> {
    let is_plain =
        path.bytes().all(|byte| !byte.is_ascii_uppercase() && !matches!(byte, b'%' | b';' | b'.' | b'\\'));
    if is_plain && !path.contains("//") {
        return None;
    }
    // Servers written in C, and some that clean their input, do not see control characters.
    let decoded: String =
        spelled_out(path).to_lowercase().chars().filter(|letter| !letter.is_control()).collect();
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    Some(format!("/{}", segments.join("/")))
}

/// How often a path is decoded to see what it could be behind several servers.
const DECODED: usize = 3;

/// What servers may take a path for that is not written as usual: its plain spelling, that of a path which is decoded more than
/// once, and what is before an encoded NUL, `?` or `#`.
pub(super) fn other_spellings(path: &str) -> Vec<String> {
    let mut found = Vec::from_iter(plain_spelling(path));
    if path.contains('%') {
        let mut decoded = path.to_owned();
        for _ in 0..DECODED {
            decoded = spelled_out(&decoded).into_owned();
            let end = decoded.find(['\0', '?', '#']).unwrap_or(decoded.len());
            let parts = [&decoded[..end], &decoded];
            found.extend(parts.map(|part| plain_spelling(part).unwrap_or_else(|| part.to_owned())));
        }
    }
    found
}
