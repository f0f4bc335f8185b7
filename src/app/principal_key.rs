//! The key with which this instance derives principals from credentials. It is stored in the data directory, so that a
//! principal keeps its name after a restart, and all instances of a fleet agree on one.

use tracing::{error, info, warn};

use crate::config::Config;
use crate::identity::{Kept, Key};
use crate::redis::principals::{self, Agreed, Claim};
use crate::redis::{LinkError, Settings};
use crate::session::replication::OwnKey;
use crate::settings::secret::Secret;

/// The key, and whether the fleet has agreed on it.
pub(super) struct PrincipalKey {
    pub(super) key: Key,
    /// `None` without a fleet, and when the key cannot be stored.
    pub(super) shared: Option<OwnKey>,
}

/// Loads or creates the key of this instance.
pub(super) fn load(config: &Config) -> PrincipalKey {
    let mut shared = None;
    let agree = |own: &Kept| {
        let (kept, known) = agreed(config.session.redis()?, own);
        shared = Some(known);
        kept
    };
    let key = Key::agreed(&config.data_dir, agree).unwrap_or_else(|error| {
        warn!(
            %error,
            data_dir = %config.data_dir.display(),
            "no principal key can be kept there: principals get new names at the next start (data_dir)"
        );
        shared = None;
        Key::ephemeral()
    });
    PrincipalKey { key, shared }
}

/// Agrees on a key with the fleet. Returns the key to store in place of `own`, if any, and the state of the agreement.
fn agreed(settings: &Settings, own: &Kept) -> (Option<Kept>, OwnKey) {
    let claim = Claim { key: Secret::new(own.hex()), since_ms: own.since_ms };
    let asked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| LinkError::Away(error.to_string()))
        .and_then(|runtime| runtime.block_on(principals::agree(settings, &claim)));
    let in_force = match asked {
        Ok(Agreed::InForce(in_force)) => {
            if in_force.key != claim.key {
                info!("this instance takes over the principals' key of the fleet");
            }
            in_force
        }
        Ok(Agreed::GivenUp(in_force)) => {
            error!(
                "this instance gives up its principals' key, on which a fleet had agreed, for the one in redis: its \
                 callers with a credential get new names"
            );
            in_force
        }
        Ok(Agreed::Kept) => {
            error!(
                "the principals' key in redis is younger than the one of this instance, and is not taken over while \
                 orders or sessions exist: delete principal.key in data_dir and restart to take it over"
            );
            return (None, OwnKey { claim, is_agreed: false });
        }
        Err(error) => {
            warn!(%error, "this instance may name principals otherwise than the others do, until it is restarted");
            return (None, OwnKey { claim, is_agreed: false });
        }
    };
    match Kept::from_hex(in_force.key.reveal(), in_force.since_ms) {
        Some(kept) => (Some(kept), OwnKey { claim: in_force, is_agreed: true }),
        None => {
            error!("elida:principals in redis holds no key: delete it, and restart this instance");
            (None, OwnKey { claim, is_agreed: false })
        }
    }
}
