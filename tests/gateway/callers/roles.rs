use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::callers::keys::key;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, sha256};

/// The callers: an id, and what the configuration says of it.
const PRINCIPALS: [(&str, &str); 9] = [
    ("root", ""),
    ("ops", "groups: [soc]"),
    ("audit", ""),
    ("money", ""),
    ("grafana", ""),
    ("nobody", "tenant: acme, groups: [build]"),
    ("rival", "tenant: other"),
    ("acme-root", "tenant: acme"),
    ("acme-view", "tenant: acme"),
];

const ROLES: &str = "  roles:
    - { role: admin, principals: ['key:root'] }
    - { role: operator, groups: [soc] }
    - { role: auditor, principals: ['key:audit'] }
    - { role: finops, principals: ['key:money'] }
    - { role: viewer, principals: ['key:grafana'] }
    - { role: admin, principals: ['key:acme-root'], tenant: acme }
    - { role: viewer, principals: ['key:acme-view'], tenant: acme }
";

/// A gateway whose control API knows these callers; a key for each, in their order.
struct House {
    gateway: Gateway,
    keys: Vec<String>,
    _demo: Demo,
}

impl House {
    async fn open() -> Self {
        Self::with("").await
    }

    /// The same, with more in the section `auth`.
    async fn with(more: &str) -> Self {
        let demo = Demo::start().await;
        let keys: Vec<String> = PRINCIPALS.iter().map(|_| key()).collect();
        let mut yaml = format!("auth:\n  proxy: optional\n{more}  principals:\n");
        for ((id, more), key) in PRINCIPALS.iter().zip(&keys) {
            yaml += &format!("    - {{ id: {id}, key_sha256: '{}', {more} }}\n", sha256(key.as_bytes()));
        }
        let backends = format!(
            "backends:\n  demo: {{ url: {:?}, type: openai, default: true, auth: {{ mode: inject, api_key: sk-house }} }}\n",
            demo.url()
        );
        let gateway = Gateway::with(yaml + ROLES + &backends).await;
        Self { gateway, keys, _demo: demo }
    }

    fn key(&self, id: &str) -> &str {
        let at = PRINCIPALS.iter().position(|(known, _)| *known == id).expect("a caller");
        &self.keys[at]
    }

    /// Calls the control API as this caller.
    async fn call(&self, id: &str, call: Call) -> Message {
        self.with_token(self.key(id), call).await
    }

    async fn with_token(&self, token: &str, call: Call) -> Message {
        call.header("authorization", &format!("Bearer {token}")).send(self.gateway.control()).await
    }

    /// Makes a session of a caller of the proxy.
    async fn session(&self, id: &str, session: &str) {
        let answer = Call::chat("x")
            .header("x-api-key", self.key(id))
            .session(session)
            .send(self.gateway.proxy())
            .await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }

    fn elida(&self, id: &str, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
        command.args(words).env_clear().env("ELIDA_CONTROL", format!("http://{}", self.gateway.control()));
        command.env("ELIDA_CONTROL_TOKEN", self.key(id)).stdin(Stdio::null());
        command.output().expect("the binary runs")
    }
}

fn code(answer: &Message) -> Value {
    answer.json()["code"].clone()
}

