//! Entries in memory, weighed in bytes, and in Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use dashmap::DashMap;
use http::{HeaderMap, StatusCode};
use moka::notification::RemovalCause;
use pingora_http::ResponseHeader;

use super::decide::{Asked, Refused, Verdict};
use super::entry::Entry;
use super::fill::{Fill, Filled};
use super::flights::{Flights, Seat};
use super::freshness::Freshness;
use super::key::Id;
use super::purge::{PurgePattern, Purged};
use super::settings::Settings;
use super::stats::{CacheStats, Counters};
use crate::redis::answers::{AnswerStore, CacheNews};
use crate::telemetry::metrics::CacheNumbers;

/// The entries of each URL, by its digest.
type Urls = Arc<DashMap<Id, Vec<Id>>>;

/// The cache of this process.
pub struct Cache {
    settings: Settings,
    entries: moka::sync::Cache<Id, Arc<Entry>>,
    urls: Urls,
    flights: Flights,
    /// Bytes of what is being filled.
    filling: Arc<AtomicU64>,
    counters: Arc<Counters>,
    /// The entries that all instances share; `None` with `cache.store: memory`.
    remote: Option<Arc<AnswerStore>>,
}

impl Cache {
    /// An empty cache.
    pub fn new(settings: Settings, remote: Option<Arc<AnswerStore>>) -> Arc<Self> {
        let (urls, counters) = (Urls::default(), Arc::<Counters>::default());
        let (index, counted) = (Arc::clone(&urls), Arc::clone(&counters));
        let gone = move |id: Arc<Id>, entry: Arc<Entry>, cause: RemovalCause| {
            if cause == RemovalCause::Replaced {
                return;
            }
            if cause == RemovalCause::Size {
                counted.evicted.fetch_add(1, Relaxed);
            }
            index.remove_if_mut(&entry.target.id, |_, ids| {
                ids.retain(|other| *other != *id);
                ids.is_empty()
            });
        };
        let entries = moka::sync::Cache::builder()
            .max_capacity(settings.max_memory - room_for_fills(&settings))
            .weigher(|_, entry: &Arc<Entry>| u32::try_from(entry.weight()).unwrap_or(u32::MAX))
            .eviction_listener(gone)
            .build();
        let remote = remote.filter(|_| settings.is_remote());
        let (flights, filling) = (Flights::new(), Arc::default());
        Arc::new(Self { settings, entries, urls, flights, filling, counters, remote })
    }

    /// The section `cache`.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns an entry, from memory or else from Redis.
    pub async fn find(&self, id: &Id) -> Option<Arc<Entry>> {
        if let Some(entry) = self.entries.get(id) {
            return Some(entry);
        }
        let written =
            self.remote.as_ref()?.get(id).await.unwrap_or_else(|_| self.counters.remote_failed())?;
        let entry = Arc::new(Entry::read(*id, &written)?);
        self.keep(&entry);
        Some(entry)
    }

    /// Finds the place of a request that has found nothing, or nothing fresh.
    pub fn board(&self, id: &Id) -> Seat {
        self.flights.board(id)
    }

    /// Decides whether an answer is stored, and remembers that nobody need wait for one that is not. Its body is as long as
    /// `length`, if that is known.
    pub fn judge(
        &self,
        asked: &Asked,
        id: &Id,
        status: StatusCode,
        headers: &HeaderMap,
        length: Option<u64>,
    ) -> Verdict {
        let verdict = match asked.judge(status, headers, self.settings.default_ttl) {
            Verdict::Store(_) if length.is_some_and(|length| length > self.settings.max_object as u64) => {
                Verdict::Refuse(Refused::TooLarge)
            }
            verdict => verdict,
        };
        if let Verdict::Refuse(why) = verdict {
            self.counters.refuse(why);
        }
        // An error of the backend passes.
        if !status.is_server_error() {
            self.flights.hope(id, matches!(verdict, Verdict::Store(_)));
        }
        verdict
    }

    /// Begins to gather the body of an answer.
    pub fn fill(self: &Arc<Self>, filled: Filled) -> Fill {
        Fill::begin(Arc::clone(self), filled, Arc::clone(&self.filling), room_for_fills(&self.settings))
    }

    /// Replaces the head of an entry that its backend has confirmed.
    pub fn refresh(&self, entry: &Entry, head: &ResponseHeader, freshness: Freshness) -> Arc<Entry> {
        let entry = Arc::new(entry.refreshed(head, freshness));
        self.put(&entry);
        entry
    }

