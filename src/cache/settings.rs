//! The `cache:` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::fault::Faults;
use crate::settings::units::ByteSize;

/// The least `max_memory`: below it nothing of use fits.
const LEAST_MEMORY: u64 = 1 << 20;
/// The longest `default_ttl`: a year.
const LONGEST_TTL: u32 = 366 * 24 * 3600;

/// The section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Cache")]
pub struct CacheConfig {
    /// Whether answers of backends of type `http` are cached.
    pub enabled: bool,
    /// Where answers are kept.
    pub store: StoreKind,
    /// Bytes of all that is kept and being filled: bodies, heads and keys.
    pub max_memory: ByteSize,
    /// Bytes of the largest body that is kept.
    pub max_object: ByteSize,
    /// Seconds for which an answer is fresh that may be stored and does not say for how long. 0 stores no such answer.
    pub default_ttl: u32,
    /// Who shares stored answers.
    pub share: Share,
    /// Methods whose requests are answered from the cache; only GET fills it.
    pub methods: Vec<CachedMethod>,
}

/// `cache.store`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// In this process.
    #[default]
    Memory,
    /// In this process, and in the Redis of `session.redis`, which other instances share.
    Redis,
}

/// `cache.share`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// The callers of one tenant; a caller with a key but without a tenant only with itself.
    #[default]
    Tenant,
    /// All callers.
    All,
}

/// An entry of `cache.methods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum CachedMethod {
    /// GET.
    Get,
    /// HEAD, served from what a GET has stored.
    Head,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            store: StoreKind::Memory,
            max_memory: ByteSize::mib(256),
            max_object: ByteSize::mib(8),
            default_ttl: 300,
            share: Share::Tenant,
            methods: vec![CachedMethod::Get, CachedMethod::Head],
        }
    }
}

/// The compiled section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub(super) store: StoreKind,
    pub(super) max_memory: u64,
    pub(super) max_object: usize,
    pub(super) default_ttl: u64,
    pub(super) share: Share,
    pub(super) get: bool,
    pub(super) head: bool,
}

impl Settings {
    /// Whether entries are kept in Redis, too.
    pub fn is_remote(&self) -> bool {
        self.store == StoreKind::Redis
    }

    /// Who shares entries.
    pub fn share(&self) -> Share {
        self.share
    }

    /// Whether requests of this method are answered from the cache.
    pub fn takes(&self, method: &http::Method) -> bool {
        self.get && *method == http::Method::GET || self.head && *method == http::Method::HEAD
    }
}

impl CacheConfig {
    /// Compiles the section; the inner value is `None` for a cache that is off. `has_redis` tells whether `session.redis` is in
    /// use.
    pub fn compile(self, has_redis: bool, faults: &mut Faults) -> Option<Option<Settings>> {
        let before = faults.iter().count();
        if self.max_memory.0 < LEAST_MEMORY {
            let message = format!("{} is too little to keep anything", self.max_memory);
            faults.add("cache.max_memory", message, "write 1MiB or more");
        } else if self.max_object.0 > self.max_memory.0 / 4 {
            let message = format!("{} is more than a quarter of max_memory", self.max_object);
            faults.add("cache.max_object", message, "write less, or raise cache.max_memory");
        }
        if self.max_object.0 == 0 {
            faults.add("cache.max_object", "zero would store nothing", "write a size such as 8MB");
        }
        if self.default_ttl > LONGEST_TTL {
            let message = format!("{} seconds are more than a year", self.default_ttl);
            faults.add("cache.default_ttl", message, "write seconds, such as 300");
        }
        let (get, head) =
            (self.methods.contains(&CachedMethod::Get), self.methods.contains(&CachedMethod::Head));
        if !get {
            let message = "without GET nothing is ever stored";
            faults.add("cache.methods", message, "write [GET] or [GET, HEAD]");
        }
        if self.enabled && self.store == StoreKind::Redis && !has_redis {
            let message = "the Redis of session.redis is meant, and session.store is memory";
            faults.add("cache.store", message, "set session.store: redis, or write memory");
        }
        (faults.iter().count() == before).then_some(self.enabled.then_some(Settings {
            store: self.store,
            max_memory: self.max_memory.0,
            max_object: self.max_object.as_len(),
            default_ttl: u64::from(self.default_ttl),
            share: self.share,
            get,
            head,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(written: CacheConfig, has_redis: bool) -> String {
        let mut faults = Faults::default();
        let compiled = written.compile(has_redis, &mut faults);
        assert_eq!(compiled.is_none(), !faults.is_empty());
        faults.to_string()
    }

    #[test]
    fn faults_name_the_key_and_the_remedy() {
        let on = CacheConfig { enabled: true, ..CacheConfig::default() };
        assert_eq!(faults_of(CacheConfig::default(), false), "");
        assert_eq!(faults_of(on.clone(), false), "");
        assert_eq!(
            faults_of(CacheConfig { store: StoreKind::Redis, ..on.clone() }, false),
            "cache.store: the Redis of session.redis is meant, and session.store is memory \
             (set session.store: redis, or write memory)"
        );
        assert_eq!(faults_of(CacheConfig { store: StoreKind::Redis, ..on.clone() }, true), "");
        assert_eq!(
            faults_of(
                CacheConfig { max_memory: ByteSize(1000), max_object: ByteSize(0), ..on.clone() },
                false
            ),
            "cache.max_memory: 1000 is too little to keep anything (write 1MiB or more)\n\
             cache.max_object: zero would store nothing (write a size such as 8MB)"
        );
        assert_eq!(
            faults_of(CacheConfig { max_object: ByteSize::mib(65), ..on.clone() }, false),
            "cache.max_object: 65MiB is more than a quarter of max_memory (write less, or raise cache.max_memory)"
        );
        assert_eq!(
            faults_of(CacheConfig { methods: vec![CachedMethod::Head], ..on }, false),
            "cache.methods: without GET nothing is ever stored (write [GET] or [GET, HEAD])"
        );
    }
}
