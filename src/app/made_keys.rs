//! The keys that operators make through the API: stored in `state.db`, beside those that the configuration declares.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::people::PeopleInState;
use super::{approvals, budget_overrides, suppressions};
use crate::config::Config;
use crate::history::state::State;
use crate::identity::{AuthConfig, ClientKeys, KeyStorage, Made, People};
use crate::ids::SharedDocument;
use crate::limits::overrides::Overrides;
use crate::policy::approvals::Approvals;
use crate::policy::suppressions::Suppressions;
use crate::proxy::runtime_settings::SharedSettings;
use crate::session::{ClientKeyStore, Manager};
use crate::settings::fault::Faults;

/// The kind of these documents in `state.db`.
const KIND: &str = "key";

/// Stores keys in `state.db`.
struct InState(Arc<State>);

impl KeyStorage for InState {
    fn put(&self, id: &str, revision: u64, document: &str) -> Result<(), String> {
        self.0.put(KIND, id, revision, document).map_err(|fault| format!("{fault:#}"))
    }
}

/// Returns who is known beside those whom the configuration declares.
pub(super) fn made(keys: &ClientKeys, people: &Arc<People>) -> Made {
    Made { keys: Arc::clone(keys.table()), people: Arc::clone(people) }
}

/// Reads the stored keys and accounts. If the file cannot be used, that is logged, and none of them is in force.
pub(super) fn open(config: &Config, state: &Arc<State>) -> (Arc<ClientKeys>, Arc<People>) {
    let stored = state.documents(KIND).unwrap_or_else(|fault| {
        let data_dir = config.data_dir.display();
        error!(
            fault = format!("{fault:#}"),
            %data_dir,
            "state.db cannot be read: keys that were made through the API are not in force"
        );
        Vec::new()
    });
    let keys = Arc::new(ClientKeys::new(stored, Box::new(InState(Arc::clone(state)))));
    let people = Arc::new(People::new(Box::new(PeopleInState(Arc::clone(state)))));
    declare((&keys, &people), config);
    (keys, people)
}

/// How often keys are looked for that have expired meanwhile.
const EXPIRY: Duration = Duration::from_millis(500);

/// Ends what a key has opened when the key expires.
pub(super) struct KeyExpiry {
    pub(super) live: SharedSettings,
    pub(super) sessions: Arc<Manager>,
}

#[async_trait]
impl BackgroundService for KeyExpiry {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let mut tick = interval(EXPIRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Timestamp::now();
        loop {
            tick.tick().await;
            let now = Timestamp::now();
            if self.live.load().auth.expires_between(last, now) {
                let legs_cut = self.sessions.cut_invalid_legs();
                if legs_cut > 0 {
                    info!(legs_cut, "keys or tokens have expired");
                }
            }
            last = now;
        }
    }
}

/// Returns what the configuration says of keys, for the other process during an upgrade.
pub(super) fn written(config: &Config) -> String {
    serde_json::to_string(&config.auth.written()).unwrap_or_default()
}

/// Applies what other processes say of keys, and of overrides of budgets and approvals, which are shared in the same way: the
/// instances of a fleet, and the other process of an upgrade.
pub(super) struct SharedKeys {
    keys: Arc<ClientKeys>,
    people: Arc<People>,
    overrides: Arc<Overrides>,
    approvals: Arc<Approvals>,
    suppressions: Arc<Suppressions>,
    live: SharedSettings,
    /// Weak, because the sessions hold this.
    sessions: Weak<Manager>,
}

impl SharedKeys {
    /// Makes the sessions apply to these keys and people what other processes say.
    pub(super) fn follow(
        sessions: &Arc<Manager>,
        (keys, people): (&Arc<ClientKeys>, &Arc<People>),
        (overrides, approvals, suppressions): (&Arc<Overrides>, &Arc<Approvals>, &Arc<Suppressions>),
        live: &SharedSettings,
    ) {
        sessions.set_client_keys(Arc::new(Self {
            keys: Arc::clone(keys),
            people: Arc::clone(people),
            overrides: Arc::clone(overrides),
            approvals: Arc::clone(approvals),
            suppressions: Arc::clone(suppressions),
            live: Arc::clone(live),
            sessions: Arc::downgrade(sessions),
        }));
    }

