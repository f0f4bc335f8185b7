//! The downstream session that Pingora sees in place of its own.
//!
//! `downstream_session` wraps a `client_session`, which is a request on an HTTP/1.1 connection (`http1`) or an HTTP/2
//! stream (`http2_session`, whose head `http2_head` checks, `h2_stream`); `read` has its waits, `respond` its writes, `gated` those of an answer that is judged · `websocket` presents a WebSocket over HTTP/2 as
//! an HTTP/1.1 upgrade · `replay_buffer` keeps a request body for replay · `half_close` tells a client that has closed its
//! half of the connection from one that leaves · `write` bounds every write to the client · `forward` holds the methods
//! that both sessions only pass on.

mod client_session;
mod downstream_session;
mod forward;
mod gated;
mod h2_stream;
mod half_close;
mod http2_head;
mod http2_session;
mod read;
mod replay_buffer;
mod respond;
mod websocket;
mod write;

pub(super) use client_session::ClientSession;
pub(super) use downstream_session::DownstreamSession;
pub(super) use http2_session::{Http2Session, StreamEnds};
pub(crate) use read::UPSTREAM_IDLE;
pub(super) use websocket::{WebSocketStream, is_websocket};
pub(crate) use write::LEG_CUT;
