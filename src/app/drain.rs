//! The end, in order: no new connections, streams finish within the grace time, the rest is cut, every
//! session has its record. Also the place where signals are heeded until then.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info};

use super::notify;
use super::reload::Reload;
use super::shared::Shared;
use super::signals::{Signals, Wish};
use super::upgrade::Upgrade;

/// After cutting, legs have this long to say their last words, and then the control API to give its last
/// answers.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Heeds signals; tells Pingora when to end.
pub(super) struct Drain {
    pub(super) signals: Signals,
    pub(super) reload: Arc<Reload>,
    pub(super) upgrade: Arc<Upgrade>,
    /// Tells the proxy to take nothing new.
    pub(super) draining: watch::Sender<bool>,
    /// Tells the control API to end.
    pub(super) closing: watch::Sender<bool>,
    pub(super) shared: Shared,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    /// Returns when everything is in order, so Pingora need not wait any more.
    async fn recv(&self) -> ShutdownSignal {
        while let Some(wish) = self.signals.next().await {
            match wish {
                Wish::Reload => self.reload.by_signal().await,
                Wish::Upgrade => self.upgrade.begin(),
                Wish::Leave => {
                    // Operators are to meet the new process only.
                    self.closing.send_replace(true);
                    self.drain_beside_the_heir().await;
                    break;
                }
                Wish::Drain => {
                    notify::stopping();
                    self.drain(false).await;
                    break;
                }
                Wish::Stop => {
                    notify::stopping();
                    break;
                }
            }
        }
        self.stop().await;
        ShutdownSignal::FastShutdown
    }
}

impl Drain {
    /// Drains, and carries out what operators tell the new process meanwhile.
    async fn drain_beside_the_heir(&self) {
        // A new process of a version that does not talk about sessions leaves its orders in the history.
        let kills = self.shared.kills.clone().filter(|_| !self.shared.sessions.has_upgrade_peers());
        let follow = kills.map(|kills| tokio::spawn(kills.follow(|| true)));
        self.drain(true).await;
        if let Some(follow) = follow {
            follow.abort();
        }
    }

    /// Waits for open connections, at most for the grace time; a second signal to end ends the patience. The
    /// process before this one is reached through it, so beside a new process it waits for that one, too.
    async fn drain(&self, is_relay: bool) {
        self.upgrade.abandon();
        let grace = self.shared.live.load().timeouts.shutdown_grace;
        self.shared.readiness.not_ready("draining");
        self.draining.send_replace(true);
        let legs = self.shared.open_legs().get() + self.shared.open_sockets().get();
        let connections = self.shared.metrics.connections().get();
        info!(open_legs = legs, connections, grace_ms = grace.as_millis(), "draining");
        tokio::select! {
            () = async {
                self.connections_ended(grace).await;
                if is_relay {
                    let _ = timeout(grace, self.shared.sessions.predecessor_ended()).await;
                }
            } => {}
            () = async {
                while !matches!(self.signals.next().await, None | Some(Wish::Drain | Wish::Stop)) {}
            } => info!("a second signal: not waiting any longer"),
        }
    }

    /// Cuts what is left and writes the records.
    async fn stop(&self) {
        self.upgrade.abandon();
        self.draining.send_replace(true);
        self.shared.sessions.shutdown().await;
        self.connections_ended(LAST_WORDS).await;
        if let Some(history) = self.shared.history.clone()
            && let Err(error) = tokio::task::spawn_blocking(move || history.close()).await
        {
            error!(%error, "the history could not be closed");
        }
        if let Some(exporter) = &self.shared.exporter {
            exporter.close().await;
        }
        self.closing.send_replace(true);
        // Its service gives the receiver back when it has ended.
        let _ = timeout(LAST_WORDS, self.closing.closed()).await;
        info!("stopped");
    }

    /// Waits for the end of all connections, not only of legs: one whose request is on its way has none yet,
    /// and one whose answer has been written may still be sending it. Each holds a receiver, as does the
    /// accept loop.
    async fn connections_ended(&self, limit: Duration) {
        let _ = timeout(limit, self.draining.closed()).await;
    }
}
