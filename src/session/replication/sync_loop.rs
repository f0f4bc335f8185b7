//! The sync loop: checks the store, applies changes, writes what is due, and handles messages.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

use super::announcements;
use super::client_keys;
use super::comparison::ComparisonRounds;
use super::event_publisher;
use super::listener::listen;
use super::replicator::{Replicator, SyncTask};
use super::share_schedule::{FlushScope, SYNC_INTERVAL};
use crate::redis::LinkError;
use crate::redis::signals::Signals;
use crate::session::core::event::Event;
use crate::session::core::manager::Manager;
use crate::session::store::redis::TRUST;

/// Interval of the loop while the store is unavailable.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of the loop while the store answers but cannot be used.
const REFUSED_INTERVAL: Duration = Duration::from_millis(300);
/// How often orders that the store does not take are published again.
const REPUBLISH: Duration = Duration::from_secs(1);
/// How often missing keys of active sessions are looked for.
const COMPARE: Duration = Duration::from_secs(30);
/// Minimum time between two full writes to a store that keeps losing the principals' key.
const RESTORE: Duration = Duration::from_secs(5);
/// How often idle sessions are checked.
const ORPHAN_CHECK: Duration = Duration::from_secs(2);
/// Tasks taken from the queue at once.
const BATCH: usize = 512;

