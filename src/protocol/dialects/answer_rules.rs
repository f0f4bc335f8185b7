//! How answers of a dialect are read: what the value at each path means, what ends an answer, how calls arrive.

use std::sync::{Arc, LazyLock};

use crate::protocol::facts::usage::{ReportedCounts, Usage};
use crate::protocol::json::scan::{PathSet, Want};

/// What an event does to the call it speaks of. Its arguments are appended unless they are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::protocol) enum CallStep {
    /// Begins it; arguments that come with it count only when no others follow.
    Begin,
    /// Adds to its arguments.
    Append,
    /// Ends it.
    Close,
    /// Repeats all its arguments and ends it.
    SetAndClose,
    /// The same, and may be the first event of the call.
    Whole,
}

/// What the value at a path of an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Field {
    Input,
    /// Tokens that results of the provider's own tools added to the prompt, where they are not counted in it.
    ToolInput,
    Output,
    CacheRead,
    CacheWrite,
    /// The part of the cache writes that is kept for an hour.
    CacheWriteHour,
    Reasoning,
    /// All tokens of prompt and answer.
    Total,
    /// Searches that the provider made for the model.
    WebSearches,
    /// What a search call of the provider does: one more search, or something else. Not read with a listener, to which
    /// the action around it is reported whole.
    SearchAction,
    /// A query that the provider searched for.
    SearchQuery,
    /// The service tier that the answer was served in.
    ServiceTier,
    /// How fast it was served, where that is a matter of its own.
    Speed,
    Model,
    /// The provider's id of the answer, where stored answers can be read by it.
    Id,
    /// The event's kind; some kinds are the last event.
    Kind,
    /// `true` on the last line.
    Done,
    /// The event that has it is the last one: the id of a JSON-RPC response, the measurements of a whole answer.
    Reply,
    /// The event that has it is not the last one of a whole answer, whatever else it has.
    NotLast,
    /// An error of the provider, unless it is null.
    Error,
    /// The same, in the provider's word or number for it.
    ErrorWord,
    /// Why the model stopped.
    Stop,
    /// The state of the answer; when it is over, why it stopped, unless [`Field::StopDetail`] says more.
    Status,
    StopDetail,
    /// Text the user will see.
    Text,
    /// Text of the reasoning.
    Thought,
    /// Definitions of tools.
    Definition,
    /// What came of a call that the provider made itself, and other texts that are not written by the model. Once, and where
    /// events repeat it: in any event, or in those of [`CallRules::again_kinds`].
    Result,
    ResultAgain,
    ResultDone,
    /// More of what the event's kind says: text, reasoning, or arguments of a call.
    Delta,
    /// A text that may have come in deltas before: in any event, or in those of [`CallRules::again_kinds`]; and its end.
    TextAgain,
    ThoughtAgain,
    TextDone,
    TextAgainEnd,
    /// The index of the part of an item that an event speaks of.
    TextPart,
    /// Of a tool call: its index in the answer, its kind, id, name and arguments.
    CallIndex,
    CallKind,
    CallId,
    CallName,
    CallArguments,
    /// The end of an object that is one whole call.
    CallEnd,
    /// The same in the summary at a stream's end, which repeats the calls.
    CallAgainEnd,
    /// The end of an object that is a piece of a call.
    CallPieceEnd,
    /// Which of several answers to the same request, why it stopped, and the end of its object.
    ChoiceIndex,
    ChoiceStop,
    ChoiceEnd,
}

impl Field {
    /// What the scanner reports; what only a listener needs, only with one.
    fn want(self, listening: bool) -> Option<Want> {
        match self {
            Self::Text
            | Self::Thought
            | Self::Definition
            | Self::Result
            | Self::ResultAgain
            | Self::ResultDone
            | Self::Delta
            | Self::CallArguments
            | Self::TextAgain
            | Self::ThoughtAgain
            | Self::TextDone => listening.then_some(Want::Parts),
            Self::TextAgainEnd => listening.then_some(Want::End),
            Self::TextPart => listening.then_some(Want::Scalar),
            Self::SearchAction => (!listening).then_some(Want::Scalar),
            Self::CallEnd | Self::CallAgainEnd | Self::CallPieceEnd | Self::ChoiceEnd => Some(Want::End),
            Self::Input
            | Self::ToolInput
            | Self::Output
            | Self::CacheRead
            | Self::CacheWrite
            | Self::CacheWriteHour
            | Self::Reasoning
            | Self::Total
            | Self::WebSearches
            | Self::SearchQuery
            | Self::ServiceTier
            | Self::Speed
            | Self::Model
            | Self::Id
            | Self::Kind
            | Self::Done
            | Self::Reply
            | Self::NotLast
            | Self::Error
            | Self::ErrorWord
            | Self::Stop
            | Self::Status
            | Self::StopDetail
            | Self::CallIndex
            | Self::CallKind
            | Self::CallId
            | Self::CallName
            | Self::ChoiceIndex
            | Self::ChoiceStop => Some(Want::Scalar),
        }
    }
}

