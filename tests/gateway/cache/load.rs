use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::hits::{answer, field, origin, yaml};
use crate::support::wire::Unframed;
use crate::support::{Call, Gateway, RawClient};

/// Requests, and the resources that they are for.
const REQUESTS: usize = 8000;
const RESOURCES: usize = 1000;
/// Requests at the same time.
const CLIENTS: usize = 8;

/// A stream of numbers that is the same in each run (xorshift64).
struct Numbers(u64);

impl Numbers {
    /// A number from 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Resources in the order of a load in which the one of rank n is asked for in proportion to 1/n.
fn zipf() -> Vec<usize> {
    let weights: Vec<f64> = (1..=RESOURCES).map(|rank| 1.0 / rank as f64).collect();
    let all: f64 = weights.iter().sum();
    let mut numbers = Numbers(42);
    let pick = |mut at: f64| {
        weights
            .iter()
            .position(|weight| {
                at -= weight;
                at < 0.0
            })
            .unwrap_or(RESOURCES - 1)
    };
    (0..REQUESTS).map(|_| pick(numbers.next() * all)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_seventy_percent_of_a_replayed_load_are_hits_within_bounded_memory() {
    // All resources together are much larger than the cache.
    let backend = origin(|request, _| {
        let resource: usize = request.head.target().trim_start_matches('/').parse().expect("a number");
        let size = 4000 + 7919 * resource % 3000;
        answer(200, "Cache-Control: max-age=600\r\n", &"z".repeat(size))
    })
    .await;
    let limit = 4_u64 << 20;
    let gateway = Gateway::with(yaml(&backend, ", max_memory: 4MiB, max_object: 64KiB")).await;
    let (load, next, hits) = (Arc::new(zipf()), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (load, next, hits, address) =
                (Arc::clone(&load), Arc::clone(&next), Arc::clone(&hits), gateway.proxy());
            tokio::spawn(async move {
                let mut client = RawClient::connect(address).await;
                while let Some(resource) = load.get(next.fetch_add(1, SeqCst)) {
                    let call = Call::get(&format!("/{resource}")).session("load");
                    let answer = client.exchange(&call.bytes("gateway"), Unframed::UntilEnd).await;
                    assert_eq!((answer.status(), answer.is_whole), (200, true));
                    if field(&answer, "cache-status").starts_with("elida; hit") {
                        hits.fetch_add(1, SeqCst);
                    }
                }
            })
        })
        .collect();
    let watching = async {
        while next.load(SeqCst) < REQUESTS {
            let bytes = gateway.metric("elida_cache_bytes").await;
            assert!(bytes <= limit as f64, "{bytes}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    watching.await;
    for client in clients {
        client.await.expect("a client");
    }
    let share = hits.load(SeqCst) as f64 / REQUESTS as f64;
    assert!(share > 0.7, "{share}");
    let stats = gateway.operator().await.get("/admin/cache/stats").await.json();
    assert!(stats["bytes"].as_u64().expect("bytes") <= limit, "{stats}");
    assert!(stats["evicted"].as_u64().expect("evicted") > 0, "{stats}");
    assert!((stats["hit_ratio"].as_f64().expect("a ratio") - share).abs() < 0.01, "{stats}");
}
