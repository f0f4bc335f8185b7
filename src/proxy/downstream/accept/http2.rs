//! An HTTP/2 connection: many requests at once, each with its own handle, cut and downstream session.
//!
//! The streams share nothing but the connection: one that is cut, refused or slow does not affect the others. The `h2`
//! crate bounds the memory that frames take (header lists, CONTINUATION, resets of streams before they are accepted, small
//! DATA) by the limits set here; `h2_budget` bounds the work they cause.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::header::{COOKIE, HOST};
use http::{HeaderValue, Method, Version};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options, handshake};
use pingora_http::RequestHeader;
use pingora_proxy::ProxyHttp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Downstream, FIRST_REQUEST, LINGER, drained};
use super::unparsed;
use crate::proxy::downstream::client_stream::ClientStream;
use crate::proxy::downstream::h2_budget::H2Budget;
use crate::proxy::downstream::handle::{Peer, RequestHandle};
use crate::proxy::downstream::session::{
    ClientSession, DownstreamSession, Http2Session, WebSocketStream, is_websocket,
};
use crate::proxy::settings::Limits;

/// Flow-control windows for request bodies, of a stream and of the connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes of a response that a stream buffers for the connection.
const SEND_BUFFER: usize = 64 << 10;

/// Streams that may be reset because of errors of the client (CVE-2025-8671) before the connection is closed. The crate
/// counts them over the whole life of a connection.
const CLIENT_ERROR_RESETS: usize = 256;
/// The least number of streams that a client may reset before they are accepted without closing the connection. The crate
/// closes it with all its streams, so this is for floods only.
const EARLY_RESETS: usize = 100;

/// Overhead that each header field adds to the size of a header list (RFC 9113, 10.5.1).
const FIELD_OVERHEAD: u32 = 32;

/// How long a connection without streams may stay open after GOAWAY, and how long new streams may still be in transit.
const GOAWAY_TIME: Duration = Duration::from_secs(1);

/// How long the open streams of a client may go on that opens further ones in spite of GOAWAY.
const IGNORED_GOAWAY_TIME: Duration = Duration::from_secs(5);

type Connection = h2::server::Connection<Stream, Bytes>;

/// Returns the limits for the `h2` crate. The proxy itself refuses heads of up to twice its own limits, and the crate
/// those beyond.
fn options(limits: &Limits, budget: &H2Budget) -> H2Options {
    let field_cost =
        u32::try_from(limits.max_header_count).unwrap_or(u32::MAX).saturating_mul(FIELD_OVERHEAD);
    let head = u32::try_from(limits.max_header_bytes + limits.max_uri).unwrap_or(u32::MAX);
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(head.saturating_mul(2).saturating_add(field_cost))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(CLIENT_ERROR_RESETS.max(budget.allowance())))
        // The budget decides about cancelled streams, not how many of them arrive in one segment.
        .max_pending_accept_reset_streams(EARLY_RESETS.max(budget.allowance()))
        .enable_connect_protocol();
    options
}

/// When an idle connection ends.
struct IdleLimit {
    since: Instant,
    limit: Duration,
    /// GOAWAY was sent.
    leaving: bool,
}

impl IdleLimit {
    fn until(&self) -> Instant {
        self.since + self.limit
    }

    fn restart(&mut self, limit: Duration) {
        self.since = Instant::now();
        self.limit = if self.leaving { GOAWAY_TIME } else { limit };
    }

    /// Sends GOAWAY.
    fn leave(&mut self, connection: &mut Connection, limit: Duration) {
        connection.graceful_shutdown();
        (self.leaving, self.since, self.limit) = (true, Instant::now(), limit);
    }
}

/// Refuses new streams after a client has cancelled too many. Those that are open go on to their end.
struct Refusing {
    since: Instant,
    /// When the connection is closed with all streams, because its client ignores GOAWAY.
    deadline: Option<Instant>,
}

impl Refusing {
    /// Refuses a stream that was not processed, so that the client may retry it (RFC 9113, 8.7).
    fn refuse(&mut self, mut respond: SendResponse<Bytes>) {
        if self.since.elapsed() > GOAWAY_TIME {
            self.deadline.get_or_insert_with(|| Instant::now() + IGNORED_GOAWAY_TIME);
        }
        respond.send_reset(Reason::REFUSED_STREAM);
    }
}

