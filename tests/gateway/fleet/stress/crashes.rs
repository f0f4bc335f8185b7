//! One of two instances is killed with SIGKILL again and again, and started on the same data folder. Redis is frozen and
//! its connections are cut; it keeps its data, since a wipe of Redis loses the shares of an instance that is gone.
//!
//! What may be missing afterwards, and nothing else:
//!
//! * requests at the killed instance that were open when it died, or ended after its last write to Redis
//!   (`flush_interval` before, or since Redis became unreachable): they may be in its log and in no record, or the
//!   other way round;
//! * a record that the killed instance was writing when it died: it may be in its log twice or not at all, but the
//!   ended session is in Redis, once.

use super::*;

/// A session that has ended, as both instances list it.
struct EndedSession {
    id: String,
    requests: u64,
    ended: jiff::Timestamp,
}

/// Kills the second instance at random times until the end.
async fn crasher(world: Arc<World>, mut gateway: Gateway, yaml: String) -> Gateway {
    let mut dice = world.dice(3);
    while !world.over() {
        dice.pause(1500, 4500).await;
        let at = Instant::now();
        let written = *world.calm.lock().expect("the time") - CALM;
        world.crashes.lock().expect("the crashes").push(Crash { number: 1, at, written, back: None });
        gateway.crash_and_restart(&yaml).await;
        let mut crashes = world.crashes.lock().expect("the crashes");
        crashes.last_mut().expect("this one").back = Some(Instant::now());
    }
    gateway
}

/// All ended sessions in Redis, by uid.
async fn ended_sessions(gateway: &Gateway) -> BTreeMap<String, EndedSession> {
    let (mut operator, mut ended) = (gateway.operator().await, BTreeMap::new());
    let mut target = "/control/sessions?limit=500".to_owned();
    loop {
        let page = operator.get(&target).await.json();
        for session in page["sessions"].as_array().expect("a list") {
            let text = |name: &str| session[name].as_str().unwrap_or_else(|| panic!("no {name}: {session}"));
            assert_ne!(session["state"], "active", "{session}");
            let found = EndedSession {
                id: text("id").to_owned(),
                requests: session["request_count"].as_u64().expect("a number"),
                ended: text("ended_at").parse().expect("a time"),
            };
            ended.insert(text("uid").to_owned(), found);
        }
        let Some(cursor) = page["next_cursor"].as_str() else { return ended };
        target = format!("/control/sessions?limit=500&cursor={cursor}");
    }
}

