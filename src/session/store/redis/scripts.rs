//! Lua scripts, which Redis runs atomically.
//!
//! An incarnation is a hash with these fields:
//!
//! * `o:INSTANCE:N`: the share of an instance while legs may still join it there. Until the first flush it holds the
//!   session as it was opened, or nothing.
//! * `c:INSTANCE:N`: a share that is closed.
//! * `n:INSTANCE:N`: the version of the share; `t:INSTANCE:N`: its last activity, in milliseconds since 1970.
//! * `opened`: when the incarnation was opened, in milliseconds of the clock of Redis; missing if the instance that
//!   opened it has not written it.
//! * `end`: when and why the incarnation ended.
//! * `record`: the instance that writes the record; `done`: the shares that a record covers, each between two spaces.
//! * `rebuilt`: when (seconds of the clock of Redis) an instance last wrote something that the hash should already have
//!   contained: Redis was wiped or failed over to a replica, and shares of other instances may be missing as well.
//!
//! Kill orders are a hash for each session (`killed:NAME`) with a field for each order: `v`, its revision `rev`, and
//! either `order` with `until_ms` or `lifted` with `forget_ms`. The set `kills` has the sessions whose orders changed.
//!
//! A command that is repeated because its answer was lost changes nothing the second time.

use crate::redis::Script;

/// All scripts, with their digests.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) admit: Script,
    pub(super) abandon: Script,
    pub(super) flush: Script,
    pub(super) end: Script,
    pub(super) close: Script,
    pub(super) close_again: Script,
    pub(super) mark_recorded: Script,
    pub(super) put_client_keys: Script,
    pub(super) put_first: Script,
    pub(super) put_order: Script,
    pub(super) record_changes: Script,
    pub(super) changed_since: Script,
    pub(super) trim_changes: Script,
    pub(super) names: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            admit: Script::new(include_str!("admit.lua")),
            abandon: Script::new(include_str!("abandon.lua")),
            flush: Script::new(include_str!("flush.lua")),
            end: Script::new(include_str!("end.lua")),
            close: Script::new(include_str!("close.lua")),
            close_again: Script::new(include_str!("close_again.lua")),
            mark_recorded: Script::new(include_str!("mark_recorded.lua")),
            put_client_keys: Script::new(include_str!("put_client_keys.lua")),
            put_first: Script::new(include_str!("put_first.lua")),
            put_order: Script::new(include_str!("put_order.lua")),
            record_changes: Script::new(include_str!("record_changes.lua")),
            changed_since: Script::new(include_str!("changed_since.lua")),
            trim_changes: Script::new(include_str!("trim_changes.lua")),
            names: Script::new(include_str!("names.lua")),
        }
    }
}
