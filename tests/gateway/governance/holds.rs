use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fleet::shared::{fleet_with, store_is_up};
use crate::support::redis::Redis;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, within};

/// Holds every chat of the demo model.
const RULE: &str = "policy:\n  rules:\n    - { id: ask, on: request, when: 'request.model == \"gpt-demo\"', \
                    action: hold, message: 'Ask first' }\n";

fn yaml(demo: &Demo, more: &str) -> String {
    format!("backend: {:?}\n{RULE}{more}", demo.url())
}

/// Sends a chat that is held, as a task.
fn send(gateway: &Gateway, text: &str) -> JoinHandle<Message> {
    let (call, proxy) = (Call::chat(text).session("s"), gateway.proxy());
    tokio::spawn(async move { call.send(proxy).await })
}

fn code(refusal: &Message) -> String {
    let body = refusal.json();
    body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub async fn list(gateway: &Gateway, state: &str) -> Vec<Value> {
    let list = gateway.operator().await.get(&format!("/control/approvals?state={state}")).await.json();
    list["approvals"].as_array().cloned().expect("a list")
}

/// Waits until so many calls are pending; returns their ids, the newest first.
pub async fn pending(gateway: &Gateway, count: usize) -> Vec<String> {
    within(&format!("{count} pending approvals"), async {
        loop {
            let found = list(gateway, "pending").await;
            if found.len() == count {
                return found.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

pub async fn decide(gateway: &Gateway, id: &str, decision: &str) -> Value {
    let body = json!({"decision": decision, "reason": "said so"});
    let answer = gateway.operator().await.post(&format!("/control/approvals/{id}"), &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

pub async fn held(gateway: &Gateway, count: f64) {
    within(&format!("{count} held calls"), async {
        while gateway.metric("elida_held_calls").await != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub async fn answer(call: JoinHandle<Message>) -> Message {
    within("an answer", call).await.expect("a task that ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_held_until_it_is_approved_and_each_approval_is_for_one() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "")).await;
    let first = send(&gateway, "one");
    let ids = pending(&gateway, 1).await;
    assert_eq!(demo.ledger().arrived(), 0);
    // The session goes on meanwhile.
    let other = Call::messages_stream("hello").session("s").send(gateway.proxy()).await;
    assert_eq!(other.status(), 200, "{}", other.text());
    let arrived = demo.ledger().arrived();
    let shown = &list(&gateway, "pending").await[0];
    assert_eq!(
        (&shown["rule"], &shown["phase"], &shown["session_id"]),
        (&json!("ask"), &json!("request"), &json!("s"))
    );
    assert!(shown["arguments"].as_str().is_some_and(|text| text.contains("\"one\"")), "{shown}");
    assert_eq!(decide(&gateway, &ids[0], "approve").await["state"], "approved");
    let passed = answer(first).await;
    assert_eq!(passed.status(), 200, "{}", passed.text());
    assert_eq!(demo.ledger().arrived(), arrived + 1);
    assert_eq!(list(&gateway, "used").await.len(), 1);

    // The same again asks anew, and what differs by a letter asks for itself.
    let (again, more) = (send(&gateway, "one"), send(&gateway, "one!"));
    let ids = pending(&gateway, 2).await;
    for id in &ids {
        decide(&gateway, id, "deny").await;
    }
    for call in [again, more] {
        let refused = answer(call).await;
        assert_eq!((refused.status(), code(&refused).as_str()), (403, "approval_denied"));
        let text = refused.text();
        assert!(text.contains("said so") && text.contains("\"approval_id\":\"appr_"), "{text}");
        assert_eq!(refused.head.field("x-should-retry"), Some("false"));
    }
    // A denial stands.
    assert_eq!(code(&answer(send(&gateway, "one")).await), "approval_denied");
    assert_eq!((demo.ledger().arrived(), list(&gateway, "pending").await.len()), (arrived + 1, 0));
    assert_eq!(gateway.metric("elida_hold_seconds_count{outcome=\"approved\"}").await, 1.0);
    // The third was refused before it was held: it repeats what was denied.
    assert_eq!(gateway.metric("elida_hold_seconds_count{outcome=\"denied\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_and_comes_back_asks_nobody_twice() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "")).await;
    let call = Call::chat("one").session("s");
    let client = call.open(gateway.proxy()).await;
    let ids = pending(&gateway, 1).await;
    drop(client);
    held(&gateway, 0.0).await;
    assert_eq!(pending(&gateway, 1).await, ids);
    let again = send(&gateway, "one");
    held(&gateway, 1.0).await;
    assert_eq!(pending(&gateway, 1).await, ids);
    again.abort();
    held(&gateway, 0.0).await;
    decide(&gateway, &ids[0], "approve").await;
    assert_eq!(answer(send(&gateway, "one")).await.status(), 200, "approved meanwhile");
    // Two that wait for the same approval: one goes on, the other asks anew.
    let both = [send(&gateway, "two"), send(&gateway, "two")];
    held(&gateway, 2.0).await;
    let first = pending(&gateway, 1).await;
    decide(&gateway, &first[0], "approve").await;
    let second = pending(&gateway, 1).await;
    assert_ne!(first, second);
    held(&gateway, 1.0).await;
    within("the request that was let go on", async {
        while demo.ledger().arrived() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(demo.ledger().arrived(), 2);
    decide(&gateway, &second[0], "deny").await;
    let mut statuses = Vec::new();
    for call in both {
        statuses.push(answer(call).await.status());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_in_time_and_the_same_call_finds_its_approval_later() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "approvals: { wait: 1s }\n")).await;
    let begun = Instant::now();
    let refused = answer(send(&gateway, "one")).await;
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!((refused.status(), code(&refused).as_str()), (403, "approval_timeout"));
    assert!(
        refused.text().contains("Ask first: nobody has approved this request in time"),
        "{}",
        refused.text()
    );
    let ids = pending(&gateway, 1).await;
    decide(&gateway, &ids[0], "approve").await;
    assert_eq!((answer(send(&gateway, "one")).await.status(), demo.ledger().arrived()), (200, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_a_held_call_at_once_and_a_reload_makes_it_no_hole() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "")).await;
    let call = send(&gateway, "one");
    let ids = pending(&gateway, 1).await;
    let begun = Instant::now();
    assert_eq!(gateway.kill("s").await.status, 200);
    let refused = answer(call).await;
    assert_eq!(code(&refused), "session_killed", "{}", refused.text());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    decide(&gateway, &ids[0], "approve").await;
    assert_eq!(
        (code(&answer(send(&gateway, "one")).await).as_str(), demo.ledger().arrived()),
        ("session_killed", 0)
    );
    assert_eq!(gateway.resume("s").await, 200);

    // While it is held, the rules begin to block it.
    let call = send(&gateway, "two");
    let ids = pending(&gateway, 1).await;
    gateway.rewrite(&yaml(&demo, "").replace("action: hold", "action: block"));
    let reload = gateway.operator().await.post("/control/config/reload", &Value::Null).await;
    assert_eq!(reload.status(), 200, "{}", reload.text());
    decide(&gateway, &ids[0], "approve").await;
    let refused = answer(call).await;
    assert_eq!(
        (code(&refused).as_str(), demo.ledger().arrived()),
        ("policy_blocked", 0),
        "{}",
        refused.text()
    );
    assert_eq!(code(&answer(send(&gateway, "two")).await), "policy_blocked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_and_answered_survives_a_crash() {
    let demo = Demo::start().await;
    let config = yaml(&demo, "");
    let mut gateway = Gateway::with(&config).await;
    let calls = [send(&gateway, "one"), send(&gateway, "two"), send(&gateway, "three")];
    let ids = pending(&gateway, 3).await;
    let of = async |text: &str| {
        let all = list(&gateway, "all").await;
        let found = all.iter().find(|one| one["arguments"].as_str().is_some_and(|args| args.contains(text)));
        found.expect("an approval")["id"].as_str().expect("an id").to_owned()
    };
    let (one, two) = (of("\"one\"").await, of("\"two\"").await);
    assert!(ids.contains(&one) && ids.contains(&two));
    decide(&gateway, &one, "approve").await;
    for (at, call) in calls.into_iter().enumerate() {
        if at == 0 {
            assert_eq!(answer(call).await.status(), 200);
        } else {
            call.abort();
        }
    }
    held(&gateway, 0.0).await;
    decide(&gateway, &two, "approve").await;
    gateway.crash_and_restart(&config).await;
    assert_eq!(pending(&gateway, 1).await.len(), 1, "three is pending");
    assert_eq!(answer(send(&gateway, "two")).await.status(), 200, "two is approved");
    let again = send(&gateway, "one");
    assert_eq!(pending(&gateway, 2).await.len(), 2, "one was used, and asks anew");
    again.abort();
    assert_eq!(demo.ledger().arrived(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_two_instances_one_approval_is_one_call() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet_with(&demo, &redis, 2, RULE).await;
    let call = send(&gateways[0], "one");
    let ids = pending(&gateways[1], 1).await;
    decide(&gateways[1], &ids[0], "approve").await;
    assert_eq!(answer(call).await.status(), 200, "an answer elsewhere releases it");

    // The same call at both: whichever comes second asks anew.
    let first = send(&gateways[0], "two");
    let ids = pending(&gateways[1], 1).await;
    let second = send(&gateways[1], "two");
    held(&gateways[1], 1.0).await;
    assert_eq!(pending(&gateways[0], 1).await, ids);
    decide(&gateways[0], &ids[0], "approve").await;
    let rest = pending(&gateways[0], 1).await;
    assert_ne!(rest, ids);
    decide(&gateways[1], &rest[0], "deny").await;
    let mut statuses = [answer(first).await.status(), answer(second).await.status()];
    statuses.sort_unstable();
    assert_eq!((statuses, demo.ledger().arrived()), ([200, 403], 2));

    // While Redis does not answer, nobody knows whether it was used elsewhere.
    let call = send(&gateways[0], "three");
    let ids = pending(&gateways[0], 1).await;
    redis.stop();
    store_is_up(&gateways[0], false).await;
    decide(&gateways[0], &ids[0], "approve").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((gateways[0].metric("elida_held_calls").await, demo.ledger().arrived()), (1.0, 2));
    redis.run().await;
    assert_eq!((answer(call).await.status(), demo.ledger().arrived()), (200, 3));
}
