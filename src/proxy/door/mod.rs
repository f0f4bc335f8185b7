//! Our side of Pingora's door: who comes in, what is held for him, and how he is cut off.
//!
//! Pingora's `HttpSession::Custom` lets us stand between client and proxy (docs/adr/0001). In order:
//! `listen` accepts what `places` has room for, `greet` makes the TLS handshake or sees which HTTP is spoken, `buffered` joins small writes,
//! `connection` reads one request head after another and gives each a `ticket`, `multiplex` does so for the streams
//! of an HTTP/2 connection (`streamed`), for which `toll` sees that a client does not only make work, and `socket`
//! shows a WebSocket among them as HTTP/1.1 does. `session` is the downstream session that the proxy sees: it holds
//! request bodies of any size for replay (`held`), wakes every wait on the client's side when the leg is cut, and
//! measures the backend's `silence`, in which `keep_alive` may write comments; `write` gives each write its time;
//! `pace` keeps the backend waiting while the client does not read.
//! Neighbours: `gateway` (the `ProxyHttp` that runs behind this door) and `session::Cut`.
//! Invariant: no type of this folder but [`Ticket`], [`Door`], [`Places`] and [`Room`] is seen outside it.

mod buffered;
mod connection;
mod greet;
mod held;
mod keep_alive;
mod listen;
mod multiplex;
mod pace;
mod places;
mod session;
mod silence;
mod socket;
mod streamed;
mod ticket;
mod toll;
mod write;

pub(crate) use connection::Door;
pub(crate) use listen::serve;
pub(crate) use places::{Places, Room};
pub(crate) use session::{CUT, SILENT};
pub(crate) use ticket::Ticket;
