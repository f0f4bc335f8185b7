//! Polls the control API on a thread of its own, so that keys never wait for an answer.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::cli::client::Client;
use crate::cli::report;
use crate::control::api::kills::{KillBody, KillReply};
use crate::control::api::params::SessionQuery;
use crate::control::api::sessions::{SessionLimit, SessionPage, SessionsQuery};
use crate::ids::Uid;
use crate::session::{NamedBy, SessionState, SessionView, Stats};

/// How often the control API is polled.
const EVERY: Duration = Duration::from_secs(1);

/// Number of sessions that are read: the newest.
const LIMIT: usize = 1000;

/// State of the gateway at one moment.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// Active sessions, the most recently active first.
    pub(super) sessions: Vec<SessionView>,
    /// Totals.
    pub(super) stats: Stats,
}

impl Sample {
    /// Returns the sessions as a page of the list.
    pub(super) fn into_page(self) -> SessionPage {
        SessionPage { sessions: self.sessions, next_cursor: None, total: None, truncated: false }
    }
}

/// What the thread reports.
#[derive(Debug)]
pub(super) enum Update {
    /// The current state.
    Sample(Sample),
    /// The control API does not answer: the state shown is old.
    Lost(String),
    /// The outcome of a kill.
    Killed(String),
}

/// Handle of the polling thread, which ends when this is dropped.
pub(super) struct Feed {
    updates: Receiver<Update>,
    kills: Sender<Uid>,
}

impl Feed {
    /// Starts polling.
    pub(super) fn start(client: Client) -> Self {
        let (tell, updates) = channel();
        let (kills, orders) = channel();
        thread::spawn(move || run(&client, &tell, &orders));
        Self { updates, kills }
    }

    /// Returns the next update, if there is one.
    pub(super) fn next(&self) -> Option<Update> {
        self.updates.try_recv().ok()
    }

    /// Kills a session.
    pub(super) fn kill(&self, uid: Uid) {
        // The thread lives as long as this.
        let _ = self.kills.send(uid);
    }
}

fn run(client: &Client, tell: &Sender<Update>, orders: &Receiver<Uid>) {
    loop {
        match orders.recv_timeout(EVERY) {
            Ok(uid) => {
                let outcome = match kill(client, uid) {
                    Ok(reply) => report::killed(&reply).trim_end().to_owned(),
                    Err(error) => error.to_string(),
                };
                let _ = tell.send(Update::Killed(outcome));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let update = match ask(client) {
            Ok(sample) => Update::Sample(sample),
            Err(error) => Update::Lost(error.to_string()),
        };
        if tell.send(update).is_err() {
            return;
        }
    }
}

fn kill(client: &Client, uid: Uid) -> anyhow::Result<KillReply> {
    let path = ["control", "sessions", &uid.to_string(), "kill"];
    client.post(&path, &SessionQuery { by: Some(NamedBy::Uid) }, &KillBody::default())?.read()
}

/// Reads sessions and totals once.
pub(super) fn ask(client: &Client) -> anyhow::Result<Sample> {
    let query = SessionsQuery {
        state: Some(SessionState::Active),
        limit: SessionLimit::new(LIMIT),
        ..SessionsQuery::default()
    };
    let SessionPage { mut sessions, .. } = client.get(&["control", "sessions"], &query)?.read()?;
    sessions.sort_by_key(quietness);
    Ok(Sample { sessions, stats: client.get(&["control", "stats"], &())?.read()? })
}

/// Sort key: sessions with an open request first, then by idle seconds; a finer order would change all the time.
fn quietness(session: &SessionView) -> (bool, u64, Uid) {
    (session.open_legs == 0, session.idle_ms / 1000, session.uid)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::testing::{session as view, uid};

    #[test]
    fn who_moved_last_stands_first() {
        let session =
            |id: &str, open: u64, idle: u64| view(json!({"id": id, "open_legs": open, "idle_ms": idle}));
        let mut sessions = [
            session("a", 0, 10),
            session("d", 0, 7000),
            session("b", 1, 60_000),
            session("c", 1, 900),
            session("a", 1, 10),
        ];
        sessions.sort_by_key(quietness);
        let order: Vec<_> = sessions.iter().map(|s| (s.uid.to_string(), s.open_legs == 1)).collect();
        let expected = [("a", true), ("c", true), ("b", true), ("a", false), ("d", false)];
        assert_eq!(order, expected.map(|(id, is_open)| (uid(id), is_open)));
    }
}
