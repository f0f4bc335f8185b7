//! The session with a client below [`super::DownstreamSession`]: of a request over HTTP/1.1 or of a stream of HTTP/2.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::HOST;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_http::{RequestHeader, ResponseHeader};
use tracing::debug;

use crate::error::Refusal;
use crate::proxy::downstream::http1::Exchange;
use crate::proxy::error_response::Bare;

/// The session of one request.
pub(crate) enum ClientSession {
    /// On a connection that speaks HTTP/1.1.
    Http1(Box<Exchange>),
    /// A stream of an HTTP/2 connection.
    Http2(Box<ServerSession>),
}

/// Calls a method on what is inside; `http1` and `http2` may differ.
macro_rules! each {
    ($session:expr, $http1:ident => $first:expr, $http2:ident => $second:expr) => {
        match $session {
            ClientSession::Http1($http1) => $first,
            ClientSession::Http2($http2) => $second,
        }
    };
}

impl ClientSession {
    pub(super) fn req_header(&self) -> &RequestHeader {
        each!(self, http1 => &http1.head().header, http2 => http2.req_header())
    }

    pub(super) fn req_header_mut(&mut self) -> &mut RequestHeader {
        each!(self, http1 => http1.header_mut(), http2 => http2.req_header_mut())
    }

    /// Returns the head's bytes on the wire; over HTTP/2 those that it would have over HTTP/1.1.
    pub(super) fn to_h1_raw(&self) -> Bytes {
        each!(self, http1 => http1.head().raw.clone(), http2 => http2.to_h1_raw())
    }

    pub(super) fn request_summary(&self) -> String {
        let http1 = match self {
            Self::Http1(http1) => http1,
            Self::Http2(http2) => return http2.request_summary(),
        };
        let header = &http1.head().header;
        let host = header.headers.get(HOST).map_or(&b""[..], HeaderValue::as_bytes);
        let text = String::from_utf8_lossy;
        format!("{} {}, Host: {}", header.method, text(header.raw_path()), text(host))
    }

    pub(super) fn response_written(&self) -> Option<&ResponseHeader> {
        each!(self, http1 => http1.response(), http2 => http2.response_written())
    }

    pub(super) fn is_body_done(&mut self) -> bool {
        each!(self, http1 => http1.is_body_done(), http2 => http2.is_body_done())
    }

    /// Returns how many bytes of the body are still to come; 0 if that is not known.
    pub(super) fn body_left(&self) -> u64 {
        each!(self, http1 => http1.body_left(), _http2 => 0)
    }

    pub(super) fn is_body_empty(&mut self) -> bool {
        each!(self, http1 => http1.is_body_empty(), http2 => http2.is_body_empty())
    }

    pub(super) fn is_upgrade_req(&self) -> bool {
        each!(self, http1 => http1.is_upgrade_request(), http2 => http2.is_upgrade_req())
    }

    pub(super) fn was_upgraded(&self) -> bool {
        each!(self, http1 => http1.is_upgraded(), http2 => http2.was_upgraded())
    }

    pub(super) fn body_bytes_read(&self) -> usize {
        each!(self, http1 => http1.body_bytes().0, http2 => http2.body_bytes_read())
    }

    pub(super) fn body_bytes_sent(&self) -> usize {
        each!(self, http1 => http1.body_bytes().1, http2 => http2.body_bytes_sent())
    }

    /// Closes the connection after this request; has no meaning for a stream.
    pub(super) fn close_after(&mut self) {
        each!(self, http1 => http1.close_after(), http2 => http2.set_keepalive(None));
    }

    /// Sends the response to a request that has no context. Afterwards the connection is closed.
    pub(crate) async fn refuse(&mut self, answer: &Bare, refusal: &Refusal) {
        let written = async {
            let (head, body) = answer.parts(refusal)?;
            match self {
                Self::Http1(http1) => {
                    http1.close_after();
                    http1.add_head(head)?;
                    http1.add_body(body);
                    http1.end_body()?;
                    poll_fn(|cx| http1.poll_send(cx)).await
                }
                Self::Http2(http2) => {
                    http2.write_response_header(head).await?;
                    http2.write_response_body(body, true).await
                }
            }
        };
        if let Err(error) = written.await {
            debug!(%error, "the client of a broken request is gone");
        }
    }

    pub(super) async fn shutdown(&mut self) {
        each!(self, http1 => http1.shutdown().await, http2 => http2.shutdown().await);
    }

    // Over HTTP/1.1 the limits below are ours: of reads by `DownstreamSession`, of writes by `write`.

    pub(super) fn set_write_timeout(&mut self, limit: Option<Duration>) {
        each!(self, _http1 => (), http2 => http2.set_write_timeout(limit));
    }

    pub(super) fn get_write_timeout(&self) -> Option<Duration> {
        each!(self, _http1 => None, http2 => http2.get_write_timeout())
    }

    pub(super) fn set_total_drain_timeout(&mut self, limit: Option<Duration>) {
        each!(self, _http1 => (), http2 => http2.set_total_drain_timeout(limit));
    }

    pub(super) fn get_total_drain_timeout(&self) -> Option<Duration> {
        each!(self, _http1 => None, http2 => http2.get_total_drain_timeout())
    }

    // Pingora's digests and addresses serve its own log, which is not used; `RequestHandle` has the peer.

    pub(super) fn digest(&self) -> Option<&Digest> {
        each!(self, _http1 => None, http2 => http2.digest())
    }

    pub(super) fn digest_mut(&mut self) -> Option<&mut Digest> {
        each!(self, _http1 => None, http2 => http2.digest_mut())
    }

    pub(super) fn client_addr(&self) -> Option<&SocketAddr> {
        each!(self, _http1 => None, http2 => http2.client_addr())
    }

    pub(super) fn server_addr(&self) -> Option<&SocketAddr> {
        each!(self, _http1 => None, http2 => http2.server_addr())
    }
}
