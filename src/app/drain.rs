//! Ordered shutdown: accepts no new connections, lets streams finish within the grace time, cuts the rest, and writes
//! the record of every session. Until then it carries out signals.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info};

use super::components::Components;
use super::reload::Reload;
use super::sd_notify;
use super::signals::{Signal, Signals};
use super::upgrade::Upgrade;
use crate::telemetry::metrics::Gauge;

/// How long legs have to write their closing frames after they are cut, and then the control API to finish its
/// responses.
const CLOSING_TIME: Duration = Duration::from_millis(250);

/// How long what is due to webhooks may take at the end.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

/// Carries out signals, and tells Pingora when to exit.
pub(super) struct Drain {
    pub(super) signals: Signals,
    pub(super) reload: Arc<Reload>,
    pub(super) upgrade: Arc<Upgrade>,
    /// Set to true to make the proxy accept nothing new.
    pub(super) draining: watch::Sender<bool>,
    /// Set to true to end the control API.
    pub(super) closing: watch::Sender<bool>,
    pub(super) shared: Components,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    /// Returns when the shutdown is complete, so that Pingora exits without waiting.
    async fn recv(&self) -> ShutdownSignal {
        while let Some(signal) = self.signals.next().await {
            match signal {
                Signal::Reload => self.reload.by_signal().await,
                Signal::Upgrade => self.upgrade.begin(),
                Signal::Replaced => {
                    // New operator connections must reach the new process only.
                    self.closing.send_replace(true);
                    self.drain_beside_successor().await;
                    break;
                }
                Signal::Drain => {
                    sd_notify::stopping();
                    self.drain(false).await;
                    break;
                }
                Signal::Stop => {
                    sd_notify::stopping();
                    break;
                }
            }
        }
        self.stop().await;
        ShutdownSignal::FastShutdown
    }
}

impl Drain {
    /// Drains, and meanwhile applies kill orders that the new process receives.
    async fn drain_beside_successor(&self) {
        // A new process without the session channel writes its orders to the history only.
        let kills = self.shared.kills.clone().filter(|_| !self.shared.sessions.has_upgrade_peers());
        let follow = kills.map(|kills| tokio::spawn(kills.follow(|| true)));
        self.drain(true).await;
        if let Some(follow) = follow {
            follow.abort();
        }
    }

    /// Waits for open connections, at most for the grace time or until a second signal to end. The predecessor is
    /// reached through this process, so with `is_relay` it waits for the predecessor as well.
    async fn drain(&self, is_relay: bool) {
        self.upgrade.abandon();
        let grace = self.shared.live.load().timeouts.shutdown_grace;
        self.shared.readiness.not_ready("draining");
        self.draining.send_replace(true);
        let kinds =
            [self.shared.open_legs(), self.shared.open_sockets(), self.shared.metrics.open_legs("tunnel")];
        let legs: i64 = kinds.iter().map(Gauge::get).sum();
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
                while !matches!(self.signals.next().await, None | Some(Signal::Drain | Signal::Stop)) {}
            } => info!("a second signal: not waiting any longer"),
        }
    }

    /// Cuts the remaining legs and writes the records.
    async fn stop(&self) {
        self.upgrade.abandon();
        self.draining.send_replace(true);
        self.shared.sessions.shutdown().await;
        self.connections_ended(CLOSING_TIME).await;
        if let Some(budgets) = &self.shared.fleet_budgets {
            budgets.leave().await;
        }
        if let Some(rates) = &self.shared.fleet_rates {
            rates.leave().await;
        }
        if let Some(spending) = self.shared.spending.clone()
            && let Err(error) = tokio::task::spawn_blocking(move || spending.close()).await
        {
            error!(%error, "what was spent of budgets could not be written");
        }
        if let Some(history) = self.shared.history.clone()
            && let Err(error) = tokio::task::spawn_blocking(move || history.close()).await
        {
            error!(%error, "the history could not be closed");
        }
        if let Some(exporter) = &self.shared.exporter {
            exporter.close().await;
        }
        let notifier = Arc::clone(&self.shared.notifier);
        let _ = tokio::task::spawn_blocking(move || notifier.finish(LAST_MESSAGES)).await;
        self.closing.send_replace(true);
        // The service drops its receiver when it has ended.
        let _ = timeout(CLOSING_TIME, self.closing.closed()).await;
        info!("stopped");
    }

    /// Waits until all connections have ended, not only all legs: a connection whose request is in transit has no leg
    /// yet, and one whose response was written may still be sending it. Each connection holds a receiver, as does the
    /// accept loop.
    async fn connections_ended(&self, limit: Duration) {
        let _ = timeout(limit, self.draining.closed()).await;
    }
}
