//! Creates metrics from the table and registers them.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::table::Spec;

pub(super) fn options(spec: &Spec) -> Opts {
    Opts::new(spec.name, spec.help)
}

pub(super) fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(super) fn counters(registry: &Registry, spec: &Spec) -> Result<IntCounterVec, prometheus::Error> {
    add(registry, IntCounterVec::new(options(spec), spec.labels)?)
}

pub(super) fn gauges(registry: &Registry, spec: &Spec) -> Result<IntGaugeVec, prometheus::Error> {
    add(registry, IntGaugeVec::new(options(spec), spec.labels)?)
}

pub(super) fn histogram(
    registry: &Registry,
    spec: &Spec,
    buckets: &[f64],
) -> Result<Histogram, prometheus::Error> {
    let options = HistogramOpts::from(options(spec)).buckets(buckets.to_vec());
    add(registry, Histogram::with_opts(options)?)
}

pub(super) fn histograms(
    registry: &Registry,
    spec: &Spec,
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::from(options(spec)).buckets(buckets.to_vec());
    add(registry, HistogramVec::new(options, spec.labels)?)
}
