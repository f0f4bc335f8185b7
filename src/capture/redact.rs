//! Redacts secrets in a body. JSON strings are unescaped before they are searched. In a stream, the texts at the same
//! location are also searched as one, since a secret may be split over as many events as the model has tokens.

use std::collections::HashMap;
use std::ops::Range;

use super::json_texts::{JsonText, Notation, as_it_reads, inside, json_texts, json_texts_of_event};
use super::rules::{Redaction, find_secrets, is_document, is_json, is_mark, mark};
use crate::policy::secrets::SecretKind;
use crate::protocol::wire::framing::Framing;

/// The largest number of passes over a body: adjacent secrets may hide each other.
const ROUNDS: usize = 4;
/// How deep JSON documents inside strings of other documents are parsed; the arguments of a tool call are one.
const DEPTH: usize = 4;
/// Replaces a number, so that the document stays valid JSON.
const NUMBER: &str = "\"[redacted:secret]\"";

/// Redacts a body. If it was cut, an incomplete secret at its end is redacted, too.
pub fn redact_body(text: &str, framing: Framing, is_cut: bool) -> String {
    let mut redacted = once(text, framing, is_cut);
    for _ in 1..ROUNDS {
        let again = once(&redacted, framing, is_cut);
        if again == redacted {
            break;
        }
        redacted = again;
    }
    redacted
}

fn once(text: &str, framing: Framing, is_cut: bool) -> String {
    let by_texts = match framing {
        Framing::Sse => rewrite(text, &stream_texts(text), true, is_cut, DEPTH),
        Framing::Ndjson => {
            let mut found = Vec::new();
            for (at, line) in lines(text) {
                // A number that is a whole line is a document, too.
                match line.trim_ascii() {
                    number if is_number(number) => {
                        json_texts(number, at + line.find(number).unwrap_or(0), &mut found)
                    }
                    _ => line_texts(line, at, &mut found),
                }
            }
            rewrite(text, &found, true, is_cut, DEPTH)
        }
        Framing::Json => document(text, is_cut, DEPTH),
        Framing::BinaryEvents | Framing::Messages | Framing::Opaque => text.to_owned(),
    };
    // Search everything outside the document's strings. A match that spans two strings is a false positive.
    let mut redactions = find_secrets(&by_texts, is_cut);
    if framing != Framing::Opaque {
        redactions.retain(|redaction| !by_texts[redaction.from..redaction.range.end].contains('"'));
    }
    replace(&by_texts, redactions)
}

/// Redacts a JSON document.
fn document(text: &str, is_cut: bool, depth: usize) -> String {
    let mut found = Vec::new();
    json_texts(text, 0, &mut found);
    // Gemini's stream is one array.
    rewrite(text, &found, text.trim_start().starts_with('['), is_cut, depth)
}

/// Iterates over lines, including their line ends, with their positions.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive(['\n', '\r']).scan(0, |at, line| {
        let begin = *at;
        *at += line.len();
        Some((begin, line))
    })
}

/// Finds the texts of a stream of server-sent events.
fn stream_texts(text: &str) -> Vec<JsonText> {
    let mut found = Vec::new();
    // The ranges of the `data:` lines of the current event.
    let mut event: Vec<Range<usize>> = Vec::new();
    for (at, line) in lines(text) {
        let content = line.trim_end_matches(['\n', '\r']);
        if let Some(data) = content.strip_prefix("data:") {
            let data = data.trim_start_matches(' ');
            event.push(at + content.len() - data.len()..at + content.len());
        } else if content.is_empty() && !text[..at].ends_with('\r') {
            event_texts(text, std::mem::take(&mut event), &mut found);
        }
    }
    event_texts(text, event, &mut found);
    found
}

fn event_texts(text: &str, data: Vec<Range<usize>>, found: &mut Vec<JsonText>) {
    match &data[..] {
        [first, .., last] if is_json(&text[first.clone()]) => {
            json_texts_of_event(&text[first.start..last.end], first.start, found);
        }
        data => data.iter().for_each(|line| line_texts(&text[line.clone()], line.start, found)),
    }
}

/// Returns whether a text is made of the characters of a number, beginning with a digit or a minus sign.
fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
}

/// Finds the texts of a line.
fn line_texts(line: &str, begin: usize, found: &mut Vec<JsonText>) {
    let content = line.trim_end_matches(['\n', '\r']);
    if content.starts_with(['{', '[', '"']) {
        json_texts(content, begin, found);
    } else if !content.is_empty() {
        let range = begin..begin + content.len();
        found.push(JsonText { range, notation: Notation::Raw, location: inside(0, 0), is_secret: false });
    }
}

/// An unescaped text of the document, and what to redact in it.
struct Reading<'a> {
    leaf: &'a JsonText,
    text: String,
    notation: Notation,
    /// It is a JSON document in which something was redacted.
    is_changed: bool,
    redactions: Vec<Redaction>,
}

