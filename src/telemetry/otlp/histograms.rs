//! The histograms that are pushed: how long models took, how many tokens, how long until the first chunk.

use std::collections::HashMap;
use std::time::SystemTime;

use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Histogram, HistogramDataPoint, Metric, metric,
};

use super::facts::{ModelCall, Request};
use super::spans::{Attributes, error_type, nanos};

/// Sets of attributes that are told apart, since callers choose the names of models; later ones have the model
/// [`OTHER`].
const MAX_SERIES: usize = 1000;
const OTHER: &str = "_other";

/// One kind of measurement, as the conventions have it.
struct Instrument {
    name: &'static str,
    description: &'static str,
    unit: &'static str,
    bounds: &'static [f64],
}

const DURATION: usize = 0;
const TOKENS: usize = 1;
const FIRST_CHUNK: usize = 2;

const INSTRUMENTS: [Instrument; 3] = [
    Instrument {
        name: "gen_ai.client.operation.duration",
        description: "GenAI operation duration.",
        unit: "s",
        bounds: &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92],
    },
    Instrument {
        name: "gen_ai.client.token.usage",
        description: "Number of input and output tokens used.",
        unit: "{token}",
        bounds: &[
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
    },
    Instrument {
        name: "gen_ai.client.operation.time_to_first_chunk",
        description: "Time to receive the first chunk of a streamed answer.",
        unit: "s",
        bounds: &[
            0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0,
        ],
    },
];

type Labels = Vec<(&'static str, Box<str>)>;

#[derive(Default)]
struct Series {
    count: u64,
    sum: f64,
    /// One more than the bounds: the last is for what is above them all.
    buckets: Vec<u64>,
}

/// All measurements since the start.
pub(super) struct Histograms {
    since: u64,
    series: HashMap<(usize, Labels), Series>,
}

impl Histograms {
    pub(super) fn new() -> Self {
        Self { since: nanos(SystemTime::now()), series: HashMap::new() }
    }

    /// Adds what a request took.
    pub(super) fn add(&mut self, request: &Request) {
        let Some(call) = &request.call else { return };
        let labels = labels(request, call);
        let seconds = request.duration.as_secs_f64();
        let failed = error_type(request).map(|error| ("error.type", error.into()));
        self.measure(DURATION, labels.iter().cloned().chain(failed).collect(), seconds);
        if let (true, Some(after)) = (call.stream, call.first_chunk) {
            self.measure(FIRST_CHUNK, labels.clone(), after.as_secs_f64());
        }
        if let Some(tokens) = call.tokens {
            for (kind, count) in [("input", tokens.input), ("output", tokens.output)] {
                let kind = ("gen_ai.token.type", kind.into());
                self.measure(TOKENS, labels.iter().cloned().chain([kind]).collect(), count as f64);
            }
        }
    }

    fn measure(&mut self, instrument: usize, mut labels: Labels, value: f64) {
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(&(instrument, labels.clone())) {
            let models = labels.iter_mut().filter(|(key, _)| key.ends_with(".model"));
            models.for_each(|(_, model)| *model = OTHER.into());
        }
        let bounds = INSTRUMENTS[instrument].bounds;
        let series = self.series.entry((instrument, labels)).or_default();
        series.buckets.resize(bounds.len() + 1, 0);
        series.buckets[bounds.partition_point(|bound| *bound < value)] += 1;
        series.count += 1;
        series.sum += value;
    }

    /// The metrics as OTLP has them; empty when nothing was measured.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let now = nanos(SystemTime::now());
        let of = |(index, instrument): (usize, &Instrument)| {
            let points = self.series.iter().filter(|((kind, _), _)| *kind == index);
            let data_points: Vec<_> =
                points.map(|((_, labels), series)| self.point(instrument, labels, series, now)).collect();
            let aggregation_temporality = AggregationTemporality::Cumulative.into();
            (!data_points.is_empty()).then(|| Metric {
                name: instrument.name.to_owned(),
                description: instrument.description.to_owned(),
                unit: instrument.unit.to_owned(),
                data: Some(metric::Data::Histogram(Histogram { data_points, aggregation_temporality })),
                ..Metric::default()
            })
        };
        INSTRUMENTS.iter().enumerate().filter_map(of).collect()
    }

    fn point(&self, kind: &Instrument, labels: &Labels, series: &Series, now: u64) -> HistogramDataPoint {
        let mut attributes = Attributes::default();
        labels.iter().for_each(|(key, text)| attributes.text(key, text));
        HistogramDataPoint {
            attributes: attributes.0,
            start_time_unix_nano: self.since,
            time_unix_nano: now,
            count: series.count,
            sum: Some(series.sum),
            bucket_counts: series.buckets.clone(),
            explicit_bounds: kind.bounds.to_vec(),
            ..HistogramDataPoint::default()
        }
    }
}

/// What all measurements of a request have in common. Never a session or a principal.
fn labels(request: &Request, call: &ModelCall) -> Labels {
    let backend = request.backend.as_ref().map(|backend| ("server.address", backend.host.clone()));
    let model = call.model.clone().map(|model| ("gen_ai.request.model", model));
    let answered_by = call.answered_by.clone().map(|model| ("gen_ai.response.model", model));
    let fixed = [
        ("gen_ai.operation.name", Box::from(call.operation)),
        ("gen_ai.provider.name", Box::from(call.provider)),
    ];
    fixed.into_iter().chain(model).chain(answered_by).chain(backend).collect()
}