impl<P> Downstream<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    /// Serves an HTTP/2 connection until it ends; its first request must arrive within `limit`.
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
        let told = draining.clone();
        let mut streams = JoinSet::new();
        let mut idle_limit = IdleLimit { since: Instant::now(), limit, leaving: false };
        let mut refusing: Option<Refusing> = None;
        loop {
            tokio::select! {
                biased;
                // GOAWAY: open streams continue and new ones are refused, so that the client opens another connection.
                () = budget.exhausted(), if refusing.is_none() => {
                    refusing = Some(Refusing { since: Instant::now(), deadline: None });
                    idle_limit.leave(&mut connection, GOAWAY_TIME);
                }
                () = passed(refusing.as_ref().and_then(|refusing| refusing.deadline)) => {
                    close_connection(&mut connection).await;
                    break;
                }
                () = drained(&mut draining, Duration::ZERO), if !idle_limit.leaving => {
                    // GOAWAY: streams that are open or in transit are still served (RFC 9113, 6.8).
                    idle_limit.leave(&mut connection, FIRST_REQUEST);
                }
                Some(_) = streams.join_next(), if !streams.is_empty() => {
                    idle_limit.restart(self.live.load().timeouts.idle);
                }
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => match &mut refusing {
                        Some(refusing) => refusing.refuse(respond),
                        None => {
                            let session = Http2Session::accept(request, respond);
                            self.spawn_stream(session, &mut streams, peer.clone(), &budget, &told);
                        }
                    },
                    None => break,
                    Some(Err(error)) => {
                        if let Some(reason) = unparsed::connection_fault(&error) {
                            self.unparsed.account_http2(&peer, Some(reason));
                        }
                        break;
                    }
                },
                () = sleep_until(idle_limit.until()), if streams.is_empty() => {
                    if idle_limit.leaving {
                        break;
                    }
                    idle_limit.leave(&mut connection, GOAWAY_TIME);
                }
            }
        }
        // The remaining streams see the end of the connection and finish by themselves.
        streams.detach_all();
    }

    /// Serves a stream in a task of its own; `None` for one whose head was malformed.
    fn spawn_stream(
        self: &Arc<Self>,
        session: Option<Http2Session>,
        streams: &mut JoinSet<()>,
        peer: Peer,
        budget: &Arc<H2Budget>,
        draining: &watch::Receiver<bool>,
    ) {
        let Some(session) = session else {
            self.unparsed.account_http2(&peer, None);
            return budget.cancelled();
        };
        budget.began();
        streams.spawn(Arc::clone(self).serve_stream(session, peer, Arc::clone(budget), draining.clone()));
    }

    /// Serves the request of one stream.
    async fn serve_stream(
        self: Arc<Self>,
        mut session: Http2Session,
        peer: Peer,
        budget: Arc<H2Budget>,
        draining: watch::Receiver<bool>,
    ) {
        // The client has already reset the stream, or a reload has denied its address: it is not forwarded.
        if session.is_reset() || !self.admits(peer.address.ip()) {
            return budget.cancelled();
        }
        let settings = self.live.load_full();
        let Some(_permit) = self.permits.stream(settings.limits.max_connections) else {
            // The request was not processed, so the client may retry it (RFC 9113, 8.7).
            return session.reset(Reason::REFUSED_STREAM);
        };
        let handle = RequestHandle::new(peer, settings, draining.clone());
        let is_tunnel = session.req_header().method == Method::CONNECT && !is_websocket(session.req_header());
        let ends = is_tunnel.then(|| session.return_ends());
        let mut session = if is_websocket(session.req_header()) {
            // Fails only for a head that cannot be written as HTTP/1.1; dropping the session resets the stream.
            let Ok(socket) = WebSocketStream::new(session) else { return };
            ServerSession::new_custom(Box::new(socket))
        } else {
            normalize_head(session.req_header_mut());
            ServerSession::new_custom(Box::new(session))
        };
        session.req_header_mut().extensions_mut().insert(Arc::clone(&handle));
        let downstream = DownstreamSession::of_stream(
            ClientSession::Http2(Box::new(session)),
            Arc::clone(&handle),
            Arc::clone(&budget),
        );
        self.run_proxy(downstream, &handle, &draining).await;
        if let Some(takeover) = handle.takeover() {
            drop(handle.take_session());
            let ends = ends.and_then(|ends| ends.lock().take());
            budget.answered();
            if let Some(ends) = ends {
                let opened = takeover(ClientStream::http2(ends, budget)).await;
                if let Some(opened) = opened {
                    self.serve_opened(opened, draining).await;
                }
            }
            return;
        }
        // The end of the response is queued. The stream of a request that is not complete is reset when its session is
        // dropped, so the rest of the request is discarded before.
        if let Some(ClientSession::Http2(mut session)) = handle.take_session() {
            let _ = timeout(LINGER, session.drain_request_body()).await;
        }
    }
}

/// Waits until the deadline; never returns if there is none.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Closes a connection whose client continues to open streams after GOAWAY.
async fn close_connection(connection: &mut Connection) {
    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    let _ = timeout(GOAWAY_TIME, async { while connection.accept().await.is_some() {} }).await;
}

/// Converts a head to HTTP/1.1 form: `Host` for `:authority`, one `Cookie` field (RFC 9113, 8.2.3).
fn normalize_head(head: &mut RequestHeader) {
    debug_assert_eq!(head.version, Version::HTTP_2);
    if !head.headers.contains_key(HOST)
        && let Some(host) = head.uri.authority().and_then(|name| HeaderValue::from_str(name.as_str()).ok())
    {
        let _ = head.insert_header(HOST, host);
    }
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
        for (name, value) in [("cookie", "a=1"), ("cookie", "b=2")] {
            head.append_header(name, value).unwrap();
        }
        normalize_head(&mut head);
        assert_eq!(head.headers[HOST], "gateway.example:8443");
        assert_eq!(head.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
