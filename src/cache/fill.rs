//! Gathers the body of an answer while it is sent to a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use pingora_http::ResponseHeader;

use super::decide::Refused;
use super::entry::{Entry, stored_head, weight_of_head};
use super::freshness::Freshness;
use super::key::{Id, Target};
use super::store::Cache;

/// By how much the room of a body grows at least.
const STEP: usize = 64 << 10;

/// An answer whose body is being gathered. Dropping it forgets the answer.
pub struct Fill {
    cache: Arc<Cache>,
    filled: Filled,
    body: Vec<u8>,
    room: Room,
    /// Why the answer will not be stored.
    given_up: Option<Refused>,
}

/// What is known of an answer before its body.
pub struct Filled {
    /// What the request asks for.
    pub target: Target,
    /// Its place.
    pub id: Id,
    /// The head, as the backend sent it.
    pub head: ResponseHeader,
    /// How long it is fresh.
    pub freshness: Freshness,
    /// The fields of the request by which it varies.
    pub variance: Option<[u8; 16]>,
}

/// Bytes of the room that all fills share; they are given back when this is dropped.
struct Room {
    all: Arc<AtomicU64>,
    most: u64,
    taken: u64,
}

impl Room {
    /// Takes more; false if there is not as much.
    fn take(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let more = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= self.most);
        let is_taken = self.all.fetch_update(Relaxed, Relaxed, more).is_ok();
        self.taken += if is_taken { bytes } else { 0 };
        is_taken
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.fetch_sub(self.taken, Relaxed);
    }
}

impl Fill {
    /// Begins to gather a body.
    pub(super) fn begin(cache: Arc<Cache>, filled: Filled, all: Arc<AtomicU64>, most: u64) -> Self {
        let mut fill =
            Self { cache, filled, body: Vec::new(), room: Room { all, most, taken: 0 }, given_up: None };
        let head = weight_of_head(&fill.filled.head) + fill.filled.target.url.len();
        let length = fill.filled.head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        // A length that is known needs no second room while the body grows.
        let length = if length > fill.cache.settings().max_object { 0 } else { length };
        if !fill.room.take(head) || !fill.grow(length, length) {
            fill.given_up = Some(Refused::NoRoom);
        }
        fill
    }

    /// Adds bytes. A body that is too large or finds no room is forgotten; the client gets it all the same.
    pub fn add(&mut self, bytes: &[u8]) {
        if self.given_up.is_some() {
            return;
        }
        let (length, most) = (self.body.len() + bytes.len(), self.cache.settings().max_object);
        let refused = if length > most {
            Some(Refused::TooLarge)
        } else {
            (!self.grow(length, most)).then_some(Refused::NoRoom)
        };
        match refused {
            None => self.body.extend_from_slice(bytes),
            Some(why) => {
                self.given_up = Some(why);
                self.body = Vec::new();
            }
        }
    }

    /// Makes room for `length` bytes in all; false if there is none.
    fn grow(&mut self, length: usize, most: usize) -> bool {
        let capacity = self.body.capacity();
        if length <= capacity {
            return true;
        }
        let wanted = length.max((capacity + STEP).max(2 * capacity).min(most));
        // While the body moves, it is there twice.
        let is_granted = self.room.take(wanted);
        if is_granted {
            self.body.reserve_exact(wanted - self.body.len());
            self.room.taken -= capacity as u64;
            self.room.all.fetch_sub(capacity as u64, Relaxed);
        }
        is_granted
    }

    /// Stores the answer, whose body is complete.
    ///
    /// # Errors
    /// Says why it is not stored.
    pub fn finish(mut self) -> Result<Arc<Entry>, Refused> {
        if let Some(why) = self.given_up {
            self.cache.counters().refuse(why);
            return Err(why);
        }
        let mut body = std::mem::take(&mut self.body);
        body.shrink_to_fit();
        let Filled { target, id, head, freshness, variance } = self.filled;
        let entry = Arc::new(Entry {
            id,
            target,
            head: stored_head(&head, body.len()),
            body: Bytes::from(body),
            freshness,
            variance,
            hits: AtomicU64::new(0),
        });
        self.cache.put(&entry);
        Ok(entry)
    }
}
