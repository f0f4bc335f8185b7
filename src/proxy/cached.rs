//! The HTTP cache in Pingora's cache phases ([ADR 54]): which requests use it, what is stored, and what the client is told.
//!
//! A request gets here after the steps before routing, so that limits, rules and kills hold for hits, too. Pingora runs the
//! phases and writes hits, ranges and 304s; `cache` decides, and `lookup` lies between both. Without the section `cache` no
//! request has an [`Exchange`], and Pingora's cache stays off.
//!
//! [ADR 54]: https://github.com/elida/elida/blob/main/docs/adr/0054-pingoras-cache-phases-our-decisions.md

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use http::Method;
use http::header::{AGE, CONTENT_LENGTH, CONTENT_LOCATION, HOST, IF_MATCH, IF_UNMODIFIED_SINCE, LOCATION};
use parking_lot::Mutex;
use pingora_cache::{CacheKey, CacheMeta, CachePhase, NoCacheReason, RespCacheable};
use pingora_core::{Error, ErrorSource, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::capture;
use super::lookup::{Exchange, STORAGE};
use super::request_ctx::{RequestCtx, Routed};
use super::upstream_response;
use crate::cache::{Asked, Cache, Share, Target, Verdict, freshened, place, variance};
use crate::error::{ErrorKind, Refusal};
use crate::protocol::BackendKind;

/// Switches Pingora's cache on for a request that may be answered from it.
pub(super) fn begin(session: &mut Session, ctx: &mut RequestCtx) -> Result<()> {
    let routed = ctx.stage.routed_mut()?;
    let Some(cache) = &routed.who.received.handle.settings.cache else { return Ok(()) };
    let cache = Arc::clone(cache);
    let is_body_empty = session.as_mut().is_body_empty();
    let head = session.req_header();
    let conditions = [IF_MATCH, IF_UNMODIFIED_SINCE];
    let is_eligible = cache.settings().takes(&head.method)
        && serves_plain_http(routed)
        && is_body_empty
        && !conditions.iter().any(|name| head.headers.contains_key(name));
    if is_eligible {
        routed.cached = Some(read(cache, routed, head));
        session.cache.enable(&STORAGE, None, None, None, None);
    }
    Ok(())
}

/// Whether the backend is an ordinary server. Requests that are forwarded to hosts without a backend belong here, too.
fn serves_plain_http(routed: &Routed) -> bool {
    let Routed { who, route, .. } = routed;
    route.backend.settings().kind() == BackendKind::HTTP
        && !route.dialect.is_llm()
        && !route.dialect.is_json_rpc()
        && !who.received.socket
}

/// Reads what the cache has to know of a request.
fn read(cache: Arc<Cache>, routed: &Routed, head: &RequestHeader) -> Arc<Exchange> {
    let (received, caller) = (&routed.who.received, &routed.who.caller);
    let target = target(routed, head, head.raw_path());
    let tenant = || caller.membership().and_then(|membership| membership.tenant.as_deref());
    let owner = match cache.settings().share() {
        Share::All => None,
        Share::Tenant => tenant().or_else(|| caller.key.as_ref().map(|_| caller.principal.as_str())),
    };
    Arc::new(Exchange {
        asked: Asked::new(&head.method, head.uri.query(), &head.headers, caller.key.is_some()),
        key: target.key_for(owner),
        cache,
        target,
        fields: head.headers.clone(),
        handle: Arc::clone(&received.handle),
        progress: Mutex::default(),
    })
}

/// Returns what a path means at the backend of this request.
fn target(routed: &Routed, head: &RequestHeader, path: &[u8]) -> Target {
    let backend = &routed.route.backend;
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| head.uri.authority().map(|authority| authority.as_str())).unwrap_or_default();
    let scheme = if routed.who.received.handle.peer.is_secure { "https" } else { "http" };
    Target::new(backend.settings().name().as_str(), backend.pool_key(), scheme, host, path)
}

/// Returns Pingora's key, with the exchange for the storage.
pub(super) fn key(ctx: &RequestCtx) -> Result<CacheKey> {
    let exchange = exchange(ctx).ok_or_else(|| Error::new(pingora_core::ErrorType::InternalError))?;
    let mut key = CacheKey::new(exchange.key.to_vec(), "");
    key.extensions.insert(Arc::clone(exchange));
    Ok(key)
}

