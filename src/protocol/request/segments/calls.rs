//! The tools of calls that turns have made: results often name only the call.
//!
//! Turns are read when a result asks for its tool, the latest first and each once: mostly it is the one before.

use std::collections::HashMap;

use super::element::Strings;
use crate::protocol::dialects::request_shape::{Part, RequestShape};

/// Turns that are kept; of more, the earliest are dropped.
const TURNS: usize = 1 << 14;

#[derive(Debug)]
pub(super) struct Calls<'b> {
    shape: &'static RequestShape,
    /// Turns whose calls are not known yet.
    unread: Vec<&'b [u8]>,
    /// Tools by the ids of their calls, as written.
    tools: HashMap<&'b [u8], &'b [u8]>,
    strings: Option<Box<Strings<'b>>>,
}

impl<'b> Calls<'b> {
    pub(super) fn new(shape: &'static RequestShape) -> Self {
        Self { shape, unread: Vec::new(), tools: HashMap::new(), strings: None }
    }

    /// Notes a turn, which may have calls.
    pub(super) fn add_turn(&mut self, raw: &'b [u8]) {
        if self.shape.result_ids.is_empty() {
            return;
        }
        if self.unread.len() == TURNS {
            self.unread.drain(..TURNS / 2);
        }
        self.unread.push(raw);
    }

    /// Returns the tool of the call with this id.
    pub(super) fn tool_of(&mut self, id: &[u8]) -> Option<&'b [u8]> {
        while !self.tools.contains_key(id)
            && let Some(raw) = self.unread.pop()
        {
            let strings = self.strings.get_or_insert_with(|| Box::new(Strings::new()));
            strings.begin(self.shape, Part::Turns, raw);
            while strings.read() {}
            strings.calls(&mut |id, tool| {
                // The latest call counts; turns are read from the last one on.
                self.tools.entry(id).or_insert(tool);
            });
        }
        self.tools.get(id).copied()
    }
}
