//! All kinds of load at once: half a minute by default, an hour with `just soak` (`ELIDA_SOAK`, in seconds).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{interval, sleep};

use crate::support::kernel::{hex, sockets};
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

/// Duration without `ELIDA_SOAK`.
const SHORT: Duration = Duration::from_secs(30);
/// The end is compared with the memory at this time; in a shorter run, at half-time.
const WARM: Duration = Duration::from_secs(300);
/// How much memory may grow until the end.
const GROWTH: f64 = 1.1;
/// The same in a run that ends before memory is warm: it grows for about a minute, then stays.
const GROWTH_COLD: f64 = 1.3;
/// Clients of each kind.
const EACH: usize = 1;
/// Sessions that the load alternates between.
const SESSIONS: usize = 40;
/// Rounds on one connection: each thread of the gateway has seen each kind of load before memory is compared.
const KEPT: usize = 50;
/// Minimum duration of a client's round: the point is time, not load.
const ROUND: Duration = Duration::from_millis(20);

/// Ended sessions are removed quickly, so that their number is steady before memory is compared. A block lasts until
/// it is lifted, also on a busy machine.
/// No access lines, because the harness keeps every line.
fn yaml(demo: &Demo, round: usize) -> String {
    format!(
        "backend: {:?}\nsession: {{ retention: 5s, max_active: {}, starts_per_address: {{ per_second: 0 }}, kill_block: {{ duration: 1m }} }}\n\
         logging: {{ access_log: false }}\n\
         server: {{ limits: {{ max_body: 1MiB, max_body_llm: 1MiB }} }}\n",
        demo.url(),
        1000 + round
    )
}

/// What one kind of client does, repeatedly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Whole,
    Stream,
    Large,
    Abort,
    Kill,
    Refused,
}

const KINDS: [Kind; 6] = [Kind::Whole, Kind::Stream, Kind::Large, Kind::Abort, Kind::Kill, Kind::Refused];

struct Load {
    proxy: SocketAddr,
    control: SocketAddr,
    stop: AtomicBool,
    next: AtomicUsize,
    done: Mutex<BTreeMap<Kind, usize>>,
}

impl Load {
    fn session(&self, of: &str) -> String {
        format!("{of}-{}", self.next.fetch_add(1, Ordering::Relaxed) % SESSIONS)
    }

    async fn client(self: Arc<Self>, kind: Kind) {
        let mut kept = RawClient::connect(self.proxy).await;
        let mut pace = interval(ROUND);
        let mut rounds = 0_usize;
        while !self.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            rounds += 1;
            if rounds.is_multiple_of(KEPT) {
                kept = RawClient::connect(self.proxy).await;
            }
            match kind {
                Kind::Whole => {
                    let call = Call::chat("hello").session(&self.session("whole"));
                    let answer = call.send_over(&mut kept, self.proxy).await;
                    assert_eq!((answer.status(), answer.is_whole), (200, true), "{}", answer.text());
                }
                Kind::Stream => {
                    let call = Call::messages_stream("[[words 60]] [[pace 4ms]]");
                    let answer = call.session(&self.session("stream")).send(self.proxy).await;
                    assert!(answer.is_whole && answer.text().contains("message_stop"), "{}", answer.text());
                }
                Kind::Large => {
                    let call = Call::chat(&"word ".repeat(40_000)).session(&self.session("large"));
                    let answer = call.send_over(&mut kept, self.proxy).await;
                    assert_eq!((answer.status(), answer.is_whole), (200, true), "{}", answer.text());
                }
                Kind::Abort => {
                    let call =
                        Call::chat_stream("[[words 500]] [[pace 5ms]]").session(&self.session("abort"));
                    call.open(self.proxy).await.until("word1").await;
                }
                Kind::Kill => self.kill().await,
                Kind::Refused => {
                    let unknown = Call::chat("hello").header("X-Backend", "none-such").send(self.proxy).await;
                    assert_eq!(unknown.status(), 400, "{}", unknown.text());
                    let huge = Call::post("/v1/chat/completions").header("content-length", "9000000");
                    assert_eq!(huge.send(self.proxy).await.status(), 413);
                }
            }
            *self.done.lock().expect("the counts").entry(kind).or_default() += 1;
        }
    }

    /// Kills its own session in the middle of a stream; it is refused, then resumed.
    async fn kill(&self) {
        let id = format!("kill-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let call = Call::messages_stream("[[words 3000]] [[pace 5ms]]").session(&id);
        let mut stream = call.open(self.proxy).await;
        stream.until("word1").await;
        let mut operator = crate::support::control::Control::connect(self.control).await;
        assert_eq!(operator.kill(&id).await.status, 200);
        let answer = stream.message(Unframed::UntilEnd).await.expect("a head");
        assert!(answer.text().contains("event: error"), "{}", answer.text());
        assert_eq!(call.send(self.proxy).await.status(), 403);
        let resumed = operator.post(&format!("/control/sessions/{id}/resume"), &Value::Null).await;
        assert_eq!(resumed.status(), 200, "{}", resumed.text());
    }
}

