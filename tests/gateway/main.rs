//! End-to-end tests: the real binary between real clients and backends. This is the table of contents,
//! grouped by subject; `support/` holds the harness. `mod kills { mod cut; }` is `tests/gateway/kills/cut.rs`,
//! and its tests run with `cargo nextest run --test gateway -E 'test(/^kills::cut::/)'`.

#![expect(unreachable_pub, reason = "modules of a test binary are seen by each other only")]

/// Sessions: which requests belong to one, how many there are, what they record.
mod sessions {
    /// Agents inside a session: their tree, and kills of a part of it.
    pub mod agents;
    /// The tests that the seed project names (requirement E147).
    pub mod basic;
    /// Limits on the number of sessions, and time-outs.
    pub mod capacity;
    /// Which session a request belongs to.
    pub mod identity;
    /// A session id that is ambiguous.
    pub mod names;
    /// Access lines, session records, an orderly end.
    pub mod records;
    /// Tokens, as the provider counts them.
    pub mod usage;
}

/// The kill switch: how fast it cuts, what it refuses, what it survives.
mod kills {
    /// How fast a kill cuts a request in each of its states, and what it leaves behind.
    pub mod cut;
    /// Refusals that make real programs stop retrying.
    pub mod refusals;
    /// Kills of all sessions that a selector fits.
    pub mod selected;
    /// Kill orders of a single gateway survive a restart.
    pub mod survive;
    /// Operators talk to the new process; its kills reach requests of the old one.
    pub mod upgrade;
}

/// The HTTP cache.
mod cache {
    /// One fill for many requests, and fills that do not end well.
    pub mod fills;
    /// What a hit is: a leg like any other; and what is never stored.
    pub mod hits;
    /// A replayed load within bounded memory.
    pub mod load;
    /// The tests of RFC 9111 that HTTP caches are compared by.
    pub mod rules;
    /// Instances that share Redis; purges.
    pub mod shared;
    /// Who sees whose answers.
    pub mod tenants;
    /// The examples of `docs/cache.md`.
    pub mod tour;
}

mod policy {
    /// Rules about answers: streams, whole answers and sockets end before what is forbidden.
    pub mod answers;
    /// What rules may ask of the body of a request, in each dialect.
    pub mod body_facts;
    /// What rules may ask of the caller.
    pub mod caller_facts;
    /// Rules on the control API: shown, tried, suppressed, and what they found.
    pub mod control;
    /// Answers that say things where, or as what, nobody expects them.
    pub mod disguised_answers;
    /// Ways around rules that must not exist.
    pub mod evasions;
    /// Services that decide besides the rules.
    pub mod external;
    /// The same over TLS, about WebSockets, and where a request fails over.
    pub mod external_ways;
    /// Calls in answers that wait for an approval.
    pub mod held_calls;
    /// What presets find in ordinary sessions of real agent programs.
    pub mod ordinary;
    /// Answers and requests that programs read in several ways.
    pub mod readings;
    /// Rules on what the history has stored; flags and suppressions on the command line.
    pub mod replay;
    /// Rules about facts: what they do to requests, and how they are told.
    pub mod rules;
    /// The tools that MCP servers list.
    pub mod tool_lists;
    /// The examples and tables of `docs/policies.md`.
    pub mod tour;
    /// Refusals at the trailers of a backend.
    pub mod trailers;
}

/// What passes through: HTTP/1.1, HTTP/2, WebSockets, dialects, real programs, hostile peers.
mod protocols {
    /// A2A agents: who owns a task, and how it ends.
    pub mod a2a;
    /// Peers that wait, stall, crowd or do not read.
    pub mod abuse;
    /// Bodies and streams pass byte for byte.
    pub mod bytes;
    /// Official SDKs, Claude Code, Codex and opencode, served and killed.
    pub mod clients;
    /// Cohere: read, counted, killed and routed.
    pub mod cohere;
    /// Answers of each dialect: whole, streamed and compressed.
    pub mod dialects;
    /// Answers to requests that are still being sent.
    pub mod early;
    /// Answers that fail after their head, stored answers, and what is counted of them.
    pub mod faults;
    /// Ambiguous HTTP/1.1 messages (request smuggling), over raw sockets.
    pub mod framing;
    /// Gemini: the model is in the path, the stream may be a JSON array.
    pub mod gemini;
    /// Which header fields are forwarded, and how the log shows them.
    pub mod headers;
    /// Attacks seen in the field.
    pub mod hostile;
    /// HTTP/2 clients: concurrent streams are independent.
    pub mod http2;
    /// HTTP/2 frames that cost their sender nothing.
    pub mod http2_abuse;
    /// HTTP/2 to backends.
    pub mod http2_backend;
    /// Cancelled streams do not harm other streams.
    pub mod http2_cancels;
    /// Comments in streams whose backend is silent.
    pub mod keep_alive;
    /// Clients that leave behind unread bytes, and after an early answer.
    pub mod leaving;
    /// Bodies that are too large, peers that are too slow, clients that disconnect.
    pub mod limits;
    /// TLS on the proxy listener.
    pub mod listener_tls;
    /// MCP servers: sessions named by the server, header fields that repeat the body, origins of web pages.
    pub mod mcp;
    /// MCP servers under a path: OAuth discovery, the HTTP+SSE transport.
    pub mod mcp_paths;
    /// Clients that close their half of the connection, faults in the framing of backends.
    pub mod repairs;
    /// Forms and files that are uploaded to model backends.
    pub mod uploads;
    /// Dead peers are detected.
    pub mod vanished;
    /// WebSockets: read, counted, killed, refused; no frame is lost.
    pub mod websocket;
}

