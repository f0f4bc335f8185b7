//! Assembles tool calls from the pieces in which an answer streams them, in any interleaving.
//!
//! An event, or an element of an array, fills in a fragment; where it ends, the fragment is joined to the
//! call it belongs to. Without a listener only names and ids are kept.

use serde::de::IgnoredAny;

use self::known::{Fragment, Known};
use super::events::Event;
use super::whole_value::WholeValue;
use crate::protocol::dialects::answer_rules::CallStep;
use crate::protocol::facts::tools::{NAME_MAX, ToolCall, ToolCounts};

/// Bytes of one call's arguments that are kept.
pub(super) const ARGUMENTS_MAX: usize = 256 << 10;
/// Bytes of arguments that are kept at one time.
const HELD_MAX: usize = 1 << 20;
/// ToolCalls that are known at one time.
pub(super) const CALLS_MAX: usize = 128;

/// The calls of one answer.
#[derive(Debug, Default)]
pub(super) struct ToolCalls {
    fragment: Fragment,
    choice: u64,
    /// The choice under way says why it stopped.
    choice_stopped: bool,
    known: Vec<Known>,
    /// Bytes of arguments in `known`.
    held: usize,
    counts: ToolCounts,
}

impl ToolCalls {
    /// How often each tool was called.
    pub(super) fn counts(&self) -> &ToolCounts {
        &self.counts
    }

    /// The arguments of the fragment under way.
    pub(super) fn pending(&self) -> &[u8] {
        &self.fragment.arguments
    }

    /// The kind of the item under way.
    pub(super) fn current_kind(&self) -> &str {
        &self.fragment.kind
    }

    /// The index in the fragment under way.
    pub(super) fn current_index(&self) -> Option<u64> {
        self.fragment.index
    }

    pub(super) fn index(&mut self, index: Option<u64>) {
        self.fragment.index = index;
        self.fragment.begun = true;
    }

    pub(super) fn kind(&mut self, kind: &str) {
        let fragment = &mut self.fragment;
        fragment.kind_is_unclear |= !fragment.kind.is_empty() && fragment.kind != kind;
        keep(&mut fragment.kind, kind);
        fragment.begun = true;
    }

    pub(super) fn id(&mut self, id: &str) {
        keep(&mut self.fragment.id, id);
        self.fragment.begun = true;
    }

    pub(super) fn name(&mut self, name: &str) {
        let fragment = &mut self.fragment;
        let is_doubled = !fragment.name.is_empty() && fragment.name != name;
        keep(&mut fragment.name, name);
        fragment.name_is_unclear |= is_doubled || name.len() > NAME_MAX;
        self.fragment.begun = true;
    }

    pub(super) fn arguments(&mut self, part: &[u8]) {
        let fragment = &mut self.fragment;
        fragment.begun = true;
        let room = ARGUMENTS_MAX - fragment.arguments.len();
        fragment.truncated |= part.len() > room;
        fragment.arguments.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// Sets which of several answers the next fragments belong to.
    pub(super) fn choice(&mut self, choice: u64) {
        self.choice = choice;
    }

    /// The choice under way has come to its end: so have its calls.
    pub(super) fn choice_stops(&mut self) {
        self.choice_stopped = true;
    }

    /// The choice under way was read.
    pub(super) fn choice_ends(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        let choice = std::mem::take(&mut self.choice);
        on(Event::Choice(choice));
        if std::mem::take(&mut self.choice_stopped) {
            self.close_all(Some(choice), on);
            on(Event::End { choice, index: None });
        }
    }

    /// The stream has come to its end.
    pub(super) fn finish(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        self.close_all(None, on);
    }

    fn close_all(&mut self, choice: Option<u64>, on: &mut dyn FnMut(Event<'_>)) {
        for at in 0..self.known.len() {
            if choice.is_none_or(|choice| self.known[at].choice == choice) {
                self.close(at, on);
            }
        }
    }

    /// Forgets what was said.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.fragment.begun) {
            self.fragment.clear();
        }
    }

