use serde_json::Value;

use crate::fleet::shared::fleet;
use crate::support::redis::Redis;
use crate::support::{Call, Demo, Gateway};

/// Ended sessions that an older version stored without labels: more than one search reads.
const OLD: usize = 5000;

/// How often Redis has run a command.
async fn served(redis: &Redis, command: &str) -> u64 {
    let reply = redis.ask(&["INFO", "commandstats"]).await;
    let prefix = format!("cmdstat_{command}:calls=");
    let line = reply.lines().find_map(|line| line.strip_prefix(&prefix));
    line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

async fn list(gateway: &Gateway, query: &str) -> Value {
    gateway.operator().await.get(&format!("/control/sessions?{query}")).await.json()
}

fn ids(page: &Value) -> Vec<&str> {
    let sessions = page["sessions"].as_array().expect("sessions");
    sessions.iter().map(|session| session["id"].as_str().expect("an id")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_active_sessions_reads_no_ended_one() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 1).await;
    for number in 0..60 {
        let call = Call::chat("hello").session(&format!("dead-{number}")).header("user-agent", "curl/8.5.0");
        assert_eq!(call.send(gateways[0].proxy()).await.status(), 200);
        assert_eq!(gateways[0].kill(&format!("dead-{number}")).await.status, 200);
    }
    assert_eq!(Call::chat("hello").session("alive").send(gateways[0].proxy()).await.status(), 200);
    gateways[0].session_until("dead-59", |session| session["state"] == "killed").await;
    gateways[0].answer_until("/control/sessions?state=killed", |page| page["total"] == 60).await;
    for (query, expected, documents) in [
        ("state=active", vec!["alive"], 4),
        ("state=completed", vec![], 4),
        ("client=codex", vec![], 4),
        ("backend=nowhere&state=killed", vec![], 4),
        ("principal=anon:10.0.0.1", vec![], 4),
        ("q=dead-17", vec!["dead-17"], 8),
        (
            "client=curl&state=killed&q=DEAD-3&limit=5",
            vec!["dead-39", "dead-38", "dead-37", "dead-36", "dead-35"],
            20,
        ),
    ] {
        let before = served(&redis, "get").await;
        let page = list(&gateways[0], query).await;
        assert_eq!(ids(&page), expected, "{query}: {page}");
        let read = served(&redis, "get").await - before;
        assert!(read <= documents, "{query} read {read} documents");
        assert_eq!(page["truncated"], false, "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_was_cut_says_so_and_goes_on() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 1).await;
    assert_eq!(Call::chat("hello").session("first").send(gateways[0].proxy()).await.status(), 200);
    assert_eq!(gateways[0].kill("first").await.status, 200);
    gateways[0].answer_until("/control/sessions?state=killed", |page| page["total"] == 1).await;
    // Entries without labels: each document would have to be read.
    let first = redis.ask(&["ZRANGE", "elida:sessions:ended", "0", "-1"]).await;
    let first = first.lines().last().expect("a member").to_owned();
    let document =
        redis.ask(&["KEYS", "elida:ended:first:*"]).await.lines().last().expect("a key").to_owned();
    let document = redis.ask(&["GET", &document]).await;
    let document = document.split_once('\n').expect("a text").1.to_owned();
    let base = u128::from_str_radix(&first[2..34], 16).expect("a uid");
    let mut command = vec!["ZADD".to_owned(), "elida:sessions:ended".to_owned()];
    for number in 1..=OLD {
        let uid = format!("s_{:032x}", base + number as u128);
        command.extend([
            "0".to_owned(),
            format!("{uid} {{\"session_id\":\"old\",\"scope\":\"anon:127.0.0.1\"}}"),
        ]);
        let text = document.replace(&format!("s_{base:032x}"), &uid).replace("\"first\"", "\"old\"");
        redis.ask(&["SET", &format!("elida:ended:old:{uid}"), &text]).await;
    }
    redis.ask(&command.iter().map(String::as_str).collect::<Vec<_>>()).await;

    let page = list(&gateways[0], "q=first").await;
    assert_eq!((ids(&page), &page["truncated"]), (vec![], &Value::from(true)), "{page}");
    assert_eq!(page["total"], Value::Null, "{page}");
    let (mut cursor, mut searches) = (page["next_cursor"].as_str().expect("a cursor").to_owned(), 1);
    let found = loop {
        let page = list(&gateways[0], &format!("q=first&cursor={cursor}")).await;
        searches += 1;
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break page,
        }
    };
    assert_eq!((ids(&found), &found["truncated"]), (vec!["first"], &Value::from(false)), "{found}");
    assert!((2..=4).contains(&searches), "{searches}");
    // The command requests the next pages by itself.
    let reply = gateways[0].elida(&["sessions", "--json", "--state", "killed", "--limit", "6000"]).await;
    let reply: Value = serde_json::from_str(&reply).expect("JSON");
    assert_eq!(reply["sessions"].as_array().map(Vec::len), Some(OLD + 1), "{}", reply["truncated"]);

    // One id with thousands of incarnations is found without reading all of them.
    for uid in 1..=OLD {
        let uid = format!("s_{:032x}", base + uid as u128);
        let member = format!("{uid} {{\"session_id\":\"old\",\"scope\":\"anon:127.0.0.1\"}}");
        redis.ask(&["SADD", "elida:ids:old", &member]).await;
    }
    let before = served(&redis, "get").await;
    let session = gateways[0].session_until("old", |_| true).await;
    assert_eq!(session["uid"], format!("s_{:032x}", base + OLD as u128), "{session}");
    let read = served(&redis, "get").await - before;
    assert!(read < 1000, "{read} documents for one id");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_redis_says_that_it_is_not_whole() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 1).await;
    assert_eq!(Call::chat("hello").session("here").send(gateways[0].proxy()).await.status(), 200);
    let page = list(&gateways[0], "state=active").await;
    assert_eq!((&page["truncated"], &page["total"]), (&Value::from(false), &Value::from(1)), "{page}");
    redis.stop();
    crate::fleet::shared::store_is_up(&gateways[0], false).await;
    let page = list(&gateways[0], "state=active").await;
    assert_eq!((&page["truncated"], &page["total"]), (&Value::from(true), &Value::Null), "{page}");
    assert_eq!(ids(&page), ["here"], "{page}");
}