/// Runs replication until `stop` is true.
pub async fn serve(manager: Arc<Manager>, replicator: Arc<Replicator>, mut stop: watch::Receiver<bool>) {
    let Some(tasks) = replicator.tasks.lock().take() else { return };
    replicator.store.link().connect();
    let worker = tokio::spawn(work(manager.clone(), replicator.clone(), tasks));
    let publisher = tokio::spawn(event_publisher::publish(replicator.clone()));
    let announcing = tokio::spawn(announcements::announce(replicator.clone()));
    let exchanging = tokio::spawn(client_keys::exchange(manager.clone(), replicator.clone()));
    let mut sync_loop = SyncLoop {
        manager,
        replicator: replicator.clone(),
        messages: None,
        renewed: false,
        seen_ms: 0,
        available_since: None,
        restored_at: None,
        compared_at: Instant::now(),
        rounds: ComparisonRounds::new(),
        has_answered: false,
        logged: None,
        republished_at: None,
        checked_at: Instant::now(),
    };
    loop {
        let pause = match (replicator.is_up(), replicator.health.refused()) {
            (true, _) => SYNC_INTERVAL.min(replicator.flush_interval()),
            (false, Some(_)) => REFUSED_INTERVAL,
            (false, None) => RETRY_INTERVAL,
        };
        tokio::select! {
            // An error means that the sender is gone.
            _ = stop.wait_for(|stop| *stop) => break,
            () = replicator.store.link().renewed() => sync_loop.renewed = true,
            () = replicator.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        let done = sync_loop.run_once().await;
        sync_loop.record(done).await;
    }
    worker.abort();
    publisher.abort();
    announcing.abort();
    exchanging.abort();
    if let Some(messages) = sync_loop.messages {
        messages.abort();
    }
}

/// Runs tasks that must not wait for the next sync.
async fn work(manager: Arc<Manager>, replicator: Arc<Replicator>, mut tasks: mpsc::Receiver<SyncTask>) {
    let mut batch = Vec::with_capacity(BATCH);
    while tasks.recv_many(&mut batch, BATCH).await > 0 {
        replicator.work(&manager, std::mem::take(&mut batch)).await;
    }
}

struct SyncLoop {
    manager: Arc<Manager>,
    replicator: Arc<Replicator>,
    messages: Option<tokio::task::JoinHandle<()>>,
    /// True if a connection was made again.
    renewed: bool,
    /// Changes of orders are known up to this time of the clock of Redis, in milliseconds.
    seen_ms: u64,
    /// Since when the store has been available.
    available_since: Option<Instant>,
    /// When everything was last written.
    restored_at: Option<Instant>,
    /// When missing keys were last looked for.
    compared_at: Instant,
    rounds: ComparisonRounds,
    /// True if the store answered in this sync.
    has_answered: bool,
    /// The problem that was logged last.
    logged: Option<String>,
    /// When pending orders were last published again.
    republished_at: Option<Instant>,
    /// When idle sessions were last checked.
    checked_at: Instant,
}

impl SyncLoop {
    async fn run_once(&mut self) -> Result<(), LinkError> {
        let (manager, replicator) = (self.manager.clone(), self.replicator.clone());
        self.has_answered = false;
        replicator.store.link().ping().await?;
        self.has_answered = true;
        if !replicator.is_up() {
            return self.start().await;
        }
        let was_seen = replicator.refresh_heartbeat(&manager).await?;
        if !was_seen {
            warn!("redis lost what this instance wrote there (wiped, or evicted): it is written again");
        }
        let is_lost = replicator.claim_key(&manager).await?;
        if std::mem::take(&mut self.renewed)
            || !was_seen
            || is_lost && self.restored_at.is_none_or(|restored| restored.elapsed() >= RESTORE)
        {
            self.reload_orders().await?;
            replicator.exchange_client_keys(&manager).await?;
            return self.rewrite_all().await;
        }
        if replicator.has_missed_messages() {
            self.reload_orders().await?;
        }
        self.send_pending().await?;
        let (seen_ms, is_all) = replicator.apply_changes_since(&manager, self.seen_ms).await?;
        self.seen_ms = seen_ms;
        if !is_all {
            self.rounds.walk_soon();
        }
        if self.rounds.advance(&manager, &replicator).await? {
            replicator.wake.notify_one();
        }
        if self.compared_at.elapsed() >= COMPARE {
            replicator.find_missing_keys(&manager).await?;
            self.compared_at = Instant::now();
        }
        replicator.flush(&manager, FlushScope::Due).await?;
        if replicator.retains_longer.swap(false, Ordering::AcqRel)
            && let Err(fault) = replicator.store.extend_ended().await
        {
            replicator.retains_longer.store(true, Ordering::Release);
            return Err(fault);
        }
        let is_trusted = self.available_since.is_some_and(|since| since.elapsed() >= TRUST);
        self.resolve_names(is_trusted).await?;
        if self.checked_at.elapsed() >= ORPHAN_CHECK {
            self.checked_at = Instant::now();
            replicator.forget_recorded(&manager).await?;
            if is_trusted {
                replicator.close_orphans(&manager).await?;
            }
        }
        Ok(())
    }

    /// Starts using the store, for the first time or again. No session is admitted through it before orders are
    /// known on both sides and every share is written. Reads come first, because a full store takes no writes.
    async fn start(&mut self) -> Result<(), LinkError> {
        let (manager, replicator) = (self.manager.clone(), self.replicator.clone());
        replicator.store.check_rights().await?;
        if self.messages.is_none() {
            let messages = Signals::subscribe(replicator.store.link(), replicator.store.keys()).await?;
            self.messages = Some(tokio::spawn(listen(manager.clone(), replicator.clone(), messages)));
        }
        self.reload_orders().await?;
        replicator.synced.store(true, std::sync::atomic::Ordering::Release);
        replicator.refresh_heartbeat(&manager).await?;
        replicator.claim_key(&manager).await?;
        replicator.exchange_client_keys(&manager).await?;
        self.rewrite_all().await?;
        replicator.store.link().up();
        manager.publish(Event::StoreBack);
        // An order given meanwhile found the store unavailable.
        self.send_pending().await?;
        self.resolve_names(false).await
    }

    /// Kills sessions by names that were killed while the store was unavailable.
    async fn resolve_names(&self, is_trusted: bool) -> Result<(), LinkError> {
        if self.replicator.kill_unresolved_names(&self.manager, is_trusted).await? {
            self.replicator.wake.notify_one();
        }
        Ok(())
    }

    /// Reads the orders of other instances that this one may have missed.
    async fn reload_orders(&mut self) -> Result<(), LinkError> {
        self.replicator.missed.store(false, Ordering::Release);
        let reloaded = self.replicator.reload_orders(&self.manager, self.seen_ms).await;
        let (seen_ms, is_all) = reloaded.inspect_err(|_| self.replicator.missed_messages())?;
        self.seen_ms = seen_ms;
        if !is_all {
            self.rounds.walk_soon();
        }
        Ok(())
    }

    /// Sends liftings and orders that wait.
    async fn send_pending(&self) -> Result<(), LinkError> {
        if self.replicator.has_pending_orders() {
            self.replicator.send_pending_lifts(&self.manager).await?;
            self.replicator.send_pending_orders(&self.manager).await?;
        }
        Ok(())
    }

    /// Writes everything that this instance knows to a store that may have lost some of it.
    async fn rewrite_all(&mut self) -> Result<(), LinkError> {
        let (manager, replicator) = (self.manager.clone(), self.replicator.clone());
        (self.available_since, self.renewed) = (None, false);
        self.send_pending().await?;
        self.rounds.restore(&manager, &replicator).await?;
        replicator.flushed.lock().await.clear();
        replicator.rewrite_latest(&manager).await?;
        replicator.rewrite_ends(&manager).await?;
        replicator.flush(&manager, FlushScope::All).await?;
        (self.available_since, self.restored_at) = (Some(Instant::now()), Some(Instant::now()));
        Ok(())
    }

    /// Records the outcome of a sync. A problem is logged once.
    async fn record(&mut self, done: Result<(), LinkError>) {
        let replicator = self.replicator.clone();
        let fault = match done {
            Ok(()) => {
                replicator.health.not_refused();
                self.logged = None;
                return;
            }
            Err(fault) => fault,
        };
        let (what, is_away) = match &fault {
            LinkError::Refused(what) => (what.clone(), false),
            LinkError::Away(what) => (what.clone(), true),
        };
        if !is_away || self.has_answered {
            replicator.health.refuse(Some(what.clone()));
        } else {
            replicator.health.not_refused();
        }
        let is_new = self.logged.as_ref() != Some(&what);
        if is_away {
            if replicator.is_up() {
                replicator.store_lost(&self.manager, &fault);
            } else if is_new && self.has_answered {
                error!(why = what, "redis answers, but cannot be used");
            }
        } else if is_new {
            warn!(why = what, "a key in the store holds what is not ours");
        }
        self.logged = Some(what);
        if self.republished_at.is_none_or(|repeated| repeated.elapsed() >= REPUBLISH) {
            self.republished_at = Some(Instant::now());
            replicator.republish_pending_orders(&self.manager).await;
        }
    }
}
