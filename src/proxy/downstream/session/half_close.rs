//! Clients that close only their half of the connection after a request, as `nc -N` and some HTTP/1.0 programs do. They still
//! read the response (RFC 9112, 9.6).
//!
//! On the wire this is the same as a client that leaves, whose request must be cancelled at once. What tells them apart is
//! the time: programs that send all they have and close their half do so before the request is forwarded; clients that give
//! up waiting, later.

use std::time::Duration;

use http::Version;
use http::header::CONNECTION;
use pingora_core::{Error, ErrorType};
use pingora_http::RequestHeader;
use tokio::time::Instant;

use crate::proxy::downstream::http1::Exchange;

/// How long after its head the end of a request's connection is taken for a half-close, if the client has said that it
/// sends no other request.
const ONLY_REQUEST: Duration = Duration::from_secs(1);

/// Tells clients that close their half of the connection from those that leave.
#[derive(Default)]
pub(super) struct HalfClose {
    /// How often the client was waited for after the end of its request: 0, 1, or more.
    waits: u8,
    /// How often the current wait was polled: 0, 1, or more.
    polls: u8,
}

impl HalfClose {
    /// Begins a wait for the client; `idle` as in `read_body_or_idle`.
    pub(super) fn begin(&mut self, idle: Option<bool>) {
        self.waits = self.waits.saturating_add(u8::from(idle == Some(true)));
        self.polls = 0;
    }

    /// Counts a poll of the wait.
    pub(super) fn polled(&mut self) {
        self.polls = self.polls.saturating_add(1);
    }

    /// Returns whether the client still reads, after the wait has ended with this error. Never once the response has begun,
    /// nor for an upgrade.
    pub(super) fn is_half(&self, error: &Error, session: &Exchange, arrived: Instant) -> bool {
        let was_there = self.waits == 1 && self.polls == 1;
        let head = &session.head().header;
        *error.etype() == ErrorType::ConnectionClosed
            && self.waits > 0
            && session.response().is_none()
            && !session.is_upgrade_request()
            && (was_there || is_last(head) && arrived.elapsed() < ONLY_REQUEST)
    }
}

/// Returns whether the client sends no other request on its connection (RFC 9112, 9.3).
fn is_last(head: &RequestHeader) -> bool {
    let fields = || head.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let says = |word: &str| {
        fields().flat_map(|value| value.split(',')).any(|named| named.trim().eq_ignore_ascii_case(word))
    };
    says("close") || head.version < Version::HTTP_11 && !says("keep-alive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_request_of_a_connection_is_known() {
        for (version, connection, last) in [
            (Version::HTTP_11, "keep-alive", false),
            (Version::HTTP_11, "te, Close", true),
            (Version::HTTP_10, "Keep-Alive", false),
            (Version::HTTP_10, "te", true),
        ] {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            head.set_version(version);
            head.insert_header(CONNECTION, connection).unwrap();
            assert_eq!(is_last(&head), last, "{version:?} {connection}");
        }
    }
}