/// Ordinary HTTP: compression, security headers, addresses of clients.
mod http {
    /// Whose requests are accepted.
    pub mod acl;
    /// Answers that are compressed for clients, and those that are not.
    pub mod compression;
    /// Header fields for browsers.
    pub mod headers;
    /// The examples of `docs/http.md`.
    pub mod tour;
}

/// Who may do how much.
mod governance {
    /// What happens when a budget is passed: kills, and streams that are held in steps.
    pub mod actions;
    /// Requests that wait for room, and those that are shed.
    pub mod admission;
    /// Calls that rules hold: who answers, and what survives.
    pub mod approvals;
    /// What requests may cost.
    pub mod budgets;
    /// Budgets of several instances: one is killed, Redis is away or wiped.
    pub mod fleet;
    /// Rates of several instances: many at once, Redis is away or wiped.
    pub mod fleet_rates;
    /// Calls and texts in answers, and results of tools, that wait for an operator.
    pub mod held_answers;
    /// Requests and calls that wait for an operator.
    pub mod holds;
    /// Rates, tokens and open requests.
    pub mod limits;
    /// Agents that go in circles.
    pub mod loops;
    /// What operators add to the limits of budgets.
    pub mod overrides;
    /// Rules over bodies that are not held, messages of sockets and calls of MCP.
    pub mod policy_bodies;
    /// Rules over the texts of requests: every dialect, evasions, history that is read once, repetitions.
    pub mod policy_requests;
    /// What is spent of budgets survives a restart.
    pub mod restart;
    /// Live sessions, and how fast new ones begin.
    pub mod sessions;
    /// `conf/examples/teams.yaml`.
    pub mod teams;
    /// Usage by tenant and group; what is an estimate is marked.
    pub mod usage;
}

/// Who calls: keys of the gateway's own.
mod callers {
    /// Accounts against strangers, their own holders and each other.
    pub mod accounts;
    /// Client certificates, networks, and addresses at the door.
    pub mod connections;
    /// What a key has opened ends with it; keys in other forms and places; models beside the first one.
    pub mod ends;
    /// The worked example of `docs/identity.md`.
    pub mod example;
    /// Keys: where they are found, what they permit, how they are refused; none leaves.
    pub mod keys;
    /// Keys made by the control API and the command line.
    pub mod made;
    /// People who log in: tokens, accounts, tickets; what they have opened ends with them.
    pub mod people;
    /// Claude Code and the SDK of OpenAI with a key.
    pub mod programs;
    /// Roles on the control API, tenants, and the audit log.
    pub mod roles;
    /// Tokens of identity providers: attacks, rotation of keys, statuses; none leaves.
    pub mod tokens;
    /// Tools that a caller may use: on MCP servers, and offered to models.
    pub mod tools;
}

/// Backends: which one gets a request, with which credential, and what happens when it fails.
mod routing {
    /// Names with several addresses, some of them down.
    pub mod addresses;
    /// Models that a backend knows by another name.
    pub mod alias;
    /// Models in batches of requests, and in their files.
    pub mod batches;
    /// Which backend a request goes to, and with which target.
    pub mod choice;
    /// Which credential reaches which backend.
    pub mod credentials;
    /// Backends behind a forward proxy.
    pub mod egress;
    /// Another backend answers when one fails before the first byte.
    pub mod failover;
    /// Ejection, recovery and active checks of backends; load balancing.
    pub mod health;
    /// Kept connections: how long, and what is sent again when the backend has closed one.
    pub mod kept;
    /// The model in the path: Azure, Vertex AI, Bedrock.
    pub mod model_in_path;
    /// One list of the models of all backends.
    pub mod models;
    /// Compressed requests are routed, refused and killed as their plain twins are.
    pub mod packed;
    /// Rules that look at the head of a request, and their targets.
    pub mod rules;
    /// Backends with TLS.
    pub mod tls;
}

