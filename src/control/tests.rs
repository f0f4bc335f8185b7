//! The control API over a real socket, one test per promise of `docs/control-api.md`.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::api::health::BackendStatus;
use super::openapi::answers::check_answer;
use super::openapi::document;
use super::service::{ControlService, Parts, ReloadReport, Runtime};
use super::settings::{self, ControlConfig, CorsConfig, Settings};
use crate::clock::Clock;
use crate::history::audit::AuditLog;
use crate::history::state::State;
use crate::identity::{Auth, AuthConfig, ClientKeys, KeyStorage};
use crate::ids::{PrincipalId, RequestId, Scope, SessionId, SessionKey, SharedDocument};
use crate::limits::amount::CostUnit;
use crate::limits::budgets::BudgetAccount;
use crate::limits::overrides::{OverrideStorage, Overrides};
use crate::notify::notifier::Notifier;
use crate::notify::settings::Receivers;
use crate::policy::ruleset::RuleSet;
use crate::policy::suppressions::Suppressions;
use crate::session::store::MemoryStore;
use crate::session::{
    self, Cut, CutReason, Event, Identity, Leg, LegKind, LegStart, Manager, SessionRequest,
};
use crate::settings::fault::Faults;
use crate::settings::secret::Secret;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

const TOKEN: &str = "0123456789abcdef0123";

/// A program whose reload finds these faults, or none.
struct Program {
    faults: Option<Faults>,
}

impl Runtime for Program {
    fn try_rules(
        &self,
        rules: &RuleSet,
        trial: &crate::policy::trial::Trial,
    ) -> Result<crate::policy::trial::TrialReport, String> {
        rules.try_on(trial)
    }

    fn config(&self) -> Value {
        json!({"listen": ":8080", "token": Secret::new("hidden")})
    }

    fn reload(&self) -> Result<ReloadReport, Faults> {
        match &self.faults {
            Some(faults) => Err(faults.clone()),
            None => Ok(ReloadReport { restart_required: vec!["listen".into()] }),
        }
    }

    fn auth(&self) -> Arc<Auth> {
        AuthConfig::default().compile(&[], &mut Faults::default()).unwrap()
    }

    fn config_sources(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn budgets(&self) -> Vec<BudgetAccount> {
        Vec::new()
    }

    fn cache(&self) -> Option<Arc<crate::cache::Cache>> {
        None
    }

    fn rules(&self) -> Arc<RuleSet> {
        Arc::default()
    }

    fn budget_unit(&self, _: &str) -> Option<CostUnit> {
        None
    }

    fn backends(&self) -> BTreeMap<String, BackendStatus> {
        let openai = BackendStatus {
            r#type: "openai".into(),
            url: "https://api.openai.com".into(),
            auth: "passthrough".into(),
            healthy: true,
            drained: false,
            rests_for_ms: None,
            callers_kept_away: 0,
            open: 0,
        };
        BTreeMap::from([("openai".to_owned(), openai)])
    }

    fn drain_backend(&self, name: &str, _: bool) -> bool {
        name == "openai"
    }
}

/// Without webhooks.
fn nobody_told() -> Arc<Notifier> {
    Notifier::new(&Receivers::default(), Metrics::new().unwrap())
}

/// An audit log that cannot be written.
fn no_audit() -> Arc<AuditLog> {
    let nowhere = Path::new("/dev/null");
    Arc::new(AuditLog::new(Arc::new(State::new(nowhere)), nowhere, Metrics::new().unwrap().history()))
}

/// A control API over a real socket.
struct TestServer {
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
    manager: Arc<Manager>,
    readiness: Arc<Readiness>,
    settings: Arc<ArcSwap<Settings>>,
    stop: watch::Sender<bool>,
    served: Option<tokio::task::JoinHandle<()>>,
}

/// One answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|fault| panic!("{fault} in {self:?}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The problem's code, after a look at its form.
    fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["type"], format!("urn:elida:{code}"));
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        code
    }
}

