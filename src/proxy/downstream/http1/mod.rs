//! The server side of an HTTP/1.1 connection: reads requests, writes responses (docs/adr/0030).
//!
//! `head` parses the head of a request; its body is read by `protocol/wire/http1` · `outgoing` holds what is to be sent · `connection` reads and sends over a `wire`, the socket or the TLS stream ·
//! `exchange` is one request on it, with its response.
//! Neighbours: `accept` reads the requests of a connection one by one, `session` shows each of them to the proxy;
//! `proxy/framing` rejects heads that are valid here, but that another parser could read differently.
//! Invariants: all waits of a connection share one timer; nothing is allocated while a client is waited for; `head` does no IO, and the way in which
//! bytes are split into reads does not change what they return.

mod connection;
mod exchange;
pub mod head;
mod outgoing;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use connection::{Connection, Unread};
pub(crate) use exchange::Exchange;
pub(super) use wire::Wire;
