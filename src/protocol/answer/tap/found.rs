//! What the values at the paths of a dialect's rules mean, and what was found so far.

use crate::protocol::answer::events::Event;
use crate::protocol::answer::repeats::Repeats;
use crate::protocol::answer::tool_calls::ToolCalls;
use crate::protocol::dialects::answer_rules::{AnswerRules, CallStep, Field};
use crate::protocol::facts::usage::ReportedCounts;
use crate::protocol::json::scan::Value;

/// Bytes that are kept of a stop reason.
const STOP_MAX: usize = 64;

/// The action of a search call that is charged; opening and reading pages is not
/// (developers.openai.com/api/docs/guides/tools-web-search).
const SEARCH: &str = "search";

/// Tiers and speeds that have the standard price.
const STANDARD: [&str; 3] = ["default", "standard", "ON_DEMAND"];
/// The state of a response that ended with an error.
const FAILED: &str = "failed";

/// States of a response that is not over.
const UNDER_WAY: [&str; 2] = ["in_progress", "queued"];

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) counts: ReportedCounts,
    pub(super) any_usage: bool,
    /// The event under way counted something.
    pub(super) new_usage: bool,
    /// A count was invalid or implausible, and was left out.
    pub(super) false_count: bool,
    pub(super) model: String,
    pub(super) stop: String,
    /// The provider has reported an error.
    pub(super) has_failed: bool,
    pub(super) seldom: Option<Box<Seldom>>,
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
    /// Its delta is reasoning.
    pub(super) is_thought: bool,
    /// What it does to a call.
    pub(super) step: Option<CallStep>,
    /// It has said of which kind it is.
    has_kind: bool,
    /// It was told that the text under way may be read in several ways.
    pub(super) is_ambiguous: bool,
}

