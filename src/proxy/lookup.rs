//! A look-up in the HTTP cache: what is known of it, what is found, and who waits for whom. `storage` shows it to Pingora, and `cached`
//! runs it in Pingora's phases.

mod storage;

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use parking_lot::Mutex;
use pingora_http::ResponseHeader;

pub(super) use self::storage::STORAGE;
use super::downstream::RequestHandle;
use crate::cache::{Asked, Cache, Entry, Flight, Freshness, Id, Reuse, Seat, Target, variance};

/// What the cache knows of one request. Shared with Pingora, which hands it to the storage with the key.
pub(crate) struct Exchange {
    pub(super) cache: Arc<Cache>,
    pub(super) asked: Asked,
    pub(super) target: Target,
    pub(super) key: Id,
    /// The fields of the request, by which answers vary.
    pub(super) fields: HeaderMap,
    pub(super) handle: Arc<RequestHandle>,
    pub(super) progress: Mutex<Progress>,
}

/// How far it has come.
#[derive(Default)]
pub(super) struct Progress {
    /// Others wait for this request.
    pub(super) flight: Option<Flight>,
    /// The entry that was found.
    pub(super) found: Option<Arc<Entry>>,
    /// How long the answer is fresh that is being stored.
    pub(super) storing: Option<Freshness>,
    /// The 304 that confirms the entry.
    pub(super) confirmed: Option<Box<ResponseHeader>>,
}

impl Exchange {
    /// Lets the requests go on that wait for this one.
    pub(super) fn release(&self) {
        self.progress.lock().flight = None;
    }

    pub(super) fn found(&self) -> Option<Arc<Entry>> {
        self.progress.lock().found.clone()
    }
}

impl Exchange {
    /// Finds an entry that may be used or confirmed. Where there is none, others wait for this request, or this one for another.
    async fn look_up(&self, id: &Id, is_variant: bool) -> Option<(Arc<Entry>, Reuse)> {
        let mut has_waited = false;
        loop {
            let found = self.cache.find(id).await;
            let found = found.map(|entry| {
                let reuse = self.asked.reuse(entry.freshness(), SystemTime::now());
                (entry, reuse)
            });
            let is_other_variant = |entry: &Entry| {
                !is_variant && entry.variance() != variance(&entry.head().headers, &self.fields)
            };
            match &found {
                Some((entry, _)) if is_other_variant(entry) => return found,
                Some((_, Reuse::Fresh)) => return found,
                // Pingora would make a GET of a HEAD, ask for all where a part is asked for, and send a body after a 304.
                _ if self.asked.only_reads => return None,
                // Each client that asks for it gets a confirmation of its own.
                _ if self.asked.wants_confirmed() || self.asked.only_if_cached() => return found,
                Some((_, Reuse::Unconfirmed)) => return found,
                Some((_, Reuse::Stale)) | None => {}
            }
            match self.cache.board(id) {
                Seat::First(flight) => {
                    self.progress.lock().flight = Some(flight);
                    return found;
                }
                Seat::Wait(other) if !has_waited => {
                    has_waited = true;
                    tokio::select! {
                        biased;
                        // The next step refuses the request.
                        _ = self.handle.cut.soft() => return None,
                        _ = other.ended() => {}
                    }
                }
                Seat::Wait(_) | Seat::Alone => return found,
            }
        }
    }
}
