//! Accepts connections and reads requests from them.
//!
//! `listener` is the accept loop, bounded by `connection_permits` · `negotiate` makes the TLS handshake and detects the
//! HTTP version · `buffered` joins small writes over HTTP/2 · `connection` runs a connection and the proxy over each of its
//! requests · `http1` reads one request after another, and
//! `unparsed` accounts for heads that cannot be parsed · `http2` runs the streams of an HTTP/2 connection.

mod buffered;
mod connection;
mod connection_permits;
mod http1;
mod http2;
mod listener;
mod negotiate;
mod unparsed;

pub(crate) use connection::Downstream;
pub(crate) use connection_permits::{ConnectionPermits, DescriptorBudget};
pub(crate) use listener::serve;
pub(crate) use unparsed::UnparsedRequests;
