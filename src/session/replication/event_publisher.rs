//! Publishes events for the event feeds of the other instances, in batches.

use std::sync::Arc;

use super::replicator::Replicator;

/// Events published in one round trip, about 300 KB.
const BATCH: usize = 64;

/// Publishes queued events until the queue is dropped.
pub(super) async fn publish(replicator: Arc<Replicator>) {
    let Some(mut waiting) = replicator.feed.take() else { return };
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let texts: Vec<String> =
            batch.drain(..).map(|event| serde_json::to_string(&*event).unwrap_or_default()).collect();
        if !replicator.is_up() {
            replicator.feed.drop_some(texts.len());
            continue;
        }
        match replicator.store.publish_events(&texts).await {
            Ok(lost) => replicator.feed.drop_some(lost),
            // The sync loop finds out whether the store is unavailable.
            Err(fault) => {
                tracing::debug!(%fault, events = texts.len(), "events did not reach the other instances");
                replicator.feed.drop_some(texts.len());
            }
        }
    }
}
