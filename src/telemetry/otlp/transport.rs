//! Owns the OpenTelemetry exporters, their connections, and their results.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{
    LogExporter, MetricExporter, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, SdkLogRecord};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter as _;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber;
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, filter::LevelFilter};

use super::client::{Http, Lines};
use super::settings::Target;
use crate::telemetry::log::sink::Sink;
use crate::telemetry::metrics::OtlpDropped;

/// The timeout of a message, for a single attempt and for all attempts together: the exporters start none after it. So a
/// message without a response by then is not sent again, since it might arrive twice.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// At shutdown, how long an attempt in progress may take; there is no further attempt.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Retries after 0.5, 1 and 2 s, or when the collector says.
fn retries() -> RetryPolicy {
    let policy = RetryPolicy::recommended().with_initial_delay(Duration::from_millis(500));
    policy.with_max_delay(Duration::from_secs(2))
}

/// The connection to the collector. Create and use it inside a Tokio runtime whose thread may be blocked.
pub(super) struct Transport {
    exporters: Exporters,
    /// Exporters without retries, for shutdown.
    last: Exporters,
    closing: watch::Receiver<bool>,
    /// The HTTP client; `None` for gRPC and stdout.
    client: Option<Arc<Http>>,
    /// Receives the exporters' warnings during an export.
    refusals: Dispatch,
}

struct Exporters {
    spans: SpanExporter,
    logs: LogExporter,
    metrics: MetricExporter,
}

impl Transport {
    /// # Errors
    /// The URL is unusable, or one of OpenTelemetry's environment variables is not UTF-8.
    pub(super) fn new(
        target: &Target,
        resource: &Resource,
        stdout: Sink,
        dropped: OtlpDropped,
        closing: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let mut client = None;
        let connection = match target {
            Target::Grpc(url) => Connection::Grpc(channel(url)?),
            Target::Http(url) => {
                let http = Arc::new(Http::new(url.starts_with("https:")));
                client = Some(Arc::clone(&http));
                Connection::Http(url, Protocol::HttpBinary, http)
            }
            Target::Stdout => Connection::Http("http://stdout", Protocol::HttpJson, Arc::new(Lines(stdout))),
        };
        let exporters = connection.exporters(&retries(), resource)?;
        let last = connection.exporters(&RetryPolicy::disabled(), resource)?;
        let refusals = Dispatch::new(tracing_subscriber::registry().with(Refusals(dropped)));
        Ok(Self { exporters, last, closing, client, refusals })
    }

    /// # Errors
    /// Why the collector did not accept them.
    pub(super) async fn spans(&self, spans: Vec<SpanData>) -> Result<(), String> {
        self.export(async |by| by.spans.export(spans).await).await
    }

    /// # Errors
    /// Why the collector did not accept them.
    pub(super) async fn logs(
        &self,
        records: &[SdkLogRecord],
        scope: &InstrumentationScope,
    ) -> Result<(), String> {
        let records: Vec<_> = records.iter().map(|record| (record, scope)).collect();
        self.export(async |by| by.logs.export(LogBatch::new(&records)).await).await
    }

    /// # Errors
    /// Why the collector did not accept them.
    pub(super) async fn metrics(&self, metrics: &ResourceMetrics) -> Result<(), String> {
        self.export(async |by| by.metrics.export(metrics).await).await
    }

    async fn export(&self, export: impl AsyncFnOnce(&Exporters) -> OTelSdkResult) -> Result<(), String> {
        let mut closing = self.closing.clone();
        let result = if *closing.borrow() {
            export(&self.last).with_subscriber(self.refusals.clone()).await
        } else {
            let end = async {
                let _ = closing.wait_for(|closing| *closing).await;
                sleep(SHUTDOWN_TIMEOUT).await;
            };
            tokio::select! {
                result = export(&self.exporters).with_subscriber(self.refusals.clone()) => result,
                () = end => return Err("not before the end of the program".to_owned()),
            }
        };
        result.map_err(|error| match self.client.as_ref().and_then(|client| client.cause()) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        })
    }
}

/// What the exporters share: a connection, or an HTTP client and the part of the URL before `/v1`.
enum Connection<'a> {
    Grpc(Channel),
    Http(&'a str, Protocol, Arc<dyn HttpClient>),
}

impl Connection<'_> {
    fn exporters(&self, retries: &RetryPolicy, resource: &Resource) -> anyhow::Result<Exporters> {
        let (mut spans, mut logs, metrics) = match self {
            Self::Grpc(channel) => (
                by_grpc(SpanExporter::builder().with_tonic(), channel, retries).build()?,
                by_grpc(LogExporter::builder().with_tonic(), channel, retries).build()?,
                by_grpc(MetricExporter::builder().with_tonic(), channel, retries).build()?,
            ),
            Self::Http(url, protocol, client) => {
                let url = |signal| format!("{url}/v1/{signal}");
                (
                    by_http(SpanExporter::builder().with_http(), url("traces"), *protocol, client, retries)
                        .build()?,
                    by_http(LogExporter::builder().with_http(), url("logs"), *protocol, client, retries)
                        .build()?,
                    by_http(
                        MetricExporter::builder().with_http(),
                        url("metrics"),
                        *protocol,
                        client,
                        retries,
                    )
                    .build()?,
                )
            }
        };
        spans.set_resource(resource);
        logs.set_resource(resource);
        Ok(Exporters { spans, logs, metrics })
    }
}

fn by_grpc<B: WithExportConfig + WithTonicConfig>(builder: B, channel: &Channel, retries: &RetryPolicy) -> B {
    builder.with_timeout(TIMEOUT).with_retry_policy(retries.clone()).with_channel(channel.clone())
}

fn by_http<B: WithExportConfig + WithHttpConfig>(
    builder: B,
    url: String,
    protocol: Protocol,
    client: &Arc<dyn HttpClient>,
    retries: &RetryPolicy,
) -> B {
    let builder = builder.with_endpoint(url).with_protocol(protocol).with_timeout(TIMEOUT);
    builder.with_retry_policy(retries.clone()).with_shared_http_client(Arc::clone(client))
}

/// Creates a channel that connects when there is something to send.
fn channel(url: &str) -> anyhow::Result<Channel> {
    let mut endpoint = Endpoint::from_shared(url.to_owned())?.connect_timeout(TIMEOUT).timeout(TIMEOUT);
    if url.starts_with("https:") {
        endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
    }
    Ok(endpoint.connect_lazy())
}

/// Counts what a collector rejects from a message that it accepts. The exporters report that only as a `tracing` warning.
/// Their other warnings are discarded here; the worker logs a loss once.
struct Refusals(OtlpDropped);

impl<S: Subscriber> Layer<S> for Refusals {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_event() && metadata.target() == "opentelemetry-otlp"
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut Count(&self.0));
    }
}

struct Count<'a>(&'a OtlpDropped);

impl Visit for Count<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        let counter = match field.name() {
            "rejected_spans" => &self.0.spans,
            "rejected_log_records" => &self.0.logs,
            "rejected_data_points" => &self.0.metrics,
            _ => return,
        };
        counter.inc_by(u64::try_from(value).unwrap_or_default());
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
