//! Where the requests of a dialect have their texts, and what they are. Texts elsewhere are read as well: a shape only says
//! more about some of them.
//!
//! All names match in any ASCII case, as servers in Go read them.

use super::spec::Dialect;
use crate::policy::rule::{Place, Role};

/// What a member of a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Part {
    /// A list of turns, or one of them; a string is what the user says.
    Turns,
    /// Instructions, or a list of them.
    System,
    /// A list of tools that are offered.
    Tools,
    /// Results of tools, or documents.
    Results,
    /// The arguments of a call.
    Arguments,
    /// An object with such members, or a list of them.
    Envelope,
    /// Anything else.
    Other,
}

impl Part {
    /// Returns who says what is in it, unless a turn says more.
    pub(in crate::protocol) fn role(self) -> Role {
        match self {
            Self::Turns | Self::Envelope | Self::Other => Role::User,
            Self::System => Role::System,
            Self::Tools | Self::Results => Role::Tool,
            Self::Arguments => Role::Assistant,
        }
    }

    /// Returns what is in it, unless a turn says more.
    pub(in crate::protocol) fn kind(self) -> Place {
        match self {
            Self::Turns | Self::Envelope | Self::Other => Place::Text,
            Self::System => Place::System,
            Self::Tools => Place::ToolDefinition,
            Self::Results => Place::ToolResult,
            Self::Arguments => Place::ToolArgs,
        }
    }
}

/// The shape of the requests of a dialect.
#[derive(Debug)]
pub(in crate::protocol) struct RequestShape {
    /// Members of the body and of envelopes in it.
    pub(in crate::protocol) members: &'static [(&'static str, Part)],
    /// What the member `role` of a turn says.
    pub(in crate::protocol) roles: &'static [(&'static str, Role)],
    /// How the member `type` of an object in a turn ends, and what is in that object. The first that matches counts.
    pub(in crate::protocol) types: &'static [(&'static str, Place)],
    /// Members of objects in a turn, and what is in them.
    pub(in crate::protocol) content: &'static [(&'static str, Place)],
    /// Members that give a call its id.
    pub(in crate::protocol) call_ids: &'static [&'static str],
    /// Members of a result that repeat this id.
    pub(in crate::protocol) result_ids: &'static [&'static str],
    /// Members that name the tool of a call or a result.
    pub(in crate::protocol) tool_names: &'static [&'static str],
    /// Members of a result that say `true` or `"error"` when the call has failed.
    pub(in crate::protocol) failures: &'static [&'static str],
}

impl RequestShape {
    /// Bodies of which nothing is known: all texts are what a user says.
    pub(in crate::protocol) const UNKNOWN: Self = Self {
        members: &[],
        roles: &[],
        types: &[],
        content: &[],
        call_ids: &[],
        result_ids: &[],
        tool_names: &[],
        failures: &[],
    };

    /// Returns what a member of the body or an envelope holds.
    pub(in crate::protocol) fn part(&self, key: &[u8]) -> Part {
        find(self.members, key).unwrap_or(Part::Other)
    }

    /// Returns the role of a turn that names it so; `None` if no API does.
    pub(in crate::protocol) fn role(&self, name: &[u8]) -> Option<Role> {
        find(self.roles, name)
    }

    /// Returns what is in an object of this type.
    pub(in crate::protocol) fn of_type(&self, name: &[u8]) -> Option<Place> {
        let ends = |end: &str| {
            name.len()
                .checked_sub(end.len())
                .is_some_and(|begin| name[begin..].eq_ignore_ascii_case(end.as_bytes()))
        };
        self.types.iter().find(|(end, _)| ends(end)).map(|(_, kind)| *kind)
    }

    /// Returns what is in this member of an object in a turn.
    pub(in crate::protocol) fn in_member(&self, key: &[u8]) -> Option<Place> {
        find(self.content, key)
    }
}

fn find<T: Copy>(table: &[(&str, T)], key: &[u8]) -> Option<T> {
    table.iter().find(|(name, _)| is(name, key)).map(|(_, value)| *value)
}

/// Returns whether `key` is this name.
pub(in crate::protocol) fn is(name: &str, key: &[u8]) -> bool {
    name.as_bytes().eq_ignore_ascii_case(key)
}

impl Dialect {
    /// The shape of its requests.
    pub(in crate::protocol) fn request_shape(self) -> &'static RequestShape {
        self.0.request_shape
    }
}
