//! How many messages a request has.

use crate::protocol::json::scan::{Value, Want};

/// The lists of messages of all APIs, and their elements: each is a path of its own, since an element may be a string.
pub(in crate::protocol) const PATHS: [(&str, Want); 9] = [
    ("messages", Want::End),
    ("messages[]", Want::End),
    ("messages[]", Want::Scalar),
    ("input", Want::End),
    ("input[]", Want::End),
    ("input[]", Want::Scalar),
    ("contents", Want::End),
    ("contents[]", Want::End),
    // The one message of the user.
    ("input", Want::Scalar),
];

/// How many messages there are, and in how many lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    count: u32,
    lists: u32,
}

impl Messages {
    /// Takes the value at the path of this number.
    pub(in crate::protocol) fn take(&mut self, path: usize, value: &Value<'_>) {
        let (is_list, is_message) = match PATHS.get(path) {
            Some((path, _)) if path.ends_with("[]") => (false, !matches!(value, Value::Raw(_))),
            Some((_, Want::Scalar)) => (matches!(value, Value::Str(_)), matches!(value, Value::Str(_))),
            Some(_) => (*value == Value::End, false),
            None => (false, false),
        };
        self.lists = self.lists.saturating_add(is_list.into());
        self.count = self.count.saturating_add(is_message.into());
    }

    /// Returns how many there are: `Some(None)` without a list, `None` if there are two lists or an empty one, which may be
    /// an object that a server takes for a list.
    pub fn count(self) -> Option<Option<u32>> {
        match (self.lists, self.count) {
            (0, _) => Some(None),
            (1, 1..) => Some(Some(self.count)),
            _ => None,
        }
    }
}
