use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::fleet::shared::{fleet, fleet_with, record, store_is_up, survive};
use crate::support::redis_cluster::Cluster;
use crate::support::wire::Unframed;
use crate::support::{Call, Demo, Gateway, within};

/// Sessions per instance: enough for every master to have some.
const EACH: usize = 20;
/// Sessions that begin while slots migrate.
const NEW: usize = 120;
/// Ids that would break the hash tag (the braces) from which a cluster computes a key's slot.
const ODD: [&str; 6] = ["}", "}x", "a}b", "{", "{a}b", "%7Dx"];

async fn ask(gateway: &Gateway, id: &str) -> u16 {
    Call::chat("hello").session(id).send(gateway.proxy()).await.status()
}

/// Asserts that no command has failed.
async fn never_lost(gateways: &[Gateway]) {
    for gateway in gateways {
        let outages = gateway.metric("elida_store_outages_total{store=\"redis\"}").await;
        assert_eq!(outages, 0.0, "redis was lost: {}", gateway.log_text());
        assert_eq!(gateway.metric("elida_store_fallbacks_total{store=\"redis\"}").await, 0.0);
    }
}

/// A kill on the first instance cuts a stream on the second, and reports that both instances know it.
async fn kill_reaches(gateways: &[Gateway], id: &str) {
    let mut client = Call::chat_stream("[[stall]]").session(id).open(gateways[1].proxy()).await;
    client.until("\"delta\":{\"content\":\"").await;
    let killed = gateways[0].kill(id).await;
    let all = serde_json::Value::from(gateways.len());
    assert_eq!((killed.status, &killed.body["instances_notified"]), (200, &all), "{killed:?}");
    let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
    assert!(cut.text().contains("session_killed"), "{}", cut.text());
    for gateway in gateways {
        assert_eq!(ask(gateway, id).await, 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_live_on_all_masters_also_while_slots_move() {
    let (demo, cluster) = (Demo::start().await, Cluster::start(3, 0).await);
    let gateways = fleet_with(&demo, &cluster, 2, "  id_pattern: '^[!-~]+$'").await;
    let mut ids: Vec<String> = ODD.map(str::to_owned).into();
    for number in 0..EACH {
        ids.extend([format!("first-{number}"), format!("second-{number}")]);
    }
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(ask(&gateways[number % 2], id).await, 200, "{id}");
    }
    // Each id is one session on all instances.
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(ask(&gateways[1 - number % 2], id).await, 200, "{id}");
    }
    within("one session of each id", async {
        loop {
            let sessions = gateways[0].sessions().await;
            assert!(sessions.len() <= ids.len(), "{sessions:?}");
            if sessions.len() == ids.len() && sessions.iter().all(|session| session["request_count"] == 2) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for server in &cluster.servers {
        let keys = server.ask(&["KEYS", "elida:incarnation:*"]).await;
        assert_ne!(keys, "*0", "a master without sessions");
    }
    kill_reaches(&gateways, "before").await;
    never_lost(&gateways).await;

    // One master migrates all its slots to another while requests run, and leaves.
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (stop, asked, proxies) =
            (stop.clone(), asked.clone(), [gateways[0].proxy(), gateways[1].proxy()]);
        let ids = ids.clone();
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                // Known sessions and new ones.
                let is_new = number % 3 == 0 && number < 3 * NEW;
                let id = if is_new { format!("new-{number}") } else { ids[number % ids.len()].clone() };
                let answer = Call::chat("hello").session(&id).send(proxies[number % 2]).await;
                assert_eq!(answer.status(), 200, "{id}: {}", answer.text());
            }
        })
    };
    let leaving = cluster.subscribed_masters().await[0];
    let staying = (leaving + 1) % 3;
    let (from, to) = (cluster.name(leaving).await, cluster.name(staying).await);
    let entry = cluster.servers[staying].address().to_string();
    let slots = ["--cluster-slots", "5462", "--cluster-yes"];
    let ends = ["--cluster", "reshard", &entry, "--cluster-from", &from, "--cluster-to", &to];
    // It has 5461 or 5462 slots.
    cluster.cli(&[&ends[..], &slots[..]].concat()).await;
    // Messages arrive through a master that stays.
    within("all to listen elsewhere", async {
        while cluster.subscribed_masters().await.contains(&leaving) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    kill_reaches(&gateways, "between").await;
    stop.store(true, Ordering::Relaxed);
    load.await.expect("the load");
    eprintln!("{} requests while 5461 slots moved", asked.load(Ordering::Relaxed));
    assert_eq!(cluster.servers[leaving].ask(&["DBSIZE"]).await, ":0");
    never_lost(&gateways).await;

    cluster.cli(&["--cluster", "del-node", &entry, &from]).await;
    kill_reaches(&gateways, "after").await;
    for id in &ids {
        let written = id.replace('%', "%25").replace('{', "%7B").replace('}', "%7D");
        assert_eq!(gateways[1].kill(&written).await.status, 200, "{id}");
        let session = record(&gateways, id).await;
        assert_eq!(session["state"], "killed", "{session}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_on_two_masters_holds_nobody_up() {
    let (demo, cluster) = (Demo::start().await, Cluster::start(3, 0).await);
    let gateways = fleet(&demo, &cluster, 2).await;
    assert_eq!(ask(&gateways[0], "known").await, 200);
    gateways[1].session_until("known", |session| session["request_count"] == 1).await;
    // The keys that all instances read and write migrate one by one, and stay split between two masters.
    for key in ["elida:kills", "elida:sessions", "elida:sessions:activity"] {
        let (slot, from) = cluster.slot(key).await;
        let to = (from + 1) % 3;
        let (source, target) = (cluster.name(from).await, cluster.name(to).await);
        let port = cluster.servers[to].address().port().to_string();
        let done = cluster.servers[to].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await;
        assert_eq!(done, "+OK");
        let done = cluster.servers[from].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await;
        assert_eq!(done, "+OK");
        cluster.servers[from].ask(&["MIGRATE", "127.0.0.1", &port, key, "0", "1000"]).await;
    }
    for number in 0..EACH {
        let id = format!("s-{number}");
        assert_eq!((ask(&gateways[0], &id).await, ask(&gateways[1], &id).await), (200, 200));
    }
    kill_reaches(&gateways, "killed").await;
    let session = gateways[1].session_until("s-0", |session| session["request_count"] == 2).await;
    assert_eq!(session["incarnation"], 1);
    never_lost(&gateways).await;

    // The keys of one session are on two masters for a moment: its next admission waits for the rest.
    let key = "elida:session:{split}@anon:127.0.0.1";
    assert_eq!(ask(&gateways[0], "split").await, 200);
    gateways[0].session_until("split", |session| session["request_count"] == 1).await;
    let (slot, from) = cluster.slot(key).await;
    let to = (from + 1) % 3;
    let (source, target) = (cluster.name(from).await, cluster.name(to).await);
    let port = cluster.servers[to].address().port().to_string();
    cluster.servers[to].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await;
    cluster.servers[from].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await;
    cluster.servers[from].ask(&["MIGRATE", "127.0.0.1", &port, key, "0", "1000"]).await;
    let joining = ask(&gateways[1], "split");
    let moving = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        let keys = cluster.servers[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await;
        for key in keys.lines().filter(|line| line.starts_with("elida:")) {
            cluster.servers[from].ask(&["MIGRATE", "127.0.0.1", &port, key, "0", "1000"]).await;
        }
        for server in [to, from, 3 - to - from] {
            cluster.servers[server].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await;
        }
    };
    let (status, ()) = tokio::join!(joining, moving);
    assert_eq!(status, 200);
    let session = gateways[0].session_until("split", |session| session["request_count"] == 2).await;
    assert_eq!(session["incarnation"], 1);
    never_lost(&gateways).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_masters() {
    let cluster = Cluster::start(3, 1).await;
    survive(cluster, "", async |cluster, gateways| {
        for _ in 0..2 {
            // A master at which an instance subscribes.
            let lost = cluster.subscribed_masters().await[0];
            cluster.servers[lost].stop();
            for gateway in gateways {
                store_is_up(gateway, false).await;
            }
            for gateway in gateways {
                store_is_up(gateway, true).await;
            }
            assert_eq!(cluster.masters().await.len(), 3);
            assert!(!cluster.subscribed_masters().await.is_empty());
            cluster.servers[lost].run().await;
            within("the lost one to be a copy", async {
                while !cluster.servers[lost].ask(&["INFO", "replication"]).await.contains("link_status:up") {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
            .await;
        }
        kill_reaches(gateways, "after-all").await;
    })
    .await;
}
