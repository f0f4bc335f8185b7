//! What the values at the paths of a dialect's rules mean, and what was found so far.

use crate::protocol::answer::events::Event;
use crate::protocol::answer::tool_calls::ToolCalls;
use crate::protocol::dialects::spec::{AnswerRules, CallStep, Field};
use crate::protocol::facts::usage::Usage;
use crate::protocol::json::scan::Value;

/// Bytes that are kept of a stop reason.
const STOP_MAX: usize = 64;

/// States of a response that is not over.
const UNDER_WAY: [&str; 2] = ["in_progress", "queued"];

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) usage: Usage,
    pub(super) any_usage: bool,
    /// The event under way counted something.
    pub(super) new_usage: bool,
    /// A count was invalid or implausible, and was left out.
    pub(super) false_count: bool,
    pub(super) model: String,
    pub(super) stop: String,
    /// The status of the answer in the event under way, and its detail.
    pub(super) status: String,
    pub(super) detail: String,
    pub(super) calls: ToolCalls,
    /// The event under way says that it is the last one.
    pub(super) is_last: bool,
    /// And that it is not.
    pub(super) is_not_last: bool,
    /// Its delta is text.
    pub(super) is_text: bool,
    /// What it does to a call.
    pub(super) step: Option<CallStep>,
}

impl Found {
    pub(super) fn take(
        &mut self,
        rules: &AnswerRules,
        path: usize,
        value: Value<'_>,
        on: &mut dyn FnMut(Event<'_>),
    ) {
        let Some((_, field)) = rules.fields.get(path) else { return };
        match field {
            Field::Reply => return self.is_last = true,
            Field::NotLast => return self.is_not_last |= value != Value::Null,
            _ => {}
        }
        match value {
            Value::Str(text) => self.take_text(rules, *field, &text, on),
            Value::Number(number) => self.take_number(*field, number),
            Value::Bool(value) if *field == Field::Done => self.is_last = value,
            Value::Bool(_) | Value::Null => {}
            Value::Part(part) => match field {
                Field::Text => on(Event::Text(part)),
                Field::Delta if self.is_text => on(Event::Text(part)),
                _ => self.calls.arguments(part),
            },
            Value::End => match field {
                Field::CallPieceEnd => self.calls.piece(on),
                Field::CallAgainEnd if self.calls.has_known() => self.calls.clear(),
                Field::ChoiceEnd => self.calls.choice_ends(on),
                _ => self.calls.whole(rules.calls.suffix, on),
            },
        }
    }

    fn take_text(&mut self, rules: &AnswerRules, field: Field, text: &str, on: &mut dyn FnMut(Event<'_>)) {
        match field {
            Field::Model if !text.is_empty() && *text != *self.model => {
                self.model.clear();
                self.model.push_str(text);
            }
            Field::Kind => {
                self.is_last = rules.last_kinds.contains(&text);
                self.is_text = rules.calls.text_kinds.contains(&text);
                self.step = rules.calls.steps.iter().find(|(kind, _)| *kind == text).map(|(_, step)| *step);
            }
            Field::Stop => self.stops(text, on),
            Field::ChoiceStop => {
                self.stops(text, on);
                self.calls.choice_stops();
            }
            Field::Status => keep(&mut self.status, text),
            Field::StopDetail => keep(&mut self.detail, text),
            Field::CallKind => self.calls.kind(text),
            Field::CallId => self.calls.id(text),
            Field::CallName => self.calls.name(text),
            _ => {}
        }
    }

    fn take_number(&mut self, field: Field, number: &str) {
        let count = match field {
            Field::Input => &mut self.usage.input_tokens,
            Field::Output => &mut self.usage.output_tokens,
            Field::CacheRead => &mut self.usage.cache_read_tokens,
            Field::CacheWrite => &mut self.usage.cache_write_tokens,
            Field::CacheWriteHour => &mut self.usage.cache_write_1h_tokens,
            Field::Reasoning => &mut self.usage.reasoning_tokens,
            Field::WebSearches => &mut self.usage.web_search_requests,
            Field::CallIndex => return self.calls.index(number.parse().ok()),
            Field::ChoiceIndex => return self.calls.choice(number.parse().unwrap_or_default()),
            _ => return,
        };
        match tokens(number) {
            Some(tokens) => {
                *count = tokens;
                self.any_usage = true;
                self.new_usage = true;
            }
            None => self.false_count = true,
        }
    }

    fn stops(&mut self, why: &str, on: &mut dyn FnMut(Event<'_>)) {
        if !why.is_empty() {
            keep(&mut self.stop, why);
            on(Event::Stop(&self.stop));
        }
    }

    /// An event, a line or the whole answer was read: what its parts mean together.
    pub(super) fn end_text(&mut self, rules: &AnswerRules, on: &mut dyn FnMut(Event<'_>)) {
        if std::mem::take(&mut self.is_text) && !self.calls.pending().is_empty() {
            // Its delta came before its kind.
            on(Event::Text(self.calls.pending()));
        }
        if let Some(step) = self.step.take() {
            self.calls.step(step, rules.calls.suffix, on);
        }
        self.calls.clear();
        if std::mem::take(&mut self.is_last) && !self.status.is_empty() {
            let why = if self.detail.is_empty() { &self.status } else { &self.detail };
            if !UNDER_WAY.contains(&why.as_str()) {
                let why = why.clone();
                self.stops(&why, on);
            }
        }
        self.status.clear();
        self.detail.clear();
        if std::mem::take(&mut self.new_usage) {
            on(Event::Usage(self.usage));
        }
    }
}

/// Sets a short word, its first [`STOP_MAX`] bytes.
fn keep(place: &mut String, text: &str) {
    place.clear();
    place.push_str(&text[..text.floor_char_boundary(STOP_MAX)]);
}

/// The largest plausible count of one answer. No model reads or writes that many tokens; a larger number is an error
/// of the provider or an attack on the sums.
const COUNT_MAX: u64 = 1_000_000_000;

/// A count; some servers write `12.0`. `None` when it is none: negative, or above [`COUNT_MAX`].
fn tokens(number: &str) -> Option<u64> {
    let count = number.parse().ok().or_else(|| {
        let float: f64 = number.parse().ok()?;
        // A float becomes the nearest integer in range.
        (float.is_finite() && float >= 0.0).then_some(float as u64)
    });
    count.filter(|count| *count <= COUNT_MAX)
}
