//! Sends kill orders and their liftings to the other instances: writes them to the store and publishes a message.
//! The message contains the order, so that a kill takes effect even while the store takes no writes.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::pending_orders::{PendingOrders, same};
use super::replicator::Replicator;
use crate::ids::Uid;
use crate::redis::LinkError;
use crate::session::core::manager::Manager;
use crate::session::core::replication::OrderReach;
use crate::session::store::redis::OrderEntry;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::state::EndReason;

/// How long a kill waits for its order to be written before it cuts local legs.
const WRITE_WAIT: Duration = Duration::from_millis(20);
/// Orders published again in one sync.
const REPUBLISHED: usize = 256;
/// Orders written concurrently.
pub(super) const AT_ONCE: usize = 32;

/// The outcome of a delivery.
struct DeliveryOutcome {
    written: Result<(), LinkError>,
    published: Result<u64, LinkError>,
}

/// A kill order that is being delivered.
pub(super) struct OrderDelivery(tokio::task::JoinHandle<DeliveryOutcome>);

impl Replicator {
    fn pending(&self) -> parking_lot::MutexGuard<'_, PendingOrders> {
        self.pending_orders.lock()
    }

    /// Adds an order that is written and published as soon as the store takes it.
    pub(super) fn add_pending_order(&self, order: &Arc<KillOrder>) {
        self.pending().add(order.clone());
        self.wake.notify_one();
    }

    /// True if the lifting of this order is still to be written: what the store or a message says about it is
    /// outdated.
    pub(super) fn has_pending_lift(&self, order: &KillOrder) -> bool {
        let lifted = self.lifted.lock();
        lifted.iter().any(|lifted| same(lifted, order) && lifted.rev >= order.rev)
    }
}

impl Replicator {
    /// Writes an order to the store and publishes it; publishes it even when it cannot be written. Returns when it is
    /// written, or when waiting longer would delay the cut.
    pub(super) async fn start_delivery(&self, order: &Arc<KillOrder>) -> OrderDelivery {
        let (store, mut order) = (self.store.clone(), KillOrder::clone(order));
        let link = if self.is_up() { Ok(()) } else { Err(self.health.link_is_down()) };
        let (written, wait) = tokio::sync::oneshot::channel();
        let delivery = tokio::spawn(async move {
            let stored = match link {
                Ok(()) => store.put_order(&order, true).await,
                Err(down) => Err(down),
            };
            // The receiver is gone when this took too long.
            let _ = written.send(());
            match stored {
                Ok(rev) => {
                    order.rev = rev;
                    let key = order.key();
                    let (noted, published) = tokio::join!(
                        store.record_changes(std::slice::from_ref(&key)),
                        store.publish_orders_changed(&key, Some(&order))
                    );
                    DeliveryOutcome { written: noted, published }
                }
                Err(fault) if store.link().is_connected() => {
                    let published = store.publish_orders_changed(&order.key(), Some(&order)).await;
                    DeliveryOutcome { written: Err(fault), published }
                }
                Err(fault) => DeliveryOutcome { published: Err(fault.clone()), written: Err(fault) },
            }
        });
        if self.is_up() {
            let _ = tokio::time::timeout(WRITE_WAIT, wait).await;
        }
        OrderDelivery(delivery)
    }

    /// Waits for a delivery. What did not receive the order gets it with the next sync that reaches the store.
    pub(super) async fn finish_delivery(
        &self,
        core: &Manager,
        order: &Arc<KillOrder>,
        OrderDelivery(delivery): OrderDelivery,
    ) -> OrderReach {
        let outcome = delivery.await.unwrap_or_else(|fault| {
            let fault = LinkError::Away(fault.to_string());
            DeliveryOutcome { written: Err(fault.clone()), published: Err(fault) }
        });
        let reached = self.reached(core, "kill order", &outcome);
        if !reached.not_reached.is_empty() {
            // The store may have carried out a command whose answer was lost.
            self.add_pending_order(order);
        }
        reached
    }

    /// Describes what did not receive an order or its lifting, and takes the link down if the store failed.
    fn reached(
        &self,
        core: &Manager,
        what: &str,
        DeliveryOutcome { written, published }: &DeliveryOutcome,
    ) -> OrderReach {
        let mut not_reached = Vec::new();
        // The last refusal says more than that the link is down.
        let why = |fault: &LinkError| match self.is_up() {
            true => fault.to_string(),
            false => self.fault().unwrap_or_else(|| fault.to_string()),
        };
        if let Err(fault) = written {
            not_reached.push(format!(
                "the {what} is not in redis yet, an instance that starts now may not know it: {}",
                why(fault)
            ));
        }
        if let Err(fault) = published {
            not_reached.push(format!("the other instances have not received the {what} yet: {}", why(fault)));
        }
        if let Some(fault) = written.as_ref().err().or(published.as_ref().err()) {
            tracing::error!(%fault, "a {what} did not reach redis or the other instances yet");
            self.store_lost(core, fault);
        }
        OrderReach { instances: published.as_ref().map_or(1, |published| (*published).max(1)), not_reached }
    }

