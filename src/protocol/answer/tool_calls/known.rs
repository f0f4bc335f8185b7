//! A call that has begun, and what one event says of a call: where an event says otherwise than those before it, programs differ in
//! which of them they read, and each reading is told.

use crate::policy::arguments::arguments_digest;
use crate::protocol::answer::events::Event;
use crate::protocol::answer::whole_value::WholeValue;
use crate::protocol::facts::tools::ToolCall;

/// Arguments of one call that are known; further ones are told again.
const TOLD: usize = 8;

/// The parts of a call found in one event or object.
#[derive(Debug, Default)]
pub(super) struct Fragment {
    /// Something was said.
    pub(super) begun: bool,
    pub(super) index: Option<u64>,
    pub(super) kind: String,
    /// There was another kind before it.
    pub(super) kind_is_unclear: bool,
    pub(super) id: String,
    pub(super) name: String,
    /// The name was longer than what is kept, or there was another one before it.
    pub(super) name_is_unclear: bool,
    pub(super) arguments: Vec<u8>,
    pub(super) truncated: bool,
}

/// A call that has begun. It stays known after its end, so that what comes later is not a call more.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) choice: u64,
    pub(super) index: Option<u64>,
    pub(super) call: ToolCall,
    pub(super) arguments: Vec<u8>,
    /// Digests of the arguments with which it was told, where events repeat them.
    pub(super) told: Vec<String>,
    /// The arguments came with the beginning.
    pub(super) is_preset: bool,
    /// It has no name, only a kind: without arguments, what it does is in members that are not read.
    pub(super) is_unnamed: bool,
    /// Programs may put what another call has before its arguments.
    pub(super) has_more: bool,
    pub(super) closed: bool,
    /// It comes in pieces, of which none says that it is the last.
    pub(super) in_pieces: bool,
    /// How far the arguments are a JSON value.
    pub(super) value: WholeValue,
    /// Bytes of the arguments, but for blanks behind them, and of the name with which it was reported.
    pub(super) reported: Option<(usize, usize)>,
    /// The event that repeats the whole call has come.
    pub(super) repeated: bool,
}

impl Fragment {
    pub(super) fn clear(&mut self) {
        let Self { begun, index, kind, kind_is_unclear, id, name, name_is_unclear, arguments, truncated } =
            self;
        (*begun, *index) = (false, None);
        (*kind_is_unclear, *name_is_unclear, *truncated) = (false, false, false);
        kind.clear();
        id.clear();
        name.clear();
        arguments.clear();
    }

    /// Whether it speaks of a call; `suffix` is how kinds that are calls end.
    pub(super) fn is_call(&self, suffix: &str) -> bool {
        self.kind_is_unclear || self.kind.ends_with(suffix)
    }

    /// The name of the tool, and whether it is only that of the kind: calls that the provider serves itself have no other one
    /// (`web_search_call`).
    pub(super) fn tool(&self) -> (&str, bool) {
        let of_kind = self.kind.strip_suffix("_call").filter(|_| self.name.is_empty());
        (of_kind.unwrap_or(&self.name), of_kind.is_some())
    }

    /// What it says as a call of its own.
    pub(super) fn call(&self) -> ToolCall {
        let (name, is_unnamed) = self.tool();
        ToolCall {
            id: self.id.clone(),
            name: name.to_owned(),
            arguments: String::from_utf8_lossy(&self.arguments).into_owned(),
            truncated: self.truncated || is_unnamed && self.arguments.is_empty(),
            name_is_unclear: self.name_is_unclear,
            joined_name: String::new(),
        }
    }

    /// The same with the id and name of `known` where it has none.
    pub(super) fn call_like(&self, known: &ToolCall) -> ToolCall {
        let mut call = self.call();
        if self.id.is_empty() {
            call.id.clone_from(&known.id);
        }
        if self.name.is_empty() {
            (call.name, call.name_is_unclear) = (known.name.clone(), known.name_is_unclear);
        }
        call
    }
}

impl Known {
    /// Reports the call as it is now, unless that was done.
    pub(super) fn report(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        let now = (self.arguments.trim_ascii_end().len(), self.call.name.len());
        if self.reported.replace(now) == Some(now) {
            return;
        }
        self.call.truncated |= self.has_more || self.is_unnamed && self.arguments.is_empty();
        if !self.told.is_empty() && !self.call.truncated && self.told.contains(&digest(&self.arguments)) {
            return;
        }
        self.tell(&self.arguments, on);
    }

    fn tell(&self, arguments: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        let arguments = String::from_utf8_lossy(arguments).into_owned();
        on(Event::Call(&ToolCall { arguments, ..self.call.clone() }));
    }

    /// Other arguments take the place of those that are there. Programs that do not take them, or put them behind, make another
    /// call.
    pub(super) fn tell_replaced(&mut self, by: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        let is_none = matches!(self.arguments.trim_ascii(), b"" | b"{}" | b"null");
        // The deltas of a call may have been cut short.
        if is_none || by.starts_with(&self.arguments) {
            return;
        }
        let before = digest(&self.arguments);
        if before != digest(by) {
            self.tell(&self.arguments, on);
            self.told.push(before);
        }
    }

    /// It has more arguments behind its end.
    pub(super) fn goes_on(&mut self, arguments: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        if !arguments.trim_ascii().is_empty() {
            self.call.truncated = true;
            self.tell(arguments, on);
        }
    }

    /// Remembers the arguments with which it has ended, which later events repeat.
    pub(super) fn remember(&mut self, arguments: &[u8]) {
        if self.told.len() < TOLD {
            self.told.push(digest(arguments));
        }
    }

    /// Whether a fragment repeats it.
    pub(super) fn was_told(&self, fragment: &Fragment) -> bool {
        let (name, _) = fragment.tool();
        let is_same = !fragment.name_is_unclear && (name.is_empty() || name == self.call.name);
        let has_same = || {
            let digest = digest(&fragment.arguments);
            self.told.contains(&digest) || !self.closed && digest == self::digest(&self.arguments)
        };
        is_same && (fragment.arguments.is_empty() || has_same())
    }
}

/// A digest that is the same for arguments which all programs read alike.
fn digest(arguments: &[u8]) -> String {
    if arguments.is_empty() { String::new() } else { arguments_digest(arguments) }
}
