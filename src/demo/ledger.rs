//! What the provider saw: requests, open answers, and when clients went away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, request::Parts};
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

/// Bodies up to this many bytes are kept in the log; of larger ones only length and digest.
const KEPT_BODY: usize = 256 * 1024;

/// One request that was read to its end.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The path without the query.
    pub path: String,
    /// The query without its question mark.
    pub query: Option<String>,
    /// All header fields as they arrived.
    pub headers: HeaderMap,
    /// Length of the body in bytes.
    pub body_len: usize,
    /// SHA-256 of the body in lower-case hex.
    pub body_sha256: String,
    /// The body itself when it is not larger than 256 KiB.
    pub body: Option<Bytes>,
}

impl Seen {
    /// The header field as text; `None` when it is missing or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[derive(Default)]
struct Entries {
    arrived: u64,
    per_path: BTreeMap<String, u64>,
    log: VecDeque<Seen>,
    open: usize,
    finished: u64,
    aborts: Vec<Instant>,
}

/// Counters and a bounded log. [`Ledger::until`] waits for a change.
pub struct Ledger {
    keep: usize,
    entries: Mutex<Entries>,
    changes: watch::Sender<()>,
}

impl Ledger {
    /// A ledger whose log holds the last `keep` requests; with 0 no digests are computed.
    pub(super) fn new(keep: usize) -> Self {
        Self { keep, entries: Mutex::default(), changes: watch::Sender::new(()) }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock()
    }

    fn change(&self, edit: impl FnOnce(&mut Entries)) {
        edit(&mut self.entries());
        self.changes.send_replace(());
    }

    /// Requests whose head arrived, whether or not their body followed.
    pub fn arrived(&self) -> u64 {
        self.entries().arrived
    }

    /// Requests read to their end on this path.
    pub fn count(&self, path: &str) -> u64 {
        self.entries().per_path.get(path).copied().unwrap_or(0)
    }

    /// Requests read to their end, by path.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.entries().per_path.clone()
    }

    /// The last requests read to their end, oldest first (1,024 unless made otherwise).
    pub fn requests(&self) -> Vec<Seen> {
        self.entries().log.iter().cloned().collect()
    }

    /// The latest request read to its end.
    pub fn last(&self) -> Option<Seen> {
        self.entries().log.back().cloned()
    }

    /// Answers begun and neither finished nor aborted.
    pub fn open(&self) -> usize {
        self.entries().open
    }

    /// Answers given to their end.
    pub fn finished(&self) -> u64 {
        self.entries().finished
    }

    /// When clients went away before the end of their answer, in order.
    pub fn aborts(&self) -> Vec<Instant> {
        self.entries().aborts.clone()
    }

    /// Waits until `done` holds; looks again after each change.
    pub async fn until(&self, done: impl Fn(&Self) -> bool) {
        let mut changes = self.changes.subscribe();
        while !done(self) {
            // The sender lives as long as `self`, so this never fails.
            let _ = changes.changed().await;
        }
    }

    pub(super) fn arrive(&self) {
        self.change(|entries| entries.arrived += 1);
    }

    pub(super) fn enter(&self, head: Parts, body: &Bytes) {
        let Parts { method, uri, headers, .. } = head;
        let seen = (self.keep > 0).then(|| seen(method, &uri, headers, body));
        self.change(|entries| {
            *entries.per_path.entry(uri.path().to_owned()).or_default() += 1;
            if let Some(seen) = seen {
                if entries.log.len() == self.keep {
                    entries.log.pop_front();
                }
                entries.log.push_back(seen);
            }
        });
    }
}

fn seen(method: Method, uri: &Uri, headers: HeaderMap, body: &Bytes) -> Seen {
    let digest = Sha256::digest(body);
    Seen {
        method,
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        headers,
        body_len: body.len(),
        body_sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        body: (body.len() <= KEPT_BODY).then(|| body.clone()),
    }
}

/// An answer in progress: dropped before [`Open::finish`], it counts as aborted by the client.
pub(super) struct Open {
    ledger: Arc<Ledger>,
    finished: bool,
}

impl Open {
    pub(super) fn new(ledger: &Arc<Ledger>) -> Self {
        ledger.change(|entries| entries.open += 1);
        Self { ledger: Arc::clone(ledger), finished: false }
    }

    /// The answer was given as the script wants it, also when that is a broken one.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let finished = self.finished;
        self.ledger.change(|entries| {
            entries.open -= 1;
            match finished {
                true => entries.finished += 1,
                false => entries.aborts.push(Instant::now()),
            }
        });
    }
}
