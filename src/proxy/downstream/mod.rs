//! Downstream side of the proxy: accepts connections, buffers request bodies for replay, and cuts requests when a
//! session is killed.
//!
//! Pingora's `HttpSession::Custom` lets this folder put a session of its own between client and proxy (docs/adr/0001).
//! `accept` takes connections and reads requests from them · `http1` speaks HTTP/1.1 with a client · `session`
//! is the downstream session that the proxy sees: it buffers bodies, ends every wait for the client when the leg is cut,
//! and bounds writes · `timing` measures
//! idle backends and slow clients · `handle` is the state of one request that these and the gateway share ·
//! `client_stream` is what is left of them when a request takes its connection over (CONNECT) ·
//! `h2_budget` limits the work an HTTP/2 client can cause without sending requests.
//! Neighbours: `gateway` (the `ProxyHttp` that runs behind it) and `session::Cut`.
//! Invariant: other folders see only what is exported here.

mod accept;
mod client_stream;
mod h2_budget;
pub(crate) mod handle;
pub mod http1;
mod session;
mod timing;

pub(crate) use accept::{ConnectionPermits, DescriptorBudget, Downstream, UnparsedRequests, serve};
pub(crate) use client_stream::ClientStream;
pub(crate) use handle::{Opened, Peer, RequestHandle, Within};
pub(crate) use session::{LEG_CUT, UPSTREAM_IDLE};
#[cfg(test)]
pub(crate) use timing::Next;
pub(crate) use timing::{Gate, GateWait, KeepAlive};
