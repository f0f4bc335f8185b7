//! End to end: the real binary between real clients and backends. This is the table of contents;
//! `support/` holds the harness.

#![expect(unreachable_pub, reason = "modules of a test binary are seen by each other only")]

/// A2A agents: whose task it is, and its end.
mod a2a;
/// Peers that wait, stall, crowd or do not read.
mod abuse;
/// Agents inside a session: their tree, and kills of a part of it.
mod agents;
/// Models that a backend knows by another name.
mod alias;
/// The tests that the seed project names (requirement E147).
mod basic;
/// What comes out is what went in, byte for byte.
mod bytes;
/// How many sessions there may be, and what time does to them.
mod capacity;
/// Bodies that are kept: which, how much of them, and without their secrets.
mod capture;
/// Official SDKs and Claude Code, served and killed.
mod clients;
/// Cohere's API: read, counted, killed and routed.
mod cohere;
/// `elida sessions`, `stats`, `kill`, `resume`, `kills`.
mod commands;
/// The operator's door: the documentation's own commands, the feed, who may come in.
mod control_api;
/// Crowds and slow peers at the control listener.
mod control_crowd;
/// kill -9: clients see that an answer was cut; after a restart all is well.
mod crash;
/// Whose credential reaches which backend.
mod credentials;
/// The demo provider and the harness themselves, without a gateway.
mod demo;
/// The limit of open files: raised, divided, and run out.
mod descriptors;
/// What answers of every dialect say, whole, streamed and compressed.
mod dialects;
/// `elida doctor` and `healthcheck`, before a running gateway and without one.
mod doctor;
/// Exports whose readers stall: what they hold, and what goes on beside them.
mod exports;
/// Another backend answers when one fails before the first byte.
mod failover;
/// Three gateways and one Redis: one session, one kill, whatever instance it meets.
mod fleet;
/// One agent is killed on one instance and runs on another.
mod fleet_agents;
/// Redis Cluster: keys on several masters, slots that move, a master that is lost.
mod fleet_cluster;
/// Ends in a fleet: at once, everywhere, and what comes after one begins anew.
mod fleet_ends;
/// The key that names principals, when Redis loses it.
mod fleet_keys;
/// Lists and look-ups over many sessions of a fleet.
mod fleet_lists;
/// What Redis acknowledged and lost: shares, records, kills that nobody was told of.
mod fleet_loss;
/// Kill orders while Redis is full, evicts, holds too many of them, or lacks a right.
mod fleet_orders;
/// `just fleet`: what it tells to try works, and nothing of it stays.
mod fleet_recipe;
/// A Redis that is slow or forgets, and settings that change while sessions live.
mod fleet_slow;
/// Random kills, resumes, aborts and faults of Redis; the books are exact afterwards.
mod fleet_stress;
/// Redis behind TLS, a password and an access list.
mod fleet_tls;
/// What could be read in two ways, over raw sockets.
mod framing;
/// Gemini: the model stands in the path, the stream may be an array.
mod gemini;
/// Which header fields pass, and what they do to the log.
mod headers;
/// Backends that are left alone, tried again, probed; who shares the work.
mod health;
/// What is kept of ended sessions: found, exported, verified; after kill -9 and with a full disk.
mod history;
/// Each request of a session, kept as it ends.
mod history_legs;
/// What the history proves: nothing is signed that was changed, and others than we can check it.
mod history_proof;
/// What attackers send (attacks seen in the field).
mod hostile;
/// HTTP/2 from clients: many requests at once, each for itself.
mod http2;
/// Frames that cost the sender nothing.
mod http2_abuse;
/// HTTP/2 to backends.
mod http2_backend;
/// Cancelled streams, and whom they do not harm.
mod http2_cancels;
/// Whose session a request belongs to.
mod identity;
/// Comments in streams whose backend is silent.
mod keep_alive;
/// How fast a kill cuts, in every state a request can be in, and what it leaves behind.
mod kill;
/// Kills of a single gateway outlive its process.
mod kills_survive;
/// Too large, too slow, gone away.
mod limits;
/// TLS on the proxy's own listener.
mod listener_tls;
/// MCP servers: sessions that the server names, header fields that repeat the body, pages that may not call.
mod mcp;
/// One list of the models of all backends.
mod models;
/// A name that means two sessions.
mod names;
/// What a collector of OpenTelemetry is told, and what it cannot hold up.
mod otel;
/// The README's own commands.
mod readme;
/// What is left behind: access lines, records, an orderly end.
mod records;
/// What a refused program gets, so that it stops.
mod refusals;
/// A configuration read again while the gateway runs.
mod reload;
/// The same twenty times under load, and before the first request.
mod reload_under_load;
/// Which backend a request goes to, and what of its target.
mod routing;
/// An hour of everything at once, or half a minute.
mod soak;
/// What the environment says at the start, and the recipes that talk to a running gateway.
mod start;
/// The end: what SIGTERM waits for, and what it does not.
mod stop;
/// Backends behind TLS.
mod tls;
/// `elida top` in a pseudo-terminal and without one.
mod top;
/// A new process takes over the ports.
mod upgrade;
/// Operators meet the new process, whose kills reach the old one.
mod upgrade_kill;
/// Tokens, as the provider counts them.
mod usage;
/// Dead peers are noticed.
mod vanished;
/// WebSockets: read, counted, killed, refused; nothing lost.
mod websocket;

mod support;
