//! `ELIDA_STRESS_SEED` repeats a run (except for the timing of the machine), `ELIDA_STRESS` is the number of seconds
//! during which faults happen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::fleet::shared::{records, store_is_up};
use crate::support::redis::Redis;
use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, DEADLINE, Demo, Gateway, RawClient, within};

/// Instances are killed, too.
mod crashes;

/// Duration of the faults without `ELIDA_STRESS`, in seconds.
const SHORT: u64 = 20;
const SESSIONS: u64 = 10;
const CLIENTS: u64 = 6;
/// An order of another instance is in force within a heartbeat (1 s) once Redis answers both; the rest is for a busy
/// machine.
const PROPAGATION: Duration = Duration::from_secs(3);
/// Everything older than this is in Redis if it was reachable all the time (a few syncs, on a busy machine).
const CALM: Duration = Duration::from_secs(2);
/// Faults happen for this long, then none for as long.
const PERIOD: Duration = Duration::from_secs(4);

/// Pseudo-random numbers, reproducible by the seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    async fn pause(&mut self, from_ms: u64, to_ms: u64) {
        sleep(Duration::from_millis(from_ms + self.below(to_ms - from_ms))).await;
    }
}

/// An order in force: when its answer was read, and the instance that gave it.
#[derive(Clone, Copy, PartialEq)]
struct ActiveOrder {
    since: Instant,
    by: usize,
}

/// One instance; it keeps its number when others stop.
#[derive(Clone, Copy)]
struct Instance {
    number: usize,
    proxy: SocketAddr,
    control: SocketAddr,
}

impl Instance {
    fn of(number: usize, gateway: &Gateway) -> Self {
        Self { number, proxy: gateway.proxy(), control: gateway.control() }
    }
}

/// An instance was killed with SIGKILL.
struct Crash {
    number: usize,
    at: Instant,
    /// What was done before this is in Redis.
    written: Instant,
    /// When its successor served; `None` until then.
    back: Option<Instant>,
}

/// A request that was sent.
struct Flight {
    id: String,
    number: usize,
    begun: Instant,
    /// `None` if the instance was killed before its end.
    ended: Option<Instant>,
}

struct World {
    seed: u64,
    /// True if Redis keeps its data, so that what a killed instance has written there is not lost.
    keeps_data: bool,
    crashes: Mutex<Vec<Crash>>,
    flights: Mutex<Vec<Flight>>,
    /// The last time at which everything up to `CALM` before it was in Redis.
    calm: Mutex<Instant>,
    instances: Mutex<Vec<Instance>>,
    active: Mutex<BTreeMap<String, ActiveOrder>>,
    /// When Redis was last disturbed, or was unreachable for an instance.
    disturbed: Mutex<Instant>,
    /// Requests that were answered 200 although an order was in force against their session.
    served: Mutex<Vec<String>>,
    answered: Mutex<BTreeMap<String, u64>>,
    refused: AtomicU64,
    stop: AtomicBool,
}

impl World {
    fn new(seed: u64, keeps_data: bool) -> Arc<Self> {
        Arc::new(Self {
            seed,
            keeps_data,
            crashes: Mutex::default(),
            flights: Mutex::default(),
            calm: Mutex::new(Instant::now()),
            instances: Mutex::default(),
            active: Mutex::default(),
            disturbed: Mutex::new(Instant::now()),
            served: Mutex::default(),
            answered: Mutex::default(),
            refused: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        })
    }

    fn dice(&self, of: u64) -> Dice {
        Dice(self.seed.wrapping_mul(31).wrapping_add(of))
    }

    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn instances(&self) -> Vec<Instance> {
        self.instances.lock().expect("the doors").clone()
    }

    fn instance(&self, dice: &mut Dice) -> Instance {
        let instances = self.instances();
        instances[usize::try_from(dice.below(instances.len() as u64)).expect("small")]
    }