    /// A delta of OpenAI's was read: the first one of a call has its name. Where calls have neither indexes nor ids of
    /// their own, another name is another call, also the same name again: what follows of a call has none.
    pub(super) fn piece(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        let Fragment { id, name, .. } = &self.fragment;
        let is_first = !name.is_empty() || !id.is_empty();
        let is_another = |known: &Known| {
            let is_same = id.is_empty() && !known.call.id.is_empty() && known.call.name == *name;
            let has_own_id = !id.is_empty() && known.call.id == *id;
            !name.is_empty() && !known.call.name.is_empty() && !is_same && !has_own_id
        };
        let last = self.find(|_| true);
        let found = last.filter(|at| !is_another(&self.known[*at]));
        // Programs that gather by the index read more of the same call, unless what they have is a whole call.
        let before = last.map(|at| &self.known[at]).filter(|known| {
            found.is_none()
                && id.is_empty()
                && (known.index.is_some() || known.arguments.is_empty())
                && serde_json::from_slice::<IgnoredAny>(&known.arguments).is_err()
        });
        let continues = before.map(|known| !known.arguments.is_empty());
        let at = found.or_else(|| is_first.then(|| self.begin(on)).flatten());
        if let (Some(at), Some(has_arguments)) = (at, continues) {
            let before = last.map(|last| self.known[last].call.whole_name().to_owned()).unwrap_or_default();
            let known = &mut self.known[at];
            known.call.name_is_unclear |= known.index.is_some();
            known.call.joined_name = before + &self.fragment.name;
            known.call.joined_name.truncate(known.call.joined_name.floor_char_boundary(NAME_MAX));
            known.has_more |= has_arguments;
        }
        if let Some(at) = at.filter(|at| self.known[*at].closed) {
            // Programs that read on have other arguments than those that were judged.
            self.known[at].goes_on(&self.fragment.arguments, on);
        } else if let Some(at) = at {
            self.join(at, false, on);
            // There is no event for the end of a call: programs make it as soon as its arguments can be parsed.
            let known = &mut self.known[at];
            known.in_pieces = true;
            if known.value.is_whole(&known.arguments) && !known.call.name.is_empty() {
                known.report(on);
            }
        }
        self.clear();
    }