/// Compares what was requested, recorded and kept in Redis.
async fn books(world: &World, gateways: &[Gateway; 2]) {
    let seed = world.seed;
    let lines: Vec<Value> = gateways.iter().flat_map(Gateway::all_log_lines).collect();
    let (mut requested, mut recorded) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, Vec<u64>>::new());
    let mut not_routed = BTreeMap::<String, u64>::new();
    for line in &lines {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        if line["message"] == "request_completed" && line["backend"].is_string() {
            *requested.entry(text("session_id")).or_default() += 1;
        } else if line["message"] == "session_record" {
            let count = line["request_count"].as_u64().expect("a number");
            recorded.entry(text("uid")).or_default().push(count);
            not_routed.insert(text("uid"), count - routed(line));
        }
    }
    let ended = ended_sessions(&gateways[0]).await;
    let crashes = world.crashes.lock().expect("the crashes");
    let (now, wall) = (Instant::now(), jiff::Timestamp::now());
    // True if the instance may have been writing the record of what ended then when it died. A record waits for the
    // shares that the process before left open.
    let was_at_work = |ended: jiff::Timestamp| {
        let age = Duration::try_from(wall.duration_since(ended)).unwrap_or_default();
        let ended = now.checked_sub(age).expect("an instant");
        let before = |at: usize| &crashes[at.saturating_sub(1)];
        crashes.iter().enumerate().any(|(at, crash)| (before(at).written..=crash.at).contains(&ended))
    };
    for (uid, counts) in &recorded {
        let session =
            ended.get(uid).unwrap_or_else(|| panic!("seed {seed}: {uid} is recorded, but not in Redis"));
        assert!(counts.iter().all(|count| *count == session.requests), "seed {seed}: {uid} {counts:?}");
    }
    let (mut kept, mut uncertain_records) = (BTreeMap::<&str, u64>::new(), 0);
    for (uid, session) in &ended {
        *kept.entry(&session.id).or_default() += session.requests - not_routed.get(uid).unwrap_or(&0);
        let copies = recorded.get(uid).map_or(0, Vec::len);
        if copies != 1 {
            uncertain_records += 1;
            assert!(was_at_work(session.ended), "seed {seed}: {copies} records of {uid}, {}", session.id);
        }
    }
    let is_uncertain = |flight: &Flight| {
        let may_be_lost = |crash: &Crash| {
            crash.number == flight.number
                && flight.begun <= crash.at
                && flight.ended.is_none_or(|ended| ended >= crash.written)
        };
        crashes.iter().any(may_be_lost)
    };
    let mut uncertain = BTreeMap::<&str, u64>::new();
    let flights = world.flights.lock().expect("the flights");
    for flight in flights.iter().filter(|flight| is_uncertain(flight)) {
        *uncertain.entry(&flight.id).or_default() += 1;
    }
    let of = |books: &BTreeMap<&str, u64>, id: &str| books.get(id).copied().unwrap_or_default();
    for (id, requests) in &requested {
        let (kept, uncertain) = (of(&kept, id), of(&uncertain, id));
        let is_within = requests.abs_diff(kept) <= uncertain;
        assert!(is_within, "seed {seed}: {id}: {requests} requests, {kept} kept, {uncertain} uncertain");
        let answered = world.answered.lock().expect("the books").get(id).copied().unwrap_or_default();
        assert!(kept + uncertain >= answered, "seed {seed}: {id}: {answered} answered, {kept} kept");
    }
    eprintln!(
        "{} crashes; {} requests, {} of them uncertain; {} sessions, {uncertain_records} records uncertain",
        crashes.len(),
        requested.values().sum::<u64>(),
        uncertain.values().sum::<u64>(),
        ended.len(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_killed_again_and_again_loses_what_it_had_not_written() {
    let (seed, time) = seed_and_time();
    let (demo, redis, world) = (Demo::start().await, Redis::start().await, World::new(seed, true));
    let yaml = format!(
        "backend: {:?}\nsession:\n  store: redis\n  redis: {{ url: {:?}, flush_interval: 200ms }}\n",
        demo.url(),
        redis.url()
    );
    let (first, second) = (Gateway::with(&yaml).await, Gateway::with(&yaml).await);
    let mut instances = Vec::new();
    for (number, gateway) in [&first, &second].into_iter().enumerate() {
        store_is_up(gateway, true).await;
        instances.push(Instance::of(number, gateway));
    }
    *world.instances.lock().expect("the doors") = instances;
    world.disturb();
    let clients = (0..CLIENTS).map(|number| tokio::spawn(client(world.clone(), number)));
    let mut tasks: Vec<_> = clients.collect();
    tasks.extend([tokio::spawn(operator(world.clone())), tokio::spawn(watch(world.clone()))]);
    let crasher = tokio::spawn(crasher(world.clone(), second, yaml));
    let faults = tokio::spawn(faults(world.clone(), redis));
    sleep(time).await;
    world.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        within("a client's end", task).await.expect("no client fails");
    }
    let redis = faults.await.expect("the faults");
    let gateways = [first, crasher.await.expect("the crashes")];
    for gateway in &gateways {
        store_is_up(gateway, true).await;
    }
    nobody_lives_again(&world, [&gateways[0], &gateways[1]]).await;
    end_all(&world, [&gateways[0], &gateways[1]]).await;
    // Shares of the dead are closed when their heartbeat is gone.
    nothing_is_left(&redis).await;
    books(&world, &gateways).await;
    let served = std::mem::take(&mut *world.served.lock().expect("the list"));
    assert!(served.is_empty(), "seed {seed}: served though killed: {served:#?}");
    let refused = world.refused.load(Ordering::Relaxed);
    assert!(refused > 0, "seed {seed}: no order ever held");
}
