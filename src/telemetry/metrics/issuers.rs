//! Issuers of tokens.

use super::Metrics;

impl Metrics {
    /// Counts a fetch of the keys of an issuer.
    pub fn jwks_fetched(&self, issuer: &str, is_good: bool) {
        let result = if is_good { "done" } else { "failed" };
        self.jwks_fetches.with_label_values(&[issuer, result]).inc();
    }
}
