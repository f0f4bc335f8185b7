//! People who log in: their accounts and log-ins in `state.db`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use crate::history::state::State;
use crate::identity::key_text;
use crate::identity::{People, PeopleStorage};
use crate::ids::SharedDocument;
use crate::session::Manager;
use crate::settings::secret::Secret;

/// The kinds of these documents in `state.db`; the id of a shared one begins with its kind and a colon.
const KINDS: [&str; 2] = ["user", "login"];
/// The kind and the id of the secret that signs access tokens.
const SECRET: (&str, &str) = ("secret", "people");
/// How often the file is looked at: `elida admin create` writes to it, whether the gateway runs or not.
const LOOK: Duration = Duration::from_millis(500);
/// How often log-ins that are over are removed.
const SWEEP: Duration = Duration::from_secs(60);

/// Keeps accounts and log-ins in `state.db`.
pub(crate) struct PeopleInState(pub(crate) Arc<State>);

impl PeopleStorage for PeopleInState {
    fn all(&self) -> Result<Vec<String>, String> {
        let all: anyhow::Result<Vec<Vec<String>>> = KINDS.iter().map(|kind| self.0.documents(kind)).collect();
        all.map(|all| all.into_iter().flatten().collect()).map_err(|fault| format!("{fault:#}"))
    }

    fn put(&self, document: &SharedDocument) -> Result<(), String> {
        let SharedDocument { id, revision, text } = document;
        let (kind, id) = id.split_once(':').ok_or("the id has no kind")?;
        self.0.put(kind, id, *revision, text).map_err(|fault| format!("{fault:#}"))
    }

    fn remove(&self, ids: &[String]) -> Result<(), String> {
        for kind in KINDS {
            let own = ids.iter().filter_map(|id| id.strip_prefix(kind)?.strip_prefix(':'));
            let own: Vec<String> = own.map(str::to_owned).collect();
            self.0.remove(kind, &own).map_err(|fault| format!("{fault:#}"))?;
        }
        Ok(())
    }

    fn secret(&self) -> Result<Secret, String> {
        let (kind, id) = SECRET;
        let read = || self.0.documents(kind).map_err(|fault| format!("{fault:#}"));
        if let Some(known) = read()?.pop() {
            return Ok(Secret::new(known));
        }
        let made = key_text::generate("").map_err(|fault| fault.to_string())?;
        self.0.put(kind, id, 1, made.reveal()).map_err(|fault| format!("{fault:#}"))?;
        // Another process may have made one at the same time: the file decides.
        read()?.pop().map(Secret::new).ok_or_else(|| "it is not in the file".to_owned())
    }
}

/// Takes over what another program writes to the file, and forgets log-ins that are over.
pub(super) struct PeopleFile {
    pub(super) state: Arc<State>,
    pub(super) people: Arc<People>,
    pub(super) sessions: Arc<Manager>,
}

#[async_trait]
impl BackgroundService for PeopleFile {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut swept, mut is_failing) = (None, Instant::now(), false);
        loop {
            tick.tick().await;
            if !self.people.is_on() {
                continue;
            }
            let sweeps = swept.elapsed() >= SWEEP;
            if sweeps {
                swept = Instant::now();
            }
            let (state, people) = (Arc::clone(&self.state), Arc::clone(&self.people));
            let looked = tokio::task::spawn_blocking(move || look(&state, &people, seen, sweeps)).await;
            let looked = looked.unwrap_or_else(|fault| Err(fault.to_string()));
            let was_failing = std::mem::replace(&mut is_failing, looked.is_err());
            match looked {
                Ok((version, learned)) => {
                    seen = version;
                    self.apply(learned).await;
                }
                Err(fault) if !was_failing => {
                    error!(fault, "state.db cannot be used: what is changed there is not in force")
                }
                Err(_) => {}
            }
        }
    }
}

impl PeopleFile {
    async fn apply(&self, learned: Vec<SharedDocument>) {
        if learned.is_empty() {
            return;
        }
        let legs_cut = self.sessions.cut_invalid_legs();
        let ids: Vec<&str> = learned.iter().map(|document| document.id.as_str()).take(8).collect();
        info!(?ids, legs_cut, "accounts were changed in state.db");
        for document in learned {
            self.sessions.share_client_key(document).await;
        }
    }
}

/// Reads the file if another program has written to it since `seen`. Blocks.
fn look(
    state: &State,
    people: &People,
    seen: Option<i64>,
    sweeps: bool,
) -> Result<(Option<i64>, Vec<SharedDocument>), String> {
    if sweeps {
        people.sweep()?;
    }
    if !state.exists() {
        return Ok((None, Vec::new()));
    }
    let version = Some(state.version().map_err(|fault| format!("{fault:#}"))?);
    if version == seen {
        return Ok((version, Vec::new()));
    }
    Ok((version, people.learn_stored()?))
}
