//! One HTTP/2 connection: many requests at once, each with a handle, a kill slot and a session of its own.
//!
//! The streams share nothing but the connection: one that is cut, refused or slow leaves the others alone. The `h2`
//! crate bounds what frames may cost in memory (header lists, CONTINUATION, resets before a stream is seen, small
//! DATA), by the numbers given to it here; what they may cost in work, `budget` bounds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use h2::Reason;
use http::header::{COOKIE, EXPECT, HOST};
use http::{HeaderValue, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{
    H2Accept, H2Options, HttpSession, default_h2_options, handshake,
};
use pingora_core::protocols::{Digest, Stream};
use pingora_http::RequestHeader;
use pingora_proxy::ProxyHttp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Downstream, FIRST_REQUEST, drained};
use crate::proxy::downstream::h2_budget::H2Budget;
use crate::proxy::downstream::handle::{Peer, RequestHandle};
use crate::proxy::downstream::session::{DownstreamSession, WebSocketStream, is_websocket};
use crate::proxy::settings::Limits;

/// Bytes of a body that a client may send ahead of us, on one stream and on all of them together.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes of an answer that wait in a stream for the connection.
const SEND_BUFFER: usize = 64 << 10;

/// Streams that we had to reset for faults of the client's (CVE-2025-8671) until the connection is closed. The crate
/// counts them over the whole life of a connection.
const FAULTS: usize = 256;
/// Streams that a client has reset before anybody has seen them are at least so many until the connection is closed.
const UNSEEN: usize = 20;

/// What a header field costs beside its letters (RFC 9113, 10.5.1).
const FIELD: u32 = 32;

/// A connection that was told to end has this long to do so.
const FAREWELL: Duration = Duration::from_secs(1);

type Connection = h2::server::Connection<Stream, Bytes>;

/// The numbers for the `h2` crate. Heads over our own limits are answered by us up to twice their size, beyond that
/// by the crate.
fn options(limits: &Limits, budget: &H2Budget) -> H2Options {
    let field_cost = u32::try_from(limits.max_header_count).unwrap_or(u32::MAX).saturating_mul(FIELD);
    let head = u32::try_from(limits.max_header_bytes + limits.max_uri).unwrap_or(u32::MAX);
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(head.saturating_mul(2).saturating_add(field_cost))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(FAULTS.max(budget.allowance())))
        // The account of cancelled streams decides, not how many of them came in one segment.
        .max_pending_accept_reset_streams(UNSEEN.max(budget.allowance()))
        .enable_connect_protocol();
    options
}

/// When a connection on which nothing happens ends.
struct IdleLimit {
    since: Instant,
    limit: Duration,
    /// It was told to end.
    leaving: bool,
}

impl IdleLimit {
    fn until(&self) -> Instant {
        self.since + self.limit
    }

    fn restart(&mut self, limit: Duration) {
        self.since = Instant::now();
        self.limit = if self.leaving { FAREWELL } else { limit };
    }

    /// Tells the connection to end (GOAWAY).
    fn leave(&mut self, connection: &mut Connection, limit: Duration) {
        connection.graceful_shutdown();
        (self.leaving, self.since, self.limit) = (true, Instant::now(), limit);
    }
}

