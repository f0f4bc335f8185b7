//! Kill orders and their lifting on their way to the other instances: written into the store, and told with the
//! order in the message, so that a kill holds even while the store takes no writes.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::replicator::Replicator;
use crate::ids::Uid;
use crate::redis::LinkError;
use crate::session::core::kill_orders::KillOrder;
use crate::session::core::manager::Manager;
use crate::session::views::state::EndReason;
use crate::session::store::redis::OrderEntry;

/// A kill waits so long for its order to be written before it cuts what is open here.
const WRITTEN: Duration = Duration::from_millis(20);
/// Orders that are still to be written and told, at most; the comparison of book and store finds what is more.
const MOST_OWED: usize = 10_000;
/// Orders told once more in one go.
const REPEATED: usize = 256;
/// Orders written at a time.
pub(super) const AT_ONCE: usize = 32;

/// How far an order came.
struct DeliveryOutcome {
    written: Result<(), LinkError>,
    heard: Result<u64, LinkError>,
}

/// A kill order on its way to all others.
pub(in crate::session) struct OrderDelivery(tokio::task::JoinHandle<DeliveryOutcome>);

/// Who has an order.
#[derive(Debug, Default)]
pub(in crate::session) struct OrderReach {
    /// Instances that heard of it, this one among them.
    pub(in crate::session) instances: u64,
    /// What does not have it yet, and why.
    pub(in crate::session) not_reached: Vec<String>,
}

/// The orders that were not written or not told yet.
#[derive(Debug, Default)]
pub(super) struct PendingOrders(VecDeque<Arc<KillOrder>>);

