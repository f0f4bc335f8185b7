//! The beat: is the store there, what changed in it, what is to be written; and what messages wake.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::flush::Which;
use super::{Fleet, Work, feed};
use crate::ids::Uid;
use crate::redis::LinkError;
use crate::redis::signals::{Signal, Signals};
use crate::session::event::Event;
use crate::session::manager::Manager;

/// The longest time between two looks at the store.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// The same while it is away.
const KNOCK: Duration = Duration::from_millis(100);
/// Book and store are compared as a whole this often.
const COMPARE: Duration = Duration::from_secs(30);
/// The store must have been there so long before an instance is taken for dead: after an outage all of
/// them have to show that they live.
const TRUST: Duration = Duration::from_secs(8);
/// Still sessions are looked at this often.
const TURN: Duration = Duration::from_secs(2);
/// Work taken up at once.
const BATCH: usize = 512;

/// Plays this instance's part until told to stop.
pub async fn serve(manager: Arc<Manager>, mut stop: watch::Receiver<bool>) {
    let Some(fleet) = manager.fleet.clone() else { return };
    let Some(todo) = fleet.todo.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    fleet.store.link().connect();
    let worker = tokio::spawn(work(manager.clone(), fleet.clone(), todo));
    let publisher = tokio::spawn(feed::publish(fleet.clone()));
    let mut step = Step {
        manager,
        fleet: fleet.clone(),
        messages: None,
        renewed: false,
        seen_ms: 0,
        since: None,
        compared: Instant::now(),
        looked: Instant::now(),
    };
    loop {
        let pause = if fleet.is_up() { BEAT.min(fleet.flush_interval()) } else { KNOCK };
        tokio::select! {
            // An error means that nobody can tell us to stop any more.
            _ = stop.wait_for(|stop| *stop) => break,
            () = fleet.store.link().renewed() => step.renewed = true,
            () = tokio::time::sleep(pause) => {}
        }
        match step.take().await {
            Ok(()) => {}
            Err(LinkError::Refused(why)) => warn!(why, "a key in the store holds what is not ours"),
            Err(away) => step.manager.store_lost(&fleet, &away),
        }
    }
    worker.abort();
    publisher.abort();
    if let Some(messages) = step.messages {
        messages.abort();
    }
}

/// Does at once what must not wait for the next beat.
async fn work(manager: Arc<Manager>, fleet: Arc<Fleet>, mut todo: mpsc::Receiver<Work>) {
    let mut batch = Vec::with_capacity(BATCH);
    while todo.recv_many(&mut batch, BATCH).await > 0 {
        manager.work(&fleet, std::mem::take(&mut batch)).await;
    }
}

struct Step {
    manager: Arc<Manager>,
    fleet: Arc<Fleet>,
    messages: Option<tokio::task::JoinHandle<()>>,
    /// A connection was made anew.
    renewed: bool,
    /// Changes of orders are known up to this time of Redis' clock.
    seen_ms: u64,
    /// Since when the store has been there.
    since: Option<Instant>,
    compared: Instant,
    /// When still sessions were looked at.
    looked: Instant,
}

impl Step {
    async fn take(&mut self) -> Result<(), LinkError> {
        let (manager, fleet) = (self.manager.clone(), self.fleet.clone());
        fleet.store.link().ping().await?;
        fleet.store.show_life().await?;
        if !fleet.is_up() {
            return self.begin().await;
        }
        if std::mem::take(&mut self.renewed) {
            return self.restore().await;
        }
        if self.compared.elapsed() >= COMPARE || fleet.owes() {
            self.seen_ms = manager.settle_orders(&fleet).await?;
            manager.look_for_lost(&fleet).await?;
            self.compared = Instant::now();
        } else {
            self.seen_ms = manager.look_at_changes(&fleet, self.seen_ms).await?;
        }
        manager.flush(&fleet, Which::Due).await?;
        if fleet.retains_longer.swap(false, Ordering::AcqRel)
            && let Err(fault) = fleet.store.prolong_ended().await
        {
            fleet.retains_longer.store(true, Ordering::Release);
            return Err(fault);
        }
        let is_trusted = self.since.is_some_and(|since| since.elapsed() >= TRUST);
        manager.kill_namesakes(&fleet, is_trusted).await?;
        if is_trusted && self.looked.elapsed() >= TURN {
            self.looked = Instant::now();
            manager.bury(&fleet).await?;
        }
        Ok(())
    }

    /// The store is there, for the first time or again: nothing is admitted by it before all orders are
    /// known on both sides and every share is written.
    async fn begin(&mut self) -> Result<(), LinkError> {
        let (manager, fleet) = (self.manager.clone(), self.fleet.clone());
        if self.messages.is_none() {
            let messages = Signals::subscribe(fleet.store.link(), fleet.store.keys()).await?;
            self.messages = Some(tokio::spawn(listen(manager.clone(), fleet.clone(), messages)));
        }
        self.restore().await?;
        fleet.store.link().up();
        fleet.synced.store(true, Ordering::Release);
        manager.publish(Event::StoreBack);
        manager.kill_namesakes(&fleet, false).await
    }

    /// Writes all that this instance knows to a store that may have lost some of it.
    async fn restore(&mut self) -> Result<(), LinkError> {
        let (manager, fleet) = (self.manager.clone(), self.fleet.clone());
        (self.since, self.renewed) = (None, false);
        self.seen_ms = manager.settle_orders(&fleet).await?;
        fleet.flushed.lock().await.clear();
        manager.repeat(&fleet).await?;
        manager.repeat_ends(&fleet).await?;
        manager.flush(&fleet, Which::All).await?;
        (self.since, self.compared) = (Some(Instant::now()), Instant::now());
        Ok(())
    }
}

/// The incarnation whose record another instance has written, when this event says so.
fn recorded(event: &str) -> Option<Uid> {
    #[derive(serde::Deserialize)]
    struct Ended {
        uid: Uid,
    }
    if !event.starts_with(r#"{"type":"ended""#) {
        return None;
    }
    Some(serde_json::from_str::<Ended>(event).ok()?.uid)
}

async fn listen(manager: Arc<Manager>, fleet: Arc<Fleet>, mut messages: Signals) {
    loop {
        let signal = messages.next().await;
        let heeded = match &signal {
            Signal::Kills(hint) => manager.look_at_orders(&fleet, hint.key()).await,
            Signal::Ended(hint) => manager.look_at_end(&fleet, &hint.key()).await,
            Signal::Event(instance, event) => {
                if instance != fleet.store.instance() {
                    if let Some(uid) = recorded(event) {
                        fleet.recent().is_recorded(uid);
                    }
                    manager.show(event);
                }
                Ok(())
            }
            Signal::Everything => manager.settle_orders(&fleet).await.map(drop),
        };
        match heeded {
            Ok(()) => {}
            Err(LinkError::Refused(why)) => warn!(why, "a message points at what cannot be read"),
            // What was missed is found by the next beat.
            Err(away) => manager.store_lost(&fleet, &away),
        }
    }
}