fn control_settings(written: ControlConfig) -> Settings {
    written.compile(false, &mut Faults::default()).unwrap()
}

fn with_token() -> ControlConfig {
    let auth = settings::AuthConfig { token: Some(Secret::new(TOKEN)), ..settings::AuthConfig::default() };
    ControlConfig { auth, ..ControlConfig::default() }
}

fn with_origin() -> ControlConfig {
    let cors = CorsConfig { allow_origins: vec!["https://ops.example".into()] };
    ControlConfig { cors, ..with_token() }
}

/// Overrides that cannot be stored.
fn no_overrides() -> Arc<Overrides> {
    struct Nowhere;
    impl OverrideStorage for Nowhere {
        fn put(&self, _: &SharedDocument) -> Result<(), String> {
            Err("nowhere".to_owned())
        }
    }
    Arc::new(Overrides::new(Vec::new(), Box::new(Nowhere)))
}

/// Keys that cannot be stored.
fn no_keys() -> Arc<ClientKeys> {
    struct Nowhere;
    impl KeyStorage for Nowhere {
        fn put(&self, _: &str, _: u64, _: &str) -> Result<(), String> {
            Err("nowhere".to_owned())
        }
    }
    Arc::new(ClientKeys::new(Vec::new(), Box::new(Nowhere)))
}

impl TestServer {
    fn open() -> Self {
        Self::with(ControlConfig::default())
    }

    fn with(written: ControlConfig) -> Self {
        let sessions = session::SessionConfig::default().compile(&mut Faults::default()).unwrap();
        let store = Arc::new(MemoryStore::default());
        let manager = Manager::new(sessions, Clock::system(), store, Arc::new(|_: &Event| {}));
        let readiness = Arc::new(Readiness::default());
        readiness.ready();
        let settings = Arc::new(ArcSwap::from_pointee(control_settings(written)));
        let parts = Parts {
            manager: Arc::clone(&manager),
            metrics: Metrics::new().unwrap(),
            readiness: Arc::clone(&readiness),
            settings: Arc::clone(&settings),
            runtime: Arc::new(Program { faults: None }),
            keys: no_keys(),
            overrides: no_overrides(),
            approvals: Arc::default(),
            suppressions: Arc::new(Suppressions::none()),
            people: Arc::default(),
            history: None,
            audit: no_audit(),
            notifier: nobody_told(),
            store: "memory",
            max_connections: 256,
        };
        Self::serve(parts, manager, readiness, settings)
    }

    fn serve(
        parts: Parts,
        manager: Arc<Manager>,
        readiness: Arc<Readiness>,
        settings: Arc<ArcSwap<Settings>>,
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let service = ControlService::new(listener, parts);
        let served = Some(runtime.spawn(async move { service.run(stopping).await }));
        Self { runtime, address, manager, readiness, settings, stop, served }
    }

    /// Sends a request head (without its end) and a body, byte for byte; the answer must agree with the OpenAPI document.
    fn raw(&self, sent: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "{sent}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        static DOCUMENT: LazyLock<Value> = LazyLock::new(document);
        let mut words = sent.split([' ', '\r']);
        if let (Some(method), Some(target)) = (words.next(), words.next()) {
            let checked = check_answer(&DOCUMENT, method, target, status, body.as_bytes());
            checked.unwrap_or_else(|fault| panic!("{fault}"));
        }
        Answer { status, headers, body: body.to_owned() }
    }

    fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: localhost:9090{headers}"), body)
    }

    fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", "")
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        self.call("POST", path, "", body)
    }

    /// Opens a leg of a session, as the proxy does.
    fn leg(&self, principal: &str, id: &str) -> (Leg, Arc<Cut>) {
        let cut = Cut::new();
        let arrival = SessionRequest {
            key: SessionKey { scope: Scope::new(principal), id: SessionId::new(id) },
            identity: Identity { source: "header:x-session-id".into(), ..Identity::default() },
            principal: PrincipalId::new(principal),
            membership: None,
            accounts: Box::default(),
            client_addr: [127, 0, 0, 1].into(),
            counted_from: None,
            idle_gap: None,
        };
        let start = LegStart {
            kind: LegKind::Request,
            method: "POST".into(),
            path: "/v1/messages".into(),
            request_id: RequestId::fresh(),
            cut: Arc::clone(&cut),
            validity: Arc::default(),
        };
        (self.runtime.block_on(self.manager.admit(arrival, start)).unwrap(), cut)
    }
}

