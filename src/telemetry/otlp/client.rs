//! HTTP clients for the exporters: `ureq`, or lines on stdout.

use std::sync::Arc;

use opentelemetry_http::{Bytes, HttpClient, HttpError};
use parking_lot::Mutex;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::transport::TIMEOUT;
use crate::telemetry::log::sink::Sink;

/// The largest number of response bytes that are read.
const MAX_ANSWER: u64 = 64 << 10;

/// Sends over HTTP with `ureq`.
#[derive(Debug)]
pub(super) struct Http {
    agent: ureq::Agent,
    /// Why the last request got no response; the exporters do not report it.
    cause: Mutex<Option<String>>,
}

impl Http {
    pub(super) fn new(tls: bool) -> Self {
        Self { agent: agent(tls), cause: Mutex::default() }
    }

    /// Why the last request got no response; `None` if it got one.
    pub(super) fn cause(&self) -> Option<String> {
        self.cause.lock().clone()
    }
}

#[async_trait::async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let sent = self.agent.run(http::Request::from_parts(head, &body[..]));
        let cause = sent.as_ref().err().map(ToString::to_string);
        *self.cause.lock() = cause;
        let (head, mut body) = sent?.into_parts();
        // The status suffices if the body cannot be read.
        let body = body.with_config().limit(MAX_ANSWER).read_to_vec().unwrap_or_default();
        Ok(http::Response::from_parts(head, body.into()))
    }
}

/// Creates a client that uses no proxy from the environment and follows no redirects.
fn agent(tls: bool) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(TIMEOUT));
    if !tls {
        return config.build().into();
    }
    // Unreadable CAs are skipped; without any, no collector is trusted.
    let found = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    config.tls_config(tls).build().into()
}

/// Writes each message as a line, instead of sending it to a collector.
pub(super) struct Lines(pub(super) Sink);

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lines")
    }
}

#[async_trait::async_trait]
impl HttpClient for Lines {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        // The message is indented. JSON strings contain no line breaks.
        let parts = request.body().split(|byte| *byte == b'\n').flat_map(|part| part.trim_ascii_start());
        let line: Vec<u8> = parts.copied().chain([b'\n']).collect();
        self.0.push(&line);
        Ok(http::Response::new(Bytes::new()))
    }
}
