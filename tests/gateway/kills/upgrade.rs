use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::shared::store_is_up;
use crate::sessions::agents::{SESSION, order, spoke, stalled};
use crate::support::gateway::signal;
use crate::support::redis::Redis;
use crate::support::timing::{Times, after};
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

/// Streams killed per round.
const KILLS: usize = 100;
/// 99 % of the active streams end within this time after the answer to the kill.
const BOUND: Duration = Duration::from_millis(5);

fn yaml(demo: &Demo, keys: &str) -> String {
    format!("backend: {:?}\n{keys}\n", demo.url())
}

async fn ask(gateway: &Gateway, id: &str) -> u16 {
    Call::chat("hello").session(id).send(gateway.proxy()).await.status()
}

/// A stream that goes on until it is cut.
async fn stream(gateway: &Gateway, id: &str) -> RawClient {
    let call = Call::chat_stream("[[words 5000]] [[pace 5ms]]").session(id);
    let mut client = call.open(gateway.proxy()).await;
    client.until("word1").await;
    client
}

async fn is_cut(client: &mut RawClient) {
    let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
    let text = cut.text();
    assert!(text.contains("session_killed") && !text.contains("[DONE]"), "{}", &text[text.len() - 300..]);
}

/// How many processes have replaced another one so far.
fn upgrades(gateway: &Gateway) -> usize {
    let draining = |line: &&Value| line["message"] == "draining";
    gateway.log_lines().iter().filter(draining).count()
}