/// What most answers do not have.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    /// The service tier, and the speed, where they are not the standard ones.
    tier: String,
    speed: String,
    /// Searches reported by the current event.
    searches: u64,
    /// The provider's id of the answer.
    pub(super) id: String,
    /// The provider's word for the error that it has reported; empty when it has none.
    pub(super) error: String,
    /// Messages of a socket that reported an error.
    pub(super) failed_messages: u64,
    /// No answer of the socket has ended well since.
    pub(super) has_failed: bool,
    /// What the event under way says outside of parts repeats a text.
    pub(super) is_again: bool,
    /// What it repeats is reasoning.
    pub(super) repeats_thought: bool,
    pub(super) repeats: Repeats,
    /// The same of what came of the provider's own calls.
    pub(super) results: Repeats,
    /// The JSON under way ends with a backslash.
    pub(super) is_escaped: bool,
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
        match *field {
            Field::Input => self.count(&value, |counts| &mut counts.input),
            Field::ToolInput => self.count(&value, |counts| &mut counts.tool_input),
            Field::Output => self.count(&value, |counts| &mut counts.output),
            Field::CacheRead => self.count(&value, |counts| &mut counts.cache_read),
            Field::CacheWrite => self.count(&value, |counts| &mut counts.cache_write),
            Field::CacheWriteHour => self.count(&value, |counts| &mut counts.cache_write_1h),
            Field::Reasoning => self.count(&value, |counts| &mut counts.reasoning),
            Field::Total => self.count(&value, |counts| &mut counts.total),
            Field::WebSearches => self.count(&value, |counts| &mut counts.web_searches),
            Field::SearchAction => text(&value, |action| self.searches(action == SEARCH)),
            Field::SearchQuery => text(&value, |_| self.searches(true)),
            Field::ServiceTier => text(&value, |tier| self.is_served(tier, |seldom| &mut seldom.tier)),
            Field::Speed => text(&value, |speed| self.is_served(speed, |seldom| &mut seldom.speed)),
            Field::Model => text(&value, |model| set(&mut self.model, model)),
            Field::Id => text(&value, |id| set(&mut self.seldom.get_or_insert_default().id, id)),
            Field::Kind => text(&value, |kind| self.says_kind(kind, rules)),
            Field::Done => self.is_last = if let Value::Bool(done) = value { done } else { self.is_last },
            Field::Reply => self.is_last = true,
            Field::NotLast => self.is_not_last |= value != Value::Null,
            Field::Error => self.fails(&value, false),
            Field::ErrorWord => self.fails(&value, true),
            Field::Stop => text(&value, |why| self.stops(why, rules, on)),
            Field::Status => text(&value, |status| keep(&mut self.status, status)),
            Field::StopDetail => text(&value, |detail| keep(&mut self.detail, detail)),
            Field::CallIndex => number(&value, |index| self.calls.index(index.parse().ok())),
            Field::CallKind => text(&value, |kind| self.calls.kind(kind)),
            Field::CallId => text(&value, |id| self.calls.id(id)),
            Field::CallName => text(&value, |name| self.calls.name(name)),
            Field::CallAgainEnd if self.calls.has_known() => end(&value, || {
                self.calls.again(rules.calls.suffix, on);
                self.end_result(on);
            }),
            Field::CallAgainEnd | Field::CallEnd => end(&value, || {
                self.calls.whole(rules.calls.suffix, on);
                self.end_result(on);
            }),
            Field::CallPieceEnd => end(&value, || self.calls.piece(on)),
            Field::ChoiceIndex => {
                number(&value, |index| self.calls.choice(index.parse().unwrap_or_default()));
            }
            Field::ChoiceStop => text(&value, |why| {
                self.stops(why, rules, on);
                self.calls.choice_stops();
            }),
            Field::ChoiceEnd => end(&value, || self.calls.choice_ends(on)),
            field => self.take_text(rules, field, &value, on),
        }
    }

    /// The service tier that decides the price; `None` for the standard one.
    pub(super) fn service_tier(&self) -> Option<&str> {
        let seldom = self.seldom.as_deref()?;
        let tier = if seldom.speed.is_empty() { &seldom.tier } else { &seldom.speed };
        (!tier.is_empty()).then_some(tier)
    }

    /// Sets a tier or speed; the standard one takes back what an earlier event said.
    fn is_served(&mut self, word: &str, place: impl FnOnce(&mut Seldom) -> &mut String) {
        if !STANDARD.contains(&word) {
            keep(place(self.seldom.get_or_insert_default()), without_prefix(word));
        } else if let Some(seldom) = &mut self.seldom {
            place(seldom).clear();
        }
    }

    fn searches(&mut self, is_search: bool) {
        if is_search {
            self.seldom.get_or_insert_default().searches += 1;
        }
    }

    /// The provider reports an error, in this word.
    pub(super) fn reports(&mut self, word: &str) {
        self.fails(&Value::Str(word.into()), true);
        self.has_failed = true;
    }

    /// The event under way is of this kind.
    pub(super) fn is_of(&mut self, kind: &str, rules: &AnswerRules) {
        self.is_last = rules.ends.last_kinds.contains(&kind);
        self.has_failed |= rules.ends.error_kinds.contains(&kind);
        self.is_text = rules.calls.text_kinds.contains(&kind);
        self.is_thought = rules.calls.thought_kinds.contains(&kind);
        if rules.calls.again_kinds.contains(&kind) {
            let seldom = self.seldom.get_or_insert_default();
            (seldom.is_again, seldom.repeats_thought) = (true, kind.contains("reasoning"));
        }
        self.step = rules.calls.steps.iter().find(|(known, _)| *known == kind).map(|(_, step)| *step);
    }

    /// The event under way says its kind. One that says several is read as all of them.
    fn says_kind(&mut self, kind: &str, rules: &AnswerRules) {
        let (is_last, is_text, is_thought, step) = (self.is_last, self.is_text, self.is_thought, self.step);
        self.is_of(kind, rules);
        if std::mem::replace(&mut self.has_kind, true) {
            self.is_last |= is_last;
            self.is_text |= is_text;
            self.is_thought |= is_thought;
            self.step = self.step.max(step);
        }
    }

    /// Counts are cumulative: a later one that is smaller says nothing new.
    fn count(&mut self, value: &Value<'_>, which: impl FnOnce(&mut ReportedCounts) -> &mut u64) {
        number(value, |number| match tokens(number) {
            Some(tokens) => {
                let known = which(&mut self.counts);
                *known = tokens.max(*known);
                self.any_usage = true;
                self.new_usage = true;
            }
            None => self.false_count = true,
        });
    }

    /// Notes an error, which a member that is null, false or empty does not report.
    fn fails(&mut self, value: &Value<'_>, is_word: bool) {
        let word = match value {
            Value::Str(text) => text,
            Value::Number(number) => *number,
            Value::Bool(true) => "",
            Value::Bool(false) | Value::Null | Value::Part(_) | Value::Raw(_) | Value::End => return,
        };
        if matches!(value, Value::Str(text) if text.is_empty()) {
            return;
        }
        self.has_failed = true;
        let error = &mut self.seldom.get_or_insert_default().error;
        if is_word && error.is_empty() {
            keep(error, word);
        }
    }

    fn stops(&mut self, why: &str, rules: &AnswerRules, on: &mut dyn FnMut(Event<'_>)) {
        if !why.is_empty() {
            self.has_failed |= rules.ends.error_stops.contains(&why);
            keep(&mut self.stop, why);
            on(Event::Stop(&self.stop));
        }
    }

    /// An element of a streamed array was read.
    pub(super) fn end_element(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        on(Event::Piece(self.calls.current_index()));
    }

    /// An event, a line or the whole answer was read: what its parts mean together.
    pub(super) fn end_text(&mut self, rules: &AnswerRules, on: &mut dyn FnMut(Event<'_>)) {
        self.has_kind = false;
        let (is_text, is_thought) = (std::mem::take(&mut self.is_text), std::mem::take(&mut self.is_thought));
        if (is_text || is_thought) && !self.calls.pending().is_empty() {
            // Its delta came before its kind.
            let text = self.calls.pending();
            if !rules.calls.again_kinds.is_empty() {
                self.seldom.get_or_insert_default().repeats.delta(text);
            }
            on(if is_text { Event::Text(text) } else { Event::Reasoning(text) });
        }
        self.end_repeats(on);
        let index = self.calls.current_index();
        on(Event::Piece(index));
        if let Some(step) = self.step.take() {
            self.calls.step(step, rules.calls.suffix, on);
            if matches!(step, CallStep::Close | CallStep::Whole) {
                on(Event::End { choice: 0, index });
            }
        }
        self.calls.clear();
        if std::mem::take(&mut self.is_last) && !self.status.is_empty() {
            self.has_failed |= self.status == FAILED;
            let why = if self.detail.is_empty() { &self.status } else { &self.detail };
            if !UNDER_WAY.contains(&why.as_str()) {
                let why = why.clone();
                self.stops(&why, rules, on);
            }
        }
        self.status.clear();
        self.detail.clear();
        // Later events repeat what earlier ones told.
        if let Some(seldom) = &mut self.seldom {
            self.counts.web_searches = self.counts.web_searches.max(std::mem::take(&mut seldom.searches));
        }
        if std::mem::take(&mut self.new_usage) {
            on(Event::Usage((rules.usage)(&self.counts)));
        }
    }
}

/// `ON_DEMAND_FLEX` and `SERVICE_TIER_FLEX` are the tier `FLEX`.
fn without_prefix(tier: &str) -> &str {
    let prefixes = ["ON_DEMAND_", "SERVICE_TIER_"];
    prefixes.iter().find_map(|prefix| tier.strip_prefix(prefix)).unwrap_or(tier)
}

// A value of another type than its field has is passed over.

fn text(value: &Value<'_>, then: impl FnOnce(&str)) {
    if let Value::Str(text) = value {
        then(text);
    }
}

pub(super) fn number(value: &Value<'_>, then: impl FnOnce(&str)) {
    if let Value::Number(number) = value {
        then(number);
    }
}

pub(super) fn part(value: &Value<'_>, then: impl FnOnce(&[u8])) {
    if let Value::Part(part) | Value::Raw(part) = value {
        then(part);
    }
}

pub(super) fn end(value: &Value<'_>, then: impl FnOnce()) {
    if let Value::End = value {
        then();
    }
}

/// Sets a name, unless it is empty or known.
fn set(place: &mut String, name: &str) {
    if !name.is_empty() && *name != **place {
        place.clear();
        place.push_str(name);
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
