//! What a request says: its model, whether it streams, the tools it offers, who may be calling.

use super::messages::Messages;
use super::rpc::Rpc;
use super::tools_offered::ToolsOffered;
use crate::protocol::wire::coding::Unread;

/// What a body said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelRequest {
    /// The model; of a doubled one the last, as most servers read it.
    pub model: Option<String>,
    /// Where the model is.
    pub model_place: ModelPlace,
    /// The model in the body, which the backend may ignore because the path names one. It must not be blocked either, and
    /// decides on the backend when no pattern matches the model in the path.
    pub also: Option<Box<str>>,
    /// The body has something else than a text in its place: a number, a list, an object.
    pub model_is_odd: bool,
    /// The models of the requests in a batch; `None` when there are none.
    pub batch: Option<Box<BatchModels>>,
    /// Further models that a body may make work, where they are looked for: fallbacks, models of tools.
    pub others: Option<Box<BatchModels>>,
    /// A JSON body says that it is about a file for a batch (`"purpose": "batch"`).
    pub is_for_batch: bool,
    /// Whether a streamed answer is asked for.
    pub stream: Option<bool>,
    /// The body says so in two ways, or not by `true` or `false`, so servers may differ in what they read.
    pub(in crate::protocol) stream_unclear: bool,
    /// A value that was looked for is of a kind that no API gives it there, or no word of JSON.
    pub(in crate::protocol) irregular: bool,
    /// The request names two different models, or a form repeats it, so servers may differ in which they obey.
    pub model_doubled: bool,
    /// The body is not one JSON value, as far as it was followed: cut short, another encoding, a form, with something behind it.
    pub malformed: bool,
    /// Why the body was not read, or not to its end; `None` when it was.
    pub unread: Option<Unread>,
    /// Its messages, where they are looked for.
    pub messages: Messages,
    /// Its instructions, where they are looked for.
    pub instructions: Instructions,
    /// The tools it offers, and its length.
    pub tools_offered: ToolsOffered,
    /// What a JSON-RPC request asks for.
    pub rpc: Option<Box<Rpc>>,
    /// The values at the configured paths of identity hints.
    pub(in crate::protocol) hints: Box<[Option<Box<str>>]>,
    /// How many more values there were at these paths.
    pub(in crate::protocol) more_hints: u32,
    /// The hints whose value is there twice, or is no number.
    pub(in crate::protocol) odd_hints: OddHints,
}

/// The positions of hints that cannot be read as a number for sure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::protocol) struct OddHints {
    seen: u128,
    odd: u128,
}

impl OddHints {
    /// Notes a value at a hint.
    pub(in crate::protocol) fn note(&mut self, index: usize, is_number: bool) {
        let bit = Self::bit(index);
        if !is_number || self.seen & bit != 0 {
            self.odd |= bit;
        }
        self.seen |= bit;
    }

    /// Whether a hint is odd.
    pub(in crate::protocol) fn has(self, index: usize) -> bool {
        self.odd & Self::bit(index) != 0
    }

    /// Those behind share one place.
    fn bit(index: usize) -> u128 {
        1 << index.min(127)
    }
}

/// What a request has of instructions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Instructions {
    /// They were not read.
    #[default]
    Unread,
    /// It has none.
    None,
    /// The SHA-256 of their texts, one a line, in hexadecimal.
    Digest(Box<str>),
}

/// Where a request names its model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelPlace {
    /// At the top level of a JSON body.
    #[default]
    Json,
    /// In a field of a form.
    Form {
        /// Where its value begins in the body, in bytes.
        from: u32,
        /// Where it ends.
        to: u32,
    },
    /// In the path or the query, in a compressed form, or behind the first 4 GiB of a form.
    Fixed,
}

/// The different models that the requests in a batch name, in the order in which they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchModels {
    names: Vec<Box<str>>,
    has_more: bool,
}

impl BatchModels {
    /// The most models that are kept; further ones are only noticed.
    pub const MAX: usize = 64;

    /// Adds the model of a request. Returns whether it is the first one of this name.
    pub(in crate::protocol) fn add(&mut self, name: &str) -> bool {
        // Mostly all requests name the same one.
        if self.names.iter().rev().any(|known| **known == *name) {
            return false;
        }
        match self.names.len() < Self::MAX {
            true => self.names.push(name.into()),
            false => self.has_more = true,
        }
        true
    }

    /// Removes a prefix from each name that has it.
    pub(in crate::protocol) fn remove_prefix(&mut self, prefix: &str) {
        for name in &mut self.names {
            if let Some(rest) = name.strip_prefix(prefix) {
                *name = rest.into();
            }
        }
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// Whether there are more than [`BatchModels::MAX`].
    pub fn has_more(&self) -> bool {
        self.has_more
    }
}

impl ModelRequest {
    /// All models that it names, the one that the backend most likely obeys first.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        let batch = self.batch.iter().flat_map(|batch| batch.names());
        self.model.as_deref().into_iter().chain(self.also.as_deref()).chain(batch)
    }

    /// Uses the name in a path as the model. A model in the body is kept as well.
    pub(in crate::protocol) fn named_by_path(&mut self, name: &str) {
        if self.model_place == ModelPlace::Fixed {
            self.model_doubled |= self.model.as_deref().is_some_and(|known| known != name);
        } else {
            self.also = self.model.take().map(Box::from);
        }
        self.model = Some(name.to_owned());
        self.model_place = ModelPlace::Fixed;
    }

    /// Notes that the path asks for a streamed answer: what the body says of it does not matter.
    pub(in crate::protocol) fn streams_by_path(&mut self) {
        self.stream = Some(true);
        self.stream_unclear = false;
    }

    /// Whether a value that was looked for is of a kind that no API gives it there.
    pub fn irregular(&self) -> bool {
        self.irregular
    }

    /// Whether a streamed answer is asked for; `default` where the body does not say, `None` if that is not clear.
    pub fn streams(&self, default: bool) -> Option<bool> {
        let is_by_path = self.stream == Some(true) && self.model_place == ModelPlace::Fixed;
        let is_clear = !self.stream_unclear && (!self.irregular || is_by_path);
        is_clear.then_some(self.stream.unwrap_or(default))
    }

    /// The text at the caller's path number `index`; numbers as written.
    pub fn hint(&self, index: usize) -> Option<&str> {
        self.hints.get(index)?.as_deref()
    }
}
