//! The storage that Pingora's cache phases see. It keeps nothing: the key carries the [`Exchange`], and with it the cache that was
//! in force when the request came.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::key::HashBinary;
use pingora_cache::storage::{HandleHit, HandleMiss, MissFinishType};
use pingora_cache::trace::SpanHandle;
use pingora_cache::{
    CacheKey, CacheMeta, HitHandler, MissHandler, PurgeOutcome, PurgeTarget, PurgeType, Storage,
};
use pingora_core::{Error, ErrorType, Result};

use super::Exchange;
use crate::cache::{Entry, Fill, Filled, Reuse, place};

/// The one storage of the process.
pub(in crate::proxy) static STORAGE: PhaseStorage = PhaseStorage;

/// Bytes of a body that are sent at once. A kill is noticed between two of them.
const PIECE: usize = 64 << 10;
/// How long an entry counts as fresh to Pingora that was judged to be: longer than the request takes to look at it.
const FRESH: Duration = Duration::from_secs(3600);

/// See the module.
pub(in crate::proxy) struct PhaseStorage;

/// Returns what Pingora has to know of an entry.
fn meta(entry: &Entry, reuse: Reuse) -> CacheMeta {
    let (now, freshness) = (SystemTime::now(), entry.freshness());
    let past = now - Duration::from_secs(1);
    let (fresh_until, stand_in) = match reuse {
        Reuse::Fresh => (now + FRESH, 0),
        Reuse::Stale => (freshness.stale_from().min(past), freshness.stale_if_error()),
        Reuse::Unconfirmed => (past, 0),
    };
    let stand_in = u32::try_from(stand_in).unwrap_or(u32::MAX);
    let mut meta = CacheMeta::new(fresh_until, freshness.came(), 0, stand_in, entry.head().clone());
    if let Some(variance) = entry.variance() {
        meta.set_variance_key(variance);
    }
    meta
}

fn exchange(key: &CacheKey) -> Result<&Arc<Exchange>> {
    let missing = || Error::explain(ErrorType::InternalError, "a key without its exchange");
    key.extensions.get::<Arc<Exchange>>().ok_or_else(missing)
}

#[async_trait]
impl Storage for PhaseStorage {
    async fn lookup(
        &'static self,
        key: &CacheKey,
        _: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let (exchange, variance) = (exchange(key)?, key.get_variance_key());
        let id = place(&exchange.key, variance);
        let found = exchange.look_up(&id, variance.is_some()).await;
        exchange.progress.lock().found = found.as_ref().map(|(entry, _)| Arc::clone(entry));
        Ok(found.map(|(entry, reuse)| {
            let body = StoredBody { rest: entry.body().clone(), whole: entry.body().clone() };
            (meta(&entry, reuse), Box::new(body) as HitHandler)
        }))
    }

    async fn get_miss_handler(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _: &SpanHandle,
    ) -> Result<MissHandler> {
        let exchange = exchange(key)?;
        let freshness = exchange.progress.lock().storing.take();
        let freshness =
            freshness.ok_or_else(|| Error::explain(ErrorType::InternalError, "nothing is stored"))?;
        let variance: Option<HashBinary> = meta.variance();
        let fill = exchange.cache.fill(Filled {
            target: exchange.target.clone(),
            id: place(&exchange.key, key.get_variance_key()),
            head: meta.response_header_copy(),
            freshness,
            variance,
        });
        Ok(Box::new(FilledBody { fill: Some(fill), exchange: Arc::clone(exchange) }))
    }

    async fn purge(&'static self, _: PurgeTarget<'_>, _: PurgeType, _: &SpanHandle) -> Result<PurgeOutcome> {
        // Purges come through the control API.
        Ok(PurgeOutcome::NotFound)
    }

    async fn update_meta(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        let exchange = exchange(key)?;
        let mut progress = exchange.progress.lock();
        if let (Some(found), Some(freshness)) = (&progress.found, progress.storing) {
            let head = meta.response_header_copy();
            progress.found = Some(exchange.cache.refresh(found, &head, freshness));
        }
        progress.flight = None;
        Ok(true)
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

/// The body of an entry on its way to a client.
struct StoredBody {
    rest: Bytes,
    whole: Bytes,
}

#[async_trait]
impl HandleHit for StoredBody {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        let length = self.rest.len().min(PIECE);
        Ok((length > 0).then(|| self.rest.split_to(length)))
    }

    async fn finish(
        self: Box<Self>,
        _: &'static (dyn Storage + Sync),
        _: &CacheKey,
        _: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let end = end.unwrap_or(self.whole.len()).min(self.whole.len());
        if start >= end {
            return Error::e_explain(ErrorType::InternalError, "a range outside the stored body");
        }
        self.rest = self.whole.slice(start..end);
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// The body of an answer on its way into the cache. Dropping it before its end forgets the answer; either way those who wait for
/// it go on.
struct FilledBody {
    fill: Option<Fill>,
    exchange: Arc<Exchange>,
}

#[async_trait]
impl HandleMiss for FilledBody {
    async fn write_body(&mut self, data: Bytes, _: bool) -> Result<()> {
        if let Some(fill) = &mut self.fill {
            fill.add(&data);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<MissFinishType> {
        let stored = self.fill.take().and_then(|fill| fill.finish().ok());
        Ok(MissFinishType::Created(stored.map_or(0, |entry| entry.body().len())))
    }
}

impl Drop for FilledBody {
    fn drop(&mut self) {
        self.exchange.release();
    }
}
