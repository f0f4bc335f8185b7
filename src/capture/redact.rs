//! Takes secrets out of a body. In JSON each text is read as a program reads it, escapes and all; in a stream also
//! what the texts of one place say together, since a secret comes in as many pieces as the model has tokens.

use std::collections::HashMap;
use std::ops::Range;

use super::leaves::{Form, Leaf, as_it_reads, inside, leaves, leaves_of_event};
use super::rules::{Kind, Span, find, is_document, is_json, is_mark};
use crate::protocol::wire::framing::Framing;

/// How often a body is gone through: two secrets that touch may hide each other, as words of one name do.
const ROUNDS: usize = 4;
/// How deep documents are read that stand in a text of another: the arguments of a tool call are one.
const DEPTH: usize = 4;
/// What stands in the place of a number, so that the document stays one.
const NUMBER: &str = "\"[redacted:secret]\"";

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
        Framing::Sse => rewrite(text, &stream_leaves(text), true, is_cut, DEPTH),
        Framing::Ndjson => {
            let mut found = Vec::new();
            for (at, line) in lines(text) {
                line_leaves(line, at, &mut found);
            }
            rewrite(text, &found, true, is_cut, DEPTH)
        }
        Framing::Json => document(text, is_cut, DEPTH),
        Framing::Messages | Framing::Opaque => text.to_owned(),
    };
    // What stands in no text of the document, and all of what is none. What would reach from one text into another has
    // been misread.
    let mut spans = find(&by_leaves, is_cut);
    if framing != Framing::Opaque {
        spans.retain(|span| !by_leaves[span.from..span.range.end].contains('"'));
    }
    replace(&by_leaves, spans)
}

/// One JSON document.
fn document(text: &str, is_cut: bool, depth: usize) -> String {
    let mut found = Vec::new();
    leaves(text, 0, &mut found);
    // Gemini's stream is one array.
    rewrite(text, &found, text.trim_start().starts_with('['), is_cut, depth)
}

/// The lines of a text with their place, each with its end.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive(['\n', '\r']).scan(0, |at, line| {
        let begin = *at;
        *at += line.len();
        Some((begin, line))
    })
}

/// The texts of a stream of server-sent events.
fn stream_leaves(text: &str) -> Vec<Leaf> {
    let mut found = Vec::new();
    // The data of the event under way: where each line of it stands.
    let mut event: Vec<Range<usize>> = Vec::new();
    for (at, line) in lines(text) {
        let content = line.trim_end_matches(['\n', '\r']);
        if let Some(data) = content.strip_prefix("data:") {
            let data = data.trim_start_matches(' ');
            event.push(at + content.len() - data.len()..at + content.len());
        } else if content.is_empty() && !text[..at].ends_with('\r') {
            event_leaves(text, std::mem::take(&mut event), &mut found);
        }
    }
    event_leaves(text, event, &mut found);
    found
}

fn event_leaves(text: &str, data: Vec<Range<usize>>, found: &mut Vec<Leaf>) {
    match &data[..] {
        [first, .., last] if is_json(&text[first.clone()]) => {
            leaves_of_event(&text[first.start..last.end], first.start, found);
        }
        data => data.iter().for_each(|line| line_leaves(&text[line.clone()], line.start, found)),
    }
}

/// The texts of one line.
fn line_leaves(line: &str, begin: usize, found: &mut Vec<Leaf>) {
    let content = line.trim_end_matches(['\n', '\r']);
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
    /// It is a document from which something was taken out.
    is_changed: bool,
    spans: Vec<Span>,
}

impl<'a> Reading<'a> {
    fn of(within: &str, leaf: &'a Leaf, is_cut: bool, depth: usize) -> Self {
        let raw = &within[leaf.range.clone()];
        let read = match leaf.form {
            Form::Quoted => as_it_reads(raw),
            _ => raw.into(),
        };
        // What cannot be read is taken as it stands.
        let is_escaped = leaf.form == Form::Quoted && raw.contains('\\');
        let form = if is_escaped && read == raw { Form::Raw } else { leaf.form };
        let mut reading = Self { leaf, text: read.into_owned(), form, is_changed: false, spans: Vec::new() };
        if form == Form::Quoted && !leaf.is_secret && depth > 0 && is_json(&reading.text) {
            let inner = document(&reading.text, is_cut, depth - 1);
            reading.is_changed = inner != reading.text;
            reading.text = inner;
        }
        reading
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
fn rewrite(document: &str, found: &[Leaf], is_stream: bool, is_cut: bool, depth: usize) -> String {
    let mut readings: Vec<Reading<'_>> = Vec::with_capacity(found.len());
    for leaf in found {
        // Only the last text of a document can have been cut.
        let is_cut = is_cut && leaf.range.end == document.len();
        let mut reading = Reading::of(document, leaf, is_cut, depth);
        reading.spans = match leaf.is_secret && !reading.text.is_empty() && !is_mark(&reading.text) {
            true => vec![Span { range: 0..reading.text.len(), from: 0, mark: Kind::Secret.mark() }],
            false => find(&reading.text, is_cut),
        };
        readings.push(reading);
    }
    if is_stream {
        join(&mut readings, is_cut);
    }
    let mut written = String::with_capacity(document.len());
    let mut at = 0;
    for reading in readings.into_iter().filter(|reading| reading.is_changed || !reading.spans.is_empty()) {
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
        if is_document(&whole) {
            // A piece alone looks like a text around an object; the document says which of its texts are secret.
            for at in lane {
                let Reading { text, spans, .. } = &mut readings[*at];
                spans.retain(|span| !text[span.range.clone()].starts_with(['{', '[']));
            }
        }
        for span in joined_spans(&whole, is_cut) {
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
                    readings[*at].spans.push(Span { range: begin..end, from: begin, mark });
                    mark = "";
                }
            }
        }
    }
}

/// What is to be taken out of a text that came in pieces, which may be a document: the arguments of a tool call.
fn joined_spans(whole: &str, is_cut: bool) -> Vec<Span> {
    let mut found = Vec::new();
    if is_json(whole) {
        leaves(whole, 0, &mut found);
    }
    let secrets = found.into_iter().filter(|leaf| leaf.is_secret && !is_mark(&whole[leaf.range.clone()]));
    let secrets = secrets.map(|Leaf { range, form, .. }| {
        let mark = if form == Form::Number { NUMBER } else { Kind::Secret.mark() };
        Span { from: range.start, range, mark }
    });
    // Of two that begin at the same place the first gives the mark: that of the document.
    secrets.chain(find(whole, is_cut)).collect()
}

/// The text with its spans replaced; of those that overlap, the first gives the mark for all.
fn replace(text: &str, mut spans: Vec<Span>) -> String {
    spans.sort_by_key(|span| (span.range.start, std::cmp::Reverse(span.range.end)));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let mut spans = spans.into_iter().peekable();
    while let Some(Span { mut range, mut mark, .. }) = spans.next() {
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