#[test]
fn control_health() {
    let server = TestServer::open();
    let answer = server.get("/control/health");
    assert_eq!(answer.status, 200);
    let health = answer.json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(health["store"], "memory");
    assert_eq!(health["backends"]["openai"]["type"], "openai");
    assert!(health["uptime_s"].is_u64());
    assert_eq!(answer.header("cache-control"), "no-store");
    server.readiness.not_ready("draining");
    let health = server.get("/control/health").json();
    assert_eq!((&health["status"], &health["reason"]), (&json!("not_ready"), &json!("draining")));
}

#[test]
fn control_probes() {
    let server = TestServer::with(with_token());
    for path in ["/health", "/health/liveness", "/health/readiness", "/health/startup"] {
        assert_eq!(server.get(path).status, 200, "{path}: probes show no token");
        let by_address = server.raw(&format!("GET {path} HTTP/1.1\r\nHost: 10.1.2.3:9090"), "");
        assert_eq!(by_address.status, 200, "{path}: orchestrators know only the address");
    }
    server.readiness.not_ready("draining");
    let answer = server.get("/health/readiness");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reason"], "draining");
    assert_eq!(server.get("/health").status, 503);
    assert_eq!(server.get("/health/liveness").status, 200);
    assert_eq!(server.get("/health/startup").status, 200, "a start happens once");
}

#[test]
fn control_stats() {
    let server = TestServer::open();
    let (_leg, _cut) = server.leg("anon:1", "one");
    let stats = server.get("/control/stats").json();
    assert_eq!((&stats["active"], &stats["open_legs"]), (&json!(1), &json!(1)));
    assert_eq!(stats["by_state"]["active"], 1);
}

#[test]
fn control_sessions_list() {
    let server = TestServer::open();
    let legs: Vec<_> = (0..5).map(|n| server.leg("anon:1", &format!("run-{n}"))).collect();
    let list = server.get("/control/sessions").json();
    assert_eq!(list["total"], 5);
    assert_eq!(list["next_cursor"], Value::Null);
    let newest = &list["sessions"][0];
    assert_eq!((&newest["id"], &newest["state"]), (&json!("run-4"), &json!("active")));
    assert_eq!((&newest["open_legs"], &newest["principal"]["id"]), (&json!(1), &json!("anon:1")));
    assert_eq!(server.get("/control/sessions?q=run-3").json()["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/control/sessions?state=killed").json()["total"], 0);
    drop(legs);
}