    fn disturb(&self) {
        *self.disturbed.lock().expect("the time") = Instant::now();
    }

    /// True if the instance was down at some time since then.
    fn was_killed(&self, instance: Instance, since: Instant) -> bool {
        let crashes = self.crashes.lock().expect("the crashes");
        let is_it =
            |crash: &Crash| crash.number == instance.number && crash.back.is_none_or(|back| back >= since);
        crashes.iter().any(is_it)
    }

    /// Sends a request; `None` if the instance was killed before it was connected.
    async fn open(&self, call: &Call, address: SocketAddr, instance: Instance) -> Option<RawClient> {
        let begun = Instant::now();
        let stream = TcpStream::connect(address).await;
        let Ok(stream) = stream else {
            assert!(self.was_killed(instance, begun), "no connection to {}: {stream:?}", instance.number);
            return None;
        };
        let mut client = RawClient::new(stream);
        // If it fails, there is no answer.
        let _ = client.send(&call.bytes(&address.to_string())).await;
        Some(client)
    }

    /// Asks the control service; `None` if the instance was killed meanwhile.
    async fn ask(&self, call: &Call, instance: Instance) -> Option<Message> {
        let begun = Instant::now();
        let mut client = self.open(call, instance.control, instance).await?;
        let answer = client.message(Unframed::UntilEnd).await.filter(|answer| answer.is_whole);
        assert!(answer.is_some() || self.was_killed(instance, begun), "no answer of {}", instance.number);
        answer
    }

    fn begin(&self, id: &str, number: usize, begun: Instant) -> usize {
        let mut flights = self.flights.lock().expect("the flights");
        flights.push(Flight { id: id.to_owned(), number, begun, ended: None });
        flights.len() - 1
    }

    fn end(&self, flight: usize) {
        self.flights.lock().expect("the flights")[flight].ended = Some(Instant::now());
    }

    fn active_order(&self, id: &str) -> Option<ActiveOrder> {
        self.active.lock().expect("the orders").get(id).copied()
    }

    /// Records the answer to a request, the order that was in force before, and when the request began.
    fn answered(
        &self,
        id: &str,
        status: u16,
        before: Option<ActiveOrder>,
        instance: Instance,
        begun: Instant,
    ) {
        match status {
            200 => *self.answered.lock().expect("the books").entry(id.to_owned()).or_default() += 1,
            403 => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            other => panic!("{other} for {id} at {}", instance.number),
        }
        // Lifted meanwhile: the request may pass.
        let Some(order) = before.filter(|order| self.active_order(id) == Some(*order)) else { return };
        let quiet = *self.disturbed.lock().expect("the time");
        let is_same = instance.number == order.by && !self.was_killed(instance, order.since);
        let is_bound = is_same || begun > order.since.max(quiet) + PROPAGATION;
        if is_bound {
            let recorded = format!(
                "{id} at {}: killed at {} {:?} before, the last fault {:?} before",
                instance.number,
                order.by,
                begun - order.since,
                begun.saturating_duration_since(quiet)
            );
            self.served.lock().expect("the list").push(recorded);
        }
    }
}

/// Sends requests of all kinds until the end.
async fn client(world: Arc<World>, number: u64) {
    let mut dice = world.dice(100 + number);
    while !world.over() {
        dice.pause(2, 40).await;
        let (id, instance) = (format!("s-{}", dice.below(SESSIONS)), world.instance(&mut dice));
        let (before, begun, kind) = (world.active_order(&id), Instant::now(), dice.below(8));
        let call = match kind {
            0..4 => Call::chat("hello"),
            _ => Call::chat_stream("[[words 30]] [[pace 5ms]]"),
        };
        let call = call.session(&id);
        let Some(mut client) = world.open(&call, instance.proxy, instance).await else { continue };
        let flight = world.begin(&id, instance.number, begun);
        if kind == 7 {
            // Disconnects before there is an answer.
            dice.pause(0, 5).await;
            client.reset();
            world.end(flight);
            continue;
        }
        let Some(head) = client.head().await else {
            assert!(world.was_killed(instance, begun), "{id} at {}: no answer", instance.number);
            continue;
        };
        world.answered(&id, head.status(), before, instance, begun);
        if kind == 6 {
            dice.pause(0, 60).await;
            client.reset();
        } else if !client.body(head, Unframed::UntilEnd).await.is_whole && world.was_killed(instance, begun) {
            continue;
        }
        world.end(flight);
    }
}

