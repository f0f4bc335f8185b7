//! The histograms that are pushed: duration, tokens, and time to the first chunk of model calls.

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::metrics::{Histogram, MeterProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{ResourceMetrics, ScopeMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality};

use super::facts::{ModelCall, Request};
use super::spans::{Attributes, error_type, scope};

/// Name, unit, description and bounds, from the semantic conventions for generative AI.
const INSTRUMENTS: [(&str, &str, &str, &[f64]); 3] = [
    (
        "gen_ai.client.operation.duration",
        "s",
        "GenAI operation duration.",
        &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92],
    ),
    (
        "gen_ai.client.token.usage",
        "{token}",
        "Number of input and output tokens used.",
        &[
            1.0,
            4.0,
            16.0,
            64.0,
            256.0,
            1024.0,
            4096.0,
            16384.0,
            65536.0,
            262_144.0,
            1_048_576.0,
            4_194_304.0,
            16_777_216.0,
            67_108_864.0,
        ],
    ),
    (
        "gen_ai.client.operation.time_to_first_chunk",
        "s",
        "Time to receive the first chunk of a streamed answer.",
        &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0],
    ),
];

/// All measurements since start. Clients choose model names, so the SDK's limit of 2000 attribute sets per histogram
/// matters: further ones are reported as `otel.metric.overflow`.
pub(super) struct Histograms {
    duration: Histogram<f64>,
    tokens: Histogram<f64>,
    first_chunk: Histogram<f64>,
    reader: Reader,
    /// Dropping this drops the measurements.
    _provider: SdkMeterProvider,
}

impl Histograms {
    pub(super) fn new(resource: &Resource) -> Self {
        let reader = Reader(Arc::new(ManualReader::builder().build()));
        let provider =
            SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(reader.clone()).build();
        let meter = provider.meter_with_scope(scope());
        let [duration, tokens, first_chunk] = INSTRUMENTS.map(|(name, unit, description, bounds)| {
            let histogram = meter.f64_histogram(name).with_unit(unit).with_description(description);
            histogram.with_boundaries(bounds.to_vec()).build()
        });
        Self { duration, tokens, first_chunk, reader, _provider: provider }
    }

    /// Records a request.
    pub(super) fn add(&self, request: &Request) {
        let Some(call) = &request.call else { return };
        let mut labels = labels(request, call);
        if let (true, Some(after)) = (call.stream, call.first_chunk) {
            self.first_chunk.record(after.as_secs_f64(), &labels.0);
        }
        if let Some(tokens) = call.tokens {
            for (kind, count) in [("input", tokens.input), ("output", tokens.output)] {
                labels.text("gen_ai.token.type", kind);
                self.tokens.record(count as f64, &labels.0);
                labels.0.pop();
            }
        }
        labels.text_option("error.type", error_type(request).as_deref());
        self.duration.record(request.duration.as_secs_f64(), &labels.0);
    }

    /// Returns the metrics to push, and their number; `None` if nothing was recorded.
    pub(super) fn collect(&self) -> Option<(ResourceMetrics, usize)> {
        let mut metrics = ResourceMetrics::default();
        self.reader.collect(&mut metrics).ok()?;
        let count = metrics.scope_metrics().flat_map(ScopeMetrics::metrics).count();
        (count > 0).then_some((metrics, count))
    }
}

/// The attributes of all measurements of a request. Never a session or a principal.
fn labels(request: &Request, call: &ModelCall) -> Attributes {
    let mut labels = Attributes::default();
    labels.text("gen_ai.operation.name", call.operation);
    labels.text("gen_ai.provider.name", call.provider);
    labels.text_option("gen_ai.request.model", call.model.as_deref());
    labels.text_option("gen_ai.response.model", call.answered_by.as_deref());
    labels.text_option("server.address", request.backend.as_ref().map(|backend| &*backend.host));
    labels
}

/// Reads the histograms on request. The SDK's periodic reader uses a thread of its own, where the exporters have no
/// runtime.
#[derive(Clone, Debug)]
struct Reader(Arc<ManualReader>);

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::SystemTime;

    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};

    use super::*;
    use crate::ids::RequestId;
    use crate::telemetry::trace::Context;

    fn of_model(model: &str) -> Request {
        let call = ModelCall {
            operation: "chat",
            provider: "openai",
            model: Some(model.into()),
            answered_by: None,
            stream: false,
            first_chunk: None,
            stop_reason: None,
            tokens: None,
            tools: Vec::new(),
        };
        Request {
            context: Context::of_request(None, None, |_| true),
            session: None,
            uid: None,
            request_id: RequestId::fresh(),
            ended: SystemTime::now(),
            duration: Duration::from_secs(1),
            queue: None,
            method: "POST".into(),
            path: "/".into(),
            status: Some(200),
            outcome: "ok",
            principal: None,
            membership: None,
            client: None,
            client_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            backend: None,
            bytes_in: 0,
            bytes_out: 0,
            operation: None,
            call: Some(call),
        }
    }

    #[test]
    fn models_without_number_are_told_in_a_bounded_number_of_series() {
        let histograms = Histograms::new(&Resource::builder_empty().build());
        assert!(histograms.collect().is_none(), "nothing was measured");
        (0..5000).for_each(|number| histograms.add(&of_model(&format!("model-{number}"))));
        let (metrics, count) = histograms.collect().unwrap();
        let metric = metrics.scope_metrics().flat_map(ScopeMetrics::metrics).next().unwrap();
        let AggregatedMetrics::F64(MetricData::Histogram(durations)) = metric.data() else {
            panic!("{metric:?}")
        };
        let points: Vec<_> = durations.data_points().collect();
        assert_eq!((count, points.iter().map(|point| point.count()).sum::<u64>()), (1, 5000), "none is lost");
        assert!(points.len() <= 2001, "{} series", points.len());
    }
}
