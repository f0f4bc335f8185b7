use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

/// A gateway on which people log in.
pub struct House {
    pub gateway: Gateway,
    pub yaml: String,
    pub demo: Demo,
}

/// What a person gets who has logged in.
pub struct Login {
    pub access: String,
    pub refresh: String,
}

impl House {
    pub async fn open(registration: &str) -> Self {
        let demo = Demo::start().await;
        let yaml = format!(
            "auth:\n  proxy: required\n  people: {{ login: true, registration: {registration} }}\n\
             backends:\n  demo: {{ url: {:?}, type: openai, default: true, auth: {{ mode: inject, api_key: sk-house }} }}\n",
            demo.url()
        );
        let gateway = Gateway::with(&yaml).await;
        Self { gateway, yaml, demo }
    }

    /// Runs `elida admin create` beside the gateway, and returns the password once the gateway knows it.
    pub async fn admin(&self, name: &str, more: &[&str]) -> String {
        let password = admin(&self.gateway, name, more);
        knows(&self.gateway, name).await;
        password
    }

    pub async fn try_log_in(&self, name: &str, password: &str) -> Message {
        self.post("", "/auth/login", &json!({"username": name, "password": password})).await
    }

    pub async fn log_in(&self, name: &str, password: &str) -> Login {
        login(&self.try_log_in(name, password).await)
    }

    pub async fn post(&self, token: &str, target: &str, body: &Value) -> Message {
        with(token, Call::post(target).json(body)).send(self.gateway.control()).await
    }

    pub async fn get(&self, token: &str, target: &str) -> Message {
        with(token, Call::get(target)).send(self.gateway.control()).await
    }

    /// The status and the code of an answer of the proxy to this credential.
    pub async fn chat(&self, credential: &str) -> (u16, Value) {
        let answer = Call::chat("x").header("x-api-key", credential).send(self.gateway.proxy()).await;
        let code = if answer.status() == 200 { Value::Null } else { answer.json()["error"]["code"].clone() };
        (answer.status(), code)
    }

    pub async fn user(&self, admin: &Login, body: Value) -> String {
        let made = self.post(&admin.access, "/api/admin/users", &body).await;
        assert_eq!(made.status(), 201, "{}", made.text());
        made.json()["password"].as_str().expect("a password").to_owned()
    }

    /// The event feed, opened as this caller.
    pub async fn feed(&self, token: &str, target: &str) -> RawClient {
        let mut feed = with(token, Call::get(target)).open(self.gateway.control()).await;
        feed.until("connected").await;
        feed
    }
}

fn with(token: &str, call: Call) -> Call {
    if token.is_empty() { call } else { call.header("authorization", &format!("Bearer {token}")) }
}

pub fn login(answer: &Message) -> Login {
    assert!(matches!(answer.status(), 200 | 201), "{}", answer.text());
    let text = |name: &str| answer.json()[name].as_str().expect("a token").to_owned();
    Login { access: text("access_token"), refresh: text("refresh_token") }
}

