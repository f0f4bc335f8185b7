//! HTTP/1.1 without TLS to backends: a client of our own in place of Pingora's (docs/adr/0031).
//!
//! A request comes to `connector`, which takes a connection from `idle_connections` or opens one; `session` is the request
//! on it; `request_writer` writes head and body in one system call; `response_reader` reads the response,
//! head (`response_head`) and body (`protocol/wire/http1`), out of what `connection` has read. TLS, HTTP/2 and upgrades use Pingora's clients; `peer` chooses.
//! Invariants: no task, timer or buffer belongs to a connection that waits; a connection is used again only if request and
//! response were complete and their framing was beyond doubt; a request never waits for room to write while its response
//! could be read.

mod connection;
mod connector;
mod idle_connections;
mod request_writer;
mod response_head;
mod response_reader;
mod session;

pub use connection::request_writer;
pub use connector::Http1Connector;
pub use request_writer::{Messages, RequestWriter, Room};
pub use response_reader::ResponseReader;

#[cfg(test)]
mod tests;
