use serde_json::{Value, json};

use crate::callers::keys::key;
use crate::fleet::shared::fleet;
use crate::support::redis::Redis;
use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, Demo, Gateway, within};

/// Callers of two tenants, an operator of one of them and one of all, with their keys in this order.
const CALLERS: [(&str, &str); 5] = [
    ("ci", "tenant: acme, groups: [build]"),
    ("dev", "tenant: acme, groups: [people]"),
    ("rival", "tenant: other, groups: [build]"),
    ("soc", "tenant: acme"),
    ("root", ""),
];

struct House {
    gateway: Gateway,
    keys: Vec<String>,
    _demo: Demo,
}

impl House {
    async fn open() -> Self {
        let demo = Demo::start().await;
        let keys: Vec<String> = CALLERS.iter().map(|_| key()).collect();
        let mut yaml = "auth:\n  proxy: required\n  principals:\n".to_owned();
        for ((id, more), key) in CALLERS.iter().zip(&keys) {
            let digest = crate::support::sha256(key.as_bytes());
            yaml += &format!("    - {{ id: {id}, key_sha256: '{digest}', {more} }}\n");
        }
        yaml += "  roles:\n    - { role: operator, principals: ['key:soc'], tenant: acme }\n    - { role: admin, principals: ['key:root'] }\n";
        yaml += &format!(
            "backends:\n  demo: {{ url: {:?}, type: openai, default: true, auth: {{ mode: none }} }}\n",
            demo.url()
        );
        Self { gateway: Gateway::with(yaml).await, keys, _demo: demo }
    }

    fn key(&self, id: &str) -> &str {
        &self.keys[CALLERS.iter().position(|(known, _)| *known == id).expect("a caller")]
    }

    async fn call(&self, id: &str, session: &str, text: &str) -> Message {
        let call = Call::chat(text).header("x-api-key", self.key(id)).session(session);
        call.send(self.gateway.proxy()).await
    }

    async fn operate(&self, id: &str, body: &Value) -> Message {
        let call = Call::post("/control/kill").json(body);
        let call = call.header("authorization", &format!("Bearer {}", self.key(id)));
        call.send(self.gateway.control()).await
    }
}

