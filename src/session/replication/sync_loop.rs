//! The beat: is the store there, what changed in it, what is to be written; and what messages wake.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

use super::share_writer::FlushScope;
use super::comparison::ComparisonRounds;
use super::event_publisher;
use super::replicator::{Replicator, SyncTask};
use crate::ids::Uid;
use crate::redis::LinkError;
use crate::redis::signals::{Signal, Signals};
use crate::session::core::event::Event;
use crate::session::core::manager::Manager;
use crate::session::store::redis::TRUST;

/// The longest time between two looks at the store.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// The same while it is away.
const KNOCK: Duration = Duration::from_millis(100);
/// The same while it answers, but cannot be used.
const REFUSED: Duration = Duration::from_millis(300);
/// Orders that the store does not take are told this often.
const REPEAT: Duration = Duration::from_secs(1);
/// Keys of live sessions that the store lost are looked for this often.
const COMPARE: Duration = Duration::from_secs(30);
/// A store that keeps losing the principals' key is written to as a whole this often at most.
const RESTORE: Duration = Duration::from_secs(5);
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
    let publisher = tokio::spawn(event_publisher::publish(fleet.clone()));
    let mut step = SyncLoop {
        manager,
        fleet: fleet.clone(),
        messages: None,
        renewed: false,
        seen_ms: 0,
        since: None,
        restored: None,
        compared: Instant::now(),
        rounds: ComparisonRounds::new(),
        has_answered: false,
        told: None,
        repeated: None,
        looked: Instant::now(),
    };
    loop {
        let pause = match (fleet.is_up(), fleet.health.refused()) {
            (true, _) => BEAT.min(fleet.flush_interval()),
            (false, Some(_)) => REFUSED,
            (false, None) => KNOCK,
        };
        tokio::select! {
            // An error means that nobody can tell us to stop any more.
            _ = stop.wait_for(|stop| *stop) => break,
            () = fleet.store.link().renewed() => step.renewed = true,
            () = fleet.hurry.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        let done = step.take().await;
        step.note(done).await;
    }
    worker.abort();
    publisher.abort();
    if let Some(messages) = step.messages {
        messages.abort();
    }
}

/// Does at once what must not wait for the next beat.
async fn work(manager: Arc<Manager>, fleet: Arc<Replicator>, mut todo: mpsc::Receiver<SyncTask>) {
    let mut batch = Vec::with_capacity(BATCH);
    while todo.recv_many(&mut batch, BATCH).await > 0 {
        manager.work(&fleet, std::mem::take(&mut batch)).await;
    }
}

struct SyncLoop {
    manager: Arc<Manager>,
    fleet: Arc<Replicator>,
    messages: Option<tokio::task::JoinHandle<()>>,
    /// A connection was made anew.
    renewed: bool,
    /// Changes of orders are known up to this time of Redis' clock.
    seen_ms: u64,
    /// Since when the store has been there.
    since: Option<Instant>,
    /// When all that this instance knows was written last.
    restored: Option<Instant>,
    /// When keys that the store lost were looked for last.
    compared: Instant,
    rounds: ComparisonRounds,
    /// The store answered in this beat.
    has_answered: bool,
    /// What was last said to be wrong with the store.
    told: Option<String>,
    /// When orders that the store does not take were told last.
    repeated: Option<Instant>,
    /// When still sessions were looked at.
    looked: Instant,
}

impl SyncLoop {
    async fn take(&mut self) -> Result<(), LinkError> {
        let (manager, fleet) = (self.manager.clone(), self.fleet.clone());
        self.has_answered = false;
        fleet.store.link().ping().await?;
        self.has_answered = true;
        if !fleet.is_up() {
            return self.begin().await;
        }
        let was_seen = fleet.store.show_life().await?;
        if !was_seen {
            warn!("redis lost what this instance wrote there (wiped, or evicted): it is written again");
        }
        let is_lost = manager.claim_key(&fleet).await?;
        if std::mem::take(&mut self.renewed)
            || !was_seen
            || is_lost && self.restored.is_none_or(|restored| restored.elapsed() >= RESTORE)
        {
            self.learn().await?;
            return self.restore().await;
        }
        self.settle().await?;
        let (seen_ms, is_all) = manager.look_at_changes(&fleet, self.seen_ms).await?;
        self.seen_ms = seen_ms;
        if !is_all {
            self.rounds.walk_soon();
        }
        if self.rounds.go(&manager, &fleet).await? {
            fleet.hurry.notify_one();
        }
        if self.compared.elapsed() >= COMPARE {
            manager.look_for_lost(&fleet).await?;
            self.compared = Instant::now();
        }
        manager.flush(&fleet, FlushScope::Due).await?;
        if fleet.retains_longer.swap(false, Ordering::AcqRel)
            && let Err(fault) = fleet.store.prolong_ended().await
        {
            fleet.retains_longer.store(true, Ordering::Release);
            return Err(fault);
        }
        let is_trusted = self.since.is_some_and(|since| since.elapsed() >= TRUST);
        manager.kill_namesakes(&fleet, is_trusted).await?;
        if self.looked.elapsed() >= TURN {
            self.looked = Instant::now();
            manager.forget_recorded(&fleet).await?;
            if is_trusted {
                manager.bury(&fleet).await?;
            }
        }
        Ok(())
    }

