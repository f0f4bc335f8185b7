use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::process::Process;
use crate::support::wire::{Head, Message, Unframed};
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The shell commands of a page of `docs/`.
fn commands(page: &str) -> Vec<String> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = std::fs::read_to_string(file).expect("the page");
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default().trim().to_owned()).collect()
}

/// Runs a command of the documentation with only its address changed; returns its output.
async fn shell(command: &str, control: SocketAddr) -> String {
    let command = command.replace("localhost:9090", &control.to_string());
    let run = tokio::task::spawn_blocking(move || {
        let output = Command::new("sh").args(["-c", &command]).env_remove("http_proxy").output();
        let output = output.expect("sh");
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    });
    within("the command", run).await.expect("the command")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_documentation_do_what_it_says() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!(
        "backend: {:?}\nbudgets:\n  - {{ name: team, by: '\"all\"', when: 'request.model == \"none\"', period: month, limit: 1 USD }}\n\
         policy:\n  rules:\n    - {{ id: no-claude, on: request, when: 'request.model.startsWith(\"claude\")', action: block }}\n    \
         - {{ id: lists, on: tool_call, when: 'tool.args.command == \"ls\"', action: flag }}\n",
        demo.url()
    ))
    .await;
    let control = gateway.control();
    let send = async || Call::chat("hello").session("my-session").send(gateway.proxy()).await.status();
    assert_eq!(send().await, 200);
    let commands: Vec<_> = commands("control-api.md")
        .into_iter()
        .filter(|command| command.starts_with("curl") && !command.contains("/control/events"))
        .collect();
    assert_eq!(commands.len(), 42, "each is looked at below: {commands:#?}");
    let run = async |end: &str| {
        let fits = |command: &&String| command.trim_end_matches('\'').ends_with(end);
        let command = commands.iter().find(fits).unwrap_or_else(|| panic!("{end} is not documented"));
        shell(command, control).await
    };
    let read = async |end: &str| crate::support::json(run(end).await.as_bytes());

    let rules = read("/control/policy").await;
    assert_eq!(rules["rules"][0]["id"], "no-claude", "{rules}");
    let tests: Vec<&str> = commands
        .iter()
        .filter(|command| command.contains("/policy/test"))
        .flat_map(|block| block.lines())
        .collect();
    assert_eq!(tests.len(), 2);
    for test in tests {
        let report = crate::support::json(shell(test, control).await.as_bytes());
        assert_eq!(report["rule"], "no-claude", "{report}");
        let calls = report["rules"].as_array().expect("rules").iter().find(|rule| rule["on"] == "tool_call");
        assert!(calls.is_none_or(|call| call["holds"] == true), "{report}");
    }
    let stats = read("/control/cache/stats").await;
    assert_eq!((&stats["enabled"], &stats["entries"]), (&json!(false), &json!(0)), "{stats}");
    assert_eq!(read("/control/cache?pattern=*.example.com").await, json!({"removed": 0, "bytes": 0}));
    let flags = read("severity=medium&limit=20").await;
    assert_eq!(flags["flags"], json!([]), "{flags}");
    let made = read("\"reason\": \"test numbers\"}").await;
    assert_eq!((&made["rule"], &made["reason"]), (&json!("no-claude"), &json!("test numbers")), "{made}");
    let list = read("/control/policy/suppressions").await;
    assert_eq!(list["suppressions"][0]["id"], made["id"], "{list}");
    let unknown = read("supp_019abf3e2c9a7d10b8f4c1d2e3f40516").await;
    assert_eq!(unknown["code"], "suppression_not_found", "{unknown}");
    let list = read("sessions?state=active&limit=20").await;
    assert_eq!((&list["total"], &list["next_cursor"]), (&json!(1), &Value::Null), "{list}");
    assert_eq!(list["sessions"][0]["id"], "my-session", "{list}");
    let session = read("/control/sessions/my-session").await;
    assert_eq!((&session["legs"], &session["requests"][0]["status"]), (&json!([]), &json!(200)), "{session}");
    let kills: Vec<_> = commands.iter().filter(|command| command.contains("/kill")).collect();
    assert_eq!(kills.len(), 4, "plain, with a body, by selector, and the list");
    let killed = crate::support::json(shell(kills[0], control).await.as_bytes());
    assert_eq!(
        (&killed["session_id"], &killed["state"]),
        (&json!("my-session"), &json!("killed")),
        "{killed}"
    );
    assert_eq!((&killed["legs_cut"], &killed["instances_notified"]), (&json!(0), &json!(1)), "{killed}");
    assert_eq!(send().await, 403);
    let orders = read("/control/kills").await;
    assert_eq!(orders["kills"][0]["session_id"], "my-session", "{orders}");
    let resumed = read("/resume").await;
    assert_eq!(resumed["order"]["uid"], killed["uid"], "{resumed}");
    assert_eq!(send().await, 200);
    let killed = crate::support::json(shell(kills[1], control).await.as_bytes());
    assert_eq!((&killed["reason"], &killed["state"]), (&json!("runaway"), &json!("killed")), "{killed}");
    assert!(killed["blocked_until"].is_string(), "{killed}");

    let selected = crate::support::json(shell(kills[2], control).await.as_bytes());
    assert_eq!((&selected["matched"], &selected["dry_run"]), (&json!(0), &json!(true)), "{selected}");

    let whoami = read("/control/whoami").await;
    assert_eq!((&whoami["id"], &whoami["roles"][0]["role"]), (&json!("local"), &json!("admin")), "{whoami}");
    assert_eq!(
        (&whoami["permissions"]["operate"], &whoami["features"]["login"]),
        (&json!("all"), &json!(false))
    );
    let series = read("/control/series").await;
    let point = series["points"].as_array().and_then(|points| points.last()).expect("a step");
    assert!(point["requests"].as_u64() >= Some(1) && point["kills"].as_u64() >= Some(2), "{series}");
    let instances = read("/control/instances").await;
    assert_eq!(
        (&instances["instances"][0]["name"], &instances["instances"][0]["store_up"]),
        (&json!("local"), &json!(true))
    );
    let audit = read("action=killSession").await;
    let reasons: Vec<_> =
        audit["lines"].as_array().expect("lines").iter().map(|line| &line["reason"]).collect();
    assert_eq!(reasons, ["runaway", "no reason given"], "{audit}");
    assert!(read("/control/history?state=killed&from=24h").await["records"].is_array());
    assert_eq!(read("/control/health").await["status"], "healthy");
    let backends = read("/control/backends").await;
    assert_eq!(
        backends["backends"]["default"],
        json!({"type": "ollama", "url": demo.url(), "auth": "passthrough", "healthy": true, "drained": false,
            "rests_for_ms": null, "callers_kept_away": 0, "open": 0})
    );
    for command in
        commands.iter().filter(|command| command.contains("/drain")).flat_map(|block| block.lines())
    {
        let answer = crate::support::json(shell(command, control).await.as_bytes());
        assert_eq!(answer["code"], "backend_not_found", "{command}");
    }
    assert_eq!(read("/control/budgets").await, json!({"budgets": []}));
    let overrides: Vec<_> = commands.iter().filter(|command| command.contains("/override")).collect();
    assert_eq!(overrides.len(), 3, "add, list, take back");
    let made = crate::support::json(shell(overrides[0], control).await.as_bytes());
    assert_eq!((&made["budget"], &made["add"]), (&json!("team"), &json!("100 USD")), "{made}");
    assert_eq!(read("/team/override").await, json!({"overrides": [made]}));
    let (path, _) = overrides[2].rsplit_once('/').expect("a path");
    let id = made["id"].as_str().expect("an id");
    let gone = crate::support::json(shell(&format!("{path}/{id}"), control).await.as_bytes());
    assert_eq!(gone, made);
    // `governance::approvals` has held calls.
    assert_eq!(read("/control/approvals").await, json!({"approvals": []}));
    for command in commands.iter().filter(|command| command.contains("/approvals/appr_")) {
        let answer = crate::support::json(shell(command, control).await.as_bytes());
        assert_eq!(answer["code"], "approval_not_found", "{command}");
    }
    let stats = read("/control/stats").await;
    assert_eq!((&stats["active"], &stats["by_state"]["killed"]), (&json!(0), &json!(2)), "{stats}");
    assert_eq!((&stats["kills"], &stats["kills_in_force"]), (&json!(2), &json!(1)), "{stats}");
    let config = read("/control/config").await;
    assert_eq!(config["backend"], demo.url());
    let at = config["sources"]["backend"].as_str().expect("a source");
    assert!(at.contains(".yaml:"), "{config}");
    assert_eq!(read("/control/audit/verify").await["verified"], true);
    let reloaded = read("/control/config/reload").await;
    assert_eq!(reloaded, json!({"applied": true, "restart_required": []}));
    let metrics = run("/metrics").await;
    assert!(metrics.contains("elida_session_kills_total{source=\"control\"} 2\n"), "{metrics}");
    assert_eq!(read("/health/readiness").await["status"], "ready");
    let document = read("/openapi.json").await;
    let file: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("the file");
    assert_eq!(document, file, "run: just schema");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_tells_of_sessions_and_kills() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let command = commands("control-api.md").into_iter().find(|command| command.contains("/control/events"));
    let command = command.expect("the feed is documented");
    let command = format!("exec {}", command.replace("localhost:9090", &gateway.control().to_string()));
    let mut curl = Command::new("sh").args(["-c", &command]).stdout(Stdio::piped()).spawn().expect("sh");
    let mut lines = BufReader::new(curl.stdout.take().expect("stdout")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), ": connected");

    let mut client = Call::chat_stream("first [[stall]]").session("fed").open(gateway.proxy()).await;
    client.until("first").await;
    assert_eq!(gateway.kill("fed").await.status, 200);
    client.message(Unframed::UntilEnd).await.expect("the end");
    assert_eq!(gateway.resume("fed").await, 200);

    let reading = tokio::task::spawn_blocking(move || {
        let mut events: Vec<(String, Value)> = Vec::new();
        let mut name = String::new();
        for line in lines.map_while(Result::ok) {
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                events.push((name.clone(), crate::support::json(data.as_bytes())));
            }
            if events.len() == 4 {
                break;
            }
        }
        events
    });
    let events = within("four events", reading).await.expect("the reader");
    curl.kill().expect("curl runs until it is ended");
    curl.wait().expect("curl");
    let mut names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.first(), Some(&"session.started"), "{events:?}");
    names.sort_unstable();
    assert_eq!(names, ["session.ended", "session.killed", "session.resumed", "session.started"]);
    let data = |wanted: &str| &events.iter().find(|(name, _)| name == wanted).expect("an event").1;
    assert_eq!(data("session.started")["id"], "fed");
    let killed = data("session.killed");
    assert_eq!((&killed["session_id"], &killed["legs_cut"]), (&json!("fed"), &json!(1)), "{killed}");
    let ended = data("session.ended");
    assert_eq!((&ended["state"], &ended["request_count"]), (&json!("killed"), &json!(1)), "{ended}");
    assert_eq!(data("session.resumed")["order"]["uid"], killed["uid"]);
}