/// Kills and resumes sessions until the end.
async fn operator(world: Arc<World>) {
    let mut dice = world.dice(1);
    while !world.over() {
        dice.pause(20, 160).await;
        let (id, instance) = (format!("s-{}", dice.below(SESSIONS)), world.instance(&mut dice));
        let order_call = |what: &str| Call::post(&format!("/control/sessions/{id}/{what}"));
        if world.active_order(&id).is_none() {
            let call = order_call("kill").json(&json!({"reason": "runaway"}));
            let Some(killed) = world.ask(&call, instance).await else { continue };
            if killed.status() == 200 {
                let order = ActiveOrder { since: killed.ended, by: instance.number };
                world.active.lock().expect("the orders").insert(id, order);
            }
        } else if dice.below(3) == 0 {
            // From the moment it is sent, requests may pass.
            let order = world.active.lock().expect("the orders").remove(&id);
            let Some(answer) = world.ask(&order_call("resume"), instance).await else { continue };
            if let (404 | 409, Some(order)) = (answer.status(), order) {
                // This instance does not know of the order yet.
                let since = Instant::now();
                world.active.lock().expect("the orders").insert(id, ActiveOrder { since, ..order });
            }
        }
    }
}

/// Disturbs Redis until the end.
async fn faults(world: Arc<World>, mut redis: Redis) -> Redis {
    let (mut dice, began) = (world.dice(2), Instant::now());
    while !world.over() {
        dice.pause(100, 900).await;
        if (began.elapsed().as_millis() / PERIOD.as_millis()) % 2 == 1 {
            continue;
        }
        world.disturb();
        match if world.keeps_data { 1 + dice.below(3) } else { dice.below(5) } {
            0 => {
                redis.stop();
                dice.pause(10, 900).await;
                redis.run().await;
            }
            1 => {
                redis.freeze();
                dice.pause(50, 1500).await;
                redis.thaw();
            }
            2 => drop(redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]).await),
            3 => drop(redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await),
            _ => drop(redis.ask(&["FLUSHALL"]).await),
        }
        world.disturb();
    }
    redis
}

