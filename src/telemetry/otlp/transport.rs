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
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber;
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, filter::LevelFilter};

use super::client::{Http, Lines};
use super::export::Dropped;
use super::settings::Target;
use crate::telemetry::sink::Sink;

/// The time for a message, for one attempt as for all: the exporters begin none after it. So what a collector has not
/// answered by then is not sent again; it might arrive twice.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Sent again after 0.5, 1 and 2 s, or when the collector says.
fn retries() -> RetryPolicy {
    RetryPolicy::recommended()
        .with_initial_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(2))
}

/// The way to the collector. To be made and used inside a Tokio runtime whose thread may be blocked.
pub(super) struct Transport {
    spans: SpanExporter,
    logs: LogExporter,
    metrics: MetricExporter,
    /// What sends over HTTP.
    client: Option<Arc<Http>>,
    /// Hears what the exporters tell while they export.
    refusals: Dispatch,
}

type Exporters = (SpanExporter, LogExporter, MetricExporter);

impl Transport {
    /// # Errors
    /// The URL cannot be used, or a variable of OpenTelemetry's is no text.
    pub(super) fn new(
        target: &Target,
        resource: &Resource,
        stdout: Sink,
        dropped: Dropped,
    ) -> anyhow::Result<Self> {
        let mut client = None;
        let (mut spans, mut logs, metrics) = match target {
            Target::Grpc(url) => by_grpc(&channel(url)?)?,
            Target::Http(url) => {
                let http = Arc::new(Http::new(url.starts_with("https:")));
                client = Some(Arc::clone(&http));
                by_http(url, Protocol::HttpBinary, http)?
            }
            Target::Stdout => by_http("http://stdout", Protocol::HttpJson, Arc::new(Lines(stdout)))?,
        };
        spans.set_resource(resource);
        logs.set_resource(resource);
        let refusals = Dispatch::new(tracing_subscriber::registry().with(Refusals(dropped)));
        Ok(Self { spans, logs, metrics, client, refusals })
    }

    /// # Errors
    /// Why they were not taken.
    pub(super) async fn spans(&self, spans: Vec<SpanData>) -> Result<(), String> {
        self.told(self.spans.export(spans)).await
    }

    /// # Errors
    /// Why they were not taken.
    pub(super) async fn logs(
        &self,
        records: &[SdkLogRecord],
        by: &InstrumentationScope,
    ) -> Result<(), String> {
        let records: Vec<_> = records.iter().map(|record| (record, by)).collect();
        self.told(self.logs.export(LogBatch::new(&records))).await
    }

    /// # Errors
    /// Why they were not taken.
    pub(super) async fn metrics(&self, metrics: &ResourceMetrics) -> Result<(), String> {
        self.told(self.metrics.export(metrics)).await
    }

    async fn told(&self, export: impl Future<Output = OTelSdkResult>) -> Result<(), String> {
        let result = export.with_subscriber(self.refusals.clone()).await;
        result.map_err(|error| match self.client.as_ref().and_then(|client| client.cause()) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        })
    }
}

/// Exporters that share a connection.
fn by_grpc(channel: &Channel) -> anyhow::Result<Exporters> {
    fn over<B: WithExportConfig + WithTonicConfig>(builder: B, channel: &Channel) -> B {
        builder.with_timeout(TIMEOUT).with_retry_policy(retries()).with_channel(channel.clone())
    }
    Ok((
        over(SpanExporter::builder().with_tonic(), channel).build()?,
        over(LogExporter::builder().with_tonic(), channel).build()?,
        over(MetricExporter::builder().with_tonic(), channel).build()?,
    ))
}

fn channel(url: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.connect_timeout(TIMEOUT).timeout(TIMEOUT);
    let secure = url.starts_with("https:").then(|| ClientTlsConfig::new().with_native_roots());
    Ok(match secure {
        Some(tls) => endpoint.tls_config(tls)?.connect_lazy(),
        None => endpoint.connect_lazy(),
    })
}

/// Exporters that share a client; `url` is the part before `/v1`.
fn by_http(url: &str, protocol: Protocol, client: Arc<dyn HttpClient>) -> anyhow::Result<Exporters> {
    let over = Over { url, protocol, client };
    Ok((
        over.with(SpanExporter::builder().with_http(), "traces").build()?,
        over.with(LogExporter::builder().with_http(), "logs").build()?,
        over.with(MetricExporter::builder().with_http(), "metrics").build()?,
    ))
}

struct Over<'a> {
    url: &'a str,
    protocol: Protocol,
    client: Arc<dyn HttpClient>,
}

impl Over<'_> {
    fn with<B: WithExportConfig + WithHttpConfig>(&self, builder: B, signal: &str) -> B {
        builder
            .with_endpoint(format!("{}/v1/{signal}", self.url))
            .with_protocol(self.protocol)
            .with_timeout(TIMEOUT)
            .with_retry_policy(retries())
            .with_shared_http_client(Arc::clone(&self.client))
    }
}

/// Counts what a collector refuses of a message that it takes: the exporters tell that as a warning of `tracing` and in
/// no other way. Their other warnings end here: what is lost is said once, by the worker.
struct Refusals(Dropped);

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

struct Count<'a>(&'a Dropped);

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
