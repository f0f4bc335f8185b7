use std::time::Duration;

use serde_json::{Value, json};

use super::budgets::{accounts, chat, code, settled, tokens};
use crate::fleet::shared::{fleet_with, store_is_up};
use crate::support::redis::Redis;
use crate::support::redis_cluster::Cluster;
use crate::support::wire::Unframed;
use crate::support::{Demo, Gateway, within};

async fn account(gateway: &Gateway, budget: &str) -> Value {
    let accounts = accounts(gateway).await;
    accounts.into_iter().find(|account| account["budget"] == budget).unwrap_or_default()
}

/// Waits until this instance knows that so much is spent and nothing held.
async fn knows(gateway: &Gateway, budget: &str, spent: f64) {
    within(&format!("{spent} to be spent of {budget}"), async {
        loop {
            let account = account(gateway, budget).await;
            if account["spent"] == spent && account["held"] == 0.0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// One request that is answered; its tokens.
async fn spend(gateway: &Gateway) -> u64 {
    within("a request to be admitted", async {
        loop {
            let answer = chat("one two three", 100, false).send(gateway.proxy()).await;
            if answer.status() == 200 {
                return tokens(&answer);
            }
            assert_eq!(code(&answer), "budget_busy", "{}", answer.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

const ONE: &str = "budgets:\n  - { name: t, by: \"'all'\", period: month, limit: 1M tokens }";

#[tokio::test(flavor = "multi_thread")]
async fn what_all_instances_spend_is_one_account() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let mut gateways = fleet_with(&demo, &redis, 3, ONE).await;
    let mut counted = 0;
    for turn in 0..30 {
        counted += spend(&gateways[turn % 3]).await;
    }
    for gateway in &gateways {
        knows(gateway, "t", counted as f64).await;
    }
    // An instance that stops tells all and holds nothing, and what it has spent stays.
    counted += spend(&gateways[2]).await;
    gateways[2].terminate();
    assert!(gateways[2].ended().await.success());
    gateways.truncate(2);
    for gateway in &gateways {
        knows(gateway, "t", counted as f64).await;
    }
}

/// A thousand requests at once against room for a hundred on three instances, of which one is killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_at_once_on_three_instances_never_pass_a_budget() {
    const NEED: u64 = 1000;
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let body = chat("one two three", NEED, true).bytes("x").len() as u64;
    let limit = 100 * (NEED + body / 2);
    let budgets = format!(
        "budgets:\n  - {{ name: outer, by: \"'all'\", period: month, limit: {limit} tokens }}\n  \
         - {{ name: inner, by: client.addr, period: day, limit: 1M tokens }}"
    );
    let mut gateways = fleet_with(&demo, &redis, 3, &budgets).await;
    let mut open = tokio::task::JoinSet::new();
    for number in 0..1000_usize {
        let proxy = gateways[number % 3].proxy();
        open.spawn(async move {
            let (streamed, hangs_up) = (number % 2 == 0, number % 5 == 0);
            let text = if hangs_up { "one [[stall]] two" } else { "one two three" };
            let mut client = chat(text, NEED, streamed).open(proxy).await;
            if hangs_up {
                let _ = tokio::time::timeout(Duration::from_millis(300), client.head()).await;
                return 0;
            }
            match client.message(Unframed::Empty).await {
                Some(answer) if answer.status() == 200 => tokens(&answer),
                Some(answer) => {
                    assert!(matches!(answer.status(), 403 | 429), "{}", answer.text());
                    0
                }
                // Its instance was killed.
                None => 0,
            }
        });
    }
    let (mut counted, mut ended) = (0, 0);
    let mut killed = None;
    while let Some(used) = open.join_next().await {
        counted += used.unwrap_or(0);
        ended += 1;
        if ended == 200 {
            let victim = gateways.pop().expect("three");
            assert!(crate::support::gateway::signal(victim.pid(), "KILL"));
            killed = Some(victim);
        }
        if ended % 100 == 0 {
            let account = account(&gateways[0], "outer").await;
            let all =
                account["spent"].as_f64().zip(account["held"].as_f64()).map(|(spent, held)| spent + held);
            assert!(all <= account["limit"].as_f64(), "{account}");
        }
    }
    // What the killed instance held comes back with its lease.
    let mut spent = 0.0;
    for gateway in &gateways {
        spent = settled(gateway).await;
    }
    for gateway in &gateways {
        knows(gateway, "outer", spent).await;
        knows(gateway, "inner", spent).await;
    }
    assert!(spent <= limit as f64, "{spent} of {limit}");
    assert!(spent >= counted as f64, "{spent}: {counted} were counted for clients that stayed");
    let answer = chat("one two three", 10, false).send(gateways[1].proxy()).await;
    assert!(answer.status() == 200 || spent + 60.0 > limit as f64, "{}", answer.text());
    drop(killed);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_counted_twice_when_redis_is_wiped_or_away() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet_with(&demo, &redis, 2, ONE).await;
    let mut counted = 0;
    for turn in 0..10 {
        counted += spend(&gateways[turn % 2]).await;
    }
    for gateway in &gateways {
        knows(gateway, "t", counted as f64).await;
    }
    redis.ask(&["FLUSHALL"]).await;
    for gateway in &gateways {
        counted += spend(gateway).await;
    }
    for gateway in &gateways {
        knows(gateway, "t", counted as f64).await;
    }
    counted += spend(&gateways[0]).await;
    redis.stop();
    for gateway in &gateways {
        store_is_up(gateway, false).await;
    }
    // Nothing is known of the other instance: only what was granted before may be spent.
    let refused = within("the grant to be used up", async {
        loop {
            let answer = chat("one two three", 20_000, false).send(gateways[1].proxy()).await;
            if answer.status() != 200 {
                return answer;
            }
            counted += tokens(&answer);
        }
    })
    .await;
    assert_eq!((refused.status(), code(&refused).as_str()), (429, "budget_busy"));
    assert!(refused.text().contains("redis does not answer"), "{}", refused.text());
    redis.run().await;
    for gateway in &gateways {
        store_is_up(gateway, true).await;
    }
    for gateway in &gateways {
        knows(gateway, "t", counted as f64).await;
        counted += spend(gateway).await;
    }
    for gateway in &gateways {
        knows(gateway, "t", counted as f64).await;
    }
    assert_eq!(account(&gateways[0], "t").await["name"], json!("all"));
}

/// In a cluster all keys of a request lie in one slot, and a replica that takes over knows what is spent.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_the_master_of_the_accounts_forgets_nothing() {
    const TWO: &str = "budgets:\n  - { name: t, by: \"'all'\", period: month, limit: 1M tokens }\n  \
                       - { name: own, by: client.addr, period: day, limit: 1M tokens }";
    let (demo, mut cluster) = (Demo::start().await, Cluster::start(3, 1).await);
    let gateways = fleet_with(&demo, &cluster, 2, TWO).await;
    let mut counted = 0;
    for turn in 0..20 {
        counted += spend(&gateways[turn % 2]).await;
    }
    for gateway in &gateways {
        knows(gateway, "t", counted as f64).await;
        knows(gateway, "own", counted as f64).await;
    }
    let (_, master) = cluster.slot("elida:{b}:instances").await;
    cluster.servers[master].stop();
    within("a replica to be promoted", async {
        while cluster.masters().await.len() < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    cluster.whole().await;
    for turn in 0..10 {
        counted += spend(&gateways[turn % 2]).await;
    }
    for gateway in &gateways {
        knows(gateway, "t", counted as f64).await;
        knows(gateway, "own", counted as f64).await;
    }
}