/// Sends a call and returns the status and the code of its answer, without reading a body that may never end.
async fn outcome(address: SocketAddr, call: Call) -> (u16, String) {
    let mut client = call.open(address).await;
    let head = client.head().await.expect("an answer");
    let status = head.status();
    if status < 400 {
        return (status, String::new());
    }
    let answer = client.body(head, crate::support::wire::Unframed::UntilEnd).await;
    (status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

/// Every endpoint of the OpenAPI document: its method, a target, the roles that may call it, and whether one of a tenant may.
fn endpoints() -> Vec<(String, String, Option<Vec<String>>, bool)> {
    let document: Value =
        serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("the document");
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let needed = operation["security"].as_array().expect("security of each operation");
            let roles: Option<Vec<String>> = (needed.len() == 1).then(|| {
                let roles = needed[0]["token"].as_array().expect("roles");
                roles.iter().map(|role| role.as_str().expect("a role").to_owned()).collect()
            });
            let aliases = operation["x-aliases"].as_array().into_iter().flatten();
            let paths = aliases.map(|alias| alias.as_str().expect("a path")).chain([path.as_str()]);
            let (method, by_tenant) = (method.to_uppercase(), operation["x-by-tenant"] == true);
            found.extend(paths.map(|path| {
                (
                    method.clone(),
                    path.replace("{id}", "no-such-thing").replace("{name}", "no-such-thing"),
                    roles.clone(),
                    by_tenant,
                )
            }));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_reaches_the_endpoints_of_the_document_and_no_others() {
    let house = House::with("  people: { login: true, registration: invite }\n").await;
    let address = house.gateway.control();
    let unknown = key();
    let digest = sha256(house.key("root").as_bytes());
    let mut checked = 0;
    for (method, target, roles, by_tenant) in endpoints() {
        let call = |token: &str| {
            let call = Call::new(&method, &target);
            let call = if method == "POST" { call.json(&json!({})) } else { call };
            if token.is_empty() { call } else { call.header("authorization", &format!("Bearer {token}")) }
        };
        let place = format!("{method} {target}");
        let Some(roles) = roles else {
            for token in ["", &unknown, house.key("nobody")] {
                let (status, code) = outcome(address, call(token)).await;
                // What makes tokens misses its body.
                let is_let_in = status == 200 || status == 503 && code.is_empty();
                assert!(is_let_in || (status, &*code) == (400, "bad_request"), "{place}: {status} {code}");
            }
            continue;
        };
        // None means any credential.
        assert!(roles.is_empty() || roles.contains(&"admin".to_owned()), "{place}: {roles:?}");
        for token in ["", &unknown, &digest, "control-token-of-nobody", &house.key("root")[..30]] {
            let found = outcome(address, call(token)).await;
            assert_eq!(found, (401, "unauthorized".to_owned()), "{place} with {token:?}");
        }
        for (id, role, tenant) in [
            ("root", "admin", false),
            ("ops", "operator", false),
            ("audit", "auditor", false),
            ("money", "finops", false),
            ("grafana", "viewer", false),
            ("acme-root", "admin", true),
            ("acme-view", "viewer", true),
            ("nobody", "", false),
        ] {
            let (status, code) = outcome(address, call(house.key(id))).await;
            let may = roles.iter().any(|known| known == role) && (by_tenant || !tenant) || roles.is_empty();
            let refused = (status, code.as_str()) == (403, "role_required");
            assert!(refused != may && status != 401, "{place} as {id}: {status} {code}; roles {roles:?}");
            checked += 1;
        }
    }
    assert!(checked > 150, "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_a_tenant_sees_and_changes_its_tenant_only() {
    let house = House::open().await;
    house.session("nobody", "acme-run").await;
    house.session("rival", "other-run").await;
    house.session("nobody", "same-name").await;
    house.session("rival", "same-name").await;
    let get = |target: &str| Call::get(target);
    let kill = |session: &str| {
        Call::post(&format!("/control/sessions/{session}/kill")).json(&json!({"reason": "x"}))
    };
    let all = house.call("root", get("/control/sessions")).await.json();
    let uid = |session: &str, tenant: &str| {
        let found = all["sessions"]
            .as_array()
            .expect("sessions")
            .iter()
            .find(|line| line["id"] == session && line["principal"]["tenant"] == tenant);
        found.expect("the session")["uid"].as_str().expect("a uid").to_owned()
    };
    let listed = house.call("acme-view", get("/control/sessions")).await.json();
    let mut ids: Vec<_> =
        listed["sessions"].as_array().expect("sessions").iter().map(|line| line["id"].clone()).collect();
    ids.sort_by_key(ToString::to_string);
    assert_eq!(ids, [json!("acme-run"), json!("same-name")], "{listed}");
    for target in ["other-run".to_owned(), uid("other-run", "other"), uid("same-name", "other")] {
        let answer = house.call("acme-view", get(&format!("/control/sessions/{target}"))).await;
        assert_eq!((answer.status(), code(&answer)), (404, json!("session_not_found")), "{target}");
        for verb in ["kill", "resume"] {
            let call = Call::post(&format!("/control/sessions/{target}/{verb}")).json(&json!({}));
            let answer = house.call("acme-root", call).await;
            assert_eq!(
                (answer.status(), code(&answer)),
                (404, json!("session_not_found")),
                "{verb} {target}"
            );
        }
    }
    // The name that two tenants use is not ambiguous for one of them.
    let answer = house.call("acme-root", get("/control/sessions/same-name")).await;
    assert_eq!(answer.json()["uid"], uid("same-name", "acme"), "{}", answer.text());
    assert_eq!(code(&house.call("root", get("/control/sessions/same-name")).await), "session_ambiguous");
    for session in ["acme-run", "same-name"] {
        let answer = house.call("acme-root", kill(session)).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.json()["uid"], uid(session, "acme"), "{}", answer.text());
    }
    assert_eq!(house.call("ops", kill("other-run")).await.status(), 200);
    let there = async |id: &str, target: &str| {
        let wait = async {
            while house.call(id, get(target)).await.status() != 200 {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        crate::support::within(target, wait).await;
    };
    for session in ["acme-run", "other-run"] {
        there("audit", &format!("/control/records/{session}")).await;
    }
    there("acme-root", "/control/records/same-name").await;
    for target in ["/control/records/other-run", "/control/records/other-run/requests"] {
        let answer = house.call("acme-root", get(target)).await;
        assert_eq!((answer.status(), code(&answer)), (404, json!("record_not_found")), "{target}");
        assert_eq!(house.call("audit", get(target)).await.status(), 200, "{target}");
    }
    let records = house.call("acme-root", get("/control/history")).await.json();
    let tenants: Vec<_> = records["records"]
        .as_array()
        .expect("records")
        .iter()
        .map(|record| record["tenant"].clone())
        .collect();
    assert_eq!(tenants, [json!("acme"), json!("acme")], "{records}");
    let requests = |usage: Value| usage["usage"][0]["requests"].clone();
    assert_eq!(requests(house.call("acme-root", get("/control/usage?by=model")).await.json()), 2);
    assert_eq!(requests(house.call("money", get("/control/usage?by=model")).await.json()), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_of_a_tenant_makes_no_key_that_can_do_more() {
    let house = House::open().await;
    let make = |body: Value| Call::post("/control/keys").json(&body);
    let made = house.call("acme-root", make(json!({"id": "own"}))).await;
    assert_eq!((made.status(), &made.json()["tenant"]), (201, &json!("acme")), "{}", made.text());
    for body in [
        json!({"id": "theirs", "tenant": "other"}),
        // The group has a role for all tenants.
        json!({"id": "soc", "groups": ["soc"]}),
    ] {
        let answer = house.call("acme-root", make(body.clone())).await;
        assert_eq!((answer.status(), code(&answer)), (403, json!("role_required")), "{body}");
    }
    assert_eq!(house.call("root", make(json!({"id": "free"}))).await.status(), 201);
    let listed = house.call("acme-root", Call::get("/control/keys")).await.json();
    let ids: Vec<_> = listed["keys"].as_array().expect("keys").iter().map(|key| key["id"].clone()).collect();
    assert_eq!(ids, ["nobody", "acme-root", "acme-view", "own"].map(|id| json!(id)), "{listed}");
    for (call, id) in [
        (Call::post("/control/keys/free/rotate").json(&json!({})), "free"),
        (Call::new("DELETE", "/control/keys/free"), "free"),
    ] {
        let answer = house.call("acme-root", call).await;
        assert_eq!((answer.status(), code(&answer)), (404, json!("key_not_found")), "{id}");
    }
    assert_eq!(house.call("acme-root", Call::new("DELETE", "/control/keys/own")).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_in_the_audit_log_before_it_is_answered() {
    let house = House::open().await;
    house.session("nobody", "run").await;
    let kill = |reason: &str| Call::post("/control/sessions/run/kill").json(&json!({"reason": reason}));
    assert_eq!(code(&house.call("grafana", kill("no")).await), "role_required");
    assert_eq!(house.call("ops", kill("runaway")).await.status(), 200);
    let orders = house.call("grafana", Call::get("/control/kills")).await.json();
    assert_eq!(orders["kills"][0]["by"], "key:ops", "{orders}");
    let made = house.call("root", Call::post("/control/keys").json(&json!({"id": "new"}))).await;
    assert_eq!(made.status(), 201);
    assert_eq!(house.call("root", Call::post("/control/config/reload")).await.status(), 200);
    assert_eq!(house.call("audit", Call::get("/control/records/export")).await.status(), 200);
    assert_eq!(house.call("audit", Call::get("/control/history")).await.status(), 200);

    let page = house.call("audit", Call::get("/control/audit")).await;
    let lines = page.json()["lines"].as_array().expect("lines").clone();
    let said: Vec<_> = lines
        .iter()
        .rev()
        .map(|line| {
            let status = line["status"].as_u64().expect("a status");
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (
                line["operator"]["id"].as_str().expect("an operator").to_owned(),
                text("action"),
                status,
                text("reason"),
            )
        })
        .collect();
    let expected = [
        ("key:grafana", "killSession", 403, ""),
        ("key:ops", "killSession", 200, "runaway"),
        ("key:root", "createKey", 201, ""),
        ("key:root", "reloadConfig", 200, ""),
        ("key:audit", "exportRecords", 200, ""),
    ];
    let expected =
        expected.map(|(id, action, status, reason)| (id.into(), action.into(), status, reason.into()));
    assert_eq!(said, expected);
    assert_eq!(lines[0]["operator"]["address"], "127.0.0.1");
    let reload = &lines[1];
    assert!(
        reload["before"] == reload["after"]
            && reload["before"].as_str().is_some_and(|digest| digest.len() == 64)
    );
    assert!(lines[2]["after"].is_string() && lines[2]["before"].is_null(), "{}", lines[2]);
    assert_eq!(lines[2]["target"], "/control/keys/new", "the line names what was made");
    let filtered =
        house.call("audit", Call::get("/control/audit?operator=key:root&action=createKey")).await.json();
    assert_eq!(filtered["lines"].as_array().map(Vec::len), Some(1));

    let shown = house.elida("audit", &["audit", "--operator", "key:ops"]);
    let text = String::from_utf8(shown.stdout).expect("text");
    assert!(
        text.contains("killSession") && text.contains("runaway") && !text.contains("createKey"),
        "{text}"
    );
    let refused = house.elida("grafana", &["audit"]);
    let text = String::from_utf8(refused.stderr).expect("text");
    assert!(!refused.status.success() && text.contains("it takes one of admin, auditor"), "{text}");

    let own = house.call("audit", Call::get("/control/audit/verify")).await.json();
    assert_eq!((&own["verified"], &own["lines"]), (&true.into(), &5.into()), "{own}");
    let text = String::from_utf8(house.elida("audit", &["audit", "verify"]).stdout).expect("text");
    assert!(text.starts_with("5 lines are unchanged"), "{text}");
    assert_eq!(house.call("grafana", Call::get("/control/audit/verify")).await.status(), 403);

    let file = house.gateway.data().join("audit.ndjson");
    let name = file.to_str().expect("a name");
    assert!(house.elida("audit", &["audit", "export", "--output", name]).status.success());
    let public = house.gateway.data().join("cdr-key.pub");
    let verify = ["audit", "verify", name, "--key", public.to_str().expect("a name")];
    let verified = house.elida("audit", &verify);
    let text = String::from_utf8(verified.stdout).expect("text");
    assert!(text.starts_with("lines 1 to 5 are unchanged"), "{text}");
    let whole = std::fs::read_to_string(&file).expect("the file");
    let head = house.gateway.data().join("audit-head.json");
    let with_head = [&verify[..], &["--head", head.to_str().expect("a name")]].concat();
    assert!(house.elida("audit", &with_head).status.success());
    let lines: Vec<&str> = whole.lines().collect();
    for (kept, words, fault) in [
        (lines[..4].join("\n"), &with_head, "line 5, which the head names, is missing"),
        (lines[1..].join("\n"), &verify.to_vec(), "begins with line 2: lines are missing"),
        (String::new(), &verify.to_vec(), "has no lines"),
    ] {
        std::fs::write(&file, kept).expect("the file");
        let cut = house.elida("audit", words);
        let text = String::from_utf8(cut.stderr).expect("text");
        assert!(!cut.status.success() && text.contains(fault), "{fault}: {text}");
    }
    for secret in house.keys.iter().map(String::as_str).chain(made.json()["key"].as_str()) {
        assert!(!whole.contains(secret) && !house.gateway.log_text().contains(secret));
    }
    std::fs::write(&file, whole.replace("\"runaway\"", "\"nothing\"")).expect("the file");
    let changed = house.elida("audit", &verify);
    let text = String::from_utf8(changed.stderr).expect("text");
    assert!(!changed.status.success() && text.contains("line 2 is not the one that was written"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_does_not_wait_for_an_audit_log_that_cannot_be_written() {
    let house = House::open().await;
    house.session("nobody", "run").await;
    std::fs::create_dir(house.gateway.data().join("state.db")).expect("a folder in the place of the file");
    let kill = Call::post("/control/sessions/run/kill").json(&json!({"reason": "runaway"}));
    assert_eq!(house.call("ops", kill).await.status(), 200);
    let line =
        house.gateway.log_until(|line| line["message"] == "a line of the audit log cannot be written").await;
    let lost: Value = serde_json::from_str(line["line"].as_str().expect("the line")).expect("JSON");
    assert_eq!(
        (&lost["action"], &lost["operator"]["id"]),
        (&json!("killSession"), &json!("key:ops")),
        "{line}"
    );
    let metrics = house.call("grafana", Call::get("/metrics")).await.text();
    assert!(metrics.contains("elida_history_dropped_total{kind=\"audit\"} 1"), "{metrics}");
    let answer = house.call("audit", Call::get("/control/audit")).await;
    assert_eq!((answer.status(), code(&answer)), (503, json!("state_unavailable")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_is_told_and_a_revoked_or_expired_key_has_no_role() {
    let house = House::open().await;
    let whoami = || Call::get("/control/whoami");
    let answer = house.call("ops", whoami()).await.json();
    assert_eq!(
        (&answer["id"], &answer["roles"]),
        (&json!("key:ops"), &json!([{"role": "operator", "tenant": null}]))
    );
    assert_eq!(answer["permissions"], json!({"operate": "all", "read": "all"}));
    let answer = house.call("acme-view", whoami()).await.json();
    assert_eq!(answer["roles"], json!([{"role": "viewer", "tenant": "acme"}]));
    assert_eq!(answer["permissions"], json!({"read": "tenant"}));
    assert_eq!(code(&house.call("nobody", whoami()).await), "role_required");
    let body = json!({"id": "brief", "groups": ["soc"], "expires": "1h"});
    let made = house.call("root", Call::post("/control/keys").json(&body)).await.json();
    let key = made["key"].as_str().expect("a key").to_owned();
    assert_eq!(house.with_token(&key, whoami()).await.json()["id"], "key:brief");
    assert_eq!(house.call("root", Call::new("DELETE", "/control/keys/brief")).await.status(), 200);
    let answer = house.with_token(&key, whoami()).await;
    assert_eq!((answer.status(), code(&answer)), (401, json!("unauthorized")), "{}", answer.text());
    assert!(answer.text().contains("revoked"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_whole_and_audited_when_its_caller_hangs_up() {
    let house = House::open().await;
    for at in 0..10 {
        let id = format!("k{at}");
        let made = house.call("root", Call::post("/control/keys").json(&json!({"id": id}))).await;
        assert_eq!(made.status(), 201);
        let call = Call::new("DELETE", &format!("/control/keys/{id}"));
        let call = call.header("authorization", &format!("Bearer {}", house.key("root")));
        // Dropped at once: nobody reads the answer.
        drop(call.open(house.gateway.control()).await);
    }
    let count = async |target: &str, member: &str| {
        house.call("root", Call::get(target)).await.json()[member].as_array().map_or(0, Vec::len)
    };
    // A request that did not arrive changes nothing; each that did has its line.
    crate::support::within("the lines of all revocations", async {
        loop {
            let revoked = 10 + PRINCIPALS.len() - count("/control/keys", "keys").await;
            let lines = count("/control/audit?action=revokeKey", "lines").await;
            if revoked > 0 && lines == revoked {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_feed_ends_with_the_key_of_its_reader() {
    let house = House::open().await;
    let key = house
        .call("root", Call::post("/control/keys").json(&json!({"id": "watch", "groups": ["soc"]})))
        .await;
    let key = key.json()["key"].as_str().expect("a key").to_owned();
    let open = async |key: &str| {
        let call = Call::get("/control/events").header("authorization", &format!("Bearer {key}"));
        let mut feed = call.open(house.gateway.control()).await;
        feed.until("connected").await;
        feed
    };
    let (mut feed, mut other) = (open(&key).await, open(house.key("ops")).await);
    let begun = std::time::Instant::now();
    assert_eq!(house.call("root", Call::new("DELETE", "/control/keys/watch")).await.status(), 200);
    let ended =
        crate::support::within("the end", feed.message(crate::support::wire::Unframed::UntilEnd)).await;
    let after = ended.expect("an answer").ended.saturating_duration_since(begun);
    assert!(after < std::time::Duration::from_secs(1), "{after:?}");
    house.session("nobody", "run").await;
    other.until("session.started").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_of_a_tenant_rotates_and_revokes_no_mightier_key_and_logs_hold_no_key() {
    let house = House::open().await;
    let boss = json!({"id": "boss", "tenant": "acme", "groups": ["soc"]});
    assert_eq!(house.call("root", Call::post("/control/keys").json(&boss)).await.status(), 201);
    for call in
        [Call::post("/control/keys/boss/rotate").json(&json!({})), Call::new("DELETE", "/control/keys/boss")]
    {
        let answer = house.call("acme-root", call).await;
        assert_eq!((answer.status(), code(&answer)), (403, json!("role_required")), "{}", answer.text());
    }
    let target = format!("/control/keys/{}", house.key("ops"));
    house.call("root", Call::new("DELETE", &target)).await;
    Call::new("DELETE", &target).send(house.gateway.control()).await;
    let audit = house.call("audit", Call::get("/control/audit")).await.text();
    assert!(audit.contains("/control/keys/elida_"), "{audit}");
    for text in [audit, house.gateway.log_text()] {
        assert!(!text.contains(house.key("ops")), "{text}");
    }
}
