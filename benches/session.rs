//! Sessions: adding and closing a leg, killing, and the reaper's pass.
#![expect(missing_docs, reason = "criterion's macro makes functions without them")]
#![expect(clippy::expect_used, reason = "a bench may panic: then there is no number")]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use elida::clock::Clock;
use elida::ids::{BackendName, PrincipalId, RequestId, Scope, SessionId, SessionKey};
use elida::session::store::MemoryStore;
use elida::session::{
    Cut, Event, Identity, KillRequest, Leg, LegKind, LegStart, Manager, SessionConfig, SessionRequest,
};
use elida::settings::fault::Faults;
use elida::summary::RequestSummary;
use futures::FutureExt;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A manager without a limit, whose events have no listener.
fn manager() -> Arc<Manager> {
    let written = SessionConfig {
        max_active: 10_000_000,
        max_active_per_principal: 10_000_000,
        ..SessionConfig::default()
    };
    let settings = written.compile(&mut Faults::default()).expect("good settings");
    Manager::new(settings, Clock::system(), Arc::new(MemoryStore::default()), Arc::new(|_: &Event| {}))
}

fn arrival(session: &str) -> SessionRequest {
    SessionRequest {
        key: SessionKey { scope: Scope::new("cred:0011223344556677"), id: SessionId::new(session) },
        identity: Identity { source: "header:x-session-id".into(), ..Identity::default() },
        principal: PrincipalId::new("cred:0011223344556677"),
        membership: None,
        accounts: Box::default(),
        client_addr: [127, 0, 0, 1].into(),
        counted_from: None,
        idle_gap: None,
    }
}

fn start() -> LegStart {
    LegStart {
        kind: LegKind::Request,
        method: "POST".into(),
        path: "/v1/messages".into(),
        request_id: RequestId::new("r-1"),
        cut: Cut::new(),
        validity: Arc::default(),
    }
}

fn report() -> RequestSummary {
    RequestSummary {
        status: Some(200),
        duration: Duration::from_millis(12),
        ttfb: Some(Duration::from_millis(3)),
        bytes_in: 300,
        bytes_out: 900,
        outcome: "ok",
        ..RequestSummary::default()
    }
}

/// Polls a future that never waits, because the store is in memory.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the store is memory")
}

fn pass(manager: &Arc<Manager>, backend: &BackendName, session: &str) {
    let mut leg = now(manager.admit(arrival(session), start())).expect("admitted");
    leg.routed(backend, Some("gpt-demo"));
    leg.settle(&report());
}

fn admission(criterion: &mut Criterion) {
    let backend = BackendName::new("demo");
    let known = manager();
    for index in 0..10_000 {
        pass(&known, &backend, &format!("s-{index}"));
    }
    criterion.bench_function("admit and settle, known session (of 10,000)", |bencher| {
        bencher.iter(|| pass(&known, &backend, "s-4711"));
    });
    let (fresh, next) = (manager(), AtomicU64::new(0));
    criterion.bench_function("admit and settle, new session", |bencher| {
        bencher.iter_batched(
            || format!("n-{}", next.fetch_add(1, Ordering::Relaxed)),
            |session| pass(&fresh, &backend, &session),
            BatchSize::SmallInput,
        );
    });
}

fn kill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kill");
    for legs in [1, 100, 1000] {
        let manager = manager();
        let next = AtomicU64::new(0);
        group.throughput(Throughput::Elements(legs));
        group.bench_function(format!("{legs} open legs"), |bencher| {
            bencher.iter_batched(
                || {
                    let session = format!("k-{}", next.fetch_add(1, Ordering::Relaxed));
                    let admit = || now(manager.admit(arrival(&session), start())).expect("admitted");
                    let open: Vec<Leg> = (0..legs).map(|_| admit()).collect();
                    (session, open)
                },
                |(session, open)| {
                    let request = KillRequest {
                        reason: "bench".into(),
                        by: "bench".into(),
                        block: None,
                        force: false,
                        scope: None,
                        agent: None,
                    };
                    now(manager.kill(&session, request)).expect("killed");
                    // Closing them is measured as well: the last one writes the record.
                    drop(open);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn reap(criterion: &mut Criterion) {
    let (manager, backend) = (manager(), BackendName::new("demo"));
    for index in 0..100_000 {
        pass(&manager, &backend, &format!("r-{index}"));
    }
    criterion.bench_function("the reaper's walk over 100,000 sessions", |bencher| {
        bencher.iter(|| now(manager.reap()));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = admission, kill, reap
}
criterion_main!(benches);
