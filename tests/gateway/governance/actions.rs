use std::time::Duration;

use serde_json::{Value, json};

use super::budgets::{accounts, chat, code, prices, settled, tokens};
use crate::fleet::shared::fleet_with;
use crate::support::redis::Redis;
use crate::support::socket::Socket;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_may_kill_the_session_that_passes_it() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!(
        "backend: {:?}\nbudgets:\n  - {{ name: runaway, by: session.id, period: session, limit: 2k tokens, action: kill }}\n",
        demo.url()
    ))
    .await;
    let mut stream = chat("one [[stall]] two", 500, true).session("s").open(gateway.proxy()).await;
    stream.until("one").await;
    let arrived = demo.ledger().arrived();
    let refusal = chat("one", 5000, false).session("s").send(gateway.proxy()).await;
    assert_eq!((refusal.status(), code(&refusal).as_str()), (403, "session_killed"), "{}", refusal.text());
    assert!(
        refusal.text().contains("Session killed: the budget 'runaway' of 2000 tokens"),
        "{}",
        refusal.text()
    );
    let cut = stream.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(cut.text().contains("session_killed") && cut.text().contains("runaway"), "{}", cut.text());
    let again = chat("one", 10, false).session("s").send(gateway.proxy()).await;
    assert_eq!((again.status(), code(&again).as_str()), (403, "session_killed"));
    assert!(again.text().contains("the budget 'runaway'"), "{}", again.text());
    assert_eq!(demo.ledger().arrived(), arrived, "no backend sees it");
    let mut operator = gateway.operator().await;
    let kills = operator.get("/control/kills").await.json();
    assert_eq!(kills["kills"][0]["by"], "budget:runaway", "{kills}");
    assert_eq!(gateway.metric("elida_session_kills_total{source=\"budget\"}").await, 1.0);
    assert_eq!(chat("one", 10, false).session("other").send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_passes_such_a_budget_ends_with_its_session() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!(
        "backend: {:?}\nbudgets:\n  - {{ name: t, by: client.addr, period: total, limit: 16390 tokens, action: kill }}\n",
        demo.url()
    ))
    .await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", "voice").await;
    socket.until("session.created").await;
    socket.ask("a b c d e f g h i j").await;
    socket.until("response.done").await;
    socket.send(&json!({"type": "response.create"})).await;
    let (events, ended) = socket.end().await;
    assert_eq!(ended.map(|(code, _)| code), Some(1008), "{events:?}");
    let killed = |session: &Value| session["state"] == "killed";
    let session = gateway.session_until("voice", killed).await;
    assert_eq!(session["kill"]["by"], "budget:t", "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_by_a_budget_holds_on_all_instances() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let budgets =
        "budgets:\n  - { name: runaway, by: session.id, period: session, limit: 2k tokens, action: kill }\n";
    let gateways = fleet_with(&demo, &redis, 2, budgets).await;
    let mut stream = chat("one [[stall]] two", 500, true).session("s").open(gateways[1].proxy()).await;
    stream.until("one").await;
    let refusal = chat("one", 5000, false).session("s").send(gateways[0].proxy()).await;
    assert_eq!(code(&refusal), "session_killed", "{}", refusal.text());
    let cut = stream.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(cut.text().contains("runaway"), "{}", cut.text());
    let again = chat("one", 10, false).session("s").send(gateways[1].proxy()).await;
    assert_eq!(code(&again), "session_killed", "{}", again.text());
}

