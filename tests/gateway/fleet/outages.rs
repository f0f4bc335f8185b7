use std::time::{Duration, Instant};

use crate::fleet::shared::{record, store_is_up};
use crate::support::redis::Redis;
use crate::support::relay::Relay;
use crate::support::tripwire::{Trip, Tripwire};
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, within};

async fn ask(gateway: &Gateway, id: &str) -> u16 {
    Call::chat("hello").session(id).send(gateway.proxy()).await.status()
}

/// A gateway whose Redis is at this address.
async fn gateway(demo: &Demo, redis: impl ToString) -> Gateway {
    let gateway = Gateway::with(format!(
        "backend: {:?}\nsession:\n  store: redis\n  redis: {{ addr: {:?}, flush_interval: 200ms }}\n",
        demo.url(),
        redis.to_string()
    ))
    .await;
    store_is_up(&gateway, true).await;
    gateway
}

/// An instance that finds Redis again writes the orders given meanwhile before it counts it as available. Redis goes
/// away again in the middle of that.
#[tokio::test(flavor = "multi_thread")]
async fn redis_goes_away_again_while_an_order_is_being_written() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let path = Tripwire::start(redis.address()).await;
    let gateways = [gateway(&demo, path.address()).await, gateway(&demo, redis.address()).await];
    let trips = [
        // The order itself, not received and received.
        Trip::Before("\"until_ms\""),
        Trip::After("\"until_ms\""),
        // The message to the other instances.
        Trip::Before("elida:kill\r\n"),
        Trip::After("elida:kill\r\n"),
    ];
    for (number, trip) in trips.into_iter().enumerate() {
        let id = format!("s-{number}");
        let mut client = Call::chat_stream("[[stall]]").session(&id).open(gateways[1].proxy()).await;
        client.until("\"delta\":{\"content\":\"").await;
        assert_eq!(ask(&gateways[0], &id).await, 200);
        path.cut();
        store_is_up(&gateways[0], false).await;
        let killed = gateways[0].kill(&id).await;
        assert_eq!((killed.status, &killed.body["instances_notified"]), (200, &1.into()), "{killed:?}");
        path.open(Some(trip));
        path.tripped().await;
        store_is_up(&gateways[0], false).await;
        assert_eq!(ask(&gateways[0], &id).await, 403, "{trip:?}");
        path.open(None);
        let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
        assert!(cut.text().contains("session_killed"), "{trip:?}: {}", cut.text());
        store_is_up(&gateways[0], true).await;
        let key = format!("elida:killed:{id}@anon:127.0.0.1");
        within("the order in redis", async {
            while redis.ask(&["HEXISTS", &key, "*"]).await != ":1" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        for gateway in &gateways {
            assert_eq!(ask(gateway, &id).await, 403, "{trip:?}");
        }
        assert_eq!(record(&gateways, &id).await["request_count"], 2, "{trip:?}");
    }
}

/// Half of a round trip.
const DELAY: Duration = Duration::from_millis(60);
/// Changed orders: all of them are read again in 20 round trips.
const ORDERS: &str = "4000";
/// A few round trips.
const SOON: Duration = Duration::from_millis(1200);

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_does_not_wait_for_an_instance_that_reads_all_orders_again() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let seed = "local now = redis.call('TIME')[1] * 1000 - 60000 for i = 1, tonumber(ARGV[1]) do \
                redis.call('ZADD', 'elida:kills', now, '{\"session_id\":\"old-' .. i .. \
                '\",\"scope\":\"anon:127.0.0.1\"}') end";
    redis.ask(&["EVAL", seed, "0", ORDERS]).await;
    let relay = Relay::start(redis.address(), DELAY).await;
    let (far, near) = (gateway(&demo, relay.address()).await, gateway(&demo, redis.address()).await);
    for round in 0..3 {
        let id = format!("s-{round}");
        let mut client = Call::chat_stream("[[stall]]").session(&id).open(far.proxy()).await;
        client.until("\"delta\":{\"content\":\"").await;
        assert_eq!(ask(&near, &id).await, 200);
        redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        within("both to hear messages again", async {
            while redis.ask(&["PUBSUB", "NUMSUB", "elida:end"]).await.lines().last() != Some(":2") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let begun = Instant::now();
        assert_eq!(near.kill(&id).await.status, 200);
        let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
        assert!(cut.text().contains("session_killed"), "{}", cut.text());
        eprintln!("cut after {:?}", begun.elapsed());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}
