//! End to end: the real binary between real clients and backends. This is the table of contents;
//! `support/` holds the harness.

#![expect(unreachable_pub, reason = "modules of a test binary are seen by each other only")]

/// Peers that wait, stall, crowd or do not read.
mod abuse;
/// The tests that the seed project names (requirement E147).
mod basic;
/// What comes out is what went in, byte for byte.
mod bytes;
/// How many sessions there may be, and what time does to them.
mod capacity;
/// Official SDKs and Claude Code, served and killed.
mod clients;
/// `elida sessions`, `stats`, `kill`, `resume`, `kills`.
mod commands;
/// The operator's door: the documentation's own commands, the feed, who may come in.
mod control_api;
/// The demo provider and the harness themselves, without a gateway.
mod demo;
/// `elida doctor` and `healthcheck`, before a running gateway and without one.
mod doctor;
/// What could be read in two ways, over raw sockets.
mod framing;
/// Which header fields pass, and what they do to the log.
mod headers;
/// What attackers send (attacks seen in the field).
mod hostile;
/// Whose session a request belongs to.
mod identity;
/// How fast a kill cuts, in every state a request can be in, and what it leaves behind.
mod kill;
/// Too large, too slow, gone away.
mod limits;
/// The README's own commands.
mod readme;
/// What is left behind: access lines, records, an orderly end.
mod records;
/// A configuration read again while the gateway runs.
mod reload;
/// Which backend a request goes to, and what of its target.
mod routing;
/// What the environment says at the start, and the recipes that talk to a running gateway.
mod start;
/// Backends behind TLS.
mod tls;
/// `elida top` in a pseudo-terminal and without one.
mod top;
/// Tokens, as the provider counts them.
mod usage;

mod support;
