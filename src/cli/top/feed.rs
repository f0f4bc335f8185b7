//! Sample from the control API, asked for on a thread of its own so that keys never wait for an answer.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::client::Client;
use crate::cli::report;

/// How often the control API is asked.
const EVERY: Duration = Duration::from_secs(1);

/// The most sessions that are asked for: the newest.
const LIMIT: usize = 1000;

/// One look at the gateway.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// Active sessions, the one that moved last first.
    pub(super) sessions: Vec<Value>,
    /// Totals.
    pub(super) stats: Value,
}

/// What the thread tells.
#[derive(Debug)]
pub(super) enum Update {
    /// What is to be seen now.
    Sample(Sample),
    /// The control API does not answer; what was seen is old.
    Lost(String),
    /// What became of a kill.
    Killed(String),
}

/// The thread that asks; it ends when this is dropped.
pub(super) struct Feed {
    updates: Receiver<Update>,
    kills: Sender<String>,
}

impl Feed {
    /// Begins to ask.
    pub(super) fn start(client: Client) -> Self {
        let (tell, updates) = channel();
        let (kills, orders) = channel();
        thread::spawn(move || run(&client, &tell, &orders));
        Self { updates, kills }
    }

    /// The next update, if there is one already.
    pub(super) fn next(&self) -> Option<Update> {
        self.updates.try_recv().ok()
    }

    /// Has a session killed.
    pub(super) fn kill(&self, uid: String) {
        // The thread lives as long as this.
        let _ = self.kills.send(uid);
    }
}

fn run(client: &Client, tell: &Sender<Update>, orders: &Receiver<String>) {
    loop {
        match orders.recv_timeout(EVERY) {
            Ok(uid) => {
                let path = ["control", "sessions", &uid, "kill"];
                let told = match client.post(&path, &[("by", "uid".to_owned())], &json!({})) {
                    Ok(answer) => report::killed(&answer).trim_end().to_owned(),
                    Err(error) => error.to_string(),
                };
                let _ = tell.send(Update::Killed(told));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let update = match ask(client) {
            Ok(news) => Update::Sample(news),
            Err(error) => Update::Lost(error.to_string()),
        };
        if tell.send(update).is_err() {
            return;
        }
    }
}

/// Asks once.
pub(super) fn ask(client: &Client) -> anyhow::Result<Sample> {
    let query = [("state", "active".to_owned()), ("limit", LIMIT.to_string())];
    let mut answer = client.get(&["control", "sessions"], &query)?;
    let mut sessions = answer["sessions"].as_array_mut().map(std::mem::take).unwrap_or_default();
    sessions.sort_by_key(quietness);
    Ok(Sample { sessions, stats: client.get(&["control", "stats"], &[])? })
}

/// Those with an open request first, then by silence in whole seconds: a finer order would never rest.
fn quietness(session: &Value) -> (bool, u64, String) {
    let is_still = session["open_legs"].as_u64().unwrap_or_default() == 0;
    let idle = session["idle_ms"].as_u64().unwrap_or_default() / 1000;
    (is_still, idle, session["uid"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_moved_last_stands_first() {
        let session =
            |uid: &str, open: u64, idle: u64| json!({"uid": uid, "open_legs": open, "idle_ms": idle});
        let mut sessions = [
            session("a", 0, 10),
            session("d", 0, 7000),
            session("b", 1, 60_000),
            session("c", 1, 900),
            session("a", 1, 10),
        ];
        sessions.sort_by_key(quietness);
        let order: Vec<_> =
            sessions.iter().map(|s| (s["uid"].as_str().unwrap(), s["open_legs"] == 1)).collect();
        assert_eq!(order, [("a", true), ("c", true), ("b", true), ("a", false), ("d", false)]);
    }
}