    /// Ends an incarnation that is not active here. Instances that have it receive the end; if none has it any
    /// more, its record is written anyway.
    pub(super) async fn end_in_store_as_killed(&self, core: &Manager, order: &Arc<KillOrder>, uid: Uid) {
        if !self.is_up() {
            return;
        }
        let key = order.key();
        let note = self.end_note(core, EndReason::Killed, Some(order.clone()));
        if let Err(fault) = self.store.end(&key, uid, &note, None).await {
            tracing::warn!(%fault, "a killed session was not ended in the store");
        }
        self.check_soon(&key, uid).await;
    }

    /// Writes and publishes a lifting, now or as soon as the store takes it. Returns what has not received it yet.
    pub(super) async fn deliver_lift(&self, core: &Manager, order: &Arc<KillOrder>) -> Vec<String> {
        let now_ms = core.clock().unix_millis(core.clock().now());
        let done = match self.is_up() {
            true => self.write_lift(order, now_ms).await,
            false => Err(self.health.link_is_down()),
        };
        let Err(fault) = done else { return Vec::new() };
        self.lifted.lock().push(order.clone());
        self.wake.notify_one();
        // Other instances apply a lifting only if they can read it from the key.
        self.reached(core, "lifted order", &DeliveryOutcome { written: Err(fault), published: Ok(1) })
            .not_reached
    }

    /// Writes and publishes liftings that the store did not take before.
    pub(super) async fn send_pending_lifts(&self, core: &Manager) -> Result<(), LinkError> {
        let lifted: Vec<_> = self.lifted.lock().clone();
        let now_ms = core.clock().unix_millis(core.clock().now());
        for order in &lifted {
            self.write_lift(order, now_ms).await?;
            let mut lifted = self.lifted.lock();
            lifted.retain(|other| !Arc::ptr_eq(other, order));
        }
        Ok(())
    }

    /// Writes and publishes orders that the store or other instances did not receive before.
    pub(super) async fn send_pending_orders(&self, core: &Manager) -> Result<(), LinkError> {
        let pending_orders: Vec<_> = self.pending().all();
        let now = core.clock().now();
        futures::stream::iter(pending_orders.into_iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, async |order| {
                if core.kill_orders().holds(&order, now) {
                    let entries = self.store.order_entries(&[order.key()]).await?.pop().unwrap_or_default();
                    self.write_order(&order, &entries).await?;
                }
                self.pending().remove(&order);
                Ok(())
            })
            .await
    }

    /// Publishes orders again that the store does not take: an instance that has started meanwhile does not find
    /// them there.
    pub(super) async fn republish_pending_orders(&self, core: &Manager) {
        if !self.store.link().is_connected() {
            return;
        }
        let pending_orders = self.pending().rotate(REPUBLISHED);
        let now = core.clock().now();
        let standing = pending_orders.into_iter().filter(|order| core.kill_orders().holds(order, now));
        futures::stream::iter(standing)
            .for_each_concurrent(AT_ONCE, async |order| {
                if let Err(fault) = self.store.publish_orders_changed(&order.key(), Some(&order)).await {
                    tracing::debug!(%fault, "a kill order was not told once more");
                }
            })
            .await;
    }
}

impl Replicator {
    async fn write_lift(&self, order: &KillOrder, now_ms: u64) -> Result<(), LinkError> {
        let key = order.key();
        self.store.put_lift(order, now_ms).await?;
        self.store.record_changes(std::slice::from_ref(&key)).await?;
        self.store.publish_orders_changed(&key, None).await.map(drop)
    }

    /// Writes an order again where these entries are stored, and publishes it.
    pub(super) async fn write_order(
        &self,
        order: &KillOrder,
        entries: &[OrderEntry],
    ) -> Result<(), LinkError> {
        let key = order.key();
        // The lifting of an older order, written by a clock that was ahead.
        let wins = entries.iter().any(|what| match what {
            OrderEntry::Lifted { agent, of, rev } => {
                *agent == order.agent && *of < order.rev && *rev >= order.rev
            }
            OrderEntry::Order(_) | OrderEntry::Unreadable { .. } => false,
        });
        let rev = self.store.put_order(order, wins).await?;
        self.store.record_changes(std::slice::from_ref(&key)).await?;
        // If a newer order is stored there, receivers read it from the key.
        let told = (rev == order.rev || wins).then(|| KillOrder { rev, ..order.clone() });
        self.store.publish_orders_changed(&key, told.as_ref()).await.map(drop)
    }
}
