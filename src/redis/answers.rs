//! Stored answers of the HTTP cache, which the instances of a fleet share.
//!
//! An answer is a value with a time to live. Beside it stand the hash of the answers of its URL, the sorted set of the URLs of
//! its host and that of the hosts, by which a purge finds it; what they name may be gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use fred::prelude::*;
use serde::{Deserialize, Serialize};

use super::call::Call;
use super::connect::{Link, LinkError};
use super::keys::Keys;

/// The longest time for which an answer is kept; what names it is kept as long after each answer, so that it is always found.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// After how many answers what is gone is removed from the sorted sets.
const TRIM: u64 = 64;
/// URLs of one step of a purge.
const BATCH: usize = 256;

/// What instances tell each other about the cache.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheNews {
    /// Forget what this pattern names.
    CachePurge(String),
    /// Forget what is stored of the URL with this digest.
    CacheForget(String),
}

/// The answers in Redis.
#[derive(Debug)]
pub struct AnswerStore {
    link: Arc<Link>,
    keys: Keys,
    instance: String,
    count: AtomicU64,
}

impl AnswerStore {
    /// The answers behind `link`, for this instance.
    pub fn new(link: Arc<Link>, keys: Keys, instance: String) -> Self {
        Self { link, keys, instance, count: AtomicU64::new(0) }
    }

    /// Returns an answer.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn get(&self, id: &[u8; 32]) -> Result<Option<Bytes>, LinkError> {
        self.check()?;
        let key = self.keys.answer(&HEXLOWER.encode(id));
        Ok(self.link.call(Call::new("GET", [key])).await?.convert()?)
    }

    /// Stores an answer for some time, and names it for purges.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn put(
        &self,
        id: &[u8; 32],
        url_id: &[u8; 32],
        host: &str,
        url: &str,
        answer: Bytes,
        kept: Duration,
    ) -> Result<(), LinkError> {
        self.check()?;
        let (id, url_id) = (HEXLOWER.encode(id), HEXLOWER.encode(url_id));
        let (of_url, of_host) = (self.keys.answers_of_url(&url_id), self.keys.answers_of_host(host));
        let until = now().saturating_add(LONGEST.as_secs()).to_string();
        let bytes = answer.len().to_string();
        let mut calls = vec![
            Call::new("HSET", [of_url.clone(), id.clone(), bytes]),
            Call::new("PEXPIRE", [of_url, LONGEST.as_millis().to_string()]),
            Call::new("ZADD", [of_host.clone(), until.clone(), format!("{url_id} {url}")]),
            Call::new("ZADD", [self.keys.answer_hosts(), until, host.to_owned()]),
            // Last, so that nothing is stored that a purge does not find.
            Call::set(self.keys.answer(&id), answer, kept.min(LONGEST)),
        ];
        if self.count.fetch_add(1, Relaxed).is_multiple_of(TRIM) {
            for set in [of_host, self.keys.answer_hosts()] {
                let gone = self.members(&set, "-inf", &format!("({}", now())).await?;
                if !gone.is_empty() {
                    calls.push(Call::new("ZREM", [set].into_iter().chain(gone)));
                }
            }
        }
        self.all(calls).await.map(drop)
    }

    /// Forgets what is stored of a URL, and tells the other instances.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn forget_url(&self, url_id: &[u8; 32]) -> Result<(), LinkError> {
        self.check()?;
        let url_id = HEXLOWER.encode(url_id);
        self.remove(std::slice::from_ref(&url_id)).await?;
        self.tell(&CacheNews::CacheForget(url_id)).await
    }

    /// Forgets the answers of the URLs that match, and tells the other instances `pattern`. Returns how many answers and bytes
    /// those were.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn purge(
        &self,
        pattern: &str,
        matches: impl Fn(&str) -> bool,
    ) -> Result<(u64, u64), LinkError> {
        self.check()?;
        let mut purged = (0, 0);
        for host in self.members(&self.keys.answer_hosts(), "-inf", "+inf").await? {
            let set = self.keys.answers_of_host(&host);
            let mut members = self.members(&set, "-inf", "+inf").await?;
            members.retain(|member| member.split_once(' ').is_some_and(|(_, url)| matches(url)));
            for batch in members.chunks(BATCH) {
                let ids: Vec<String> =
                    batch.iter().filter_map(|member| Some(member.split_once(' ')?.0.to_owned())).collect();
                let (removed, bytes) = self.remove(&ids).await?;
                purged = (purged.0 + removed, purged.1 + bytes);
                let gone = [set.clone()].into_iter().chain(batch.iter().cloned());
                self.link.call(Call::new("ZREM", gone)).await?;
            }
        }
        self.tell(&CacheNews::CachePurge(pattern.to_owned())).await?;
        Ok(purged)
    }

    /// Removes the answers of these URLs. Returns how many answers and bytes those were.
    async fn remove(&self, url_ids: &[String]) -> Result<(u64, u64), LinkError> {
        let keys: Vec<String> = url_ids.iter().map(|id| self.keys.answers_of_url(id)).collect();
        let asked = keys.iter().map(|key| Call::new("HGETALL", [key.clone()])).collect();
        let (mut calls, mut purged) = (Vec::new(), (0, 0));
        for (found, key) in self.all(asked).await?.into_iter().zip(keys) {
            let answers: Vec<(String, u64)> = found.convert()?;
            purged = (
                purged.0 + answers.len() as u64,
                purged.1 + answers.iter().map(|(_, bytes)| bytes).sum::<u64>(),
            );
            calls.extend(answers.into_iter().map(|(id, _)| Call::new("DEL", [self.keys.answer(&id)])));
            calls.push(Call::new("DEL", [key]));
        }
        self.all(calls).await?;
        Ok(purged)
    }

    /// Returns the members of a sorted set between two scores.
    async fn members(&self, set: &str, least: &str, most: &str) -> Result<Vec<String>, LinkError> {
        let call = Call::new("ZRANGEBYSCORE", [set.to_owned(), least.to_owned(), most.to_owned()]);
        Ok(self.link.call(call).await?.convert()?)
    }

    /// Publishes news to the other instances.
    async fn tell(&self, news: &CacheNews) -> Result<(), LinkError> {
        let text = serde_json::to_string(news).unwrap_or_default();
        let text = format!("{} {text}", self.instance);
        self.link.call(Call::new("PUBLISH", [self.keys.announcement_channel(), text])).await.map(drop)
    }

    /// Sends commands, all of which must succeed.
    async fn all(&self, calls: Vec<Call>) -> Result<Vec<Value>, LinkError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        self.link.calls(calls).await?.into_iter().collect()
    }

    /// Checks that commands are sent.
    fn check(&self) -> Result<(), LinkError> {
        if self.link.is_up() { Ok(()) } else { Err(LinkError::Away("the link is down".into())) }
    }
}

impl CacheNews {
    /// Reads news; `None` for an announcement about something else.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Reads a digest of [`Self::CacheForget`].
    pub fn digest(text: &str) -> Option<[u8; 32]> {
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
