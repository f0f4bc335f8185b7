//! The end, in order: no new connections, streams finish within the grace time, the rest is cut, every
//! session has its record. Also the place where signals are heeded until then.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::reload::Reload;
use super::shared::Shared;
use super::signals::{Signals, Wish};

/// How often it is looked whether the last leg has ended.
const LOOK: Duration = Duration::from_millis(20);

/// After cutting, legs have this long to say their last words.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Heeds signals; tells Pingora when to end.
pub(super) struct Drain {
    pub(super) signals: Signals,
    pub(super) reload: Arc<Reload>,
    pub(super) draining: watch::Sender<bool>,
    pub(super) shared: Shared,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    /// Returns when everything is in order, so Pingora need not wait any more.
    async fn recv(&self) -> ShutdownSignal {
        while let Some(wish) = self.signals.next().await {
            match wish {
                Wish::Reload => self.reload.by_signal().await,
                Wish::Drain => {
                    self.drain().await;
                    break;
                }
                Wish::Stop => break,
            }
        }
        self.stop().await;
        ShutdownSignal::FastShutdown
    }
}

impl Drain {
    /// Waits for open legs, at most for the grace time; a second signal ends the patience.
    async fn drain(&self) {
        let grace = self.shared.live.load().timeouts.shutdown_grace;
        self.shared.readiness.not_ready("draining");
        self.draining.send_replace(true);
        info!(open_legs = self.shared.open_legs().get(), grace_ms = grace.as_millis(), "draining");
        tokio::select! {
            () = self.legs_ended(grace) => {}
            () = async {
                while let Some(Wish::Reload) = self.signals.next().await {}
            } => info!("a second signal: not waiting any longer"),
        }
    }

    /// Cuts what is left and writes the records.
    async fn stop(&self) {
        self.draining.send_replace(true);
        self.shared.sessions.shutdown().await;
        self.legs_ended(LAST_WORDS).await;
        info!("stopped");
    }

    async fn legs_ended(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let open = self.shared.open_legs();
        while open.get() > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
        }
    }
}
