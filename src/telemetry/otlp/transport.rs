//! The exporters of OpenTelemetry: what they send by, and what they say of it.

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

/// The time for a message, for one attempt as for all: the exporters begin none after it. So what a collector has not
/// answered by then is not sent again; it might arrive twice.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// At the end of the program an attempt that is under way has so long for its answer, and there is none after it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sent again after 0.5, 1 and 2 s, or when the collector says.
fn retries() -> RetryPolicy {
    let policy = RetryPolicy::recommended().with_initial_delay(Duration::from_millis(500));
    policy.with_max_delay(Duration::from_secs(2))
}

/// The way to the collector. To be made and used inside a Tokio runtime whose thread may be blocked.
pub(super) struct Transport {
    exporters: Exporters,
    /// Those for the end of the program, which do not send again.
    last: Exporters,
    closing: watch::Receiver<bool>,
    /// What sends over HTTP.
    client: Option<Arc<Http>>,
    /// Hears what the exporters tell while they export.
    refusals: Dispatch,
}

struct Exporters {
    spans: SpanExporter,
    logs: LogExporter,
    metrics: MetricExporter,
}

impl Transport {
    /// # Errors
    /// The URL cannot be used, or a variable of OpenTelemetry's is no text.
    pub(super) fn new(
        target: &Target,
        resource: &Resource,
        stdout: Sink,
        dropped: OtlpDropped,
        closing: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let mut client = None;
        let way = match target {
            Target::Grpc(url) => Way::Grpc(channel(url)?),
            Target::Http(url) => {
                let http = Arc::new(Http::new(url.starts_with("https:")));
                client = Some(Arc::clone(&http));
                Way::Http(url, Protocol::HttpBinary, http)
            }
            Target::Stdout => Way::Http("http://stdout", Protocol::HttpJson, Arc::new(Lines(stdout))),
        };
        let exporters = way.exporters(&retries(), resource)?;
        let last = way.exporters(&RetryPolicy::disabled(), resource)?;
        let refusals = Dispatch::new(tracing_subscriber::registry().with(Refusals(dropped)));
        Ok(Self { exporters, last, closing, client, refusals })
    }

    /// # Errors
    /// Why they were not taken.
    pub(super) async fn spans(&self, spans: Vec<SpanData>) -> Result<(), String> {
        self.told(async |by| by.spans.export(spans).await).await
    }

    /// # Errors
    /// Why they were not taken.
    pub(super) async fn logs(
        &self,
        records: &[SdkLogRecord],
        scope: &InstrumentationScope,
    ) -> Result<(), String> {
        let records: Vec<_> = records.iter().map(|record| (record, scope)).collect();
        self.told(async |by| by.logs.export(LogBatch::new(&records)).await).await
    }

    /// # Errors
    /// Why they were not taken.
    pub(super) async fn metrics(&self, metrics: &ResourceMetrics) -> Result<(), String> {
        self.told(async |by| by.metrics.export(metrics).await).await
    }

    async fn told(&self, export: impl AsyncFnOnce(&Exporters) -> OTelSdkResult) -> Result<(), String> {
        let mut closing = self.closing.clone();
        let result = if *closing.borrow() {
            export(&self.last).with_subscriber(self.refusals.clone()).await
        } else {
            let end = async {
                let _ = closing.wait_for(|closing| *closing).await;
                sleep(PATIENCE).await;
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

/// What exporters share: a connection, or a client and the part of the URL before `/v1`.
enum Way<'a> {
    Grpc(Channel),
    Http(&'a str, Protocol, Arc<dyn HttpClient>),
}

impl Way<'_> {
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

/// Connects when there is something to send.
fn channel(url: &str) -> anyhow::Result<Channel> {
    let mut endpoint = Endpoint::from_shared(url.to_owned())?.connect_timeout(TIMEOUT).timeout(TIMEOUT);
    if url.starts_with("https:") {
        endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
    }
    Ok(endpoint.connect_lazy())
}

/// Counts what a collector refuses of a message that it takes: the exporters tell that as a warning of `tracing` and in
/// no other way. Their other warnings end here: what is lost is said once, by the worker.
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