/// Sends a request to the control service with these headers.
async fn asked(address: SocketAddr, call: Call, headers: &[(&str, &str)]) -> Message {
    // An answer without a body has no length either: it ends with the connection.
    let call = call.header("Connection", "close");
    headers.iter().fold(call, |call, (name, value)| call.header(name, value)).send(address).await
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_hosts_and_origins_are_refused() {
    let demo = Demo::start().await;
    // `with` writes the keys after `control: listen:`.
    let yaml =
        format!("  cors: {{ allow_origins: [\"https://ops.example.com\"] }}\nbackend: {:?}\n", demo.url());
    let gateway = Gateway::with(yaml).await;
    assert_eq!(Call::chat("hello").session("safe").send(gateway.proxy()).await.status(), 200);
    let address = gateway.control();
    let list = || Call::get("/control/sessions");
    let kill = || Call::post("/control/sessions/safe/kill");
    for host in ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", ""]
    {
        let refused = asked(address, list(), &[("Host", host)]).await;
        assert_eq!((refused.status(), &refused.json()["code"]), (403, &json!("host_not_allowed")), "{host}");
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:9090", "[::1]:9090"] {
        assert_eq!(asked(address, list(), &[("Host", host)]).await.status(), 200, "{host}");
    }
    for origin in ["https://evil.example", "null", "http://ops.example.com", "https://ops.example.com:8443"] {
        for call in [list(), kill(), Call::new("OPTIONS", "/control/sessions/safe/kill")] {
            let refused = asked(address, call, &[("Origin", origin)]).await;
            assert_eq!(refused.status(), 403, "{origin}");
            assert_eq!(refused.json()["code"], "origin_not_allowed", "{origin}");
            assert_eq!(refused.head.field("access-control-allow-origin"), None, "{origin}");
        }
    }
    let allowed = [("Origin", "https://ops.example.com")];
    let answer = asked(address, list(), &allowed).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(allow_origin(&answer.head), Some("https://ops.example.com"), "{:?}", answer.head);
    let preflight = [allowed[0], ("Access-Control-Request-Method", "POST")];
    let answer = asked(address, Call::new("OPTIONS", "/control/sessions/safe/kill"), &preflight).await;
    assert!(matches!(answer.status(), 200 | 204), "{:?}", answer.head);
    assert_eq!(allow_origin(&answer.head), Some("https://ops.example.com"), "{:?}", answer.head);
    let session = gateway.session_until("safe", |session| session["open_legs"] == 0).await;
    assert_eq!(session["state"], "active", "no refused kill has killed");
}

fn allow_origin(head: &Head) -> Option<&str> {
    head.field("access-control-allow-origin")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_it_does_not_listen_beyond_this_machine() {
    for address in ["0.0.0.0:0", ":0", "[::]:0"] {
        let mut process =
            Process::start(&format!("listen: \"127.0.0.1:0\"\ncontrol: {{ listen: {address:?} }}\n"), &[])
                .await;
        assert_eq!(process.ended().await.code(), Some(2), "{address}");
        let output = process.output_with("there is no token").await;
        assert!(output.contains("control.listen") && output.contains("ELIDA_CONTROL_TOKEN"), "{output}");
        assert!(output.contains("listen on 127.0.0.1"), "the remedy is named: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_it_listens_anywhere_and_asks_for_it() {
    let demo = Demo::start().await;
    let yaml =
        format!("listen: \"127.0.0.1:0\"\ncontrol: {{ listen: \"0.0.0.0:0\" }}\nbackend: {:?}\n", demo.url());
    let process = Process::start(&yaml, &[("ELIDA_CONTROL_TOKEN", TOKEN)]).await;
    let address = process.address("control").await;
    let kill = || Call::post("/control/sessions/x/kill");
    let calls = [Call::get("/control/sessions"), Call::get("/metrics"), Call::get("/control/config"), kill()];
    let wrong = TOKEN.replace('f', "e");
    for call in &calls {
        let bearer = |token: &str| format!("Bearer {token}");
        for authorization in [None, Some(bearer(&wrong)), Some(bearer("")), Some(TOKEN.to_owned())] {
            let headers: Vec<_> =
                authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
            let refused = asked(address, call.clone(), &headers).await;
            assert_eq!((refused.status(), &refused.json()["code"]), (401, &json!("unauthorized")));
            assert!(refused.head.field("www-authenticate").is_some(), "{:?}", refused.head);
        }
        let answer = asked(address, call.clone(), &[("Authorization", &bearer(TOKEN))]).await;
        assert!(matches!(answer.status(), 200 | 404), "{}", answer.text());
    }
    for probe in ["/health", "/health/liveness", "/health/readiness", "/health/startup", "/control/health"] {
        let answer = asked(address, Call::get(probe), &[]).await;
        assert_eq!(answer.status(), 200, "{probe}: {}", answer.text());
        assert_eq!(answer.json()["backends"], Value::Null, "what strangers need not know");
    }
    let bearer = format!("Bearer {TOKEN}");
    let health = asked(address, Call::get("/control/health"), &[("Authorization", &bearer)]).await;
    assert!(health.json()["backends"].is_object(), "{}", health.text());
    assert!(!process.output().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_told_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address");
    let yaml = format!("listen: \"127.0.0.1:0\"\ncontrol: {{ listen: \"{address}\" }}\n");
    let mut process = Process::start(&yaml, &[]).await;
    assert_eq!(process.ended().await.code(), Some(1));
    let output = process.output_with("control.listen").await;
    assert!(output.contains(&format!("cannot listen on {address}")), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_sessions_follow_each_other() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    for number in 0..25 {
        let call = Call::chat("hello").session(&format!("s-{number:02}")).header("user-agent", "curl/8.5.0");
        assert_eq!(call.send_over(&mut client, gateway.proxy()).await.status(), 200);
    }
    let mut operator = gateway.operator().await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for expected in [10, 10, 5] {
        let page = operator.get(&format!("/control/sessions?limit=10{cursor}")).await.json();
        let sessions = page["sessions"].as_array().expect("sessions").clone();
        assert_eq!(sessions.len(), expected, "{page}");
        seen.extend(sessions.iter().map(|session| session["id"].as_str().expect("an id").to_owned()));
        cursor = page["next_cursor"].as_str().map_or_else(String::new, |next| format!("&cursor={next}"));
    }
    assert_eq!(cursor, "", "there is no fourth page");
    let newest_first: Vec<_> = (0..25).rev().map(|number| format!("s-{number:02}")).collect();
    assert_eq!(seen, newest_first);
    let mut count = async |query: &str| {
        let page = operator.get(&format!("/control/sessions?{query}")).await.json();
        page["total"].as_u64().unwrap_or_else(|| panic!("a total: {page}"))
    };
    assert_eq!(count("client=curl&q=s-0").await, 10);
    assert_eq!(count("client=codex").await, 0);
    assert_eq!(count("backend=default&state=active&principal=anon:127.0.0.1").await, 25);
    assert_eq!(operator.get("/control/sessions?limit=0&colour=red").await.status(), 400);
}