#[test]
fn control_sessions_list_pages() {
    let server = TestServer::open();
    let _legs: Vec<_> = (0..5).map(|n| server.leg("anon:1", &format!("run-{n}"))).collect();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/control/sessions?limit=2{cursor}")).json();
        for session in page["sessions"].as_array().unwrap() {
            seen.push(session["id"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["run-4", "run-3", "run-2", "run-1", "run-0"]);
}

#[test]
fn control_sessions_list_refuses_what_it_does_not_know() {
    let server = TestServer::open();
    let answer = server.get("/control/sessions?colour=red&limit=5000");
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"));
    let detail = answer.json()["detail"].to_string();
    assert!(detail.contains("colour") && detail.contains("1 to 1000"), "{detail}");
}

#[test]
fn control_session_get() {
    let server = TestServer::open();
    let (leg, _cut) = server.leg("anon:1", "a b");
    let session = server.get("/control/sessions/a%20b").json();
    assert_eq!((&session["id"], &session["kind"]), (&json!("a b"), &json!("traffic")));
    assert_eq!(session["legs"][0]["path"], "/v1/messages");
    let by_uid = server.get(&format!("/control/sessions/{}", leg.session().uid())).json();
    assert_eq!(by_uid["uid"], session["uid"]);
    let missing = server.get("/control/sessions/nobody");
    assert_eq!((missing.status, missing.code().as_str()), (404, "session_not_found"));
}

#[test]
fn control_session_kill() {
    let server = TestServer::open();
    let (leg, cut) = server.leg("anon:1", "runaway");
    let body = r#"{"reason":"too eager","block":{"mode":"until_resumed"}}"#;
    let answer = server.post("/control/sessions/runaway/kill", body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let killed = answer.json();
    assert_eq!(cut.reason(), Some(CutReason::Killed), "the leg is cut before the answer");
    for (name, value) in [
        ("session_id", json!("runaway")),
        ("state", json!("killed")),
        ("by", json!("control:127.0.0.1")),
        ("reason", json!("too eager")),
        ("legs_cut", json!(1)),
        ("instances_notified", json!(1)),
        ("blocked_until", Value::Null),
    ] {
        assert_eq!(killed[name], value, "{name}");
    }
    assert!(killed["killed_at"].is_string());
    drop(leg);
    let kills = server.get("/control/kills").json();
    assert_eq!(kills["kills"][0]["session_id"], "runaway");
    assert_eq!(kills["kills"][0]["mode"], "until_resumed");
    assert_eq!(server.get("/control/sessions/runaway").json()["state"], "killed");
}

#[test]
fn control_session_kill_refusals() {
    let server = TestServer::open();
    let missing = server.post("/control/sessions/nobody/kill", "");
    assert_eq!((missing.status, missing.code().as_str()), (404, "session_not_found"));
    let (leg, cut) = server.leg("anon:1", "one");
    let unknown = server.post("/control/sessions/one/kill", r#"{"raison":"x"}"#);
    assert_eq!((unknown.status, unknown.code().as_str()), (400, "bad_request"));
    let large = server.post("/control/sessions/one/kill", &" ".repeat(65 << 10));
    assert_eq!((large.status, large.code().as_str()), (413, "body_too_large"));
    assert_eq!(cut.reason(), None, "a refused kill kills nobody");
    assert_eq!(server.post("/control/sessions/one/kill", "").status, 200);
    drop(leg);
    let again = server.post("/control/sessions/one/kill", "");
    assert_eq!((again.status, again.code().as_str()), (409, "session_ended"));
    assert_eq!(again.json()["state"], "killed");
    assert_eq!(server.post("/control/sessions/one/kill", r#"{"force":true}"#).status, 200);
}

#[test]
fn control_session_kill_of_an_id_with_two_owners() {
    let server = TestServer::open();
    let (one, _) = server.leg("anon:1", "same");
    let (_two, cut) = server.leg("anon:2", "same");
    for answer in [server.get("/control/sessions/same"), server.post("/control/sessions/same/kill", "")] {
        assert_eq!((answer.status, answer.code().as_str()), (409, "session_ambiguous"));
        assert_eq!(answer.json()["uids"].as_array().unwrap().len(), 2);
    }
    let killed = server.post(&format!("/control/sessions/{}/kill", one.session().uid()), "").json();
    assert_eq!(killed["uid"], json!(one.session().uid()));
    assert_eq!(cut.reason(), None, "the other caller's session goes on");
}

#[test]
fn control_session_resume() {
    let server = TestServer::open();
    let (leg, _) = server.leg("anon:1", "one");
    let early = server.post("/control/sessions/one/resume", "");
    assert_eq!((early.status, early.code().as_str()), (404, "not_killed"));
    server.post("/control/sessions/one/kill", "");
    drop(leg);
    let answer = server.post("/control/sessions/one/resume", "");
    assert_eq!((answer.status, &answer.json()["session_id"]), (200, &json!("one")));
    assert_eq!(server.get("/control/kills").json()["kills"], json!([]));
    server.leg("anon:1", "one");
    assert_eq!(server.get("/control/sessions/one").json()["incarnation"], 2);
}

#[test]
fn control_session_resume_of_a_permanent_block() {
    let server = TestServer::open();
    let _leg = server.leg("anon:1", "one");
    server.post("/control/sessions/one/kill", r#"{"block":{"mode":"permanent"}}"#);
    let answer = server.post("/control/sessions/one/resume", "");
    assert_eq!((answer.status, answer.code().as_str()), (409, "block_permanent"));
}

/// Reads the feed up to a line that begins so.
fn read_until(reader: &mut impl BufRead, start: &str) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the feed ended before {start}");
        if line.starts_with(start) {
            return line.trim_end().to_owned();
        }
    }
}

#[test]
fn control_events() {
    let server = TestServer::open();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"GET /control/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut feed = BufReader::new(stream);
    assert_eq!(read_until(&mut feed, "content-type"), "content-type: text/event-stream");
    read_until(&mut feed, ": connected");
    let (leg, _cut) = server.leg("anon:1", "one");
    let data = |feed: &mut BufReader<TcpStream>| -> Value {
        serde_json::from_str(&read_until(feed, "data: ")["data: ".len()..]).unwrap()
    };
    assert_eq!(read_until(&mut feed, "event"), "event: session.started");
    assert_eq!(data(&mut feed)["id"], "one");
    server.post("/control/sessions/one/kill", r#"{"reason":"enough"}"#);
    assert_eq!(read_until(&mut feed, "event"), "event: session.killed");
    let killed = data(&mut feed);
    assert_eq!((&killed["reason"], &killed["legs_cut"]), (&json!("enough"), &json!(1)));
    drop(leg);
    assert_eq!(read_until(&mut feed, "event"), "event: session.ended");
    assert_eq!(data(&mut feed)["end_reason"], "killed");
    server.post("/control/sessions/one/resume", "");
    assert_eq!(read_until(&mut feed, "event"), "event: session.resumed");
    assert_eq!(data(&mut feed)["by"], "control:127.0.0.1");
}

#[test]
fn control_events_do_not_hold_the_shutdown() {
    let mut server = TestServer::open();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(b"GET /control/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut feed = BufReader::new(stream);
    read_until(&mut feed, ": connected");
    let begun = Instant::now();
    server.stop.send(true).unwrap();
    server.runtime.block_on(server.served.take().unwrap()).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let mut rest = String::new();
    feed.read_to_string(&mut rest).unwrap();
}

#[test]
fn control_config() {
    let server = TestServer::open();
    let config = server.get("/control/config").json();
    assert_eq!((&config["listen"], &config["token"]), (&json!(":8080"), &json!("***")));
    let answer = server.post("/control/config/reload", "");
    assert_eq!(answer.json(), json!({"applied": true, "restart_required": ["listen"]}));
}

#[test]
fn control_config_reload_tells_every_fault() {
    let mut faults = Faults::default();
    faults.add("session.idle_timeout", "is 0", "write 30m");
    faults.add("backends.openai.url", "has no host", "");
    let sessions = session::SessionConfig::default().compile(&mut Faults::default()).unwrap();
    let manager =
        Manager::new(sessions, Clock::system(), Arc::new(MemoryStore::default()), Arc::new(|_: &Event| {}));
    let settings = Arc::new(ArcSwap::from_pointee(control_settings(ControlConfig::default())));
    let parts = Parts {
        manager: Arc::clone(&manager),
        metrics: Metrics::new().unwrap(),
        readiness: Arc::default(),
        settings: Arc::clone(&settings),
        runtime: Arc::new(Program { faults: Some(faults) }),
        keys: no_keys(),
        overrides: no_overrides(),
        approvals: Arc::default(),
        suppressions: Arc::new(Suppressions::none()),
        people: Arc::default(),
        history: None,
        audit: no_audit(),
        notifier: nobody_told(),
        store: "memory",
        max_connections: 256,
    };
    let server = TestServer::serve(parts, manager, Arc::default(), settings);
    let answer = server.post("/control/config/reload", "");
    assert_eq!((answer.status, answer.code().as_str()), (422, "config_invalid"));
    let faults = answer.json()["faults"].clone();
    assert_eq!(faults.as_array().unwrap().len(), 2);
    assert_eq!(faults[0]["path"], "session.idle_timeout");
    assert_eq!(answer.json()["applied"], false);
}

#[test]
fn control_openapi() {
    let server = TestServer::open();
    let document = server.get("/openapi.json").json();
    assert_eq!(document, super::openapi::document());
    for (path, item) in document["paths"].as_object().unwrap() {
        // The feed has no end, and the document names the error.
        let is_checked = !["/control/events", "/openapi.json"].contains(&path.as_str());
        for method in item.as_object().unwrap().keys().filter(|_| is_checked) {
            let answer = server.call(&method.to_uppercase(), &path.replace("{id}", "x"), "", "");
            let is_unknown = answer.status == 405 || answer.body.contains("\"not_found\"");
            assert!(!is_unknown, "{method} {path}: {answer:?}");
        }
    }
}

#[test]
fn control_metrics() {
    let server = TestServer::open();
    let answer = server.get("/metrics");
    assert!(answer.header("content-type").starts_with("text/plain"), "{answer:?}");
    assert!(answer.body.contains("elida_build_info{version="), "{}", answer.body);
}

#[test]
fn control_unknown_paths_and_methods() {
    let server = TestServer::open();
    let missing = server.get("/control/nothing");
    assert_eq!((missing.status, missing.code().as_str()), (404, "not_found"));
    assert_eq!(server.get("/assets/nothing.mjs").code(), "not_found");
    let wrong = server.get("/control/sessions/one/kill");
    assert_eq!((wrong.status, wrong.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(wrong.header("allow"), "POST");
    let wrong = server.call("DELETE", "/control/sessions", "", "");
    assert_eq!((wrong.status, wrong.header("allow")), (405, "GET,HEAD"));
    assert_eq!(server.call("OPTIONS", "/control/sessions", "", "").status, 405);
}

#[test]
fn control_token() {
    let server = TestServer::with(with_token());
    let _leg = server.leg("anon:1", "one");
    for (headers, status) in [
        ("", 401),
        ("\r\nAuthorization: Bearer wrong", 401),
        ("\r\nAuthorization: Basic 0123456789abcdef0123", 401),
        ("\r\nAuthorization: Bearer 0123456789abcdef012", 401),
        ("\r\nAuthorization: Bearer 0123456789abcdef0123\r\nAuthorization: Bearer x", 401),
        ("\r\nAuthorization: Bearer", 401),
        ("\r\nAuthorization: bearer 0123456789abcdef0123", 200),
        ("\r\nAuthorization: Bearer 0123456789abcdef0123", 200),
    ] {
        for (method, path) in [
            ("GET", "/control/sessions"),
            ("GET", "/control/stats"),
            ("GET", "/control/config"),
            ("GET", "/control/kills"),
            ("GET", "/metrics"),
            ("GET", "/openapi.json"),
        ] {
            let answer = server.call(method, path, headers, "");
            assert_eq!(answer.status, status, "{path} with {headers:?}");
        }
    }
    let refused = server.post("/control/sessions/one/kill", "");
    assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"));
    assert!(refused.header("www-authenticate").starts_with("Bearer"));
    assert!(!refused.body.contains(TOKEN));
    assert_eq!(server.get("/control/nothing").status, 401, "strangers do not learn what exists");
    let health = server.get("/control/health").json();
    assert_eq!((&health["status"], &health["backends"]), (&json!("healthy"), &Value::Null));
    let kill = server.call(
        "POST",
        "/control/sessions/one/kill",
        "\r\nAuthorization: Bearer 0123456789abcdef0123",
        "",
    );
    assert_eq!(kill.status, 200);
}

#[test]
fn control_token_follows_a_reload() {
    let server = TestServer::open();
    assert_eq!(server.get("/control/stats").status, 200);
    server.settings.store(Arc::new(control_settings(with_token())));
    assert_eq!(server.get("/control/stats").status, 401);
}

#[test]
fn control_host() {
    let server = TestServer::open();
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:9090", 200),
        ("127.0.0.1:9090", 200),
        ("[::1]:9090", 200),
        ("evil.example", 403),
        ("evil.example:9090", 403),
        ("10.0.0.1", 403),
        ("localhost.evil.example", 403),
        ("", 403),
    ] {
        let answer = server.raw(&format!("GET /control/stats HTTP/1.1\r\nHost: {host}"), "");
        assert_eq!(answer.status, status, "{host}");
        if status == 403 {
            assert_eq!(answer.code(), "host_not_allowed");
        }
    }
    let missing = server.raw("GET /control/stats HTTP/1.1", "");
    assert_eq!(missing.status, 403);
    let absolute = server.raw("GET http://evil.example/control/stats HTTP/1.1\r\nHost: localhost", "");
    assert_eq!(absolute.status, 403);
    let twice = server.raw("GET /control/stats HTTP/1.1\r\nHost: localhost\r\nHost: evil.example", "");
    assert_ne!(twice.status, 200);
}

#[test]
fn control_cors() {
    let server = TestServer::with(with_origin());
    let token = "\r\nAuthorization: Bearer 0123456789abcdef0123";
    let ours = server.call("GET", "/control/stats", &format!("\r\nOrigin: https://ops.example{token}"), "");
    assert_eq!(ours.status, 200);
    assert_eq!(ours.header("access-control-allow-origin"), "https://ops.example");
    assert_eq!(ours.header("vary"), "origin");
    let ask = "\r\nOrigin: https://ops.example\r\nAccess-Control-Request-Method: POST";
    let preflight = server.call("OPTIONS", "/control/sessions/x/kill", ask, "");
    assert_eq!(preflight.status, 204, "a browser sends no token with a preflight");
    assert_eq!(preflight.header("access-control-allow-methods"), "GET, POST, DELETE");
    assert!(preflight.header("access-control-allow-headers").contains("authorization"));
    let unauthorized = server.call("GET", "/control/stats", "\r\nOrigin: https://ops.example", "");
    assert_eq!(unauthorized.status, 401, "an origin is no credential");
    assert_eq!(unauthorized.header("access-control-allow-origin"), "https://ops.example");
}

#[test]
fn control_cors_refuses_other_origins_on_every_method() {
    let server = TestServer::open();
    let (_leg, cut) = server.leg("anon:1", "one");
    for origin in ["https://evil.example", "null", "http://localhost:3000", "https://ops.example.evil"] {
        for method in ["GET", "POST", "HEAD", "OPTIONS"] {
            let headers = format!("\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST");
            let answer = server.call(method, "/control/sessions/one/kill", &headers, "");
            assert_eq!(answer.status, 403, "{method} from {origin}");
            assert_eq!(answer.header("access-control-allow-origin"), "");
        }
        let answer = server.call("GET", "/health", &format!("\r\nOrigin: {origin}"), "");
        assert_eq!((answer.status, answer.code().as_str()), (403, "origin_not_allowed"));
    }
    assert_eq!(cut.reason(), None);
}

#[test]
fn control_kill_is_quick() {
    let server = TestServer::open();
    let legs: Vec<_> = (0..50).map(|n| server.leg("anon:1", &format!("run-{n}"))).collect();
    let begun = Instant::now();
    for n in 0..50 {
        assert_eq!(server.post(&format!("/control/sessions/run-{n}/kill"), "").status, 200);
    }
    // Connection, kill and answer; generous for a loaded machine.
    assert!(begun.elapsed() / 50 < Duration::from_millis(20), "{:?}", begun.elapsed());
    drop(legs);
}
