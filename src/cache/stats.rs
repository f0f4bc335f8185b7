//! Counts what the cache is good for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use schemars::JsonSchema;
use serde::Serialize;

use super::decide::Refused;
use super::entry::Entry;
use super::settings::Settings;
use super::store::host_of;

/// The most hosts of [`CacheStats::hosts`].
const HOSTS: usize = 100;

/// Counters since the cache was switched on.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answers from the cache without asking the backend.
    pub hits: AtomicU64,
    /// Requests whose answer came from the backend.
    pub misses: AtomicU64,
    /// Answers that stood in for a backend that failed.
    pub stale_hits: AtomicU64,
    /// Answers from the cache that the backend has confirmed.
    pub revalidated: AtomicU64,
    /// Answers that were stored or freshened.
    pub stored: AtomicU64,
    /// Entries that made room for others.
    pub evicted: AtomicU64,
    /// Commands that Redis did not answer.
    pub remote_errors: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
}

impl Counters {
    /// Counts an answer that is not stored.
    pub(super) fn refuse(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts a command that Redis did not answer: as if nothing were there.
    pub(super) fn remote_failed<T>(&self) -> Option<T> {
        self.remote_errors.fetch_add(1, Relaxed);
        None
    }

    /// Returns the number of answers whose body came from the cache.
    pub fn served(&self) -> u64 {
        [&self.hits, &self.stale_hits, &self.revalidated].map(|counter| counter.load(Relaxed)).iter().sum()
    }

    /// Returns the share of requests that needed no body of the backend; 0 without requests.
    pub fn hit_ratio(&self) -> f64 {
        let served = self.served();
        let all = served + self.misses.load(Relaxed);
        if all > 0 { served as f64 / all as f64 } else { 0.0 }
    }
}

/// What is stored, and how it was used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct CacheStats {
    /// Whether the cache is on; all else is zero if not.
    pub enabled: bool,
    /// `memory` or `redis`.
    pub store: &'static str,
    /// Entries in the memory of this instance.
    pub entries: u64,
    /// Bytes that they and what is being filled take.
    pub bytes: u64,
    /// The most bytes that they may take.
    pub max_bytes: u64,
    /// Answers from the cache without asking the backend.
    pub hits: u64,
    /// Requests whose answer came from the backend.
    pub misses: u64,
    /// Answers that stood in for a backend that failed.
    pub stale_hits: u64,
    /// Answers from the cache that the backend has confirmed.
    pub revalidated: u64,
    /// Share of the requests whose body the backend did not have to send.
    pub hit_ratio: f64,
    /// Answers that were stored or freshened.
    pub stored: u64,
    /// Entries that made room for others.
    pub evicted: u64,
    /// Commands that Redis did not answer; each counted as if nothing were there.
    pub store_errors: u64,
    /// Answers that were not stored, by the reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// The hosts with the most bytes.
    pub hosts: Vec<HostStats>,
}

/// What is stored of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HostStats {
    /// The host with its port, as clients name it.
    pub host: String,
    /// Its entries.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How often they were sent to clients.
    pub hits: u64,
}

impl CacheStats {
    /// The statistics of a cache with these entries.
    pub(super) fn of(
        settings: &Settings,
        counters: &Counters,
        bytes: u64,
        stored: impl Iterator<Item = Arc<Entry>>,
    ) -> Self {
        let mut by_host: BTreeMap<String, HostStats> = BTreeMap::new();
        let mut entries = 0;
        for entry in stored {
            entries += 1;
            let name = host_of(&entry.target.url);
            let host = match by_host.get_mut(name) {
                Some(host) => host,
                None => by_host
                    .entry(name.to_owned())
                    .or_insert_with(|| HostStats { host: name.to_owned(), ..HostStats::default() }),
            };
            host.entries += 1;
            host.bytes += entry.weight() as u64;
            host.hits += entry.hits.load(Relaxed);
        }
        let mut hosts: Vec<HostStats> = by_host.into_values().collect();
        hosts.sort_by_key(|host| std::cmp::Reverse(host.bytes));
        hosts.truncate(HOSTS);
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let refused = Refused::ALL.iter().map(|why| (why.name(), of(&counters.refused[*why as usize])));
        Self {
            enabled: true,
            store: if settings.is_remote() { "redis" } else { "memory" },
            entries,
            bytes,
            max_bytes: settings.max_memory,
            hits: of(&counters.hits),
            misses: of(&counters.misses),
            stale_hits: of(&counters.stale_hits),
            revalidated: of(&counters.revalidated),
            hit_ratio: counters.hit_ratio(),
            stored: of(&counters.stored),
            evicted: of(&counters.evicted),
            store_errors: of(&counters.remote_errors),
            refused: refused.filter(|(_, count)| *count > 0).collect(),
            hosts,
        }
    }
}
