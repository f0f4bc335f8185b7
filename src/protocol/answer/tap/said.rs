//! What an answer says: texts, what repeats them, and arguments.

use super::found::{Found, end, number, part};
use crate::protocol::answer::events::Event;
use crate::protocol::answer::raw_json::without_escapes;
use crate::protocol::dialects::answer_rules::{AnswerRules, Field};
use crate::protocol::json::scan::{Scanner, Value};

impl Found {
    pub(super) fn take_text(
        &mut self,
        rules: &AnswerRules,
        field: Field,
        value: &Value<'_>,
        on: &mut dyn FnMut(Event<'_>),
    ) {
        match field {
            Field::Text => self.text(value, &mut |text| on(Event::Text(text))),
            Field::Thought => self.text(value, &mut |text| on(Event::Reasoning(text))),
            Field::Definition => self.text(value, &mut |text| on(Event::Definition(text))),
            Field::Result => self.text(value, &mut |text| on(Event::Result(text))),
            Field::ResultAgain => self.says_result(value, true, on),
            Field::ResultDone => self.says_result(value, false, on),
            Field::Delta if self.is_thought => part(value, |text| {
                self.speaks(text, rules);
                on(Event::Reasoning(text));
            }),
            Field::Delta if self.is_text => part(value, |text| {
                self.speaks(text, rules);
                on(Event::Text(text));
            }),
            Field::TextAgain => part(value, |text| self.says_again(text, true, on)),
            Field::ThoughtAgain => part(value, |text| {
                self.seldom.get_or_insert_default().repeats_thought = true;
                self.says_again(text, true, on);
            }),
            Field::TextDone => part(value, |text| self.says_again(text, false, on)),
            Field::TextAgainEnd => end(value, || self.end_again(on)),
            Field::TextPart => number(value, |part| {
                self.seldom.get_or_insert_default().repeats.part = part.parse().ok();
            }),
            Field::Delta | Field::CallArguments => part(value, |piece| self.calls.arguments(piece)),
            _ => {}
        }
    }

    /// Tells a text, or the JSON of an object or array, whose texts read without the escapes of blanks and quotes.
    fn text(&mut self, value: &Value<'_>, on: &mut dyn FnMut(&[u8])) {
        match value {
            Value::Part(text) => on(text),
            Value::Raw(json) => {
                let escaped = &mut self.seldom.get_or_insert_default().is_escaped;
                if *escaped || memchr::memchr(b'\\', json).is_some() {
                    on(&without_escapes(json, escaped));
                } else {
                    on(json);
                }
            }
            _ => {}
        }
    }

    /// What an event has of a result, which others may repeat.
    fn says_result(&mut self, value: &Value<'_>, is_sure: bool, on: &mut dyn FnMut(Event<'_>)) {
        let mut results = std::mem::take(&mut self.seldom.get_or_insert_default().results);
        self.text(value, &mut |text| results.again(text, is_sure, |text| on(Event::Result(text))));
        self.seldom.get_or_insert_default().results = results;
    }

    /// The item under way, which may have a result, is complete.
    pub(super) fn end_result(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        if let Some(seldom) = &mut self.seldom {
            seldom.results.end_text(|text| on(Event::Result(text)));
        }
    }

    /// Notes a delta, which later events may repeat.
    fn speaks(&mut self, text: &[u8], rules: &AnswerRules) {
        if !rules.calls.again_kinds.is_empty() {
            self.seldom.get_or_insert_default().repeats.delta(text);
        }
    }

    fn says_again(&mut self, text: &[u8], is_sure: bool, on: &mut dyn FnMut(Event<'_>)) {
        let is_thought = self.repeats_thought();
        self.seldom.get_or_insert_default().repeats.again(text, is_sure, |text| on(again(text, is_thought)));
    }

    fn end_again(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        let is_thought = self.repeats_thought();
        if let Some(seldom) = &mut self.seldom {
            seldom.repeats_thought = false;
            seldom.repeats.end_text(|text| on(again(text, is_thought)));
        }
    }

    /// The event is complete.
    pub(super) fn end_repeats(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        let (is_thought, index) = (self.repeats_thought(), self.calls.current_index());
        let Some(seldom) = &mut self.seldom else { return };
        let is_again = std::mem::take(&mut seldom.is_again);
        seldom.repeats_thought = false;
        seldom.repeats.end_event(index, is_again, |text| on(again(text, is_thought)));
        seldom.results.end_event(index, is_again, |text| on(Event::Result(text)));
        if self.is_last {
            seldom.repeats.clear();
            seldom.results.clear();
        }
    }

    /// Tells once of each text that programs may read it in several ways.
    pub(super) fn tell_ambiguous(&mut self, scanner: &Scanner, on: &mut dyn FnMut(Event<'_>)) {
        if scanner.is_ambiguous() && !std::mem::replace(&mut self.is_ambiguous, true) {
            on(Event::Ambiguous);
        }
    }

    /// The text is complete. One that may be read in several ways may be the end of a call.
    pub(super) fn end_ambiguous(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        if std::mem::take(&mut self.is_ambiguous) {
            self.calls.tell_open(on);
        }
    }

    fn repeats_thought(&self) -> bool {
        let seldom = self.seldom.as_ref();
        seldom.is_some_and(|seldom| seldom.repeats_thought) || self.calls.current_kind() == "reasoning"
    }
}

/// What an event says that should repeat a text and does not.
fn again(text: &[u8], is_thought: bool) -> Event<'_> {
    if is_thought { Event::Reasoning(text) } else { Event::Text(text) }
}
