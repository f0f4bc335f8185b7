//! The client over real connections, and beside Pingora's own on the same bytes.

mod connections;
mod differential;
mod responses;