fn exchange(ctx: &RequestCtx) -> Option<&Arc<Exchange>> {
    ctx.stage.routed()?.cached.as_ref()
}

/// Nothing is stored: a request that only reads is forwarded as it is, so that Pingora does not make a GET of it.
pub(super) fn missed(session: &mut Session, ctx: &RequestCtx) {
    match exchange(ctx) {
        Some(exchange) if exchange.asked.only_reads => {
            session.cache.disable(NoCacheReason::Custom("a request that fills nothing"));
        }
        _ => session.cache.cache_miss(),
    }
}

/// Returns the refusal of a request that wants no other answer than a stored one (RFC 9111, 5.2.1.7).
pub(super) fn refusal(ctx: &RequestCtx) -> Option<Refusal> {
    let exchange = exchange(ctx).filter(|exchange| exchange.asked.only_if_cached())?;
    exchange.cache.counters().misses.fetch_add(1, Relaxed);
    let message = "no stored answer can be used, and the request has Cache-Control: only-if-cached";
    Some(Refusal::new(ErrorKind::NotCached, message))
}

/// Takes note of the backend's answer: of a 304 that confirms an entry, and of a change that makes entries invalid.
pub(super) fn answered(session: &Session, head: &ResponseHeader, ctx: &RequestCtx) {
    let Some(routed) = ctx.stage.routed() else { return };
    let Some(cache) = &routed.who.received.handle.settings.cache else { return };
    if let Some(exchange) = &routed.cached {
        if head.status == 304 && session.cache.phase() == CachePhase::Stale {
            exchange.progress.lock().confirmed = Some(Box::new(head.clone()));
        }
        return;
    }
    let method = &routed.who.received.method;
    let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method);
    let has_changed = head.status.is_success() || head.status.is_redirection();
    if !is_safe && has_changed && serves_plain_http(routed) {
        invalidate(cache, routed, session.req_header(), head);
    }
}

/// Forgets what is stored of the target of a request that has changed it, and of what the answer points at in the same origin
/// (RFC 9111, 4.4).
fn invalidate(cache: &Cache, routed: &Routed, request: &RequestHeader, answer: &ResponseHeader) {
    let own = target(routed, request, request.raw_path());
    cache.invalidate(&own.id);
    for name in [LOCATION, CONTENT_LOCATION] {
        let value = answer.headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(path) = value.and_then(|value| same_origin_path(&own.url, value)) {
            cache.invalidate(&target(routed, request, path.as_bytes()).id);
        }
    }
}

/// Returns the path of a reference in the same origin; `None` if it is in another one.
fn same_origin_path(base: &str, reference: &str) -> Option<String> {
    let base = url::Url::parse(base).ok()?;
    let found = base.join(reference).ok()?;
    let path = || match found.query() {
        Some(query) => format!("{}?{query}", found.path()),
        None => found.path().to_owned(),
    };
    (found.origin() == base.origin()).then(path)
}

/// Decides whether Pingora stores the answer. After a 304 the answer is the stored one with its fields.
pub(super) fn is_stored(head: &ResponseHeader, session: &Session, ctx: &RequestCtx) -> RespCacheable {
    let refused = RespCacheable::Uncacheable(NoCacheReason::OriginNotCache);
    let Some(exchange) = exchange(ctx) else { return refused };
    let (found, confirmed) = {
        let mut progress = exchange.progress.lock();
        (progress.found.clone(), progress.confirmed.take())
    };
    let is_confirmed = confirmed.is_some();
    let head = match (&found, confirmed) {
        (Some(found), Some(confirmed)) => freshened(found.head(), &confirmed),
        _ => head.clone(),
    };
    let length = || head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    let id = place(&exchange.key, session.cache.cache_key().get_variance_key());
    match exchange.cache.judge(&exchange.asked, &id, head.status, &head.headers, length()) {
        Verdict::Store(freshness) => {
            exchange.progress.lock().storing = Some(freshness);
            RespCacheable::Cacheable(CacheMeta::new(freshness.stale_from(), freshness.came(), 0, 0, head))
        }
        Verdict::Refuse(_) => {
            exchange.release();
            if is_confirmed {
                exchange.cache.invalidate(&exchange.target.id);
            }
            refused
        }
    }
}