/// What is held while a stream is under way.
async fn held(gateway: &Gateway) -> f64 {
    accounts(gateway).await.first().and_then(|account| account["held"].as_f64()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_holds_its_budget_in_steps() {
    let (demo, prices) = (Demo::start().await, prices());
    let gateway = Gateway::with(format!(
        "backend: {:?}\nusage: {{ prices_file: {:?} }}\nbudgets:\n  \
         - {{ name: t, by: \"'all'\", period: month, limit: 30k tokens, hold: steps }}\n  \
         - {{ name: usd, by: \"'all'\", period: month, limit: 0.03 USD, hold: steps }}\n",
        demo.url(),
        prices.path().display()
    ))
    .await;
    // In full it would need 100,000.
    let long = chat("one [[stall]] two", 100_000, true).session("one");
    let mut stream = long.open(gateway.proxy()).await;
    stream.until("one").await;
    let first = held(&gateway).await;
    assert!((4096.0..4600.0).contains(&first), "{first}");
    // Two dollars for a million tokens of the answer.
    let usd = accounts(&gateway).await[1]["held"].as_f64().expect("an amount");
    assert!((0.0081..0.009).contains(&usd), "{usd}");
    assert_eq!(gateway.kill("one").await.status, 200);
    let before = settled(&gateway).await;

    // A whole answer is not seen before its end, so all of it is held.
    let refusal = chat("one", 100_000, false).send(gateway.proxy()).await;
    assert_eq!((refusal.status(), code(&refusal).as_str()), (403, "budget_exceeded"));

    // An answer whose text is longer than a step.
    let answer = chat(LONG, 100_000, true).session("two").send(gateway.proxy()).await;
    assert!(answer.text().contains("[DONE]") && !answer.text().contains("budget_exceeded"), "it fits");
    assert_eq!(settled(&gateway).await - before, tokens(&answer) as f64, "as its provider has counted");
}

/// Some 7,400 tokens by the length of their text.
const LONG: &str = "[[words 3000]] [[pace 500us]]";

/// A budget that lasts for the first step of such an answer only.
const ONE_STEP: &str =
    "budgets:\n  - { name: t, by: \"'all'\", period: month, limit: 4600 tokens, hold: steps }\n";

/// An answer for which the rest of a budget does not last ends with the error of its API, and is not asked for again.
async fn is_cut_once(demo: &Demo, gateways: &[Gateway]) {
    let answer = chat(LONG, 100_000, true).send(gateways[0].proxy()).await;
    assert_eq!(answer.status(), 200);
    let body = answer.text();
    assert!(body.contains("budget_exceeded") && !body.contains("[DONE]"), "{}", &body[body.len() - 600..]);
    let arrived = demo.ledger().arrived();
    for gateway in gateways {
        for stream in [false, true] {
            let again = chat(LONG, 100_000, stream).send(gateway.proxy()).await;
            let is_refused = again.status() == 403 && code(&again) == "budget_exceeded";
            // Another instance may know only that it is held.
            let is_held = again.status() == 429 && code(&again) == "budget_busy";
            assert!(is_refused || is_held && gateways.len() > 1, "{}", again.text());
        }
        within("what it has cost to be spent", async {
            while !(4096.0..=4800.0).contains(&settled(gateway).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    assert_eq!(demo.ledger().arrived(), arrived, "no backend sees it");
    let refusal = chat(LONG, 100_000, true).send(gateways[0].proxy()).await;
    assert_eq!((refusal.status(), code(&refusal).as_str()), (403, "budget_exceeded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_for_which_the_rest_does_not_last_ends_and_is_not_repeated() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!("backend: {:?}\n{ONE_STEP}", demo.url())).await;
    is_cut_once(&demo, &[gateway]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_limit_of_its_own_is_held_in_steps_to_its_end() {
    let demo = Demo::start().await;
    let budgets = ONE_STEP.replace("4600", "20k");
    let gateway = Gateway::with(format!("backend: {:?}\n{budgets}", demo.url())).await;
    let user = json!([{"role": "user", "content": "[[words 9000]] [[pace 100us]]"}]);
    let call = Call::post("/v1/chat/completions");
    let call = call.json(&json!({"model": "gpt-demo", "messages": user, "stream": true}));
    let answer = call.send(gateway.proxy()).await;
    let body = answer.text();
    assert!(body.contains("budget_exceeded") && !body.contains("[DONE]"), "{}", &body[body.len() - 600..]);
    let spent = settled(&gateway).await;
    assert!((19_000.0..=20_300.0).contains(&spent), "{spent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instances_of_a_fleet_hold_in_steps_too() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    is_cut_once(&demo, &fleet_with(&demo, &redis, 2, ONE_STEP).await).await;
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet_with(&demo, &redis, 2, &ONE_STEP.replace("4600", "30k")).await;
    let answer = chat(LONG, 100_000, true).send(gateways[0].proxy()).await;
    assert!(answer.text().contains("[DONE]"), "it fits");
    within("the other instance to know", async {
        while settled(&gateways[1]).await != tokens(&answer) as f64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_passes_such_a_budget_ends_with_its_session() {
    let demo = Demo::start().await;
    let budgets = ONE_STEP.replace("hold: steps", "hold: steps, action: kill");
    let gateway = Gateway::with(format!("backend: {:?}\n{budgets}", demo.url())).await;
    let answer = chat(LONG, 100_000, true).session("s").send(gateway.proxy()).await;
    assert!(answer.text().contains("budget_exceeded"), "{}", answer.text());
    let session = gateway.session_until("s", |session| session["state"] == "killed").await;
    assert_eq!(session["kill"]["by"], "budget:t", "{session}");
    let again = chat("one", 10, false).session("s").send(gateway.proxy()).await;
    assert_eq!((again.status(), code(&again).as_str()), (403, "session_killed"), "{}", again.text());
}

/// A stream that is in the first step of its answer while another request holds nearly all of its budget. Returns both.
async fn beside_a_holder(gateway: &Gateway, text: &str) -> (RawClient, RawClient) {
    let holder = chat("[[stall]] one", 15_700, false).session("y").open(gateway.proxy()).await;
    within("it to hold", async {
        while held(gateway).await < 15_700.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut stream = chat(text, 100_000, true).session("x").open(gateway.proxy()).await;
    stream.until("word1").await;
    (holder, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_hold_ends_a_stream_and_kills_no_session() {
    let demo = Demo::start().await;
    let budgets = ONE_STEP.replace("4600", "20k").replace("hold: steps", "hold: steps, action: kill");
    let gateway = Gateway::with(format!("backend: {:?}\n{budgets}", demo.url())).await;
    let (holder, mut stream) = beside_a_holder(&gateway, LONG).await;
    let answer = stream.message(Unframed::UntilEnd).await.expect("an answer").text();
    assert!(answer.contains("budget_busy") && !answer.contains("budget_exceeded"), "{answer}");
    drop(holder);
    let again = chat("one", 10, false).session("x").send(gateway.proxy()).await;
    assert_eq!(again.status(), 200, "{}", again.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_others_had_no_room_for_is_held_once_they_release_it() {
    let demo = Demo::start().await;
    let gateway =
        Gateway::with(format!("backend: {:?}\n{}", demo.url(), ONE_STEP.replace("4600", "20k"))).await;
    let (holder, mut stream) = beside_a_holder(&gateway, "[[words 3000]] [[pace 2ms]]").await;
    // Three quarters of the step are written, and another one was asked for in vain.
    stream.until("word1450").await;
    drop(holder);
    let answer = stream.message(Unframed::UntilEnd).await.expect("an answer").text();
    assert!(answer.contains("[DONE]") && !answer.contains("budget_busy"), "{answer}");
}
