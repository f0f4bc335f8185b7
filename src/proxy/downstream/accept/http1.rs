//! An HTTP/1.1 connection: its requests one after another, each with a time limit for its head.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_core::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::ProxyHttp;
use pingora_timeout::timeout;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::connection::{Downstream, FIRST_REQUEST, ProxyEnd, drained};
use super::unparsed;
use crate::proxy::downstream::handle::{Peer, RequestHandle};
use crate::proxy::downstream::session::DownstreamSession;
use crate::proxy::error_response::Bare;

/// How long what the client still sends is read and discarded after an early response. Closing with unread bytes makes
/// the kernel reset the connection, and the client would lose the response (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_millis(500);

/// Size of the buffer into which discarded bytes are read.
const DISCARD_BUFFER: usize = 16 << 10;

impl<P> Downstream<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    /// Serves an HTTP/1.1 connection until it ends; its first head must arrive within `head_limit`.
    pub(super) async fn serve_http1(
        self: Arc<Self>,
        stream: Stream,
        peer: Peer,
        mut head_limit: Duration,
        mut draining: watch::Receiver<bool>,
    ) {
        let mut session = ServerSession::new_http1(stream);
        // `next_request` limits the time between requests; Pingora's own limit would restart with each byte.
        session.set_keepalive(Some(0));
        let mut after_drain = FIRST_REQUEST;
        while let Some(read) = self.next_request(session, &peer, head_limit, after_drain, &mut draining).await
        {
            let Some((stream, settings)) =
                self.serve_request(read, peer.clone(), &draining).await.map(ReusedHttpStream::consume)
            else {
                break;
            };
            session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            head_limit = self.live.load().timeouts.idle;
            after_drain = Duration::ZERO;
        }
    }

    /// Reads a request head within `limit`. Returns `None` when the connection ended or the limit passed, when the
    /// head is invalid (its error response has been sent), and when this process has been draining for `after_drain`.
    async fn next_request(
        &self,
        mut session: ServerSession,
        peer: &Peer,
        limit: Duration,
        after_drain: Duration,
        draining: &mut watch::Receiver<bool>,
    ) -> Option<ServerSession> {
        let read = tokio::select! {
            biased;
            read = timeout(limit, session.read_request()) => read,
            () = drained(draining, after_drain) => return None,
        };
        match read {
            Ok(Ok(true)) => Some(session),
            Ok(Ok(false)) | Err(_) => None,
            Ok(Err(error)) => {
                if let Some(refusal) = unparsed::refusal(&error) {
                    let begun = Instant::now();
                    let answer = Bare::new(&refusal);
                    let limit = self.live.load().timeouts.write;
                    let _ = timeout(limit, answer.write(&mut session, &refusal)).await;
                    self.unparsed.account(peer, &refusal, &answer.request_id, answer.sent, begun.elapsed());
                    linger(session).await;
                }
                None
            }
        }
    }

    /// Serves one request; returns the connection if it can carry another one.
    async fn serve_request(
        &self,
        mut session: ServerSession,
        peer: Peer,
        draining: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        let settings = self.live.load_full();
        session.set_read_timeout(Some(settings.timeouts.read));
        session.set_pipelining_enabled(true);
        let handle = RequestHandle::new(peer, settings, draining.clone());
        session.req_header_mut().extensions_mut().insert(Arc::clone(&handle));
        let downstream = DownstreamSession::new(Box::new(session), Arc::clone(&handle));
        let end = self.run_proxy(downstream, &handle, draining).await;
        let mut session = *handle.take_session()?;
        if end == ProxyEnd::Panicked || !handle.reuse.is_allowed() || !session.is_body_done() {
            linger(session).await;
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
}

/// Closes the write side and reads on for [`LINGER`], so that the client receives the response. The bytes are discarded
/// without parsing: after an invalid head nothing says where a body ends.
async fn linger(mut session: ServerSession) {
    session.set_keepalive(None);
    let ending = async {
        session.shutdown().await;
        let ServerSession::H1(session) = session else { return };
        let mut stream = session.into_inner();
        let mut discarded = vec![0; DISCARD_BUFFER];
        while stream.read(&mut discarded).await.is_ok_and(|length| length > 0) {}
    };
    let _ = timeout(LINGER, ending).await;
}
