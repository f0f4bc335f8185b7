//! The keys that operators make through the API: stored in `state.db`, beside those that the configuration declares.

use std::sync::Arc;

use tracing::error;

use crate::config::Config;
use crate::history::state::State;
use crate::identity::{ClientKeys, KeyStorage};

/// The kind of these documents in `state.db`.
const KIND: &str = "key";

/// Stores keys in `state.db`.
struct InState(Arc<State>);

impl KeyStorage for InState {
    fn put(&self, id: &str, revision: u64, document: &str) -> Result<(), String> {
        self.0.put(KIND, id, revision, document).map_err(|fault| format!("{fault:#}"))
    }
}

/// Reads the stored keys. If the file cannot be used, that is logged, and no stored key is in force.
pub(super) fn open(config: &Config, state: &Arc<State>) -> Arc<ClientKeys> {
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
    declare(&keys, config);
    keys
}

/// Tells the keys what the configuration declares.
pub(super) fn declare(keys: &ClientKeys, config: &Config) {
    let backends = config.backends.iter().map(|backend| backend.name().to_string()).collect();
    keys.declare(&config.auth, backends);
}