    /// The store is there, for the first time or again: nothing is admitted by it before the orders are known on both
    /// sides and every share is written. What can be read is heeded first: a store that is full takes no writes.
    async fn begin(&mut self) -> Result<(), LinkError> {
        let (manager, fleet) = (self.manager.clone(), self.fleet.clone());
        fleet.store.check_rights().await?;
        if self.messages.is_none() {
            let messages = Signals::subscribe(fleet.store.link(), fleet.store.keys()).await?;
            self.messages = Some(tokio::spawn(listen(manager.clone(), fleet.clone(), messages)));
        }
        self.learn().await?;
        fleet.synced.store(true, std::sync::atomic::Ordering::Release);
        fleet.store.show_life().await?;
        manager.claim_key(&fleet).await?;
        self.restore().await?;
        fleet.store.link().up();
        manager.publish(Event::StoreBack);
        // An order that was given meanwhile saw a store that was away.
        self.settle().await?;
        manager.kill_namesakes(&fleet, false).await
    }

    /// Reads the orders of the others, which this instance may have missed.
    async fn learn(&mut self) -> Result<(), LinkError> {
        let (seen_ms, is_all) = self.manager.learn_orders(&self.fleet, self.seen_ms).await?;
        self.seen_ms = seen_ms;
        if !is_all {
            self.rounds.walk_soon();
        }
        Ok(())
    }

    /// Writes and tells what the store or the others did not get.
    async fn settle(&self) -> Result<(), LinkError> {
        if self.fleet.owes() {
            self.manager.settle_liftings(&self.fleet).await?;
            self.manager.settle_debts(&self.fleet).await?;
        }
        Ok(())
    }

    /// Writes all that this instance knows to a store that may have lost some of it.
    async fn restore(&mut self) -> Result<(), LinkError> {
        let (manager, fleet) = (self.manager.clone(), self.fleet.clone());
        (self.since, self.renewed) = (None, false);
        self.settle().await?;
        self.rounds.restore(&manager, &fleet).await?;
        fleet.flushed.lock().await.clear();
        manager.repeat(&fleet).await?;
        manager.repeat_ends(&fleet).await?;
        manager.flush(&fleet, FlushScope::All).await?;
        (self.since, self.restored) = (Some(Instant::now()), Some(Instant::now()));
        Ok(())
    }

    /// Takes note of how a beat went. What is wrong is said once.
    async fn note(&mut self, done: Result<(), LinkError>) {
        let fleet = self.fleet.clone();
        let fault = match done {
            Ok(()) => {
                fleet.health.not_refused();
                self.told = None;
                return;
            }
            Err(fault) => fault,
        };
        let (what, is_away) = match &fault {
            LinkError::Refused(what) => (what.clone(), false),
            LinkError::Away(what) => (what.clone(), true),
        };
        if !is_away || self.has_answered {
            fleet.health.refuse(Some(what.clone()));
        } else {
            fleet.health.not_refused();
        }
        let is_new = self.told.as_ref() != Some(&what);
        if is_away {
            if fleet.is_up() {
                self.manager.store_lost(&fleet, &fault);
            } else if is_new && self.has_answered {
                error!(why = what, "redis answers, but cannot be used");
            }
        } else if is_new {
            warn!(why = what, "a key in the store holds what is not ours");
        }
        self.told = Some(what);
        if self.repeated.is_none_or(|repeated| repeated.elapsed() >= REPEAT) {
            self.repeated = Some(Instant::now());
            self.manager.repeat_debts(&fleet).await;
        }
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

async fn listen(manager: Arc<Manager>, fleet: Arc<Replicator>, mut messages: Signals) {
    loop {
        let signal = messages.next().await;
        let heeded = match &signal {
            Signal::Kills(hint) => manager.hear_orders(&fleet, hint).await,
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
            Signal::Everything => manager.learn_orders(&fleet, 0).await.map(drop),
        };
        match heeded {
            Ok(()) => {}
            Err(LinkError::Refused(why)) => warn!(why, "a message points at what cannot be read"),
            // What was missed is found by the next beat.
            Err(away) => manager.store_lost(&fleet, &away),
        }
    }
}
