//! Messages of HTTP/1.1 (RFC 9112), requests and responses alike: where a head ends, how long a body is, and the body out of
//! its framing. Both ends of the gateway read them with this.
//!
//! - [`head_end`]: finds the end of a head that arrives in pieces.
//! - [`fields`]: the fields that frame a message: `Content-Length`, `Transfer-Encoding`, `Connection`.
//! - [`spelling`]: how the names of its fields are spelled.
//! - [`body`]: a body by its length, in chunks, or up to the end of the connection.

pub mod body;
pub mod fields;
pub mod head_end;
pub mod spelling;