/// The forward proxy: programs that only know `HTTPS_PROXY`.
mod forward {
    /// Requests in absolute form.
    pub mod absolute;
    /// Which hosts and addresses are reached.
    pub mod hosts;
    /// CONNECT over HTTP/2.
    pub mod http2;
    /// Tunnels that are opened: real programs, both versions of HTTP, clients that refuse.
    pub mod intercepted;
    /// How tunnels end: kills, silence, block lists, a stop.
    pub mod kills;
    /// Real programs behind `HTTPS_PROXY`.
    pub mod programs;
    /// The tour of `docs/forward-proxy.md`, and what `elida check` and `elida doctor` say.
    pub mod tour;
    /// Bytes, ends and refusals of tunnels.
    pub mod tunnels;
}

/// Several instances on one Redis.
mod fleet {
    /// An agent is killed on one instance while it runs on another.
    pub mod agents;
    /// Keys of callers that are made, rotated and revoked on one instance of several.
    pub mod client_keys;
    /// Redis Cluster: keys on several masters, migrating slots, a lost master.
    pub mod cluster;
    /// Endpoints that MCP servers announce are known on all instances.
    pub mod endpoints;
    /// A session ends on all instances at once, and its id can be used again.
    pub mod ends;
    /// The key that names principals, when Redis loses it.
    pub mod keys;
    /// Lists and look-ups over the sessions of all instances.
    pub mod lists;
    /// Writes that Redis acknowledged and lost: shares, records, kill orders.
    pub mod loss;
    /// Kill orders while Redis is full, evicts keys, holds too many orders, or denies a command.
    pub mod orders;
    /// Redis goes away again, or is far away, while a kill is on its way.
    pub mod outages;
    /// People who log in, on every instance.
    pub mod people;
    /// `just fleet`: its printed commands work, and it leaves nothing behind.
    pub mod recipe;
    /// Three gateways on one Redis act as one: sessions, kills, records. Helpers for the other tests of this folder.
    pub mod shared;
    /// A slow Redis, a Redis that lost its data, and reloads while sessions are active.
    pub mod slow;
    /// Random kills, resumes, aborts and Redis faults; the records are exact afterwards.
    pub mod stress;
    /// Redis with TLS, a password and an access list.
    pub mod tls;
    /// Redis restarts empty together with all instances.
    pub mod wipe;
}

/// The page for people who watch agents, in a real browser.
mod dashboard {
    /// The cookie of a person, whose tokens are renewed behind it.
    pub mod cookies;
    /// What people do with it, and what strangers cannot.
    pub mod scenarios;
}

/// Running it: commands, control API, history, telemetry, reload, upgrade, start and stop.
mod operations {
    /// Captured bodies: which ones, how much of them, and without their secrets.
    pub mod capture;
    /// `elida sessions`, `stats`, `kill`, `resume`, `kills`.
    pub mod commands;
    /// The control API: the documentation's commands, the event feed, access.
    pub mod control_api;
    /// Crowds and slow peers at the control listener.
    pub mod control_crowd;
    /// kill -9: clients see a truncated answer; a restart recovers.
    pub mod crash;
    /// The demo provider and the harness, without a gateway.
    pub mod demo;
    /// Where `elida demo` keeps its state, and for how long.
    pub mod demo_state;
    /// The limit of open files: raised, divided, exhausted.
    pub mod descriptors;
    /// `elida doctor` and `elida healthcheck`, with and without a running gateway.
    pub mod doctor;
    /// Exports whose readers stall: memory, and other requests meanwhile.
    pub mod exports;
    /// The history of ended sessions: queries, export, verification; after kill -9 and on a full disk.
    pub mod history;
    /// Each request of a session in the history.
    pub mod history_legs;
    /// The signed hash chain: tampering is detected, and others can verify it.
    pub mod history_proof;
    /// Tests and demo touch nothing outside temporary folders of their own.
    pub mod isolation;
    /// What an OpenTelemetry collector receives, and that it delays nothing.
    pub mod otel;
    /// The commands of the README.
    pub mod readme;
    /// The configuration is reloaded while the gateway runs.
    pub mod reload;
    /// Twenty reloads under load, and one before the first request.
    pub mod reload_under_load;
    /// Mixed load for an hour (`just soak`), or for half a minute.
    pub mod soak;
    /// Environment variables at the start, and the recipes that talk to a running gateway.
    pub mod start;
    /// What SIGTERM waits for.
    pub mod stop;
    /// `elida top` in a pseudo-terminal and without one.
    pub mod top;
    /// A new process takes over the ports.
    pub mod upgrade;
    /// Webhooks: who is told, signatures, repetitions, private addresses.
    pub mod webhooks;
}

mod support;
