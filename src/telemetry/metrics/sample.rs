//! Sums over the counters, for the series of the last hour.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;

use super::Metrics;

/// Totals since the start, read from the counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Requests answered, but for those that ELIDA answers by itself, such as probes.
    pub requests: f64,
    /// Requests with a status of 400 or above, or without an answer.
    pub errors: f64,
    /// Tokens of all types but those of reasoning, which the output has already.
    pub tokens: f64,
    /// Cost in US dollars.
    pub cost_usd: f64,
    /// Kills.
    pub kills: f64,
    /// Requests by the time that they spent in ELIDA: the upper bound of each bucket in seconds, and how many were at most as
    /// slow.
    pub overhead: Vec<(f64, u64)>,
}

impl Metrics {
    /// Reads the counters. Takes some microseconds per series, so it is for once per step, not once per request.
    pub fn sample(&self) -> Sample {
        let (requests, errors) = requests(&self.requests.collect());
        let is_counted = |labels: &[(&str, &str)]| !labels.contains(&("type", "reasoning"));
        let overhead = self.overhead.collect();
        let buckets = overhead.iter().flat_map(|family| family.get_metric()).flat_map(|metric| {
            let histogram = metric.get_histogram();
            histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
        });
        Sample {
            requests,
            errors,
            tokens: sum(&self.tokens.collect(), is_counted),
            cost_usd: sum(&self.cost.collect(), |_| true),
            kills: sum(&self.kills.collect(), |_| true),
            overhead: buckets.collect(),
        }
    }
}

/// Returns all requests, and those that failed.
fn requests(families: &[MetricFamily]) -> (f64, f64) {
    let failed = |labels: &[(&str, &str)]| {
        labels
            .iter()
            .any(|(name, value)| *name == "code" && !matches!(value.as_bytes().first(), Some(b'1'..=b'3')))
    };
    // What ELIDA answers by itself are mostly probes.
    let is_forwarded = |labels: &[(&str, &str)]| !labels.contains(&("route", "local"));
    (sum(families, is_forwarded), sum(families, |labels| is_forwarded(labels) && failed(labels)))
}

/// Adds up the counters whose labels fit.
fn sum(families: &[MetricFamily], fits: impl Fn(&[(&str, &str)]) -> bool) -> f64 {
    let metrics = families.iter().flat_map(|family| family.get_metric());
    let fitting = metrics.filter(|metric| {
        let labels: Vec<_> = metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
        fits(&labels)
    });
    fitting.map(|metric| metric.get_counter().get_value()).sum()
}