impl<P> Downstream<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    /// Serves an HTTP/2 connection to its end; its first request must be there within `limit`.
    pub(super) async fn serve_http2(
        self: Arc<Self>,
        stream: Stream,
        peer: Peer,
        limit: Duration,
        budget: Arc<H2Budget>,
        mut draining: watch::Receiver<bool>,
    ) {
        let handshake = handshake(stream, Some(options(&self.live.load().limits, &budget)));
        let Ok(Ok(mut connection)) = timeout(limit, handshake).await else { return };
        let (digest, told) = (Arc::new(Digest::default()), draining.clone());
        let mut streams = JoinSet::new();
        let mut idle_limit = IdleLimit { since: Instant::now(), limit, leaving: false };
        let mut is_refusing = false;
        loop {
            tokio::select! {
                biased;
                // GOAWAY: open streams go on, new ones are refused, so that the client opens another connection.
                () = budget.exhausted(), if !is_refusing => {
                    is_refusing = true;
                    idle_limit.leave(&mut connection, FAREWELL);
                }
                () = budget.exhausted() => {
                    close_connection(&mut connection).await;
                    break;
                }
                () = drained(&mut draining, Duration::ZERO), if !idle_limit.leaving => {
                    // GOAWAY: streams that are open, or on their way, are still served (RFC 9113, 6.8).
                    idle_limit.leave(&mut connection, FIRST_REQUEST);
                }
                Some(_) = streams.join_next(), if !streams.is_empty() => {
                    idle_limit.restart(self.live.load().timeouts.idle);
                }
                accepted = HttpSession::from_h2_conn(&mut connection, Arc::clone(&digest)) => match accepted {
                    Ok(Some(accepted)) if is_refusing => refuse_stream(accepted, &budget),
                    Ok(Some(accepted)) => self.spawn_stream(accepted, &mut streams, peer, &budget, &told),
                    Ok(None) | Err(_) => break,
                },
                () = sleep_until(idle_limit.until()), if streams.is_empty() => {
                    if idle_limit.leaving {
                        break;
                    }
                    idle_limit.leave(&mut connection, FAREWELL);
                }
            }
        }
        // Those that are left see the end of the connection and close their books.
        streams.detach_all();
    }

    /// Gives a stream a task of its own.
    fn spawn_stream(
        self: &Arc<Self>,
        accepted: H2Accept,
        streams: &mut JoinSet<()>,
        peer: Peer,
        budget: &Arc<H2Budget>,
        draining: &watch::Receiver<bool>,
    ) {
        let H2Accept::Session(session) = accepted else {
            // Its head was malformed; it has its answer.
            return budget.cancelled();
        };
        budget.began();
        streams.spawn(Arc::clone(self).serve_stream(session, peer, Arc::clone(budget), draining.clone()));
    }

    /// Lets the request of one stream through.
    async fn serve_stream(
        self: Arc<Self>,
        mut session: HttpSession,
        peer: Peer,
        budget: Arc<H2Budget>,
        draining: watch::Receiver<bool>,
    ) {
        // Given up before anybody has looked at it: no backend hears of it.
        if session.idle().now_or_never().is_some() {
            return budget.cancelled();
        }
        let settings = self.live.load_full();
        let Some(_permit) = self.permits.stream(settings.limits.max_connections) else {
            // Nothing was done, so the client may ask again (RFC 9113, 8.7).
            return session.shutdown_with_reason(Reason::REFUSED_STREAM);
        };
        let handle = RequestHandle::new(peer, settings, draining.clone());
        let mut session = if is_websocket(session.req_header()) {
            // What cannot be written as HTTP/1.1 was refused with its head; the stream ends with the session.
            let Ok(socket) = WebSocketStream::new(session) else { return };
            ServerSession::new_custom(Box::new(socket))
        } else {
            normalize_head(session.req_header_mut());
            ServerSession::new_http2(session)
        };
        session.req_header_mut().extensions_mut().insert(Arc::clone(&handle));
        let downstream = DownstreamSession::of_stream(Box::new(session), Arc::clone(&handle), budget);
        self.run_proxy(downstream, &handle, &draining).await;
        // What is left of the stream goes with the session: the end of the answer is on its way.
        drop(handle.take_session());
    }
}

/// Refuses a stream of which nothing was done, so that the client may repeat it (RFC 9113, 8.7).
fn refuse_stream(accepted: H2Accept, budget: &H2Budget) {
    budget.cancelled();
    if let H2Accept::Session(mut session) = accepted {
        session.shutdown_with_reason(Reason::REFUSED_STREAM);
    }
}

/// Closes a connection whose client goes on cancelling after GOAWAY.
async fn close_connection(connection: &mut Connection) {
    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    let _ = timeout(FAREWELL, async { while connection.accept().await.is_some() {} }).await;
}

/// Gives the head the form in which HTTP/1.1 has it: `Host` for `:authority`, one field of cookies (RFC 9113, 8.2.3).
/// An expectation is taken out: Pingora sends no informational answers over HTTP/2, and who waits for one goes on
/// after a second.
fn normalize_head(head: &mut RequestHeader) {
    debug_assert_eq!(head.version, Version::HTTP_2);
    if !head.headers.contains_key(HOST)
        && let Some(host) = head.uri.authority().and_then(|name| HeaderValue::from_str(name.as_str()).ok())
    {
        let _ = head.insert_header(HOST, host);
    }
    head.remove_header(&EXPECT);
    let crumbs: Vec<&[u8]> = head.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        let _ = head.insert_header(COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_gets_the_form_of_http11() {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        head.set_version(Version::HTTP_2);
        head.set_uri("https://gateway.example:8443/a".parse().unwrap());
        for (name, value) in [("cookie", "a=1"), ("cookie", "b=2"), ("expect", "100-continue")] {
            head.append_header(name, value).unwrap();
        }
        normalize_head(&mut head);
        assert_eq!(head.headers[HOST], "gateway.example:8443");
        assert_eq!(head.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
        assert!(!head.headers.contains_key(EXPECT));
    }
}
