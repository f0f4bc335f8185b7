//! Compares the principals' key of this instance with the one in the store, and reports problems of the store.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::error;

use super::replicator::Replicator;
use super::store_health::{get, set};
use crate::redis::LinkError;
use crate::redis::principals::{Claimed, Means, Standing};
use crate::session::core::manager::Manager;

/// How long readiness reports a loss.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Syncs for which an instance that never was in agreement leaves a missing principals' key to those that were.
const KEYLESS: u32 = 4;

impl Replicator {
    /// Problems of the store that an operator should know.
    pub fn warnings(&self) -> Vec<String> {
        let mut told = Vec::new();
        if !self.is_up() {
            let is_connected = self.store.link().is_connected();
            told.push(match (self.health.refused(), self.store.link().fault()) {
                (Some(why), _) if is_connected => format!("redis cannot be used: {why}"),
                (_, Some(why)) => format!("redis does not answer: {why}"),
                (Some(why), None) => format!("redis does not answer: {why}"),
                (None, None) => "redis has not answered yet".to_owned(),
            });
        }
        if let Some(why) = self.health.refused().filter(|_| self.is_up()) {
            told.push(format!("a key in redis holds a foreign value: {why}"));
        }
        if self.is_other_key() {
            told.push(
                "the principals' key in redis is not the one of this instance, which shares no sessions of callers \
                 with a credential with the others; kills hold for all callers of an id meanwhile: restart it to take \
                 over the key in redis (delete principal.key in its data_dir before, if it keeps its own)"
                    .to_owned(),
            );
        }
        told.extend(get(&self.health.evicts));
        if let Some((at, what)) = get(&self.health.lost)
            && at.elapsed() < REMEMBERED
        {
            told.push(format!(
                "redis lost {what} {} s ago (wiped, evicted, or failed over to a copy); they were written again",
                at.elapsed().as_secs()
            ));
        }
        told
    }

    /// True while the store has another principals' key than this instance.
    pub fn is_other_key(&self) -> bool {
        self.health.is_other.load(Ordering::Relaxed)
    }

    /// Kill orders that the store had lost and this instance has written again.
    pub fn lost_orders(&self) -> u64 {
        self.lost_orders.load(Ordering::Relaxed)
    }

    /// How often the store had lost the principals' key and this instance has written it again.
    pub fn lost_keys(&self) -> u64 {
        self.health.lost_keys.load(Ordering::Relaxed)
    }

    /// Compares the principals' key of this instance with the one in the store, and writes it again if it is gone
    /// or was replaced by a younger one. Returns whether the store had lost it.
    pub(super) async fn claim_key(&self, core: &Manager) -> Result<bool, LinkError> {
        let health = &self.health;
        let Some(place) = &health.key else { return Ok(false) };
        let mut own = get(place);
        let is_patient = !own.is_agreed && get(&health.keyless) < KEYLESS;
        let means = Means::Run { replaces: own.is_agreed, writes: !is_patient };
        let Claimed { standing, in_force, is_mixed } =
            self.store.claim_principals_key(&own.claim, means).await?;
        core.kill_orders().set_mixed_keys(is_mixed);
        let was_other = health.is_other.swap(standing == Standing::Other, Ordering::Relaxed);
        match standing {
            Standing::Missing => {
                *health.keyless.lock() += 1;
                return Ok(false);
            }
            Standing::Other => {
                if !was_other {
                    error!(
                        "the principals' key in redis is not the one of this instance, and is not taken over while it \
                         runs"
                    );
                }
                return Ok(false);
            }
            Standing::Same | Standing::Written | Standing::Replaced => {}
        }
        let is_loss = own.is_agreed && standing != Standing::Same;
        (own.is_agreed, own.claim) = (true, in_force);
        set(place, own);
        set(&health.keyless, 0);
        if is_loss {
            health.lost_keys.fetch_add(1, Ordering::Relaxed);
            health.lost("the principals' key");
            match standing {
                Standing::Replaced => error!(
                    "another principals' key had been written to redis after this one was lost there; the fleet's own \
                     is written again, and the instance with the other one is to be restarted"
                ),
                Standing::Same | Standing::Written | Standing::Other | Standing::Missing => {
                    error!("redis had lost the principals' key (wiped or evicted); it is written again")
                }
            }
        }
        Ok(is_loss)
    }
}
