use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::fleet::shared::{fleet, store_is_up};
use crate::fleet::tls::documented;
use crate::sessions::agents::{SESSION, order};
use crate::support::redis::Redis;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, within, within_time};

const SOON: Duration = Duration::from_millis(20);

async fn ask(gateway: &Gateway, id: &str) -> u16 {
    Call::chat("hello").session(id).send(gateway.proxy()).await.status()
}

fn yaml(demo: &Demo, redis: &Redis) -> String {
    format!("backend: {:?}\nsession:\n  store: redis\n  redis: {{ url: {:?} }}\n", demo.url(), redis.url())
}

async fn warning_until(gateway: &Gateway, part: &str) -> String {
    within(part, async {
        loop {
            let ready = gateway.operator().await.get("/health/readiness").await;
            let text = ready.json()["warning"].as_str().unwrap_or_default().to_owned();
            if text.contains(part) {
                return text;
            }
            tokio::time::sleep(SOON).await;
        }
    })
    .await
}

/// With `full` Redis refuses writes from now on; without it, it accepts them again.
async fn limit(redis: &Redis, full: bool) {
    assert_eq!(redis.ask(&["CONFIG", "SET", "maxmemory", if full { "1" } else { "0" }]).await, "+OK");
}

fn killed_key(id: &str) -> String {
    format!("elida:killed:{id}@anon:127.0.0.1")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_redis_is_full_cuts_everywhere_and_says_what_it_did_not_reach() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let mut gateways = fleet(&demo, &redis, 2).await;
    let mut client = Call::chat_stream("[[stall]]").session("s").open(gateways[1].proxy()).await;
    client.until("\"delta\":{\"content\":\"").await;
    gateways[0].session_until("s", |session| session["open_legs"] == 1).await;
    assert_eq!(ask(&gateways[0], "s").await, 200);
    assert_eq!(ask(&gateways[0], "before").await, 200);
    assert_eq!(gateways[0].kill("before").await.status, 200);
    assert_eq!((ask(&gateways[0], "told").await, ask(&gateways[0], "selected").await), (200, 200));
    limit(&redis, true).await;
    let killed = gateways[0].kill("s").await;
    assert_eq!((killed.status, &killed.body["instances_notified"]), (200, &Value::from(2)), "{killed:?}");
    let not_reached = killed.body["not_reached"].to_string();
    assert!(not_reached.contains("not in redis yet") && not_reached.contains("memory is full"), "{killed:?}");
    // So do the command line and a kill by selector.
    let told = gateways[0].elida(&["kill", "told"]).await;
    assert!(told.contains("not everywhere yet: ") && told.contains("not in redis yet"), "{told}");
    let body = json!({"principal": "anon:127.0.0.1", "reason": "all of them"});
    let answer = gateways[0].operator().await.post("/control/kill", &body).await;
    assert_eq!((answer.status(), &answer.json()["killed"]), (200, &json!(1)), "{}", answer.text());
    assert!(answer.json()["not_reached"].to_string().contains("not in redis yet"), "{}", answer.text());
    let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
    assert!(cut.text().contains("session_killed"), "{}", cut.text());
    assert_eq!((ask(&gateways[0], "s").await, ask(&gateways[1], "s").await), (403, 403));
    let text = warning_until(&gateways[1], "redis cannot be used").await;
    assert!(text.contains("its memory is full"), "{text}");
    // An instance that starts now finds the earlier order in Redis and receives the missing one; also when the
    // instance that gave it is gone.
    gateways.remove(0).signal("KILL");
    gateways.push(Gateway::with(yaml(&demo, &redis)).await);
    within("the newcomer to know both", async {
        while (ask(&gateways[1], "s").await, ask(&gateways[1], "before").await) != (403, 403) {
            tokio::time::sleep(SOON).await;
        }
    })
    .await;
    assert_eq!(redis.ask(&["EXISTS", &killed_key("s")]).await, ":0");
    limit(&redis, false).await;
    for gateway in &gateways {
        store_is_up(gateway, true).await;
        assert_eq!(ask(gateway, "s").await, 403);
    }
    within("the order in redis", async {
        while redis.ask(&["HEXISTS", &killed_key("s"), "*"]).await != ":1" {
            tokio::time::sleep(SOON).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_while_redis_is_full_holds_where_it_was_given_and_everywhere_later() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 2).await;
    assert_eq!(ask(&gateways[0], "s").await, 200);
    assert_eq!(gateways[0].kill("s").await.status, 200);
    assert_eq!(ask(&gateways[1], "s").await, 403);
    limit(&redis, true).await;
    for gateway in &gateways {
        store_is_up(gateway, false).await;
    }
    let mut operator = gateways[0].operator().await;
    let resumed = operator.post("/control/sessions/s/resume", &json!({})).await;
    assert_eq!(resumed.status(), 200, "{}", resumed.text());
    assert!(resumed.json()["not_reached"].to_string().contains("lifted order"), "{}", resumed.text());
    // Messages of other instances about the order do not restore it.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        assert_eq!(ask(&gateways[0], "s").await, 200);
        tokio::time::sleep(SOON).await;
    }
    limit(&redis, false).await;
    within("both to admit", async {
        while (ask(&gateways[0], "s").await, ask(&gateways[1], "s").await) != (200, 200) {
            tokio::time::sleep(SOON).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_is_told_at_once_while_an_instance_finds_redis_again() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 2).await;
    for round in 0..8 {
        let id = format!("s-{round}");
        let mut client = Call::chat_stream("[[stall]]").session(&id).open(gateways[1].proxy()).await;
        client.until("\"delta\":{\"content\":\"").await;
        assert_eq!(ask(&gateways[0], &id).await, 200);
        limit(&redis, true).await;
        store_is_up(&gateways[0], false).await;
        limit(&redis, false).await;
        // Between the first heartbeat that finds it and the end of the resulting work.
        tokio::time::sleep(Duration::from_millis(round * 50)).await;
        let begun = Instant::now();
        assert_eq!(gateways[0].kill(&id).await.status, 200);
        let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
        assert!(cut.text().contains("session_killed"), "{}", cut.text());
        assert!(begun.elapsed() < Duration::from_millis(700), "round {round}: {:?}", begun.elapsed());
        for gateway in &gateways {
            store_is_up(gateway, true).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evicted_orders_are_written_again_and_told() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 2).await;
    for number in 0..40 {
        let id = format!("s-{number}");
        assert_eq!(ask(&gateways[0], &id).await, 200);
        assert_eq!(gateways[0].kill(&id).await.status, 200);
    }
    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "6mb"]).await;
    let lost = "elida_store_lost_total{store=\"redis\",what=\"kill_order\"}";
    let fill =
        "for i = 1, 500 do redis.call('SET', 'junk:' .. ARGV[1] .. ':' .. i, string.rep('x', 1000)) end";
    let mut turn = 0;
    within("orders to be lost and found", async {
        while gateways[0].metric(lost).await + gateways[1].metric(lost).await < 5.0 {
            turn += 1;
            redis.ask(&["EVAL", fill, "0", &turn.to_string()]).await;
        }
    })
    .await;
    let text = warning_until(&gateways[0], "redis evicts keys").await;
    assert!(text.contains("allkeys-random") && text.contains("noeviction"), "{text}");
    let log = format!("{}{}", gateways[0].log_text(), gateways[1].log_text());
    assert!(log.contains("redis had lost kill orders"), "{log}");
    // With free memory again, the next heartbeats write all of them, and a new instance knows them.
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    within("every order", async {
        while redis.ask(&["KEYS", "elida:killed:s-*"]).await.lines().next() != Some("*40") {
            tokio::time::sleep(SOON).await;
        }
    })
    .await;
    let newcomer = Gateway::with(yaml(&demo, &redis)).await;
    store_is_up(&newcomer, true).await;
    for number in 0..40 {
        assert_eq!(ask(&newcomer, &format!("s-{number}")).await, 403, "{number}");
    }
}

/// Entries that were never trimmed: more than one Redis reply may hold.
const OLD: u32 = 200_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_lives_with_very_many_old_kills_and_gets_rid_of_them() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let seed = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do redis.call('ZADD', 'elida:kills', 1000 + i, \
                '{\"session_id\":\"old-' .. i .. '\",\"scope\":\"anon:127.0.0.1\"}') end";
    for begin in (0..OLD).step_by(20_000) {
        redis.ask(&["EVAL", seed, "0", &begin.to_string(), &(begin + 19_999).to_string()]).await;
    }
    assert_eq!(redis.ask(&["ZCARD", "elida:kills"]).await, format!(":{OLD}"));
    let gateways = fleet(&demo, &redis, 2).await;
    assert_eq!(ask(&gateways[0], "new").await, 200);
    assert_eq!(gateways[1].kill("new").await.status, 200);
    assert_eq!((ask(&gateways[0], "new").await, ask(&gateways[1], "new").await), (403, 403));
    within_time(Duration::from_secs(180), "the old ones to leave", async {
        while redis.ask(&["ZCARD", "elida:kills"]).await != ":1" {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    for gateway in &gateways {
        assert_eq!(gateway.metric("elida_store_outages_total{store=\"redis\"}").await, 0.0);
        assert_eq!(ask(gateway, "new").await, 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_orders_that_are_over_leave_their_session_alone() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 1).await;
    let key = killed_key(SESSION);
    let seed = "for i = 1, 1500 do redis.call('HSET', KEYS[1], 'a' .. i, '{\"v\":1,\"rev\":1,\"until_ms\":' .. ARGV[1] .. \
                ',\"order\":{\"session_id\":\"s\",\"scope\":\"\",\"agent\":\"a' .. i .. '\",\"uid\":\"' .. ARGV[2] .. \
                '\",\"reason\":\"\",\"by\":\"\",\"at\":\"2026-01-01T00:00:00Z\",\"mode\":\"duration\",\"until\":\
                \"2026-01-01T01:00:00Z\"}}') end redis.call('HSET', KEYS[1], 'up', \
                '{\"v\":1,\"rev\":2,\"lifted\":true,\"forget_ms\":99999999999999}')";
    redis.ask(&["EVAL", seed, "1", &key, "1767229200000", "s_019b7a00000070008000000000000000"]).await;
    assert_eq!(redis.ask(&["HLEN", &key]).await, ":1501");
    let status = crate::sessions::agents::spoke(&gateways[0], "new", "").await;
    assert_eq!(status, 200, "orders that are long over refuse the session");
    assert_eq!(redis.ask(&["HLEN", &key]).await, ":1", "what is over leaves");
    // The resume is kept as long as an instance may need it; a short order beside it does not live longer for that.
    let body = json!({"agent": "new", "block": {"mode": "duration", "duration": "1h"}});
    assert_eq!(order(&gateways[0], "kill", &body).await.0, 200);
    assert_eq!(crate::sessions::agents::spoke(&gateways[0], "new", "").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named_once_with_its_user() {
    let demo = Demo::start().await;
    let changes = [
        ("-hset", "hset"),
        ("-zadd", "zadd"),
        ("-persist", "persist"),
        ("-srem", "srem"),
        ("-publish", "publish"),
        ("-evalsha", "evalsha"),
        ("resetkeys ~elida:session* ~elida:incarnation:*", "the key elida:killed:"),
        ("resetchannels &elida:kill* &elida:events &elida:announced", "the channel elida:end"),
        ("resetchannels &elida:kill* &elida:end &elida:events", "the channel elida:announced"),
    ];
    join_all(changes.map(|(change, named)| missing_right(&demo, change, named))).await;
}

/// Takes a right from the documented user with `change`; the gateway must name it, as `named`, once.
async fn missing_right(demo: &Demo, change: &str, named: &str) {
    let (redis, line) = (Redis::start().await, documented());
    let mut words = vec!["ACL", "SETUSER"];
    words.extend(line.split(' ').skip(1));
    assert_eq!(redis.ask(&words).await, "+OK");
    let words: Vec<&str> = ["ACL", "SETUSER", "elida"].into_iter().chain(change.split(' ')).collect();
    assert_eq!(redis.ask(&words).await, "+OK");
    let password = line.split(' ').find_map(|word| word.strip_prefix('>')).expect("a password");
    let gateway = Gateway::with(format!(
        "backend: {:?}\nsession:\n  store: redis\n  redis: {{ addr: {:?}, username: elida, password: {password:?} }}\n",
        demo.url(),
        redis.address().to_string()
    ))
    .await;
    let text = warning_until(&gateway, named).await;
    assert!(text.contains("user 'elida'"), "{change}: {text}");
    assert_eq!(ask(&gateway, "alone").await, 200);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let said = gateway.log_lines().into_iter().filter(|line| line["why"].to_string().contains(named));
    let said: Vec<_> = said.collect();
    assert!((1..=2).contains(&said.len()), "{change}: {said:#?}");
    let junk = gateway.log_lines().into_iter().any(|line| line.to_string().contains("not ours"));
    assert!(!junk, "{change}: {}", gateway.log_text());
}