/// How answers of one dialect are read. The same table serves whole answers and streams: where both
/// shapes exist their paths differ.
pub(in crate::protocol) struct AnswerRules {
    /// The meaning of each path, in the order of `paths`. Where an answer has several values of one meaning, the
    /// largest count and the last text are kept.
    pub(in crate::protocol) fields: &'static [(&'static str, Field)],
    /// Turns the counts of the answer into those that mean the same for every provider.
    pub(in crate::protocol) usage: fn(&ReportedCounts) -> Usage,
    /// What ends an answer.
    pub(in crate::protocol) ends: EndRules,
    /// How tool calls and text arrive.
    pub(in crate::protocol) calls: CallRules,
    /// `fields` as the scanner wants it, built once.
    pub(in crate::protocol) paths: LazyLock<Paths>,
}

/// What ends an answer, well or not.
#[derive(Clone, Copy)]
pub(in crate::protocol) struct EndRules {
    /// Event kinds after which nothing comes.
    pub(in crate::protocol) last_kinds: &'static [&'static str],
    /// Whether `data: [DONE]` ends a stream.
    pub(in crate::protocol) done_marker: bool,
    /// Whether a stream may end without its last event once it has said why the model stopped: servers leave out what
    /// should follow, or the API has nothing that should.
    pub(in crate::protocol) stop_suffices: bool,
    /// Event kinds that report an error.
    pub(in crate::protocol) error_kinds: &'static [&'static str],
    /// Words for why the model stopped that report an error.
    pub(in crate::protocol) error_stops: &'static [&'static str],
}

impl EndRules {
    /// Nothing but what paths tell.
    pub(super) const BY_PATH: Self = Self {
        last_kinds: &[],
        done_marker: false,
        stop_suffices: false,
        error_kinds: &[],
        error_stops: &[],
    };
}

/// How tool calls and text arrive, where paths alone do not tell.
pub(in crate::protocol) struct CallRules {
    /// How the kinds of items end that are tool calls; empty where every item is one.
    pub(in crate::protocol) suffix: &'static str,
    /// What events of these kinds do to a call.
    pub(in crate::protocol) steps: &'static [(&'static str, CallStep)],
    /// Event kinds whose [`Field::Delta`] is text.
    pub(in crate::protocol) text_kinds: &'static [&'static str],
    /// Event kinds whose [`Field::Delta`] is reasoning.
    pub(in crate::protocol) thought_kinds: &'static [&'static str],
    /// Event kinds whose [`Field::TextDone`] is text, or reasoning if their names say so.
    pub(in crate::protocol) again_kinds: &'static [&'static str],
}

impl CallRules {
    /// Paths tell everything.
    pub(super) const BY_PATH: Self =
        Self { suffix: "", steps: &[], text_kinds: &[], thought_kinds: &[], again_kinds: &[] };
}

/// The scanner's form of a table of fields.
pub(in crate::protocol) struct Paths {
    /// What is read of every answer.
    pub(in crate::protocol) facts: Arc<PathSet>,
    /// With text and arguments, for a listener.
    pub(in crate::protocol) all: Arc<PathSet>,
}

/// The scanner's form of a table of fields.
pub(super) fn paths(fields: &[(&'static str, Field)]) -> Paths {
    let set = |listening| Arc::new(set(fields, listening));
    Paths { facts: set(false), all: set(true) }
}

/// The same for answers that may be an array of events ([`PathSet::in_elements`]).
pub(super) fn paths_in_elements(fields: &[(&'static str, Field)]) -> Paths {
    let set = |listening| Arc::new(set(fields, listening).in_elements());
    Paths { facts: set(false), all: set(true) }
}

/// A listener hears of members in any case, as programs in Go read them, and of those that are there twice.
fn set(fields: &[(&'static str, Field)], listening: bool) -> PathSet {
    let paths = fields.iter().map(|(path, field)| (*path, field.want(listening)));
    if listening { PathSet::telling_doubled(paths) } else { PathSet::wanting(paths) }
}
