//! Takes secrets out of a body. In JSON each text is read as a program reads it, escapes and all; in a stream also
//! what the texts of one place say together, since a secret comes in as many pieces as the model has tokens.

use std::collections::HashMap;
use std::ops::Range;

use super::leaves::{Form, Leaf, inside, leaves};
use super::rules::{Kind, Span, find, is_mark};
use crate::protocol::framing::Framing;

/// How often a body is gone through: two secrets that touch may hide each other, as words of one name do.
const ROUNDS: usize = 4;

/// The body without its secrets. Where it was cut, what has begun to be a secret is taken out too.
pub fn redact(text: &str, framing: Framing, is_cut: bool) -> String {
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
    let by_leaves = match framing {
        Framing::Sse | Framing::Ndjson => {
            let mut found = Vec::new();
            text.split_inclusive(['\n', '\r']).fold(0, |at, line| {
                line_leaves(line, at, framing, &mut found);
                at + line.len()
            });
            rewrite(text, &found, true, is_cut)
        }
        Framing::Json => {
            let mut found = Vec::new();
            leaves(text, 0, &mut found);
            // Gemini's stream is one array.
            rewrite(text, &found, text.trim_start().starts_with('['), is_cut)
        }
        Framing::Messages | Framing::Opaque => text.to_owned(),
    };
    // What stands in no text of the document, and all of what is none. What would reach from one text into another has
    // been misread.
    let mut spans = find(&by_leaves, is_cut);
    if framing != Framing::Opaque {
        spans.retain(|span| !by_leaves[span.range.clone()].contains('"'));
    }
    replace(&by_leaves, spans)
}

/// The texts of one line of a stream.
fn line_leaves(line: &str, at: usize, framing: Framing, found: &mut Vec<Leaf>) {
    let content = match framing {
        Framing::Sse => match line.strip_prefix("data:") {
            Some(data) => data.trim_start_matches(' '),
            None => return,
        },
        _ => line,
    };
    let begin = at + line.len() - content.len();
    let content = content.trim_end_matches(['\n', '\r']);
    if content.starts_with(['{', '[', '"']) {
        leaves(content, begin, found);
    } else if !content.is_empty() {
        let range = begin..begin + content.len();
        found.push(Leaf { range, form: Form::Raw, lane: inside(0, 0), is_secret: false });
    }
}

/// A text of the document as it reads, and what is to be taken out of it.
struct Reading<'a> {
    leaf: &'a Leaf,
    text: String,
    form: Form,
    spans: Vec<Span>,
}

impl<'a> Reading<'a> {
    fn of(document: &str, leaf: &'a Leaf) -> Self {
        let raw = &document[leaf.range.clone()];
        let decoded = match leaf.form {
            Form::Quoted if raw.contains('\\') => serde_json::from_str(&format!("\"{raw}\"")).ok(),
            _ => None,
        };
        // What cannot be read is taken as it stands.
        let form = if decoded.is_none() && leaf.form == Form::Quoted { Form::Raw } else { leaf.form };
        Self { leaf, text: decoded.unwrap_or_else(|| raw.to_owned()), form, spans: Vec::new() }
    }

    /// As it is written in the document.
    fn written(self) -> String {
        let text = replace(&self.text, self.spans);
        match self.form {
            Form::Quoted => {
                let quoted = serde_json::to_string(&text).unwrap_or_default();
                quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
            }
            Form::Number => format!("\"{text}\""),
            Form::Raw => text,
        }
    }
}

/// Writes the document again; all but the texts that hold a secret stays as it was.
fn rewrite(document: &str, found: &[Leaf], is_stream: bool, is_cut: bool) -> String {
    let mut readings: Vec<Reading<'_>> = found.iter().map(|leaf| Reading::of(document, leaf)).collect();
    for reading in &mut readings {
        // Only the last text of a document can have been cut.
        let is_cut = is_cut && reading.leaf.range.end == document.len();
        reading.spans = match reading.leaf.is_secret && !reading.text.is_empty() && !is_mark(&reading.text) {
            true => vec![Span { range: 0..reading.text.len(), mark: Kind::Secret.mark() }],
            false => find(&reading.text, is_cut),
        };
    }
    if is_stream {
        join(&mut readings, is_cut);
    }
    let mut written = String::with_capacity(document.len());
    let mut at = 0;
    for reading in readings.into_iter().filter(|reading| !reading.spans.is_empty()) {
        let range = reading.leaf.range.clone();
        written.push_str(&document[at..range.start]);
        written.push_str(&reading.written());
        at = range.end;
    }
    written.push_str(&document[at..]);
    written
}

/// Finds what only the texts of one place together say.
fn join(readings: &mut [Reading<'_>], is_cut: bool) {
    let mut lanes: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, reading) in readings.iter().enumerate().filter(|(_, reading)| reading.leaf.lane != 0) {
        lanes.entry(reading.leaf.lane).or_default().push(at);
    }
    for lane in lanes.values().filter(|lane| lane.len() > 1) {
        let mut whole = String::new();
        let mut places: Vec<Range<usize>> = Vec::with_capacity(lane.len());
        for at in lane {
            let begin = whole.len();
            whole.push_str(&readings[*at].text);
            places.push(begin..whole.len());
        }
        for span in find(&whole, is_cut) {
            let first = places.partition_point(|place| place.end <= span.range.start);
            let mut mark = span.mark;
            for (place, at) in places[first..].iter().zip(&lane[first..]) {
                if place.start >= span.range.end {
                    break;
                }
                let begin = span.range.start.max(place.start) - place.start;
                let end = span.range.end.min(place.end) - place.start;
                // The mark stands where the secret began; of the rest nothing is left.
                if begin < end {
                    readings[*at].spans.push(Span { range: begin..end, mark });
                    mark = "";
                }
            }
        }
    }
}

/// The text with its spans replaced; of those that overlap, the first gives the mark for all.
fn replace(text: &str, mut spans: Vec<Span>) -> String {
    spans.sort_by_key(|span| (span.range.start, std::cmp::Reverse(span.range.end)));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let mut spans = spans.into_iter().peekable();
    while let Some(Span { mut range, mut mark }) = spans.next() {
        while let Some(next) = spans.next_if(|next| next.range.start < range.end) {
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
