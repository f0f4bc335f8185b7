//! The way of a request, one file per step, in order.
//!
//! `downstream` accepts it · `gateway` is Pingora's `ProxyHttp`, every phase a few lines · `exchange` is what
//! is known of it so far · `arrive` measures its head · `framing` refuses heads that can be read in two
//! ways · `local` answers what is ours · `identify` says who
//! calls and in which session · `read` holds its body · `admit` opens a leg, unless a kill stands ·
//! `dispatch` chooses the backend, `failover` between several and after a failure · `mcp` asks for what MCP asks for ·
//! `models` answers with the models of all · `outbound` writes the head for it · `inbound` reads the answer's
//! head · `stream` lets the answer through, counts and cuts · `upgrade` is what differs where that is a WebSocket ·
//! `settle` closes the books, always ·
//! `trace` tells a collector of the request · `capture` keeps its bodies, where that is wanted ·
//! `refuse` turns a fault into an answer in the caller's dialect.
//! Neighbours below: `session`, `identity`, `upstream`, `routing`, `protocol`, `telemetry`; it conducts
//! them, they do not know each other.
//! Invariants: a byte of a body is never changed, but for the model's name where the file asks for another;
//! whatever happens, a leg is settled once.

pub(crate) mod admit;
pub(crate) mod arrive;
pub(crate) mod capture;
pub(crate) mod dispatch;
pub(crate) mod downstream;
pub(crate) mod exchange;
pub(crate) mod failover;
pub mod forwarded;
pub(crate) mod framing;
pub(crate) mod gateway;
pub(crate) mod identify;
pub(crate) mod inbound;
pub(crate) mod local;
pub(crate) mod mcp;
pub mod models;
pub(crate) mod outbound;
pub(crate) mod read;
pub(crate) mod refuse;
pub mod settings;
pub(crate) mod settle;
pub(crate) mod snapshot;
pub(crate) mod stream;
pub mod tls;
pub(crate) mod trace;
pub(crate) mod upgrade;