/// Memory over time.
#[derive(Default)]
struct Memory(Vec<(Duration, u64)>);

impl Memory {
    /// The median of the samples in a part of the run, because the allocator's memory fluctuates.
    fn between(&self, from: Duration, to: Duration) -> u64 {
        let looks = self.0.iter().filter(|(at, _)| (from..=to).contains(at));
        let mut bytes: Vec<u64> = looks.map(|(_, bytes)| *bytes).collect();
        bytes.sort_unstable();
        bytes[bytes.len() / 2]
    }
}

/// Open descriptors without the idle connections to the backend.
fn descriptors(gateway: &Gateway, backend: &str) -> usize {
    /// A connection in this state has no descriptor any more.
    const TIME_WAIT: u8 = 6;
    let kept =
        sockets().iter().filter(|socket| socket.remote == backend && socket.state != TIME_WAIT).count();
    gateway.descriptors().saturating_sub(kept)
}

fn length() -> Duration {
    let seconds =
        std::env::var("ELIDA_SOAK").ok().map(|seconds| seconds.parse().expect("ELIDA_SOAK in seconds"));
    seconds.map_or(SHORT, Duration::from_secs)
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_descriptors_stay_where_they_are_under_mixed_load() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, 0)).await;
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    // The audit log is opened with the first change and stays open.
    assert_eq!(gateway.kill("none").await.status, 404);
    let backend = hex(demo.address());
    // The minimum of several samples: a connection that was closed just now must not be in the baseline.
    let mut base = usize::MAX;
    for _ in 0..10 {
        sleep(Duration::from_millis(20)).await;
        base = base.min(descriptors(&gateway, &backend));
    }
    let load = Arc::new(Load {
        proxy: gateway.proxy(),
        control: gateway.control(),
        stop: AtomicBool::new(false),
        next: AtomicUsize::new(0),
        done: Mutex::default(),
    });
    let clients: Vec<_> =
        (0..EACH).flat_map(|_| KINDS).map(|kind| tokio::spawn(Arc::clone(&load).client(kind))).collect();

    let (begun, length) = (Instant::now(), length());
    let mut memory = Memory::default();
    let mut operator = gateway.operator().await;
    let mut round = 0;
    while begun.elapsed() < length {
        for _ in 0..5 {
            sleep(Duration::from_millis(200)).await;
            memory.0.push((begun.elapsed(), gateway.resident_bytes()));
        }
        round += 1;
        let is_broken = round % 3 == 0;
        gateway.rewrite(if is_broken { "no_such_key: 1\n".to_owned() } else { yaml(&demo, round) }.as_str());
        let answer = operator.post("/control/config/reload", &Value::Null).await;
        assert_eq!(answer.status(), if is_broken { 422 } else { 200 }, "{}", answer.text());
        assert!(
            clients.iter().all(|client| !client.is_finished()),
            "a client has failed; its panic says why"
        );
        if round.is_multiple_of(60) {
            println!("{:?}: {} bytes", begun.elapsed(), gateway.resident_bytes());
        }
    }
    let (warm, ended) = (WARM.min(length / 2), begun.elapsed());
    let window = (length / 10).min(Duration::from_secs(60));
    let (at_warm, at_end) = (memory.between(warm, warm + window), memory.between(ended - window, ended));
    let growth = if warm < WARM { GROWTH_COLD } else { GROWTH };
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client");
    }
    drop(operator);
    let done = load.done.lock().expect("the counts").clone();
    println!("{ended:?}: {done:?}; memory {at_warm} at {warm:?}, {at_end} at the end");
    assert!(KINDS.iter().all(|kind| done.get(kind).is_some_and(|count| *count > 3)), "{done:?}");
    assert!(at_end as f64 <= at_warm as f64 * growth, "memory grew from {at_warm} to {at_end} bytes");

    within("everything back to base", async {
        loop {
            let legs = gateway.metric(r#"elida_open_legs{kind="request"}"#).await;
            let connections = gateway.metric("elida_connections").await;
            let open = descriptors(&gateway, &backend);
            if legs == 0.0 && connections == 0.0 && open <= base {
                return;
            }
            println!("{legs} legs, {connections} connections, {open} descriptors (base {base})");
            sleep(Duration::from_millis(500)).await;
        }
    })
    .await;
    assert_eq!(gateway.metric("elida_panics_total").await, 0.0);
}
