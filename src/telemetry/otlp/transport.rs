//! One message on its way to the collector.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::settings::Target;
use crate::telemetry::sink::Sink;

/// A collector that has not answered by then is given up on, and what it was sent is lost: sent again it might arrive
/// twice.
const TIMEOUT: Duration = Duration::from_secs(5);

/// More bytes of an answer than this are not read.
const MAX_ANSWER: u64 = 64 << 10;

const AGENT: &str = concat!("elida/", env!("CARGO_PKG_VERSION"));

/// Something to send.
#[derive(Clone)]
pub(super) enum Message {
    Spans(ExportTraceServiceRequest),
    Logs(ExportLogsServiceRequest),
    Metrics(ExportMetricsServiceRequest),
}

/// It was not taken.
pub(super) struct Failure {
    /// It may be taken later.
    pub(super) passes: bool,
    pub(super) why: String,
}

/// The way to the collector. To be made and used inside a Tokio runtime whose thread may be blocked.
pub(super) enum Transport {
    Grpc(Channel),
    Http { agent: ureq::Agent, url: String },
    Stdout(Sink),
}

impl Transport {
    /// # Errors
    /// The URL cannot be used.
    pub(super) fn new(target: &Target, stdout: Sink) -> Result<Self, tonic::transport::Error> {
        Ok(match target {
            Target::Stdout => Self::Stdout(stdout),
            Target::Http(url) => Self::Http { agent: agent(url.starts_with("https:")), url: url.clone() },
            Target::Grpc(url) => {
                let mut endpoint = Endpoint::from_shared(url.clone())?
                    .user_agent(AGENT)?
                    .connect_timeout(TIMEOUT)
                    .timeout(TIMEOUT);
                if url.starts_with("https:") {
                    endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
                }
                Self::Grpc(endpoint.connect_lazy())
            }
        })
    }

    /// Sends; gives how many parts of the message the collector refused to take.
    ///
    /// # Errors
    /// It could not be delivered.
    pub(super) async fn send(&self, message: &Message) -> Result<i64, Failure> {
        match self {
            Self::Grpc(channel) => by_grpc(channel.clone(), message.clone()).await.map_err(|status| {
                let passes = matches!(status.code(), Code::Unavailable | Code::Aborted);
                Failure { passes, why: format!("{:?}: {}", status.code(), status.message()) }
            }),
            Self::Http { agent, url } => by_http(agent, url, message),
            Self::Stdout(sink) => {
                let mut line = message.as_json();
                line.push(b'\n');
                sink.push(&line);
                Ok(0)
            }
        }
    }
}

impl Message {
    fn as_json(&self) -> Vec<u8> {
        // Only a map with keys that are not texts can fail, and there is none.
        match self {
            Self::Spans(spans) => serde_json::to_vec(spans),
            Self::Logs(logs) => serde_json::to_vec(logs),
            Self::Metrics(metrics) => serde_json::to_vec(metrics),
        }
        .unwrap_or_default()
    }

    /// Its path and bytes over HTTP.
    fn as_bytes(&self) -> (&'static str, Vec<u8>) {
        match self {
            Self::Spans(spans) => ("/v1/traces", spans.encode_to_vec()),
            Self::Logs(logs) => ("/v1/logs", logs.encode_to_vec()),
            Self::Metrics(metrics) => ("/v1/metrics", metrics.encode_to_vec()),
        }
    }

    /// How many parts of it the collector's answer refuses. An answer that cannot be read refuses none.
    fn refused(&self, answer: &[u8]) -> i64 {
        match self {
            Self::Spans(_) => {
                ExportTraceServiceResponse::decode(answer).map_or(0, |answer| of_spans(&answer))
            }
            Self::Logs(_) => ExportLogsServiceResponse::decode(answer).map_or(0, |answer| of_logs(&answer)),
            Self::Metrics(_) => {
                ExportMetricsServiceResponse::decode(answer).map_or(0, |answer| of_metrics(&answer))
            }
        }
    }
}

fn of_spans(answer: &ExportTraceServiceResponse) -> i64 {
    answer.partial_success.as_ref().map_or(0, |part| part.rejected_spans)
}

fn of_logs(answer: &ExportLogsServiceResponse) -> i64 {
    answer.partial_success.as_ref().map_or(0, |part| part.rejected_log_records)
}

fn of_metrics(answer: &ExportMetricsServiceResponse) -> i64 {
    answer.partial_success.as_ref().map_or(0, |part| part.rejected_data_points)
}

async fn by_grpc(channel: Channel, message: Message) -> Result<i64, Status> {
    Ok(match message {
        Message::Spans(spans) => of_spans(TraceServiceClient::new(channel).export(spans).await?.get_ref()),
        Message::Logs(logs) => of_logs(LogsServiceClient::new(channel).export(logs).await?.get_ref()),
        Message::Metrics(metrics) => {
            of_metrics(MetricsServiceClient::new(channel).export(metrics).await?.get_ref())
        }
    })
}

/// The statuses after which OTLP lets a client send again.
const PASSING: [u16; 4] = [429, 502, 503, 504];

fn by_http(agent: &ureq::Agent, url: &str, message: &Message) -> Result<i64, Failure> {
    let (path, bytes) = message.as_bytes();
    let sent = agent.post(format!("{url}{path}")).content_type("application/x-protobuf").send(&bytes[..]);
    let mut answer = sent.map_err(|error| Failure {
        passes: matches!(
            error,
            ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::HostNotFound
        ),
        why: error.to_string(),
    })?;
    let status = answer.status();
    if !status.is_success() {
        return Err(Failure { passes: PASSING.contains(&status.as_u16()), why: format!("status {status}") });
    }
    let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
    Ok(body.map_or(0, |body| message.refused(&body)))
}

/// A client of its own: no proxy of the environment, no redirect.
fn agent(tls: bool) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(TIMEOUT))
        .user_agent(AGENT);
    if !tls {
        return config.build().into();
    }
    // What cannot be read is no authority; without any, no collector is believed.
    let found = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    config.tls_config(tls).build().into()
}