impl<'a> Reading<'a> {
    fn of(within: &str, leaf: &'a JsonText, is_cut: bool, depth: usize) -> Self {
        let raw = &within[leaf.range.clone()];
        let read = match leaf.notation {
            Notation::Quoted => as_it_reads(raw),
            Notation::Number | Notation::Raw => raw.into(),
        };
        // A string with invalid escapes is searched as it is.
        let is_escaped = leaf.notation == Notation::Quoted && raw.contains('\\');
        let notation = if is_escaped && read == raw { Notation::Raw } else { leaf.notation };
        let mut reading =
            Self { leaf, text: read.into_owned(), notation, is_changed: false, redactions: Vec::new() };
        if notation == Notation::Quoted && !leaf.is_secret && depth > 0 && is_json(&reading.text) {
            let inner = document(&reading.text, is_cut, depth - 1);
            reading.is_changed = inner != reading.text;
            reading.text = inner;
        }
        reading
    }

    /// Encodes the redacted text for the document.
    fn written(self) -> String {
        let text = replace(&self.text, self.redactions);
        match self.notation {
            Notation::Quoted => {
                let quoted = serde_json::to_string(&text).unwrap_or_default();
                quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
            }
            Notation::Number => format!("\"{text}\""),
            Notation::Raw => text,
        }
    }
}

/// Rewrites the document. Only texts with secrets are changed.
fn rewrite(document: &str, found: &[JsonText], is_stream: bool, is_cut: bool, depth: usize) -> String {
    let mut readings: Vec<Reading<'_>> = Vec::with_capacity(found.len());
    for leaf in found {
        // Only the last text can be incomplete.
        let is_cut = is_cut && leaf.range.end == document.len();
        let mut reading = Reading::of(document, leaf, is_cut, depth);
        reading.redactions = match leaf.is_secret && !reading.text.is_empty() && !is_mark(&reading.text) {
            true => {
                vec![Redaction { range: 0..reading.text.len(), from: 0, mark: mark(SecretKind::Secret) }]
            }
            false => find_secrets(&reading.text, is_cut),
        };
        readings.push(reading);
    }
    if is_stream {
        join(&mut readings, is_cut);
    }
    let mut written = String::with_capacity(document.len());
    let mut at = 0;
    for reading in readings.into_iter().filter(|reading| reading.is_changed || !reading.redactions.is_empty())
    {
        let range = reading.leaf.range.clone();
        written.push_str(&document[at..range.start]);
        written.push_str(&reading.written());
        at = range.end;
    }
    written.push_str(&document[at..]);
    written
}

/// Finds secrets that are split over several texts at the same location.
fn join(readings: &mut [Reading<'_>], is_cut: bool) {
    let mut locations: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, reading) in readings.iter().enumerate().filter(|(_, reading)| reading.leaf.location != 0) {
        locations.entry(reading.leaf.location).or_default().push(at);
    }
    for location in locations.values().filter(|location| location.len() > 1) {
        let mut whole = String::new();
        let mut places: Vec<Range<usize>> = Vec::with_capacity(location.len());
        for at in location {
            let begin = whole.len();
            whole.push_str(&readings[*at].text);
            places.push(begin..whole.len());
        }
        if is_document(&whole) {
            // Drop matches of a single piece: the joined document shows which of its texts are secret.
            for at in location {
                let Reading { text, redactions, .. } = &mut readings[*at];
                redactions.retain(|redaction| !text[redaction.range.clone()].starts_with(['{', '[']));
            }
        }
        for redaction in joined_redactions(&whole, is_cut) {
            let first = places.partition_point(|place| place.end <= redaction.range.start);
            let mut mark = redaction.mark;
            for (place, at) in places[first..].iter().zip(&location[first..]) {
                if place.start >= redaction.range.end {
                    break;
                }
                let begin = redaction.range.start.max(place.start) - place.start;
                let end = redaction.range.end.min(place.end) - place.start;
                // The placeholder goes where the secret starts; the rest is removed.
                if begin < end {
                    readings[*at].redactions.push(Redaction { range: begin..end, from: begin, mark });
                    mark = "";
                }
            }
        }
    }
}

/// Finds secrets in a text that came in pieces and may be a JSON document, such as the arguments of a tool call.
fn joined_redactions(whole: &str, is_cut: bool) -> Vec<Redaction> {
    let mut found = Vec::new();
    if is_json(whole) {
        json_texts(whole, 0, &mut found);
    }
    let secrets = found.into_iter().filter(|leaf| leaf.is_secret && !is_mark(&whole[leaf.range.clone()]));
    let secrets = secrets.map(|JsonText { range, notation, .. }| {
        let mark = if notation == Notation::Number { NUMBER } else { mark(SecretKind::Secret) };
        Redaction { from: range.start, range, mark }
    });
    // If two start at the same position, the first placeholder wins: that of the document.
    secrets.chain(find_secrets(whole, is_cut)).collect()
}

/// Replaces the ranges with their placeholders. Overlapping ranges are merged and get the first placeholder.
fn replace(text: &str, mut redactions: Vec<Redaction>) -> String {
    redactions.sort_by_key(|redaction| (redaction.range.start, std::cmp::Reverse(redaction.range.end)));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let mut redactions = redactions.into_iter().peekable();
    while let Some(Redaction { mut range, mut mark, .. }) = redactions.next() {
        while let Some(next) = redactions.next_if(|next| next.range.start < range.end) {
            range.end = range.end.max(next.range.end);
            mark = if mark.is_empty() { next.mark } else { mark };
        }
        out.push_str(&text[at..range.start]);
        out.push_str(mark);
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

#[cfg(test)]
mod tests;
