//! Fetches the keys of token issuers: at the start, from time to time, and when a token names a new one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::identity::jwt::{IssuerKeys, Jwt};
use crate::proxy::runtime_settings::SharedSettings;
use crate::telemetry::metrics::Metrics;

/// How often it is checked whether a fetch is due. A token with a new key waits for as long, and for the fetch.
const TICK: Duration = Duration::from_millis(250);
/// How long the proxy waits for the first keys before it starts without them.
const FIRST_KEYS: Duration = Duration::from_secs(3);

/// Fetches keys in the background.
pub(super) struct Issuers {
    pub(super) live: SharedSettings,
    pub(super) metrics: Arc<Metrics>,
}

#[async_trait]
impl BackgroundService for Issuers {
    async fn start(&self, _shutdown: ShutdownWatch) {
        loop {
            let due: Vec<Arc<IssuerKeys>> = match self.live.load().auth.jwt() {
                Some(jwt) => jwt.published().filter(|keys| keys.begin_if_due()).cloned().collect(),
                None => Vec::new(),
            };
            for keys in due {
                let metrics = Arc::clone(&self.metrics);
                tokio::task::spawn_blocking(move || {
                    let is_good = keys.fetch();
                    metrics.jwks_fetched(keys.issuer(), is_good);
                });
            }
            sleep(TICK).await;
        }
    }
}

/// Waits until the keys of all issuers have been fetched once, for at most [`FIRST_KEYS`].
pub(super) async fn wait_for_keys(live: &SharedSettings) {
    let are_known = |jwt: &Jwt| jwt.published().all(|keys| keys.are_known());
    let known = async {
        while !live.load().auth.jwt().is_none_or(are_known) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(FIRST_KEYS, known).await.is_err() {
        warn!("not all issuers of auth.jwt answer: their tokens are refused until they do");
    }
}