fn ids(answer: &Message) -> Vec<String> {
    let answer = answer.json();
    let sessions = answer["sessions"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let mut ids: Vec<String> =
        sessions.iter().map(|session| session["session_id"].as_str().expect("an id").to_owned()).collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_kills_the_sessions_that_fit_all_of_it_and_no_others() {
    let house = House::open().await;
    for (id, session) in [("ci", "c-1"), ("ci", "c-2"), ("dev", "d-1"), ("rival", "r-1")] {
        assert_eq!(house.call(id, session, "hello").await.status(), 200);
    }
    let agent = Call::chat("hello").header("x-api-key", house.key("dev")).session("d-2");
    let agent = agent.header("x-claude-code-agent-id", "scout");
    assert_eq!(agent.send(house.gateway.proxy()).await.status(), 200);
    for (selector, fits) in [
        (json!({"principal": "key:ci"}), &["c-1", "c-2"][..]),
        (json!({"group": "build"}), &["c-1", "c-2", "r-1"]),
        (json!({"group": "build", "principal": "key:rival"}), &["r-1"]),
        (json!({"group": "build", "model": "no-such-*"}), &[]),
        (json!({"model": "GPT-*", "backend": "demo", "group": "people"}), &["d-1", "d-2"]),
        (json!({"agent": "scout"}), &["d-2"]),
        (json!({"agent": "scout", "group": "build"}), &[]),
        (json!({"client": "no-such-program"}), &[]),
        (json!({"idle_over": "1h"}), &[]),
        (json!({"running_over": "1ms", "group": "build", "idle_over": "1ms"}), &["c-1", "c-2", "r-1"]),
        (
            json!({"when": "principal.tenant == 'acme' && session.requests < 2"}),
            &["c-1", "c-2", "d-1", "d-2"],
        ),
        (json!({"when": "principal.id.startsWith('key:c') || session.id == 'r-1'"}), &["c-1", "c-2", "r-1"]),
    ] {
        let mut body = selector.clone();
        body["dry_run"] = json!(true);
        let answer = house.operate("root", &body).await;
        assert_eq!(ids(&answer), fits, "{selector}");
        let answer = answer.json();
        assert_eq!(
            (&answer["killed"], &answer["matched"], &answer["truncated"]),
            (&json!(0), &json!(fits.len()), &json!(false)),
            "{answer}"
        );
    }
    // An operator of a tenant reaches no other.
    let answer = house.operate("soc", &json!({"group": "build", "reason": "runaway"})).await;
    assert_eq!((answer.status(), ids(&answer)), (200, vec!["c-1".to_owned(), "c-2".to_owned()]));
    assert_eq!(answer.json()["killed"], 2, "{}", answer.text());
    for (id, session, status) in
        [("ci", "c-1", 403), ("ci", "c-2", 403), ("dev", "d-1", 200), ("rival", "r-1", 200)]
    {
        let answer = house.call(id, session, "hello").await;
        assert_eq!(answer.status(), status, "{session}: {}", answer.text());
        assert!(status == 200 || answer.text().contains("runaway"), "{}", answer.text());
    }
    // A session that begins afterwards is another one.
    assert_eq!(house.call("ci", "c-3", "hello").await.status(), 200);
    let audit = Call::get("/control/audit?action=killSessions");
    let audit = audit.header("authorization", &format!("Bearer {}", house.key("root")));
    let lines = audit.send(house.gateway.control()).await.json();
    let first = &lines["lines"][0];
    assert_eq!(
        (&first["operator"]["id"], &first["reason"], &first["status"]),
        (&json!("key:soc"), &json!("runaway (2 of 2 sessions)"), &json!(200)),
        "{lines}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_says_nothing_or_something_unknown_kills_nobody() {
    let house = House::open().await;
    assert_eq!(house.call("ci", "s", "hello").await.status(), 200);
    for (body, part) in [
        (json!({}), "at least one of principal"),
        (json!({"reason": "x", "block": {"mode": "permanent"}}), "at least one of principal"),
        (json!({"principle": "key:ci"}), "principle"),
        (json!({"model": "gpt-["}), "model is no pattern"),
        (json!({"idle_over": "10"}), "with its unit"),
        (json!({"group": "build", "block": {"duration": "0s"}}), "would block nothing"),
        (json!({"when": "session.requests"}), "a condition is true or false"),
        (json!({"when": "request.model == 'gpt-4'"}), "request.model"),
        (json!({"when": "session.requsts > 1"}), "session.requests"),
    ] {
        let answer = house.operate("root", &body).await;
        assert_eq!(answer.status(), 400, "{body}: {}", answer.text());
        assert!(answer.text().contains(part), "{body}: {}", answer.text());
    }
    assert_eq!(house.operate("dev", &json!({"group": "build"})).await.status(), 403, "no role");
    assert_eq!(house.call("ci", "s", "hello").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_all_instances_are_killed_and_their_streams_cut() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 3).await;
    let mut streams = Vec::new();
    for (at, gateway) in gateways.iter().enumerate() {
        for number in 0..8 {
            let call = Call::chat_stream("[[stall]]").session(&format!("s-{at}-{number}"));
            let mut client = call.open(gateway.proxy()).await;
            client.until("\"delta\":{\"content\":\"").await;
            streams.push(client);
        }
    }
    let mut operator = gateways[0].operator().await;
    let body =
        json!({"when": "session.id.startsWith('s-')", "principal": "anon:127.0.0.1", "reason": "stop"});
    let reply = operator.post("/control/kill", &body).await.json();
    assert_eq!((&reply["matched"], &reply["killed"]), (&json!(24), &json!(24)), "{reply}");
    for mut stream in streams {
        let cut = within("the cut", stream.message(Unframed::UntilEnd)).await.expect("an answer");
        assert!(cut.text().contains("session_killed"), "{}", cut.text());
    }
    for gateway in &gateways {
        for at in 0..3 {
            let call = Call::chat("hello").session(&format!("s-{at}-7"));
            assert_eq!(call.send(gateway.proxy()).await.status(), 403);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_lists_first_and_kills_then() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for session in ["a", "b"] {
        assert_eq!(Call::chat("hello").session(session).send(gateway.proxy()).await.status(), 200);
    }
    let text = gateway.elida(&["kill", "--when", "session.id == 'a'", "--dry-run"]).await;
    assert!(text.contains("would be killed") && text.contains("1 would be killed"), "{text}");
    let text = gateway.elida(&["kill", "--principal", "anon:127.0.0.1", "--running-over", "1ms"]).await;
    assert!(text.ends_with("2 of 2 killed: 0 open requests cut\n"), "{text}");
    assert_eq!(Call::chat("hello").session("b").send(gateway.proxy()).await.status(), 403);
    let text = gateway.elida(&["kill", "--principal", "anon:127.0.0.1"]).await;
    assert_eq!(text, "no active session fits\n");
}
