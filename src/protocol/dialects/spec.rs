//! What a dialect is: its names, and the rules by which its answers are read.

use std::sync::{Arc, LazyLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::protocol::json::scan::{PathSet, Want};

/// What a configured backend is (`backends.NAME.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Ollama: its own API, and the OpenAI one beside it.
    Ollama,
    /// OpenAI, or a server that speaks its API.
    Openai,
    /// Anthropic.
    Anthropic,
    /// Mistral: the OpenAI API with a few paths of its own.
    Mistral,
    /// Google's Gemini API.
    Gemini,
    /// An MCP server, at whatever path.
    Mcp,
    /// An A2A agent, at whatever path.
    A2a,
    /// Anything else that speaks HTTP.
    Http,
}

impl BackendKind {
    /// The word of the configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
            Self::Mistral => "mistral",
            Self::Gemini => "gemini",
            Self::Mcp => "mcp",
            Self::A2a => "a2a",
            Self::Http => "http",
        }
    }
}

/// The API of one request: it decides how usage is read and how a refusal is worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `POST /v1/chat/completions`.
    OpenAiChat,
    /// `/v1/responses` and what is below it.
    OpenAiResponses,
    /// The WebSocket `/v1/realtime`.
    OpenAiRealtime,
    /// The rest of the OpenAI API that names a model: completions, embeddings, models, ….
    OpenAiOther,
    /// `/v1/messages`, `/v1/messages/count_tokens` and `/v1/complete`.
    Anthropic,
    /// The OpenAI API at a Mistral backend.
    Mistral,
    /// Ollama's own API, `/api/chat` and its neighbours.
    Ollama,
    /// Gemini's own API, `…/models/MODEL:generateContent` and its neighbours.
    Gemini,
    /// MCP's streamable HTTP.
    Mcp,
    /// A2A, in JSON-RPC or plain HTTP.
    A2a,
    /// Not an API that is known here.
    Plain,
}

impl Dialect {
    /// True when bodies of this dialect name a model and answers count tokens.
    pub fn is_llm(self) -> bool {
        !matches!(self, Self::Mcp | Self::A2a | Self::Plain)
    }

    /// True when bodies of this dialect are read on their way.
    pub fn is_read(self) -> bool {
        self != Self::Plain
    }

    /// True when its requests are JSON-RPC, or may be: of a plain path nothing is known.
    pub(in crate::protocol) fn may_be_json_rpc(self) -> bool {
        !self.is_llm()
    }

    /// A stable word for logs and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai_chat",
            Self::OpenAiResponses => "openai_responses",
            Self::OpenAiRealtime => "openai_realtime",
            Self::OpenAiOther => "openai",
            Self::Anthropic => "anthropic",
            Self::Mistral => "mistral",
            Self::Ollama => "ollama",
            Self::Gemini => "gemini",
            Self::Mcp => "mcp",
            Self::A2a => "a2a",
            Self::Plain => "plain",
        }
    }
}

/// What an event does to the call it speaks of. Its arguments are appended unless they are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum CallStep {
    /// Begins it; arguments that come with it count only when no others follow.
    Begin,
    /// Adds to its arguments.
    Append,
    /// Ends it.
    Close,
    /// Brings all its arguments once more and ends it.
    SetAndClose,
    /// The same, and may be the first to speak of it.
    Whole,
}

/// What the value at a path of an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Field {
    Input,
    Output,
    CacheRead,
    CacheWrite,
    /// The part of the cache writes that is kept for an hour.
    CacheWriteHour,
    Reasoning,
    /// Searches that the provider made for the model.
    WebSearches,
    Model,
    /// The event's kind; some kinds are the last event.
    Kind,
    /// `true` on the last line.
    Done,
    /// The event that has it is the last one: the id of a JSON-RPC response.
    Reply,
    /// The event that has it is not, whatever else it has.
    NotLast,
    /// Why the model stopped.
    Stop,
    /// How the answer stands; when it is over, why it stopped, unless [`Field::StopDetail`] says more.
    Status,
    StopDetail,
    /// Text the user will see.
    Text,
    /// More of whatever the event's kind says: text, or arguments of a call.
    Delta,
    /// Of a tool call: which one of the answer, its kind, id, name and arguments.
    CallIndex,
    CallKind,
    CallId,
    CallName,
    CallArguments,
    /// The end of an object that is one whole call.
    CallEnd,
    /// The same in the summary at a stream's end, where calls stand once more.
    CallAgainEnd,
    /// The end of an object that is a piece of a call.
    CallPieceEnd,
    /// Which of several answers to the same request, why it stopped, and the end of its object.
    ChoiceIndex,
    ChoiceStop,
    ChoiceEnd,
}

impl Field {
    /// What the scanner is to report; what only a listener needs, only with one.
    fn want(self, listening: bool) -> Option<Want> {
        match self {
            Self::Text | Self::Delta | Self::CallArguments => listening.then_some(Want::Parts),
            Self::CallEnd | Self::CallAgainEnd | Self::CallPieceEnd | Self::ChoiceEnd => Some(Want::End),
            _ => Some(Want::Scalar),
        }
    }
}

/// How answers of one dialect are read. The same table serves whole answers and streams: where both
/// shapes exist their paths differ.
pub(in crate::protocol) struct Rules {
    /// The meaning of each path, in the order of `paths`.
    pub(in crate::protocol) fields: &'static [(&'static str, Field)],
    /// Event kinds after which nothing comes.
    pub(in crate::protocol) last_kinds: &'static [&'static str],
    /// Whether `data: [DONE]` ends a stream.
    pub(in crate::protocol) done_marker: bool,
    /// How tool calls and text come.
    pub(in crate::protocol) calls: CallRules,
    /// `fields` as the scanner wants it.
    pub(in crate::protocol) paths: LazyLock<Paths>,
}

/// How tool calls and text come, where paths alone do not tell.
pub(in crate::protocol) struct CallRules {
    /// How the kinds of items end that are tool calls; empty where every item is one.
    pub(in crate::protocol) suffix: &'static str,
    /// What events of these kinds do to a call.
    pub(in crate::protocol) steps: &'static [(&'static str, CallStep)],
    /// Event kinds whose [`Field::Delta`] is text.
    pub(in crate::protocol) text_kinds: &'static [&'static str],
}

impl CallRules {
    /// Paths tell everything.
    pub(in crate::protocol) const BY_PATH: Self = Self { suffix: "", steps: &[], text_kinds: &[] };
}

/// The scanner's form of a table of fields.
pub(in crate::protocol) struct Paths {
    /// What is read of every answer.
    pub(in crate::protocol) facts: Arc<PathSet>,
    /// With text and arguments, for a listener.
    pub(in crate::protocol) all: Arc<PathSet>,
}

/// The scanner's form of a table of fields.
pub(in crate::protocol) fn paths(fields: &[(&'static str, Field)]) -> Paths {
    let set = |listening| Arc::new(set(fields, listening));
    Paths { facts: set(false), all: set(true) }
}

/// The same for answers that may be an array of events ([`PathSet::in_elements`]).
pub(in crate::protocol) fn paths_in_elements(fields: &[(&'static str, Field)]) -> Paths {
    let set = |listening| Arc::new(set(fields, listening).in_elements());
    Paths { facts: set(false), all: set(true) }
}

fn set(fields: &[(&'static str, Field)], listening: bool) -> PathSet {
    PathSet::wanting(fields.iter().map(|(path, field)| (*path, field.want(listening))))
}