/// Returns by which fields of the request an answer varies.
pub(super) fn vary(meta: &CacheMeta, request: &RequestHeader) -> Option<[u8; 16]> {
    variance(meta.headers(), &request.headers)
}

/// Returns whether a stale entry stands in for a backend that fails.
pub(super) fn stands_in(error: Option<&Error>, ctx: &mut RequestCtx) -> bool {
    let Some(error) = error else { return false };
    let is_cut = ctx.stage.received().is_some_and(|received| received.handle.cut.reason().is_some());
    let kind = ctx.outcome.refusal.as_ref().map(|refusal| refusal.kind);
    let has_failed = match kind {
        Some(kind) => matches!(kind, ErrorKind::BackendUnavailable | ErrorKind::BackendTimeout),
        None => *error.esource() == ErrorSource::Upstream,
    };
    if is_cut || !has_failed {
        return false;
    }
    ctx.outcome.refusal = None;
    true
}

/// Tells the client where the answer comes from, and begins one that comes from the cache.
pub(super) fn announce(session: &Session, head: &mut ResponseHeader, ctx: &mut RequestCtx) -> Result<()> {
    let Some(exchange) = exchange(ctx).cloned() else { return Ok(()) };
    let (counters, now, found) = (exchange.cache.counters(), SystemTime::now(), exchange.found());
    let phase = session.cache.phase();
    let (counter, is_hit, status) = match (phase, &found) {
        (CachePhase::Hit, Some(found)) => {
            (&counters.hits, true, format!("elida; hit; ttl={}", found.freshness().ttl_at(now)))
        }
        (CachePhase::Stale | CachePhase::StaleUpdating, Some(found)) => {
            (&counters.stale_hits, true, format!("elida; hit; ttl={}", found.freshness().ttl_at(now)))
        }
        (CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_), Some(_)) => {
            let stored = if phase == CachePhase::Revalidated { "; stored" } else { "" };
            let why = if exchange.asked.wants_confirmed() { "request" } else { "stale" };
            (&counters.revalidated, false, format!("elida; fwd={why}; fwd-status=304{stored}"))
        }
        _ => {
            let why = match &found {
                Some(_) if exchange.asked.wants_confirmed() => "request",
                Some(_) => "stale",
                None => "uri-miss",
            };
            let stored =
                if matches!(phase, CachePhase::Miss | CachePhase::Expired) { "; stored" } else { "" };
            (&counters.misses, false, format!("elida; fwd={why}{stored}"))
        }
    };
    counter.fetch_add(1, Relaxed);
    head.append_header("cache-status", status)?;
    if let Some(found) = found.filter(|_| is_served(phase)) {
        found.hit();
        let age = found.age_at(now);
        if age > 0 || is_hit {
            head.insert_header(AGE, age)?
        } else {
            head.remove_header(&AGE);
        }
        ctx.outcome.answer = upstream_response::begin(ctx.stage.routed_mut()?, head);
        ctx.outcome.answer.is_cached = is_hit;
        capture::answers(&mut ctx.outcome, head);
    }
    Ok(())
}

/// Whether the body comes from the cache.
fn is_served(phase: CachePhase) -> bool {
    matches!(
        phase,
        CachePhase::Hit
            | CachePhase::Stale
            | CachePhase::StaleUpdating
            | CachePhase::Revalidated
            | CachePhase::RevalidatedNoCache(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_references_in_the_same_origin_have_a_path() {
        let path = |reference| same_origin_path("http://a.test:80/x/y?z", reference);
        assert_eq!(path("/b?c=1").as_deref(), Some("/b?c=1"));
        assert_eq!(path("b").as_deref(), Some("/x/b"));
        assert_eq!(path("http://A.test/b").as_deref(), Some("/b"));
        for reference in ["http://b.test/b", "https://a.test/b", "//a.test:81/b", "http://"] {
            assert_eq!(path(reference), None, "{reference}");
        }
    }
}