/// Records when Redis is unreachable for an instance.
async fn watch(world: Arc<World>) {
    while !world.over() {
        let begun = Instant::now();
        for instance in world.instances() {
            let Some(metrics) = world.ask(&Call::get("/metrics"), instance).await else { continue };
            if !metrics.text().contains("elida_store_up{store=\"redis\"} 1") {
                world.disturb();
            }
        }
        if begun.saturating_duration_since(*world.disturbed.lock().expect("the time")) >= CALM {
            *world.calm.lock().expect("the time") = begun;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Runs all of it for this long; then Redis answers all instances again.
async fn spell(world: &Arc<World>, redis: Redis, gateways: &[&Gateway], time: Duration) -> Redis {
    world.stop.store(false, Ordering::Relaxed);
    world.disturb();
    let clients = (0..CLIENTS).map(|number| tokio::spawn(client(world.clone(), number)));
    let clients: Vec<_> = clients.collect();
    let people = [tokio::spawn(operator(world.clone())), tokio::spawn(watch(world.clone()))];
    let faults = tokio::spawn(faults(world.clone(), redis));
    sleep(time).await;
    world.stop.store(true, Ordering::Relaxed);
    for task in clients.into_iter().chain(people) {
        within("a client's end", task).await.expect("no client fails");
    }
    let redis = faults.await.expect("the faults");
    for gateway in gateways {
        store_is_up(gateway, true).await;
        within("all legs to close", async {
            while gateway.metric("elida_open_legs{kind=\"request\"}").await > 0.0 {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    redis
}

/// Requests that reached the backend, by session, from the access lines of all instances.
fn lines(gateways: &[Gateway]) -> BTreeMap<String, u64> {
    let mut lines = BTreeMap::new();
    for line in gateways.iter().flat_map(Gateway::log_lines) {
        if line["message"] == "request_completed" && line["backend"].is_string() {
            *lines.entry(line["session_id"].as_str().expect("an id").to_owned()).or_default() += 1;
        }
    }
    lines
}

/// The requests of a record for which a backend was chosen: those that are access lines with a backend. A request that was
/// killed between its admission and that choice belongs to the session, too.
fn routed(record: &Value) -> u64 {
    let backends = record["backends"].as_array().expect("a list").iter();
    let routed = backends.map(|used| used["requests"].as_u64().expect("a number")).sum();
    assert!(record["request_count"].as_u64() >= Some(routed), "{record}");
    routed
}

/// The orders in force at an instance.
async fn orders(gateway: &Gateway) -> BTreeSet<String> {
    let recorded = gateway.operator().await.get("/control/kills").await.json();
    let kills = recorded["kills"].as_array().expect("a list");
    kills.iter().map(|kill| format!("{} {}", kill["session_id"], kill["uid"])).collect()
}

/// Kills all sessions until neither instance has an active one.
async fn end_all(world: &World, gateways: [&Gateway; 2]) {
    within("all sessions to end", async {
        loop {
            let mut active = BTreeSet::new();
            for gateway in gateways {
                let sessions = gateway.sessions().await.into_iter();
                let sessions = sessions.filter(|session| session["state"] == "active");
                active.extend(sessions.map(|session| session["id"].as_str().expect("an id").to_owned()));
            }
            if active.is_empty() {
                return;
            }
            for id in active {
                let killed = gateways[0].kill(&id).await;
                if killed.status == 503 {
                    // The last fault's link is not there again: the operator asks once more.
                    continue;
                }
                assert!(killed.status < 500, "{killed:?}");
                if killed.status == 200 {
                    let order = ActiveOrder { since: killed.answered, by: 0 };
                    world.active.lock().expect("the orders").insert(id, order);
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// Every order that was answered is in force at both instances.
async fn nobody_lives_again(world: &World, gateways: [&Gateway; 2]) {
    within("both instances to have the same orders", async {
        while orders(gateways[0]).await != orders(gateways[1]).await {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let active: Vec<String> = world.active.lock().expect("the orders").keys().cloned().collect();
    for id in &active {
        for gateway in gateways {
            let status = Call::chat("hello").session(id).send(gateway.proxy()).await.status();
            assert_eq!(status, 403, "seed {}: {id} lives again", world.seed);
        }
    }
}

async fn nothing_is_left(redis: &Redis) {
    for set in ["elida:sessions", "elida:sessions:activity"] {
        within("no session to be left in Redis", async {
            while redis.ask(&["ZCARD", set]).await != ":0" {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    }
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
}

/// The requests that are only in records or only in access lines, or more than once.
fn differences(gateways: &[Gateway]) -> String {
    let mut seen: BTreeMap<String, (u64, u64, String)> = BTreeMap::new();
    for line in
        gateways.iter().flat_map(Gateway::log_lines).filter(|line| line["message"] == "request_completed")
    {
        let entry = seen.entry(line["request_id"].to_string()).or_default();
        entry.0 += u64::from(line["backend"].is_string());
        entry.2 += &format!("\n  line {line}");
    }
    for record in records(gateways).values().flatten() {
        for request in record["requests"].as_array().into_iter().flatten() {
            let entry = seen.entry(request["request_id"].to_string()).or_default();
            entry.1 += u64::from(request["backend"].is_string());
            entry.2 += &format!("\n  in {} of {}: {request}", record["uid"], record["session_id"]);
        }
    }
    seen.retain(|_, (lines, recorded, _)| lines != recorded);
    seen.into_values().map(|(.., text)| text).collect()
}

/// Waits until the records contain every request exactly once.
async fn books(gateways: &[Gateway], seed: u64) {
    let mut missing = String::new();
    let all = async {
        loop {
            let found = records(gateways);
            assert!(
                found.values().all(|records| records.len() == 1),
                "seed {seed}: a doubled record: {found:#?}"
            );
            let mut recorded: BTreeMap<String, u64> = BTreeMap::new();
            for record in found.values().flatten() {
                let id = record["session_id"].as_str().expect("text").to_owned();
                *recorded.entry(id).or_default() += routed(record);
            }
            let lines = lines(gateways);
            if recorded == lines {
                return;
            }
            missing = format!("recorded {recorded:?}\nrequests {lines:?}\n{}", differences(gateways));
            sleep(Duration::from_millis(100)).await;
        }
    };
    let done = tokio::time::timeout(DEADLINE, all).await;
    assert!(done.is_ok(), "seed {seed}: records and requests differ:\n{missing}");
}

fn seed_and_time() -> (u64, Duration) {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").subsec_nanos();
    let seed = from_environment("ELIDA_STRESS_SEED", clock.into());
    eprintln!("ELIDA_STRESS_SEED={seed}");
    (seed, Duration::from_secs(from_environment("ELIDA_STRESS", SHORT)))
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_and_faults_leave_exact_books() {
    let (seed, time) = seed_and_time();
    let (demo, redis, world) = (Demo::start().await, Redis::start().await, World::new(seed, false));
    let yaml = format!(
        "backend: {:?}\nserver: {{ timeouts: {{ shutdown_grace: 1s }} }}\nsession:\n  store: redis\n  redis: {{ url: {:?}, flush_interval: 200ms }}\n",
        demo.url(),
        redis.url()
    );
    let mut gateways = vec![Gateway::with(&yaml).await, Gateway::with(&yaml).await];
    for gateway in &gateways {
        store_is_up(gateway, true).await;
    }
    *world.instances.lock().expect("the doors") =
        vec![Instance::of(0, &gateways[0]), Instance::of(1, &gateways[1])];
    let redis = spell(&world, redis, &[&gateways[0], &gateways[1]], time * 3 / 5).await;
    end_all(&world, [&gateways[0], &gateways[1]]).await;
    books(&gateways, seed).await;

    // The second one is restarted: its state is in Redis only.
    gateways[1].terminate();
    assert!(gateways[1].ended().await.success());
    gateways.push(Gateway::with(&yaml).await);
    store_is_up(&gateways[2], true).await;
    *world.instances.lock().expect("the doors") =
        vec![Instance::of(0, &gateways[0]), Instance::of(2, &gateways[2])];
    let redis = spell(&world, redis, &[&gateways[0], &gateways[2]], time * 2 / 5).await;
    nobody_lives_again(&world, [&gateways[0], &gateways[2]]).await;
    end_all(&world, [&gateways[0], &gateways[2]]).await;
    books(&gateways, seed).await;

    let served = std::mem::take(&mut *world.served.lock().expect("the list"));
    assert!(served.is_empty(), "seed {seed}: served though killed: {served:#?}");
    let refused = world.refused.load(Ordering::Relaxed);
    assert!(refused > 0, "seed {seed}: no order ever held");
    for (id, answered) in std::mem::take(&mut *world.answered.lock().expect("the books")) {
        assert!(lines(&gateways)[&id] >= answered, "seed {seed}: {id} was answered {answered} times");
    }
    nothing_is_left(&redis).await;
    let requests: u64 = lines(&gateways).values().sum();
    eprintln!("{requests} requests in {} records, {refused} refused", records(&gateways).len());
}
