//! Rules over the facts of a request and the texts in it, and the expressions that they, limits and budgets are written in;
//! approvals of the calls that they hold, and loops of agents.
//!
//! - [`settings`]: the section `policy` of the configuration, and [`presets`] that come with the program; [`check`] and [`compile`] make
//!   a [`ruleset`] of them, whose [`rule`]s give a [`verdict`].
//! - [`expr`]: the language of conditions (`when`) and names of counters (`by`), a subset of CEL, compiled when the
//!   configuration is loaded.
//! - [`facts`]: what an expression may ask for, and in which [`phase`] it is known; [`json`]: arguments of tools.
//! - [`trial`]: tries rules on facts and texts that are given, or on an [`exchange`]; [`suppressions`]: findings that count for nothing;
//!   [`session_state`]: what rules know of a session; [`external`]: services that are asked besides.
//! - [`scan`]: finds phrases, regular expressions and secrets in text, also in text that comes in pieces.
//! - [`secrets`]: what secrets and personal data look like, with the checks that tell them from look-alikes.
//! - [`approval`], [`approvals`]: the question whether a held call may go on, its answers, and its single use.
//! - [`arguments`]: the digest of a call's arguments.
//! - [`command_lines`]: lists of words in them, as they read.
//! - [`loops`]: agents that make the same calls again and again.
//!
//! Pure: no I/O, nothing of a request but what the caller supplies.

pub mod approval;
pub mod approvals;
pub mod arguments;
mod asked;
mod check;
pub mod command_lines;
mod compile;
#[cfg(test)]
mod doc_tables;
pub mod exchange;
pub mod expr;
pub mod external;
pub mod facts;
pub mod json;
pub mod loops;
mod mcp;
mod pattern_faults;
mod phase;
pub mod presets;
pub mod rule;
pub mod ruleset;
pub mod scan;
pub mod secrets;
pub mod session_state;
pub mod settings;
pub mod suppressions;
pub mod trial;
pub mod verdict;

#[cfg(test)]
mod tests;