impl PendingOrders {
    fn add(&mut self, order: Arc<KillOrder>) {
        self.0.retain(|other| !same(other, &order));
        if self.0.len() >= MOST_OWED {
            self.0.pop_front();
        }
        self.0.push_back(order);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn same(a: &KillOrder, b: &KillOrder) -> bool {
    (a.key(), &a.agent) == (b.key(), &b.agent)
}

impl Replicator {
    fn debts(&self) -> std::sync::MutexGuard<'_, PendingOrders> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an order written and told as soon as the store takes it.
    pub(super) fn owe(&self, order: &Arc<KillOrder>) {
        self.debts().add(order.clone());
        self.hurry.notify_one();
    }

    /// True for an order whose lifting is still to be written: what the store or a message says of it is too old.
    pub(super) fn is_lifted(&self, order: &KillOrder) -> bool {
        let lifted = self.lifted.lock().unwrap_or_else(PoisonError::into_inner);
        lifted.iter().any(|lifted| same(lifted, order) && lifted.rev >= order.rev)
    }
}

impl Manager {
    /// Writes an order where all can read it, and tells them; tells them too when it cannot be written. Returns when
    /// it is written, or when waiting any longer would hold up the cut.
    pub(in crate::session) async fn spread(&self, order: &Arc<KillOrder>) -> Option<OrderDelivery> {
        let fleet = self.fleet.as_ref()?;
        let (store, is_up, mut order) = (fleet.store.clone(), fleet.is_up(), KillOrder::clone(order));
        let (written, wait) = tokio::sync::oneshot::channel();
        let telling = tokio::spawn(async move {
            let stored = match is_up {
                true => store.order(&order, true).await,
                false => Err(LinkError::Away("not connected".to_owned())),
            };
            // Nobody waits any more when this took too long.
            let _ = written.send(());
            match stored {
                Ok(rev) => {
                    order.rev = rev;
                    let key = order.key();
                    let (noted, heard) = tokio::join!(
                        store.note_kills(std::slice::from_ref(&key)),
                        store.tell_kill(&key, Some(&order))
                    );
                    DeliveryOutcome { written: noted, heard }
                }
                Err(fault) if store.link().is_connected() => {
                    let heard = store.tell_kill(&order.key(), Some(&order)).await;
                    DeliveryOutcome { written: Err(fault), heard }
                }
                Err(fault) => DeliveryOutcome { heard: Err(fault.clone()), written: Err(fault) },
            }
        });
        if is_up {
            let _ = tokio::time::timeout(WRITTEN, wait).await;
        }
        Some(OrderDelivery(telling))
    }

    /// Who has the order. What does not have it is told with the next beat that finds the store.
    pub(in crate::session) async fn heard(
        &self,
        order: &Arc<KillOrder>,
        telling: Option<OrderDelivery>,
    ) -> OrderReach {
        let (Some(fleet), Some(OrderDelivery(telling))) = (&self.fleet, telling) else {
            return OrderReach { instances: 1, not_reached: Vec::new() };
        };
        let told = telling.await.unwrap_or_else(|fault| {
            let fault = LinkError::Away(fault.to_string());
            DeliveryOutcome { written: Err(fault.clone()), heard: Err(fault) }
        });
        let reached = self.reached(fleet, "kill order", &told);
        if !reached.not_reached.is_empty() {
            // It stands in the book; what was sent may have been done, with the answer lost.
            fleet.owe(order);
        }
        reached
    }

    /// What did not get an order or its lifting; the store is away for this instance then.
    fn reached(&self, fleet: &Replicator, what: &str, DeliveryOutcome { written, heard }: &DeliveryOutcome) -> OrderReach {
        let mut not_reached = Vec::new();
        // What the store last refused says more than that it is down.
        let why = |fault: &LinkError| match fleet.is_up() {
            true => fault.to_string(),
            false => fleet.fault().unwrap_or_else(|| fault.to_string()),
        };
        if let Err(fault) = written {
            not_reached.push(format!(
                "the {what} is not in redis yet, an instance that starts now may not know it: {}",
                why(fault)
            ));
        }
        if let Err(fault) = heard {
            not_reached.push(format!("the other instances were not told of the {what} yet: {}", why(fault)));
        }
        if let Some(fault) = written.as_ref().err().or(heard.as_ref().err()) {
            tracing::error!(%fault, "a {what} did not reach redis or the other instances yet");
            self.store_lost(fleet, fault);
        }
        OrderReach { instances: heard.as_ref().map_or(1, |heard| (*heard).max(1)), not_reached }
    }

    /// Ends an incarnation that is not live here: whoever has it will hear, and if nobody has it any more
    /// its record is written all the same.
    pub(in crate::session) async fn end_elsewhere(&self, order: &Arc<KillOrder>, uid: Uid) {
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.is_up()) else { return };
        let key = order.key();
        let note = self.end_note(EndReason::Killed, Some(order.clone()));
        if let Err(fault) = fleet.store.end(&key, uid, &note, None).await {
            tracing::warn!(%fault, "a killed session was not ended in the store");
        }
        self.look_soon(fleet, &key, uid).await;
    }

    /// Tells all that an order was lifted; later, if the store does not take it. Gives what does not know it yet.
    pub(in crate::session) async fn spread_lifting(&self, order: &Arc<KillOrder>) -> Vec<String> {
        let Some(fleet) = &self.fleet else { return Vec::new() };
        let now_ms = self.clock.unix_millis(self.clock.now());
        let done = match fleet.is_up() {
            true => fleet.write_lifting(order, now_ms).await,
            false => Err(LinkError::Away("not connected".to_owned())),
        };
        let Err(fault) = done else { return Vec::new() };
        fleet.lifted.lock().unwrap_or_else(PoisonError::into_inner).push(order.clone());
        fleet.hurry.notify_one();
        // The others heed a lifting that they can read, and nothing less.
        self.reached(fleet, "lifted order", &DeliveryOutcome { written: Err(fault), heard: Ok(1) }).not_reached
    }

    /// Writes and tells what was lifted while the store did not take it.
    pub(super) async fn settle_liftings(&self, fleet: &Replicator) -> Result<(), LinkError> {
        let lifted: Vec<_> = fleet.lifted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now_ms = self.clock.unix_millis(self.clock.now());
        for order in &lifted {
            fleet.write_lifting(order, now_ms).await?;
            let mut lifted = fleet.lifted.lock().unwrap_or_else(PoisonError::into_inner);
            lifted.retain(|other| !Arc::ptr_eq(other, order));
        }
        Ok(())
    }

    /// Writes and tells the orders that the store or the others did not get yet.
    pub(super) async fn settle_debts(&self, fleet: &Replicator) -> Result<(), LinkError> {
        let owed: Vec<_> = fleet.debts().0.iter().cloned().collect();
        let now = self.clock.now();
        futures::stream::iter(owed.into_iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, async |order| {
                if self.book.holds(&order, now) {
                    let stood = fleet.store.stood(&[order.key()]).await?.pop().unwrap_or_default();
                    fleet.write_order(&order, &stood).await?;
                }
                fleet.debts().0.retain(|other| !Arc::ptr_eq(other, &order));
                Ok(())
            })
            .await
    }

    /// Tells once more of the orders that the store does not take: an instance that has started meanwhile does not
    /// find them there.
    pub(super) async fn repeat_debts(&self, fleet: &Replicator) {
        if !fleet.store.link().is_connected() {
            return;
        }
        let owed: Vec<_> = {
            let mut debts = fleet.debts();
            let some = debts.0.len().min(REPEATED);
            let owed = debts.0.iter().take(some).cloned().collect::<Vec<_>>();
            debts.0.rotate_left(some);
            owed
        };
        let now = self.clock.now();
        let standing = owed.into_iter().filter(|order| self.book.holds(order, now));
        futures::stream::iter(standing)
            .for_each_concurrent(AT_ONCE, async |order| {
                if let Err(fault) = fleet.store.tell_kill(&order.key(), Some(&order)).await {
                    tracing::debug!(%fault, "a kill order was not told once more");
                }
            })
            .await;
    }
}

impl Replicator {
    async fn write_lifting(&self, order: &KillOrder, now_ms: u64) -> Result<(), LinkError> {
        let key = order.key();
        self.store.lift(order, now_ms).await?;
        self.store.note_kills(std::slice::from_ref(&key)).await?;
        self.store.tell_kill(&key, None).await.map(drop)
    }

    /// Writes an order again where this stands, and tells of it.
    pub(super) async fn write_order(&self, order: &KillOrder, stood: &[OrderEntry]) -> Result<(), LinkError> {
        let key = order.key();
        // The lifting of an older order, by a clock that was ahead.
        let wins = stood.iter().any(|what| match what {
            OrderEntry::Lifted { agent, of, rev } => *agent == order.agent && *of < order.rev && *rev >= order.rev,
            _ => false,
        });
        let rev = self.store.order(order, wins).await?;
        self.store.note_kills(std::slice::from_ref(&key)).await?;
        // Another one that is newer may stand there: that is read from the key.
        let told = (rev == order.rev || wins).then(|| KillOrder { rev, ..order.clone() });
        self.store.tell_kill(&key, told.as_ref()).await.map(drop)
    }
}
