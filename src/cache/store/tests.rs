//! Bounds, invalidation and purges.

use super::*;
use crate::cache::key::Target;
use crate::cache::settings::CacheConfig;
use crate::settings::fault::Faults;
use crate::settings::units::ByteSize;

fn cache(memory: u64, object: u64) -> Arc<Cache> {
    let written = CacheConfig {
        enabled: true,
        max_memory: ByteSize(memory),
        max_object: ByteSize(object),
        ..CacheConfig::default()
    };
    let settings = written.compile(false, &mut Faults::default()).unwrap().unwrap();
    Cache::new(settings, None)
}

fn filled(path: &str, tenant: &str) -> Filled {
    let target = Target::new("files", 1, "http", "a.test:80", path.as_bytes());
    let freshness = Freshness {
        came: 0,
        age: 0,
        lifetime: 60,
        no_cache: false,
        must_revalidate: false,
        stale_if_error: 0,
    };
    let head = ResponseHeader::build(200, None).unwrap();
    Filled { id: target.key_for(Some(tenant)), target, head, freshness, variance: None }
}

fn store(cache: &Arc<Cache>, path: &str, tenant: &str, length: usize) -> Result<(), Refused> {
    let mut fill = cache.fill(filled(path, tenant));
    for piece in vec![7; length].chunks(10_000) {
        fill.add(piece);
    }
    fill.finish().map(drop)
}

#[test]
fn what_is_stored_and_filled_stays_within_the_limit() {
    let (limit, object) = (4 << 20, 512 << 10);
    let cache = cache(limit, object);
    let mut open = Vec::new();
    for at in 0..400_usize {
        let length = (at * 7919) % (object as usize);
        if at % 50 == 0 {
            let mut fill = cache.fill(filled(&format!("/open/{at}"), "a"));
            fill.add(&vec![1; length]);
            open.push(fill);
        }
        let _ = store(&cache, &format!("/{at}"), "a", length);
        assert!(cache.bytes() <= limit, "{at}: {}", cache.bytes());
    }
    let stats = cache.stats();
    assert!(stats.evicted > 0 && stats.entries > 4 && stats.bytes <= stats.max_bytes, "{stats:?}");
    drop(open);
    assert_eq!(cache.filling.load(Relaxed), 0);
    assert_eq!(cache.urls.len() as u64, cache.stats().entries);
}

#[test]
fn a_body_without_room_or_too_large_is_refused_and_gives_its_room_back() {
    let cache = cache(4 << 20, 1 << 20);
    let mut large = cache.fill(filled("/large", "a"));
    large.add(&vec![1; 600 << 10]);
    large.add(&vec![1; 500 << 10]);
    assert_eq!(large.finish().map(drop), Err(Refused::TooLarge));
    let mut first = cache.fill(filled("/first", "a"));
    first.add(&vec![1; 900 << 10]);
    assert_eq!(store(&cache, "/second", "a", 500 << 10), Err(Refused::NoRoom));
    drop(first);
    assert_eq!(store(&cache, "/second", "a", 500 << 10), Ok(()));
    let stats = cache.stats();
    let refused: Vec<_> = stats.refused.into_iter().collect();
    assert_eq!((stats.entries, refused), (1, vec![("no_room", 1), ("too_large", 1)]));
    assert_eq!(cache.filling.load(Relaxed), 0);
}

#[tokio::test]
async fn an_invalidation_reaches_all_callers_and_a_purge_what_it_names() {
    let cache = cache(4 << 20, 1 << 20);
    for (path, tenant) in [("/x", "a"), ("/x", "b"), ("/y", "a"), ("/z/1", "a")] {
        store(&cache, path, tenant, 10).unwrap();
    }
    let id = |path, tenant| filled(path, tenant).id;
    assert!(cache.find(&id("/x", "a")).await.is_some());
    assert!(cache.find(&id("/x", "c")).await.is_none());
    cache.invalidate(&filled("/x", "").target.id);
    assert!(cache.find(&id("/x", "a")).await.is_none() && cache.find(&id("/x", "b")).await.is_none());
    assert!(cache.find(&id("/y", "a")).await.is_some());
    let purged = cache.purge_everywhere(&PurgePattern::new("a.test:80/z/*").unwrap()).await.unwrap();
    assert_eq!((purged.removed, purged.bytes > 10), (1, true));
    assert!(cache.find(&id("/z/1", "a")).await.is_none());
    let purged = cache.purge_everywhere(&PurgePattern::everything()).await.unwrap();
    assert_eq!(purged.removed, 1);
    assert_eq!((cache.bytes(), cache.urls.len()), (0, 0));
}
