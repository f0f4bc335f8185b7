//! What compression does to answers.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::registry::counters;
use super::{Metrics, table};

/// The counters.
pub(in crate::telemetry) struct HttpMetrics {
    compressed: IntCounterVec,
}

/// Counts the bytes of one answer that is compressed.
pub struct Compressed {
    plain: IntCounter,
    sent: IntCounter,
}

impl Compressed {
    /// Counts bytes of the backend, and those that were sent in their place.
    pub fn add(&self, plain: usize, sent: usize) {
        self.plain.inc_by(plain as u64);
        self.sent.inc_by(sent as u64);
    }
}

impl HttpMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self { compressed: counters(registry, &table::COMPRESSED_BYTES)? })
    }
}

impl Metrics {
    /// The counters of an answer that is compressed. `algorithm` is from a closed set.
    pub fn compressed(&self, algorithm: &'static str) -> Compressed {
        let of = |side| self.http.compressed.with_label_values(&[algorithm, side]);
        Compressed { plain: of("in"), sent: of("out") }
    }
}
