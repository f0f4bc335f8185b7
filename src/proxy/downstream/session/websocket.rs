//! Presents a WebSocket over HTTP/2 (RFC 8441) to the proxy as an HTTP/1.1 upgrade.
//!
//! The client opens a stream with CONNECT and `:protocol: websocket`. The proxy and the backend see `GET` with `Upgrade`;
//! the 101 of the backend becomes a 200, and the bytes that follow are sent as DATA. Everything else is done by
//! the session of the stream.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Version};
use pingora_core::Result;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::v1::client::http_req_header_to_wire;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_http::{RequestHeader, ResponseHeader};

use super::forward::{forward_to_inner, without_messages, without_replay};
use super::http2_session::Http2Session;

/// An HTTP/2 stream that requests a WebSocket.
pub(crate) struct WebSocketStream {
    inner: Http2Session,
    /// The request head in HTTP/1.1 form.
    head: RequestHeader,
    /// The 101 of the backend, once received; bytes then flow in both directions.
    switched: Option<Box<ResponseHeader>>,
}

/// Whether the stream requests a WebSocket.
pub(crate) fn is_websocket(head: &RequestHeader) -> bool {
    head.extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
}

impl WebSocketStream {
    /// # Errors
    /// The head cannot be written as HTTP/1.1.
    pub(crate) fn new(inner: Http2Session) -> Result<Self> {
        let request = inner.req_header();
        let mut head = RequestHeader::build("GET", request.raw_path(), Some(request.headers.len() + 5))?;
        head.set_version(Version::HTTP_11);
        for (name, value) in &request.headers {
            head.append_header(name.clone(), value.clone())?;
        }
        if let Some(host) = request.uri.authority() {
            head.insert_header(HOST, host.as_str())?;
        }
        head.insert_header(UPGRADE, HeaderValue::from_static("websocket"))?;
        head.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"))?;
        head.insert_header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))?;
        head.insert_header(SEC_WEBSOCKET_KEY, key(uuid::Uuid::now_v7().as_bytes()))?;
        Ok(Self { inner, head, switched: None })
    }

    fn inner(&self) -> &Http2Session {
        &self.inner
    }

    fn inner_mut(&mut self) -> &mut Http2Session {
        &mut self.inner
    }

    /// Converts a response head to HTTP/2 form.
    fn translate(&mut self, mut head: Box<ResponseHeader>) -> Result<Box<ResponseHeader>> {
        if head.status != 101 {
            return Ok(head);
        }
        self.switched = Some(head.clone());
        head.set_status(200)?;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH] {
            head.remove_header(&name);
        }
        Ok(head)
    }
}

/// A key for the handshake with the backend: sixteen bytes in Base64 (RFC 6455, 4.1).
fn key(bytes: &[u8; 16]) -> String {
    BASE64.encode(bytes)
}

#[async_trait]
impl Session for WebSocketStream {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.inner.read_body_bytes().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner.drain_request_body().await
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        let head = self.translate(head)?;
        self.inner.write_response_header(head, end).await
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.write_response_header(Box::new(head.clone()), end).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.inner.write_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner.write_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut translated = Vec::with_capacity(tasks.len());
        for task in tasks {
            translated.push(match task {
                HttpTask::Header(head, end) => HttpTask::Header(self.translate(head)?, end),
                HttpTask::UpgradedBody(data, end) => HttpTask::Body(data, end),
                other => other,
            });
        }
        self.inner.response_duplex_vec(translated).await
    }

    fn set_read_timeout(&mut self, _limit: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.switched.as_deref().or_else(|| self.inner.response_written())
    }

    async fn shutdown(&mut self, code: u32, context: &str) {
        self.inner.shutdown(code, context).await;
    }

    /// There is no body before the switch; DATA that arrives earlier waits in the window of the stream.
    fn is_body_done(&mut self) -> bool {
        self.switched.is_none() || self.inner.is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner.finish().await
    }

    fn is_body_empty(&mut self) -> bool {
        self.switched.is_none()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        self.inner.read_body_or_idle(no_body_expected || self.switched.is_none()).await
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        http_req_header_to_wire(&self.head).map(bytes::BytesMut::freeze).unwrap_or_default()
    }

    fn is_upgrade_req(&self) -> bool {
        true
    }

    fn was_upgraded(&self) -> bool {
        self.switched.is_some()
    }

    forward_to_inner!();

    without_messages!();

    without_replay!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_base64() {
        assert_eq!(key(b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==", "of RFC 6455, 1.3");
        assert_eq!(key(&[0xff; 16]), "/////////////////////w==");
    }
}