    fn cut(&self) -> usize {
        self.sessions.upgrade().map_or(0, |sessions| sessions.cut_invalid_legs())
    }
}

impl ClientKeyStore for SharedKeys {
    fn held(&self) -> Vec<SharedDocument> {
        let mut held = self.keys.documents();
        held.extend(self.people.documents());
        held.extend(self.overrides.documents());
        held.extend(self.approvals.documents());
        held.extend(self.suppressions.documents());
        held
    }

    fn is_over(&self, document: &str) -> bool {
        ClientKeys::is_over(document)
            || People::is_over(document)
            || Overrides::is_over(document)
            || Approvals::is_over(document)
            || Suppressions::is_over(document)
    }

    fn learn(&self, documents: Vec<String>) {
        let (held, documents): (Vec<_>, Vec<_>) =
            documents.into_iter().partition(|document| Approvals::is_one(document));
        approvals::learn(&self.approvals, &held);
        let (suppressed, documents): (Vec<_>, Vec<_>) =
            documents.into_iter().partition(|document| Suppressions::is_one(document));
        suppressions::learn(&self.suppressions, &suppressed);
        let (overrides, documents): (Vec<_>, Vec<_>) =
            documents.into_iter().partition(|document| Overrides::is_one(document));
        budget_overrides::learn(&self.overrides, &overrides);
        let (people, keys): (Vec<_>, Vec<_>) =
            documents.into_iter().partition(|document| People::is_document(document));
        let mut learned = self.keys.learn(&keys);
        let keys = learned.len();
        learned.extend(self.people.learn(&people));
        if learned.is_empty() {
            return;
        }
        let legs_cut = self.cut();
        let ids: Vec<&str> = learned.iter().map(|document| document.id.as_str()).take(8).collect();
        let people = learned.len() - keys;
        info!(keys, people, ?ids, legs_cut, "keys or accounts were changed by another process");
        let people = learned.split_off(keys);
        let (own_keys, own_people) = (Arc::clone(&self.keys), Arc::clone(&self.people));
        // They hold from now on; on disk they are for a start without the others.
        let store = move || {
            if let Err(fault) = own_keys.store(&learned).and_then(|()| own_people.store(&people)) {
                error!(
                    fault,
                    "keys or accounts of another process cannot be stored in state.db: they hold until a restart"
                );
            }
        };
        tokio::task::spawn_blocking(store);
    }

    /// Those that are not declared there, or may do less there, end here: a stream of the old process ends with its key, though
    /// operators only reach the new process.
    fn learn_declared(&self, written: &str) {
        let Ok(written) = serde_json::from_str::<AuthConfig>(written) else {
            return warn!("the keys of the other process cannot be read: what they opened here goes on");
        };
        let here = self.live.load_full();
        // Its faults were reported where it was loaded.
        let Some(there) = written.compile(&[], &mut Faults::default()) else { return };
        let there = there.with_made(&made(&self.keys, &self.people), Some(&*here.auth));
        let revoked = there.revoke_others(&here.auth);
        let legs_cut = self.cut();
        if !revoked.is_empty() || legs_cut > 0 {
            info!(principals = ?revoked, legs_cut, "keys are revoked or narrowed by the other process");
        }
    }
}

/// Tells the keys and the people what the configuration declares.
pub(super) fn declare(made: (&ClientKeys, &People), config: &Config) {
    let (keys, people) = made;
    let backends: Vec<String> = config.backends.iter().map(|backend| backend.name().to_string()).collect();
    keys.declare(&config.auth, backends.clone());
    people.configure(config.auth.people().clone(), config.auth.prefix(), backends);
}