/// Replaces the process `pid`, waits until only the new one accepts, and returns the new pid.
async fn upgrade(gateway: &Gateway, pid: u32) -> u32 {
    let before = upgrades(gateway);
    assert!(signal(pid, "QUIT"));
    within("the upgrade", async {
        while upgrades(gateway) == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let lines = gateway.log_lines();
    let started = lines.iter().rfind(|line| line["message"] == "starting the new process").expect("a start");
    started["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

/// A session that only the old process has is listed, killed and resumed at the new control port.
async fn old_sessions_obey(gateway: &Gateway, new: u32, mut client: RawClient) {
    let session = gateway.session_until("old", |session| session["open_legs"] == 1).await;
    assert_eq!(session["state"], "active", "{session}");
    let listed = gateway.elida(&["sessions", "--state", "active"]).await;
    assert!(listed.contains("old"), "{listed}");
    let killed = gateway.kill("old").await;
    // Over Redis the old process may carry the order out before it is asked; then it has nothing left to cut.
    let least = u64::from(killed.body["instances_notified"] == 1);
    let cut = killed.body["legs_cut"].as_u64().expect("a number");
    assert!(killed.status == 200 && (least..=1).contains(&cut), "{killed:?}");
    assert_eq!((&killed.body["state"], &killed.body["uid"]), (&json!("killed"), &session["uid"]));
    is_cut(&mut client).await;
    assert_eq!(ask(gateway, "old").await, 403, "it stays killed");
    // The old process had no other work and has exited; the order is still in force.
    assert!(signal(new, "0"));
    assert_eq!(ask(gateway, "old").await, 403);
    let kills = gateway.operator().await.get("/control/kills").await.json();
    assert_eq!(kills["kills"].as_array().map(Vec::len), Some(1), "{kills}");
    let record = |line: &Value| line["message"] == "session_record" && line["session_id"] == "old";
    assert_eq!(gateway.log_until(record).await["state"], "killed");
    assert_eq!(gateway.resume("old").await, 200);
    assert_eq!(ask(gateway, "old").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_only_the_old_process_knows_is_killed_at_the_new_port() {
    let demo = Demo::start().await;
    for keys in ["", "history: { enabled: false }"] {
        let mut gateway = Gateway::with(yaml(&demo, keys)).await;
        let client = stream(&gateway, "old").await;
        let new = upgrade(&gateway, gateway.pid()).await;
        old_sessions_obey(&gateway, new, client).await;
        assert!(gateway.ended().await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_kills_the_sessions_of_the_old_process_too() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::with(yaml(&demo, "")).await;
    let mut client = stream(&gateway, "old").await;
    upgrade(&gateway, gateway.pid()).await;
    assert_eq!(ask(&gateway, "new").await, 200);
    let body = json!({"when": "session.requests >= 1", "reason": "all of them"});
    let killed = gateway.operator().await.post("/control/kill", &body).await.json();
    assert_eq!((&killed["killed"], &killed["legs_cut"]), (&json!(2), &json!(1)), "{killed}");
    is_cut(&mut client).await;
    assert_eq!((ask(&gateway, "old").await, ask(&gateway, "new").await), (403, 403), "they stay killed");
    assert!(gateway.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_killed_through_redis_and_without_it() {
    let demo = Demo::start().await;
    for is_away in [false, true] {
        let mut redis = Redis::start().await;
        let keys = format!("session: {{ store: redis, redis: {{ url: {:?} }} }}", redis.url());
        let gateway = Gateway::with(yaml(&demo, &keys)).await;
        store_is_up(&gateway, true).await;
        let client = stream(&gateway, "old").await;
        if is_away {
            redis.stop();
            store_is_up(&gateway, false).await;
        }
        let new = upgrade(&gateway, gateway.pid()).await;
        if !is_away {
            store_is_up(&gateway, true).await;
        }
        old_sessions_obey(&gateway, new, client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_flows_in_the_old_process_is_cut_as_fast_as_ever() {
    let demo = Demo::start().await;
    for _ in 0..3 {
        let gateway = Gateway::alone(&demo).await;
        let mut clients = Vec::new();
        for number in 0..KILLS {
            clients.push(stream(&gateway, &format!("s-{number}")).await);
        }
        upgrade(&gateway, gateway.pid()).await;
        let (mut operator, mut times) = (gateway.operator().await, Times::default());
        for (number, client) in clients.iter_mut().enumerate() {
            let id = format!("s-{number}");
            let (killed, answer) = tokio::join!(operator.kill(&id), client.message(Unframed::UntilEnd));
            assert_eq!((killed.status, &killed.body["legs_cut"]), (200, &json!(1)), "{killed:?}");
            times.push(after(killed.answered, answer.expect("an answer").ended));
        }
        eprintln!("kill at the new process of a stream of the old one: {times}");
        if times.percentile(99) < BOUND {
            return;
        }
    }
    panic!("p99 was never under {BOUND:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_both_processes_dies_in_both_and_agents_are_found_in_both() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let (mut both, mut one) = (stream(&gateway, "both").await, stalled(&gateway, "one", "").await);
    let mut below = stalled(&gateway, "below", "one").await;
    upgrade(&gateway, gateway.pid()).await;
    let mut newer = stream(&gateway, "both").await;
    let killed = gateway.kill("both").await;
    assert_eq!((killed.status, &killed.body["legs_cut"]), (200, &json!(2)), "{killed:?}");
    is_cut(&mut both).await;
    is_cut(&mut newer).await;
    assert_eq!(ask(&gateway, "both").await, 403);

    // The new process knows the session, but not yet this agent in it.
    assert_eq!(spoke(&gateway, "", "").await, 200);
    let (status, killed) = order(&gateway, "kill", &json!({"reason": "runaway", "agent": "one"})).await;
    assert_eq!((status, &killed["legs_cut"]), (200, &json!(2)), "{killed}");
    assert_eq!(killed["descendants"], json!(["below"]), "{killed}");
    for client in [&mut one, &mut below] {
        let text = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer").text();
        assert!(text.contains("agent_killed"), "{text}");
    }
    assert_eq!((spoke(&gateway, "one", "").await, spoke(&gateway, "below", "one").await), (403, 403));
    assert_eq!(spoke(&gateway, "other", "").await, 200, "{SESSION} lives");
    assert_eq!(order(&gateway, "resume", &json!({"agent": "one"})).await.0, 200);
    assert_eq!(spoke(&gateway, "one", "").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_upgrades_in_a_row_leave_nobody_out_of_reach() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::with(yaml(&demo, "history: { enabled: false }")).await;
    assert_eq!(ask(&gateway, "before").await, 200);
    assert_eq!(gateway.kill("before").await.status, 200);
    let mut first = stream(&gateway, "first").await;
    let second_process = upgrade(&gateway, gateway.pid()).await;
    let mut second = stream(&gateway, "second").await;
    let third_process = upgrade(&gateway, second_process).await;
    assert_eq!(ask(&gateway, "before").await, 403, "a kill without a history goes along");
    let ids: Vec<Value> = gateway.sessions().await.into_iter().map(|session| session["id"].clone()).collect();
    assert!(ids.contains(&json!("first")) && ids.contains(&json!("second")), "{ids:?}");
    // The process in the middle only passes messages on from now on.
    assert_eq!(gateway.kill("second").await.status, 200);
    is_cut(&mut second).await;
    let killed = gateway.kill("first").await;
    assert_eq!((killed.status, &killed.body["legs_cut"]), (200, &json!(1)), "{killed:?}");
    is_cut(&mut first).await;
    assert_eq!((ask(&gateway, "first").await, ask(&gateway, "second").await), (403, 403));
    assert!(gateway.ended().await.success());
    within("the one in between to end", async {
        while signal(second_process, "0") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(signal(third_process, "0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_new_process_cuts_nothing_of_the_old_one() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::start(&demo).await;
    let call = Call::chat_stream("[[words 200]] [[pace 10ms]]").session("old");
    let mut client = call.open(gateway.proxy()).await;
    client.until("word1").await;
    let new = upgrade(&gateway, gateway.pid()).await;
    assert!(signal(new, "KILL"));
    gateway.log_until(|line| line["message"] == "the other process of this upgrade has ended").await;
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.is_whole && answer.text().contains("[DONE]"), "the stream ends by itself");
    assert!(gateway.ended().await.success());
}
