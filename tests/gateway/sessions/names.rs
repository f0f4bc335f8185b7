use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::shared::{fleet, store_is_up};
use crate::support::redis::Redis;
use crate::support::wire::Unframed;
use crate::support::{Call, Demo, Gateway, RawClient, within};

async fn ask(gateway: &Gateway, caller: &str, id: &str) -> u16 {
    let call = Call::chat("hello").session(id).header("Authorization", &format!("Bearer {caller}"));
    call.send(gateway.proxy()).await.status()
}

async fn stalled(gateway: &Gateway, caller: &str, id: &str) -> RawClient {
    let call = Call::chat_stream("[[stall]]").session(id);
    let call = call.header("Authorization", &format!("Bearer {caller}"));
    let mut client = call.open(gateway.proxy()).await;
    client.until("\"delta\":{\"content\":\"").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_anothers_uid_is_told_and_never_guessed() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    assert_eq!(ask(&gateway, "victim-key", "victim").await, 200);
    let victim = gateway.session_until("victim", |session| session["open_legs"] == 0).await;
    let uid = victim["uid"].as_str().expect("a uid").to_owned();
    assert_eq!(ask(&gateway, "eves-key", &uid).await, 200);

    let path = format!("/control/sessions/{uid}");
    let mut operator = gateway.operator().await;
    let kill = json!({"reason": "runaway"});
    for answer in [operator.get(&path).await, operator.post(&format!("{path}/kill"), &kill).await] {
        let problem = answer.json();
        assert_eq!((answer.status(), &problem["code"]), (409, &json!("session_ambiguous")), "{problem}");
        assert_eq!(problem["uids"].as_array().map(Vec::len), Some(2), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("?by=")), "{problem}");
    }
    assert_eq!(operator.get(&format!("{path}?by=nonsense")).await.status(), 400);
    assert_eq!(operator.get(&format!("{path}?by=uid")).await.json()["id"], "victim");
    let eve = operator.get(&format!("{path}?by=id")).await.json();
    assert_eq!(eve["id"], json!(uid));

    // The command line prints the same text, and kills what was meant.
    let shown = gateway.elida(&["session", &uid, "--by", "uid", "--json"]).await;
    assert!(shown.contains("\"victim\""), "{shown}");
    gateway.elida(&["kill", &uid, "--by", "id", "--reason", "runaway"]).await;
    assert_eq!(
        (ask(&gateway, "victim-key", "victim").await, ask(&gateway, "eves-key", &uid).await),
        (200, 403)
    );
    let killed = operator.post(&format!("{path}/kill?by=uid"), &kill).await;
    assert_eq!((killed.status(), &killed.json()["session_id"]), (200, &json!("victim")));
    assert_eq!(ask(&gateway, "victim-key", "victim").await, 403);

    let both = operator.post(&format!("{path}/resume"), &Value::Null).await;
    assert_eq!((both.status(), &both.json()["code"]), (409, &json!("session_ambiguous")));
    gateway.elida(&["resume", &uid, "--by", "uid"]).await;
    assert_eq!(
        (ask(&gateway, "victim-key", "victim").await, ask(&gateway, "eves-key", &uid).await),
        (200, 403)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_killed_while_redis_is_away_is_killed_for_all_its_callers_once_it_is_back() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 2).await;
    assert_eq!(ask(&gateways[0], "adas-key", "shared").await, 200);
    let mut bob = stalled(&gateways[1], "bobs-key", "shared").await;
    let mut other = stalled(&gateways[1], "bobs-key", "other").await;
    // With Redis the name is ambiguous.
    assert_eq!(gateways[0].kill("shared").await.status, 409);
    redis.stop();
    for gateway in &gateways {
        store_is_up(gateway, false).await;
    }
    let killed = gateways[0].kill("shared").await;
    assert_eq!((killed.status, &killed.body["instances_notified"]), (200, &json!(1)), "{killed:?}");
    assert_eq!(ask(&gateways[0], "adas-key", "shared").await, 403);
    redis.run().await;
    let cut = within("the cut", bob.message(Unframed::UntilEnd)).await.expect("an answer");
    assert!(cut.text().contains("session_killed") && cut.text().contains("runaway"), "{}", cut.text());
    for gateway in &gateways {
        for caller in ["adas-key", "bobs-key"] {
            assert_eq!(ask(gateway, caller, "shared").await, 403, "{caller}");
        }
    }
    // A caller that arrives after the kill is not the killed one.
    assert_eq!(ask(&gateways[1], "eves-key", "shared").await, 200);
    let quiet = tokio::time::timeout(Duration::from_millis(100), other.message(Unframed::UntilEnd)).await;
    assert!(quiet.is_err(), "another id goes on");
}