    /// A call was read that came in one piece. `suffix` is how kinds that are calls end.
    pub(super) fn whole(&mut self, suffix: &str, on: &mut dyn FnMut(Event<'_>)) {
        if self.fragment.is_call(suffix)
            && let Some(at) = self.begin(on)
        {
            self.join(at, true, on);
            self.close(at, on);
            self.known.truncate(at);
        }
        self.clear();
    }

    /// A call was read in the summary of an answer whose calls are known: it is told if it is none of them.
    pub(super) fn again(&mut self, suffix: &str, on: &mut dyn FnMut(Event<'_>)) {
        if self.fragment.is_call(suffix) && !self.known.iter().any(|known| known.was_told(&self.fragment)) {
            on(Event::Call(&self.fragment.call()));
        }
        self.clear();
    }

    /// Tells the calls under way as they are: what the event says can be read in several ways, and may be their end.
    pub(super) fn tell_open(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        self.known.iter_mut().filter(|known| !known.closed).for_each(|known| known.report(on));
    }

    /// An event was read that speaks of a call.
    pub(super) fn step(&mut self, step: CallStep, suffix: &str, on: &mut dyn FnMut(Event<'_>)) {
        let Fragment { kind, id, name, .. } = &self.fragment;
        // Where kinds tell nothing, the beginning of something else has neither id nor name.
        let is_call = self.fragment.is_call(suffix) && !(kind.is_empty() && id.is_empty() && name.is_empty());
        // A server may leave out the beginning, and say at the end which call it was.
        let is_late = step == CallStep::SetAndClose && !name.is_empty();
        let begins = matches!(step, CallStep::Begin | CallStep::Whole) && is_call || is_late;
        let found = match step {
            // Another beginning is another call, unless it has the same id.
            CallStep::Begin => self.find(|known| {
                !known.closed && !known.call.id.is_empty() && known.call.id == self.fragment.id
            }),
            CallStep::Whole => self.find(|known| !known.repeated),
            CallStep::Append | CallStep::Close => self.find(|known| !known.closed),
            CallStep::SetAndClose => self.find(|_| true),
        };
        let found = found.or_else(|| begins.then(|| self.begin(on)).flatten());
        let Some(at) = found else {
            if let Some(at) = self.find(|known| known.closed).filter(|_| step == CallStep::Append) {
                self.known[at].goes_on(&self.fragment.arguments, on);
            }
            return;
        };
        self.known[at].repeated |= step == CallStep::Whole;
        if self.known[at].closed {
            if !self.known[at].was_told(&self.fragment) {
                on(Event::Call(&self.fragment.call_like(&self.known[at].call)));
            }
            return;
        }
        let sets =
            matches!(step, CallStep::Whole | CallStep::SetAndClose) && !self.fragment.arguments.is_empty();
        self.join(at, sets, on);
        self.known[at].is_preset |= step == CallStep::Begin;
        if matches!(step, CallStep::Close | CallStep::SetAndClose | CallStep::Whole) {
            let arguments = self.close(at, on);
            self.known[at].remember(&arguments);
        }
    }

    /// True while there is a call in pieces that is not complete. The AI SDK makes it as it is when the answer ends there,
    /// whatever the end.
    pub(super) fn has_open(&self) -> bool {
        self.known.iter().any(|known| known.in_pieces && !known.closed && known.reported.is_none())
    }

    /// True once a call was known: a summary of the answer has no new ones.
    pub(super) fn has_known(&self) -> bool {
        !self.known.is_empty()
    }

    /// The last call that the fragment may speak of, among those that `may_be` it. Some servers give every call the
    /// same index, or none, so another id is another call.
    fn find(&self, may_be: impl Fn(&Known) -> bool) -> Option<usize> {
        let Fragment { index, id, .. } = &self.fragment;
        self.known.iter().rposition(|known| {
            known.choice == self.choice
                && known.index == *index
                && (id.is_empty() || known.call.id.is_empty() || known.call.id == *id)
                && may_be(known)
        })
    }

    /// Adds a call. One beyond [`CALLS_MAX`] is reported at once, without its arguments.
    fn begin(&mut self, on: &mut dyn FnMut(Event<'_>)) -> Option<usize> {
        if self.known.len() >= CALLS_MAX {
            self.known.retain(|known| !known.closed);
        }
        let (name, is_unnamed) = self.fragment.tool();
        let mut call =
            ToolCall { id: self.fragment.id.clone(), name: name.to_owned(), ..ToolCall::default() };
        if self.known.len() >= CALLS_MAX {
            call.truncated = true;
            self.counts.add(&call.name, 1);
            on(Event::Call(&call));
            return None;
        }
        self.known.push(Known {
            choice: self.choice,
            index: self.fragment.index,
            call,
            arguments: Vec::new(),
            told: Vec::new(),
            is_preset: false,
            is_unnamed,
            has_more: false,
            closed: false,
            in_pieces: false,
            value: WholeValue::default(),
            reported: None,
            repeated: false,
        });
        Some(self.known.len() - 1)
    }

    /// Adds the fragment to a call, its arguments behind those that are there or in their place.
    fn join(&mut self, at: usize, sets: bool, on: &mut dyn FnMut(Event<'_>)) {
        let Fragment { id, name, name_is_unclear, arguments, truncated, .. } = &self.fragment;
        let known = &mut self.known[at];
        if known.call.id.is_empty() {
            known.call.id.clone_from(id);
        }
        if known.call.name.is_empty() {
            known.call.name.clone_from(name);
        } else if !name.is_empty() && known.call.name != *name {
            // Programs read the first piece, the last one, or all of them.
            known.call.name_is_unclear = true;
            if !sets {
                let room = NAME_MAX.saturating_sub(known.call.name.len());
                known.call.name.push_str(&name[..name.floor_char_boundary(room)]);
            }
        }
        known.call.name_is_unclear |= *name_is_unclear;
        if sets || known.is_preset && !arguments.is_empty() {
            known.tell_replaced(arguments, on);
            self.held -= known.arguments.len();
            known.arguments.clear();
            known.value = WholeValue::default();
            known.call.truncated = false;
            known.is_preset = false;
        }
        let room = (ARGUMENTS_MAX - known.arguments.len()).min(HELD_MAX - self.held);
        let kept = arguments.len().min(room);
        known.call.truncated |= *truncated || kept < arguments.len();
        known.arguments.extend_from_slice(&arguments[..kept]);
        self.held += kept;
    }

    /// A call is complete: counts and reports it, and returns its arguments.
    fn close(&mut self, at: usize, on: &mut dyn FnMut(Event<'_>)) -> Vec<u8> {
        let known = &mut self.known[at];
        if std::mem::replace(&mut known.closed, true) {
            return Vec::new();
        }
        self.counts.add(&known.call.name, 1);
        known.report(on);
        let arguments = std::mem::take(&mut known.arguments);
        self.held -= arguments.len();
        arguments
    }
}

/// Sets a name or id, its first [`NAME_MAX`] bytes.
fn keep(place: &mut String, text: &str) {
    place.clear();
    place.push_str(&text[..text.floor_char_boundary(NAME_MAX)]);
}

mod known;