pub fn code(answer: &Message) -> (u16, String) {
    (answer.status(), answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

fn admin(gateway: &Gateway, name: &str, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
    command.args(["admin", "create", name]).args(more).env_clear().env("ELIDA_DATA_DIR", gateway.data());
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Waits until a gateway knows an account that was written to its file.
pub async fn knows(gateway: &Gateway, name: &str) {
    let id = format!("user:{}", name.to_lowercase());
    let is_told = |line: &Value| {
        line["message"] == "accounts were changed in state.db" && line["ids"].to_string().contains(&id)
    };
    gateway.log_until(is_told).await;
}

/// Waits until a stream that was cut has ended, and returns how long that took.
async fn ends(mut client: RawClient, begun: Instant) -> Duration {
    let answer = within("the end", client.message(Unframed::UntilEnd)).await.expect("an answer");
    answer.ended.saturating_duration_since(begun)
}

const SOON: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_calls_and_logs_out() {
    let house = House::open("closed").await;
    let password = house.admin("Root", &[]).await;
    assert_eq!(code(&house.get("", "/auth/me").await), (401, "unauthorized".into()));
    assert_eq!(
        code(&house.get("", "/control/sessions").await),
        (401, "unauthorized".into()),
        "nobody is let in"
    );
    let root = house.log_in("root", &password).await;
    let me = house.get(&root.access, "/api/v1/auth/me").await.json();
    assert_eq!(me["id"], "user:root@elida");
    assert_eq!(me["roles"], json!([{"role": "admin", "tenant": null}]), "{me}");
    let body =
        json!({"name": "ada", "tenant": "acme", "groups": ["soc"], "role": "viewer", "models": ["gpt-*"]});
    let first = house.user(&root, body).await;
    let ada = house.log_in("ADA", &first).await;
    assert_eq!(house.chat(&ada.access).await, (200, Value::Null));
    let denied = Call::post("/v1/chat/completions").json(&json!({"model": "o3", "messages": []}));
    let denied = denied.header("x-api-key", &ada.access).send(house.gateway.proxy()).await;
    assert_eq!(denied.json()["error"]["code"], "model_denied", "{}", denied.text());
    let sessions = house.get(&root.access, "/control/sessions").await.json();
    let principal = &sessions["sessions"][0]["principal"];
    assert_eq!(
        (&principal["id"], &principal["tenant"], &principal["groups"]),
        (&json!("user:ada@elida"), &json!("acme"), &json!(["soc"])),
        "{sessions}"
    );
    let sent = house.demo.ledger().last().expect("a request");
    assert_eq!(sent.header("x-api-key"), None, "the token never leaves");
    // The role covers the tenant only.
    assert_eq!(house.get(&ada.access, "/control/sessions").await.status(), 200);
    assert_eq!(code(&house.get(&ada.access, "/control/stats").await), (403, "role_required".into()));
    assert_eq!(code(&house.get(&ada.access, "/api/admin/users").await), (403, "role_required".into()));

    // Only the access token is a credential of the proxy.
    let second = house.post("", "/api/auth/refresh", &json!({"refresh_token": ada.refresh})).await;
    let second = login(&second);
    for text in [&ada.refresh, &second.refresh] {
        assert_eq!(house.chat(text).await, (401, json!("key_unknown")), "a refresh token");
    }
    assert_eq!(house.chat(&first).await, (401, json!("key_required")), "a password");
    assert_eq!(house.chat(&second.access).await.0, 200);

    let stream = Call::messages_stream("first second [[stall]]").header("x-api-key", &second.access);
    let stream = stream.json(&json!({"model": "gpt-demo", "max_tokens": 9, "stream": true,
        "messages": [{"role": "user", "content": "first second [[stall]]"}]}));
    let mut client = stream.open(house.gateway.proxy()).await;
    client.until("first").await;
    let begun = Instant::now();
    let out = house.post(&second.access, "/api/v1/auth/logout", &json!({})).await;
    assert_eq!(out.json(), json!({"ended": true, "legs_cut": 1}), "{}", out.text());
    assert!(ends(client, begun).await < SOON);
    for text in [&ada.access, &second.access] {
        assert_eq!(house.chat(text).await, (401, json!("key_revoked")));
        assert_eq!(code(&house.get(text, "/auth/me").await), (401, "unauthorized".into()));
    }
    let again = house.post("", "/auth/refresh", &json!({"refresh_token": second.refresh})).await;
    assert_eq!(code(&again), (401, "login_failed".into()));

    let ada = house.log_in("ada", &first).await;
    let own = "a password of my own";
    let body = json!({"password": first, "new_password": own});
    let changed = login(&house.post(&ada.access, "/auth/password", &body).await);
    assert_eq!(house.chat(&changed.access).await.0, 200);
    assert_eq!(house.chat(&ada.access).await, (401, json!("key_revoked")));
    assert_eq!(code(&house.try_log_in("ada", &first).await), (401, "login_failed".into()));
    house.log_in("ada", own).await;

    let audit = house.get(&root.access, "/control/audit?limit=1000").await;
    let lines = audit.json()["lines"].as_array().expect("lines").clone();
    for (operator, action, status) in [
        ("cli", "createAdmin", 201),
        ("user:root@elida", "createUser", 201),
        ("user:ada@elida", "logIn", 200),
        ("user:ada@elida", "refreshTokens", 200),
        ("user:ada@elida", "logOut", 200),
        ("user:ada@elida", "changePassword", 200),
        ("user:ada@elida", "logIn", 401),
    ] {
        let is_it = |line: &&Value| {
            line["operator"]["id"] == operator && line["action"] == action && line["status"] == status
        };
        assert!(lines.iter().any(|line| is_it(&line)), "{operator} {action} {status}: {lines:#?}");
    }
    let told = audit.text() + &house.gateway.log_text() + &sessions.to_string();
    for text in [&password, &first, own, &ada.access, &second.access, &second.refresh, &root.refresh] {
        assert!(!told.contains(text), "{text} is told");
    }
    let file = std::fs::read(house.gateway.data().join("state.db")).expect("the file");
    for text in [&password, &first, own, &changed.access, &changed.refresh] {
        assert!(!file.windows(text.len()).any(|part| part == text.as_bytes()), "digests only");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_is_used_twice_ends_what_it_began() {
    let mut house = House::open("closed").await;
    let password = house.admin("root", &[]).await;
    let (first, other) = (house.log_in("root", &password).await, house.log_in("root", &password).await);
    let refresh = async |house: &House, token: &str| {
        house.post("", "/auth/refresh", &json!({"refresh_token": token})).await
    };
    let second = login(&refresh(&house, &first.refresh).await);
    let feed = house.feed(&second.access, "/control/events").await;
    // A restart forgets nothing of it.
    let begun = Instant::now();
    assert_eq!(code(&refresh(&house, &first.refresh).await), (401, "login_failed".into()));
    assert!(ends(feed, begun).await < SOON);
    for token in [&first.access, &second.access] {
        assert_eq!(code(&house.get(token, "/auth/me").await), (401, "unauthorized".into()));
    }
    assert_eq!(code(&refresh(&house, &second.refresh).await), (401, "login_failed".into()));
    let yaml = house.yaml.clone();
    house.gateway.crash_and_restart(&yaml).await;
    within("the control API", async { while house.get("", "/health").await.status() != 200 {} }).await;
    assert_eq!(house.get(&other.access, "/auth/me").await.status(), 200, "another log-in goes on");
    assert_eq!(code(&refresh(&house, &second.refresh).await), (401, "login_failed".into()));
    assert_eq!(refresh(&house, &other.refresh).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_account_ends_within_a_second_and_admins_of_a_tenant_change_theirs_only() {
    let house = House::open("invite").await;
    let root = house.admin("root", &[]).await;
    let root = house.log_in("root", &root).await;
    let eve = house.user(&root, json!({"name": "eve", "role": "viewer"})).await;
    let eve_in = house.log_in("eve", &eve).await;
    let feed = house.feed(&eve_in.access, "/control/events").await;
    let mut stream = Call::messages_stream("first second [[stall]]")
        .header("x-api-key", &eve_in.access)
        .open(house.gateway.proxy())
        .await;
    stream.until("first").await;
    let begun = Instant::now();
    let disabled = house.post(&root.access, "/api/admin/users/eve/disable", &json!({})).await;
    assert_eq!((disabled.status(), &disabled.json()["legs_cut"]), (200, &json!(1)), "{}", disabled.text());
    assert!(ends(stream, begun).await < SOON && ends(feed, begun).await < SOON);
    assert_eq!(house.chat(&eve_in.access).await, (401, json!("key_revoked")));
    assert_eq!(code(&house.try_log_in("eve", &eve).await), (401, "login_failed".into()));
    assert_eq!(house.post(&root.access, "/control/users/eve/enable", &json!({})).await.status(), 200);
    assert_eq!(house.chat(&eve_in.access).await, (401, json!("key_revoked")), "it has to log in");
    let eve_in = house.log_in("eve", &eve).await;

    // A role that is gone ends the feed that it opened.
    let feed = house.feed(&eve_in.access, "/control/events").await;
    let begun = Instant::now();
    assert_eq!(house.post(&root.access, "/api/admin/users/eve/role", &json!({})).await.status(), 200);
    assert!(ends(feed, begun).await < SOON);
    assert_eq!(house.chat(&eve_in.access).await, (200, Value::Null), "the token goes on without it");
    let reset = house.post(&root.access, "/api/admin/users/eve/reset-password", &json!({})).await;
    let newer = reset.json()["password"].as_str().expect("a password").to_owned();
    assert_eq!(code(&house.try_log_in("eve", &eve).await), (401, "login_failed".into()));
    house.log_in("eve", &newer).await;

    let lead = house.user(&root, json!({"name": "lead", "role": "admin", "tenant": "acme"})).await;
    let lead = house.log_in("lead", &lead).await;
    let made = house.post(&lead.access, "/api/admin/users", &json!({"name": "bob", "role": "admin"})).await;
    assert_eq!((made.status(), &made.json()["tenant"]), (201, &json!("acme")), "{}", made.text());
    let listed = house.get(&lead.access, "/api/admin/users").await.json();
    let names: Vec<_> =
        listed["users"].as_array().expect("users").iter().map(|user| user["name"].clone()).collect();
    assert_eq!(names, [json!("bob"), json!("lead")], "{listed}");
    for name in ["eve", "root", "nobody"] {
        for verb in ["disable", "enable", "role", "reset-password"] {
            let answer =
                house.post(&lead.access, &format!("/api/admin/users/{name}/{verb}"), &json!({})).await;
            assert_eq!(code(&answer), (404, "user_not_found".into()), "{verb} {name}");
        }
    }
    let taken = house.post(&lead.access, "/api/admin/users", &json!({"name": "eve"})).await;
    assert_eq!(code(&taken), (409, "user_exists".into()));
    let other = house.post(&lead.access, "/api/admin/users", &json!({"name": "x", "tenant": "other"})).await;
    assert_eq!(code(&other), (403, "role_required".into()));

    // By invitation.
    let invited =
        house.post(&root.access, "/control/users/invite", &json!({"name": "kim", "role": "auditor"})).await;
    let text = invited.json()["invitation"].as_str().expect("an invitation").to_owned();
    let register = |password: &str| json!({"invitation": text, "password": password});
    assert_eq!(
        code(&house.post("", "/auth/register", &register("short")).await),
        (400, "bad_request".into())
    );
    let kim = login(&house.post("", "/auth/register", &register("correct horse battery")).await);
    let me = house.get(&kim.access, "/auth/me").await.json();
    assert_eq!((&me["username"], &me["roles"][0]["role"]), (&json!("kim"), &json!("auditor")));
    let again = house.post("", "/auth/register", &register("correct horse battery")).await;
    assert_eq!(code(&again), (403, "registration_closed".into()), "used once");
    let open = json!({"username": "mallory", "password": "correct horse battery"});
    assert_eq!(code(&house.post("", "/auth/register", &open).await), (403, "registration_closed".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_feed_once() {
    let house = House::open("closed").await;
    let root = house.admin("root", &[]).await;
    let root = house.log_in("root", &root).await;
    let ticket = async || {
        let answer =
            house.post(&root.access, "/api/v1/auth/tickets", &json!({"path": "/control/events"})).await;
        answer.json()["ticket"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
    };
    let one = ticket().await;
    for target in ["/control/sessions", "/auth/me", "/control/whoami"] {
        let answer = house.get("", &format!("{target}?ticket={one}")).await;
        assert_eq!(code(&answer), (401, "unauthorized".into()), "{target}");
    }
    assert_eq!(code(&house.get(&one, "/control/sessions").await), (401, "unauthorized".into()));
    assert_eq!(house.chat(&one).await, (401, json!("key_unknown")));
    let feed = house.feed("", &format!("/control/events?ticket={one}")).await;
    assert_eq!(
        code(&house.get("", &format!("/control/events?ticket={one}")).await),
        (401, "unauthorized".into())
    );
    let body = json!({"path": "/control/stats"});
    assert_eq!(
        code(&house.post(&root.access, "/api/v1/auth/tickets", &body).await),
        (400, "bad_request".into())
    );
    // The feed belongs to the log-in, not to the ticket.
    let unused = ticket().await;
    let begun = Instant::now();
    assert_eq!(house.post(&root.access, "/auth/logout", &json!({})).await.status(), 200);
    assert!(ends(feed, begun).await < SOON);
    assert_eq!(
        code(&house.get("", &format!("/control/events?ticket={unused}")).await),
        (401, "unauthorized".into())
    );
    assert!(!house.gateway.log_text().contains(&one));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_cannot_be_found_out_and_passwords_cannot_be_tried() {
    let house = House::open("closed").await;
    let password = house.admin("root", &[]).await;
    let wrong = house.try_log_in("root", "wrong").await;
    let unknown = house.try_log_in("a-password-in-the-wrong-field", "wrong").await;
    let words =
        |answer: &Message| (answer.status(), answer.json()["code"].clone(), answer.json()["detail"].clone());
    assert_eq!(words(&wrong), words(&unknown));
    assert_eq!(code(&wrong), (401, "login_failed".into()));
    let others = async { futures::future::join_all((0..8).map(|_| house.try_log_in("root", "wrong"))).await };
    let answers = others.await;
    let tried = answers.iter().filter(|answer| answer.status() == 401).count();
    assert_eq!(tried, 3, "five in a minute, also at the same time");
    let refused = house.try_log_in("root", &password).await;
    assert_eq!(code(&refused), (429, "too_many_attempts".into()));
    let wait: u64 = refused.head.field("retry-after").expect("a wait").parse().expect("seconds");
    assert!((1..=61).contains(&wait), "{wait}");
    assert_eq!(code(&house.try_log_in("", "").await), (400, "bad_request".into()));
    let token = admin(&house.gateway, "second", &[]);
    assert!(!house.gateway.log_text().contains("in-the-wrong-field"));
    drop(token);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_admin_is_made_before_the_gateway_runs_and_a_lost_password_is_replaced() {
    let demo = Demo::start().await;
    let off = format!("backend: {:?}\n", demo.url());
    let mut gateway = Gateway::with(&off).await;
    let answer = Call::post("/auth/login")
        .json(&json!({"username": "a", "password": "b"}))
        .send(gateway.control())
        .await;
    assert_eq!(code(&answer), (404, "login_disabled".into()), "off unless asked for");
    let lost = admin(&gateway, "root", &[]);
    gateway.crash_and_restart(&(off + "auth: { people: { login: true } }\n")).await;
    let log_in = async |password: &str| {
        let call = Call::post("/auth/login").json(&json!({"username": "root", "password": password}));
        call.send(gateway.control()).await.status()
    };
    assert_eq!(log_in(&lost).await, 200, "the file is read at the start");
    let newer = admin(&gateway, "root", &["--reset"]);
    knows(&gateway, "root").await;
    assert_eq!(log_in(&newer).await, 200);
    assert_eq!(log_in(&lost).await, 401);
    let mut again = Command::new(env!("CARGO_BIN_EXE_elida"));
    again.args(["admin", "create", "root"]).env_clear().env("ELIDA_DATA_DIR", gateway.data());
    let output = again.output().expect("the binary runs");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--reset"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_turns_it_off_ends_what_people_have_and_forwards_no_token() {
    let house = House::open("closed").await;
    let password = house.admin("root", &[]).await;
    let root = house.log_in("root", &password).await;
    let mut stream = Call::messages_stream("first second [[stall]]")
        .header("x-api-key", &root.access)
        .open(house.gateway.proxy())
        .await;
    stream.until("first").await;
    let off = house.yaml.replace("login: true, registration: closed", "login: false");
    house.gateway.rewrite(
        &off.replace("required", "optional").replace("mode: inject, api_key: sk-house", "mode: passthrough"),
    );
    let begun = Instant::now();
    house.gateway.hangup();
    assert!(ends(stream, begun).await < Duration::from_secs(5));
    house.gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    let seen = house.demo.ledger().arrived();
    assert_eq!(
        house.chat(&root.access).await,
        (401, json!("key_revoked")),
        "it is no credential of the provider"
    );
    assert_eq!(house.demo.ledger().arrived(), seen);
    assert_eq!(code(&house.try_log_in("root", &password).await), (404, "login_disabled".into()));
}