    /// Stores an entry.
    pub(super) fn put(&self, entry: &Arc<Entry>) {
        self.counters.stored.fetch_add(1, Relaxed);
        self.keep(entry);
        if let Some(remote) = &self.remote {
            let (remote, entry, counters) =
                (Arc::clone(remote), Arc::clone(entry), Arc::clone(&self.counters));
            tokio::spawn(async move {
                let kept = entry.freshness.kept_for(entry.has_validator());
                let (host, url) = (host_of(&entry.target.url), &entry.target.url);
                if remote.put(&entry.id, &entry.target.id, host, url, entry.write(), kept).await.is_err() {
                    counters.remote_failed::<()>();
                }
            });
        }
    }

    /// Keeps an entry in memory.
    fn keep(&self, entry: &Arc<Entry>) {
        {
            let mut ids = self.urls.entry(entry.target.id).or_default();
            if !ids.contains(&entry.id) {
                ids.push(entry.id);
            }
        }
        self.entries.insert(entry.id, Arc::clone(entry));
        // At once, and not after some more inserts, so that large entries do not pass the limit together.
        self.entries.run_pending_tasks();
    }

    /// Forgets all that is stored of a URL, for all callers and instances.
    pub fn invalidate(&self, target: &Id) {
        self.forget(target);
        if let Some(remote) = &self.remote {
            let (remote, target, counters) = (Arc::clone(remote), *target, Arc::clone(&self.counters));
            tokio::spawn(async move {
                if remote.forget_url(&target).await.is_err() {
                    counters.remote_failed::<()>();
                }
            });
        }
    }

    /// Forgets what is stored of a URL in this process.
    pub fn forget(&self, target: &Id) {
        // Taken out first: whoever removes an entry changes this table, too.
        if let Some((_, ids)) = self.urls.remove(target) {
            for id in &ids {
                self.entries.invalidate(id);
            }
        }
    }

    /// Does what another instance tells.
    pub fn told(&self, news: &CacheNews) {
        match news {
            CacheNews::CachePurge(pattern) => {
                if let Some(pattern) = PurgePattern::told(pattern) {
                    self.purge(&pattern);
                }
            }
            CacheNews::CacheForget(digest) => {
                if let Some(target) = CacheNews::digest(digest) {
                    self.forget(&target);
                }
            }
        }
    }

    /// Forgets what an operator names, in this process.
    pub fn purge(&self, pattern: &PurgePattern) -> Purged {
        let mut purged = Purged::default();
        for (id, entry) in &self.entries {
            if pattern.matches(&entry.target.url) && self.entries.remove(&*id).is_some() {
                purged.removed += 1;
                purged.bytes += entry.weight() as u64;
            }
        }
        self.entries.run_pending_tasks();
        purged
    }

    /// Forgets what an operator names, in this process and in Redis, and tells the other instances.
    ///
    /// # Errors
    /// Redis does not answer; this process has forgotten it.
    pub async fn purge_everywhere(&self, pattern: &PurgePattern) -> Result<Purged, Purged> {
        let mut purged = self.purge(pattern);
        let Some(remote) = &self.remote else { return Ok(purged) };
        match remote.purge(pattern.text(), |url| pattern.matches(url)).await {
            Ok((removed, bytes)) => {
                purged.removed = purged.removed.max(removed);
                purged.bytes = purged.bytes.max(bytes);
                Ok(purged)
            }
            Err(_) => {
                self.counters.remote_failed::<()>();
                Err(purged)
            }
        }
    }

    /// Returns what is stored and how it was used.
    pub fn stats(&self) -> CacheStats {
        self.entries.run_pending_tasks();
        let stored = self.entries.iter().map(|(_, entry)| entry);
        CacheStats::of(&self.settings, &self.counters, self.bytes(), stored)
    }

    /// Returns what metrics show.
    pub fn numbers(&self) -> CacheNumbers {
        CacheNumbers {
            hits: self.counters.served(),
            misses: self.counters.misses.load(Relaxed),
            bytes: self.bytes(),
            hit_ratio: self.counters.hit_ratio(),
            store_errors: self.counters.remote_errors.load(Relaxed),
        }
    }

    /// Returns the bytes of what is stored and being filled.
    pub fn bytes(&self) -> u64 {
        self.entries.weighted_size() + self.filling.load(Relaxed)
    }
}

impl Entry {
    /// Counts that it was sent to a client.
    pub fn hit(&self) {
        self.hits.fetch_add(1, Relaxed);
    }

    /// Returns its age at `now`, in seconds.
    pub fn age_at(&self, now: SystemTime) -> u64 {
        self.freshness.age_at(now)
    }
}

/// Bytes for bodies that are being filled.
fn room_for_fills(settings: &Settings) -> u64 {
    settings.max_memory / 4
}

/// Returns the host of a URL, with its port.
pub(super) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests;
