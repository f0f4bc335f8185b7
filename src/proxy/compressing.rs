//! The body of an answer while it is compressed for its client.

use bytes::Bytes;
use pingora_core::{ErrorType, OrErr, Result};

use crate::protocol::wire::encoder::Encoder;
use crate::telemetry::metrics::Compressed;

/// The body of an answer that is compressed.
pub(crate) struct Compressing {
    encoder: Encoder,
    metrics: Compressed,
}

impl Compressing {
    pub(super) fn new(encoder: Encoder, metrics: Compressed) -> Self {
        Self { encoder, metrics }
    }

    /// Compresses what the backend has sent; with `end` it is the last of it. Returns what leaves.
    ///
    /// # Errors
    /// The library fails.
    pub(super) fn pass(&mut self, chunk: &[u8], end: bool) -> Result<Bytes> {
        let leaves = self.encoder.encode(chunk, end);
        let leaves = leaves.or_err(ErrorType::InternalError, "compressing the answer")?;
        self.metrics.add(chunk.len(), leaves.len());
        Ok(leaves)
    }
}
