use std::time::Duration;

use super::budgets::code;
use crate::fleet::shared::{fleet_with, store_is_up};
use crate::support::redis::Redis;
use crate::support::{Call, Demo, Gateway, within};

/// Sends calls to all instances in turn, all at once. Returns how many were admitted.
async fn burst(gateways: &[Gateway], count: usize) -> usize {
    let mut open = tokio::task::JoinSet::new();
    for number in 0..count {
        let proxy = gateways[number % gateways.len()].proxy();
        let call = if number % 2 == 0 { Call::chat("one") } else { Call::chat_stream("one two") };
        open.spawn(async move { call.session(&format!("s-{number}")).send(proxy).await });
    }
    let mut admitted = 0;
    while let Some(answer) = open.join_next().await {
        let answer = answer.expect("an answer");
        match answer.status() {
            200 => admitted += 1,
            403 | 429 => assert!(answer.text().contains("requests per hour"), "{}", answer.text()),
            status => panic!("{status}: {}", answer.text()),
        }
    }
    admitted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_for_all_instances_together() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let limits = "limits: [{ name: all, by: \"'all'\", requests: 100/h }]";
    let gateways = fleet_with(&demo, &redis, 3, limits).await;
    let admitted = burst(&gateways, 300).await;
    assert!((80..=100).contains(&admitted), "{admitted}");
    assert_eq!(demo.ledger().arrived(), admitted as u64, "no backend sees the others");
    // What was granted and not used comes back, and then all of it was used.
    let mut all = admitted;
    within("the last slots", async {
        while all < 100 {
            all += burst(&gateways, 3).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!((all, burst(&gateways, 30).await), (100, 0));
    let refusal = Call::chat("one").send(gateways[1].proxy()).await;
    assert_eq!(refusal.head.field("ratelimit-policy"), Some("\"all\";q=100;w=3600"));
    let state = refusal.head.field("ratelimit").unwrap_or_default();
    assert!(state.starts_with("\"all\";r=0;t=3"), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_redis_and_one_that_is_away_let_nothing_through_and_nothing_hang() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let limits =
        "admission: { on_unavailable: refuse }\nlimits: [{ name: all, by: \"'all'\", requests: 40/h }]";
    let gateways = fleet_with(&demo, &redis, 2, limits).await;
    let admitted = burst(&gateways, 100).await;
    assert!((25..=40).contains(&admitted), "{admitted}");
    redis.stop();
    for gateway in &gateways {
        store_is_up(gateway, false).await;
    }
    let refusal = within("an answer without redis", Call::chat("one").send(gateways[0].proxy())).await;
    assert_eq!((refusal.status(), code(&refusal).as_str()), (429, "rate_limited"));
    assert!(refusal.text().contains("redis does not answer"), "{}", refusal.text());
    // It begins empty.
    redis.run().await;
    for gateway in &gateways {
        store_is_up(gateway, true).await;
    }
    let mut all = admitted;
    let until = tokio::time::Instant::now() + Duration::from_secs(6);
    while tokio::time::Instant::now() < until {
        all += burst(&gateways, 6).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(all, 40);
}
