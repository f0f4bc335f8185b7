//! How bodies and sockets are framed.
//!
//! - [`framing`]: the framing of an answer, from its head; [`coding`]: its content coding, decoded on the side;
//!   [`encoder`]: bodies for clients, compressed.
//! - [`http1`]: where heads and bodies of HTTP/1.1 end.
//! - [`sse`], [`ndjson`], [`event_stream`]: event streams, lines, and binary messages; [`event_tail`]: whether a stream is between two events.
//! - [`multipart`]: the fields of a form, [`quoted_printable`] their encoding; [`parameters`]: those of header fields.
//! - [`websocket`]: frames of a WebSocket (RFC 6455).

pub mod coding;
pub mod encoder;
pub mod event_stream;
pub mod event_tail;
pub mod framing;
pub mod http1;
pub mod multipart;
pub mod ndjson;
pub mod parameters;
pub mod quoted_printable;
pub mod sse;
pub mod websocket;
