//! A latency sketch: quantiles with an error of at most one eighth, in a few bytes for each distinct magnitude.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number of bits of the sub-buckets of each power of two.
const PRECISION: u32 = 3;

/// Counts in log-linear buckets of milliseconds. Allocates nothing while empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::session) struct Latencies {
    /// Bucket and count, sorted by bucket; at most 256 entries exist.
    buckets: Vec<(u8, u32)>,
}

/// Quantiles of the time to the first byte, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    /// The median.
    pub p50: u64,
    /// 90 % were this fast or faster.
    pub p90: u64,
    /// 95 % were this fast or faster.
    pub p95: u64,
}

impl Latencies {
    /// Adds one value.
    pub(in crate::session) fn add(&mut self, millis: u64) {
        self.count(bucket_of(millis), 1);
    }

    /// Adds the counts of another sketch.
    pub(in crate::session) fn merge(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(bucket, count)| self.count(*bucket, *count));
    }

    fn count(&mut self, bucket: u8, count: u32) {
        match self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(count),
            Err(at) => {
                if self.buckets.is_empty() {
                    // Most sessions keep one bucket; `insert` would reserve four.
                    self.buckets.reserve_exact(1);
                }
                self.buckets.insert(at, (bucket, count));
            }
        }
    }

    /// The quantiles; `None` if no value was added.
    pub(in crate::session) fn quantiles(&self) -> Option<Quantiles> {
        let total: u64 = self.buckets.iter().map(|(_, count)| u64::from(*count)).sum();
        (total > 0).then(|| Quantiles {
            p50: self.quantile(total, 50),
            p90: self.quantile(total, 90),
            p95: self.quantile(total, 95),
        })
    }

    fn quantile(&self, total: u64, percent: u64) -> u64 {
        let rank = (total * percent).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += u64::from(*count);
            if seen >= rank {
                return value_of(*bucket);
            }
        }
        0
    }
}

/// Small values have their own bucket; above, each power of two has eight.
fn bucket_of(millis: u64) -> u8 {
    let millis = millis.min(u64::from(u32::MAX));
    let linear = 1 << PRECISION;
    if millis < linear {
        return millis as u8;
    }
    let exponent = millis.ilog2() - PRECISION;
    let within = (millis >> exponent) - linear;
    (((exponent + 1) << PRECISION) + within as u32) as u8
}

/// The middle of a bucket, in milliseconds.
fn value_of(bucket: u8) -> u64 {
    let linear = 1_u64 << PRECISION;
    let bucket = u64::from(bucket);
    if bucket < linear {
        return bucket;
    }
    let exponent = (bucket >> PRECISION) - 1;
    let low = (linear + bucket % linear) << exponent;
    low + (1 << exponent) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_is_within_an_eighth() {
        for millis in (0..20_000).chain([1 << 20, u64::from(u32::MAX)]) {
            let shown = value_of(bucket_of(millis));
            assert!(shown.abs_diff(millis) * 8 <= millis.max(1), "{millis} is shown as {shown}");
        }
        assert_eq!(bucket_of(u64::MAX), bucket_of(u64::from(u32::MAX)));
    }

    #[test]
    fn quantiles_follow_the_counts() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantiles(), None);
        for _ in 0..90 {
            latencies.add(4);
        }
        for _ in 0..10 {
            latencies.add(1000);
        }
        let quantiles = latencies.quantiles().unwrap();
        assert_eq!((quantiles.p50, quantiles.p90), (4, 4));
        assert!(quantiles.p95.abs_diff(1000) < 125);
    }
}
