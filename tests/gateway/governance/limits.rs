use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::socket::Socket;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, RawClient};

/// A gateway in front of the demo provider with these limits.
async fn limited(demo: &Demo, limits: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\nlimits:\n{limits}\n", demo.url())).await
}

/// How many requests the provider has seen.
fn asked(demo: &Demo) -> usize {
    usize::try_from(demo.ledger().arrived()).expect("a number")
}

fn wait(refusal: &Message) -> u64 {
    refusal
        .head
        .field("retry-after")
        .and_then(|wait| wait.parse().ok())
        .expect("Retry-After in whole seconds")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_rate_is_refused_in_the_words_of_each_dialect() {
    let demo = Demo::start().await;
    let gateway = limited(&demo, "  - { by: 'request.path', requests: 1/min, burst: 1 }").await;
    let user = json!([{"role": "user", "content": "hello"}]);
    let rpc = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"});
    let calls = [
        (Call::chat("hello"), "/error/code"),
        (Call::messages_stream("hello"), "/error/code"),
        (Call::post("/api/chat").json(&json!({"model": "m", "messages": user})), ""),
        (Call::post("/v2/chat").json(&json!({"model": "command-demo", "messages": user})), ""),
        (Call::post("/v1beta/models/gemini-demo:generateContent").json(&json!({"contents": []})), ""),
        (
            Call::post("/mcp").header("accept", "application/json, text/event-stream").json(&rpc),
            "/error/data/code",
        ),
    ];
    for (call, code) in calls {
        let first = call.send(gateway.proxy()).await;
        assert!(first.status() < 429, "{}", first.text());
        assert_eq!(first.head.field("ratelimit"), Some("\"request.path\";r=0;t=60"));
        let before = asked(&demo);
        let refusal = call.send(gateway.proxy()).await;
        assert_eq!(refusal.status(), 429, "{}", refusal.text());
        assert_eq!(asked(&demo), before, "no backend sees it");
        assert!((58..=60).contains(&wait(&refusal)), "{:?}", refusal.head);
        assert_eq!(refusal.head.field("ratelimit-policy"), Some("\"request.path\";q=1;w=60"));
        let state = refusal.head.field("ratelimit").expect("a state");
        assert!(state.starts_with("\"request.path\";r=0;t="), "{state}");
        assert_eq!(refusal.head.field("x-should-retry"), None);
        let body = refusal.json();
        let text = body.to_string();
        assert!(text.contains("\"scope\":\"request.path\""), "for programs: {text}");
        assert!(text.contains("the limit 'request.path' allows 1 request per minute"), "{text}");
        if !code.is_empty() {
            assert_eq!(body.pointer(code), Some(&json!("rate_limited")), "{text}");
        }
        if code.starts_with("/error/data") {
            assert_eq!((&body["jsonrpc"], &body["id"]), (&json!("2.0"), &json!(7)), "{text}");
        }
    }
    let series = "elida_rate_limited_total{scope=\"request.path\",unit=\"requests\"}";
    assert_eq!(gateway.metric(series).await, 6.0);
    let line = gateway.log_until(|line| line["outcome"] == "rate_limited").await;
    assert_eq!(line["status"], 429, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_of_more_than_a_minute_is_final() {
    let demo = Demo::start().await;
    let gateway = limited(&demo, "  - { by: 'request.path', requests: 1/h }").await;
    let claude = |call: Call| call.header("user-agent", "claude-cli/2.1.0 (external, cli)");
    let codex = |call: Call| call.header("user-agent", "codex_exec/0.60.0");
    let rpc = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"});
    let mcp = Call::post("/mcp").header("accept", "application/json, text/event-stream").json(&rpc);
    for call in [Call::chat("a"), Call::messages_stream("a"), mcp.clone()] {
        call.send(gateway.proxy()).await;
    }
    for (call, status) in [
        (Call::chat("a"), 403),
        (claude(Call::messages_stream("a")), 403),
        (codex(Call::chat("a")), 400),
        (mcp, 200),
    ] {
        let refusal = call.send(gateway.proxy()).await;
        assert_eq!(refusal.status(), status, "{}", refusal.text());
        assert!(refusal.text().contains("quota_exceeded"), "{}", refusal.text());
        assert_eq!(refusal.head.field("x-should-retry"), Some("false"));
        assert!((3590..=3600).contains(&wait(&refusal)));
    }
}

/// Whether another stream of the caller is admitted; it is read to its end.
async fn is_admitted(gateway: &Gateway) -> bool {
    let answer = Call::chat_stream("one").send(gateway.proxy()).await;
    assert!(matches!(answer.status(), 200 | 429), "{}", answer.text());
    answer.status() == 200
}

/// Waits until a stream is admitted again.
async fn admitted(gateway: &Gateway, after: &str) {
    crate::support::within(after, async {
        while !is_admitted(gateway).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_request_counts_until_it_ends_however_it_does() {
    let demo = Demo::start().await;
    let gateway = limited(&demo, "  - { by: client.addr, in_flight: 1 }").await;
    // The request before has sent its last byte, but may not have ended yet.
    let stalled = async |session: &str| loop {
        let call = Call::chat_stream("[[stall]] one").session(session);
        let mut client = call.open(gateway.proxy()).await;
        if client.head().await.expect("a head").status() == 200 {
            assert!(!is_admitted(&gateway).await, "{session}");
            return client;
        }
    };
    drop(stalled("gone").await);
    admitted(&gateway, "a client that has gone").await;

    let client = stalled("killed").await;
    assert_eq!(gateway.kill("killed").await.status, 200);
    admitted(&gateway, "a kill").await;
    drop(client);

    let mute = loop {
        let mut mute = Call::chat("[[mute]]").session("mute").open(gateway.proxy()).await;
        if tokio::time::timeout(Duration::from_millis(200), mute.head()).await.is_err() {
            break mute;
        }
    };
    assert!(!is_admitted(&gateway).await);
    drop(mute);
    admitted(&gateway, "a client that has gone before the head").await;

    for directive in ["[[error 500]]", "[[cut]]", "one two"] {
        Call::chat(directive).send(gateway.proxy()).await;
        admitted(&gateway, directive).await;
    }

    let socket = loop {
        if let Ok(socket) =
            Socket::connect(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", &[]).await
        {
            break socket;
        }
    };
    assert!(!is_admitted(&gateway).await);
    socket.close(1000, "").await;
    admitted(&gateway, "a socket").await;
    let refusal = Call::chat("one").open(gateway.proxy()).await;
    drop(refusal);
    admitted(&gateway, "a refusal").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_requests_end_with_a_failover_too() {
    let demo = Demo::start().await;
    let yaml = format!(
        "limits: [{{ by: client.addr, in_flight: 1 }}]\nrouting: {{ methods: [model, default] }}\nbackends:\n  \
         down: {{ url: 'http://127.0.0.1:1', type: openai, models: ['gpt-*'], fallback: up, auth: {{ mode: none }} }}\n  \
         up: {{ url: {:?}, type: openai, default: true, auth: {{ mode: none }} }}\n",
        demo.url()
    );
    let gateway = Gateway::with(yaml).await;
    for _ in 0..3 {
        admitted(&gateway, "a failover").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_estimated_then_counted() {
    let demo = Demo::start().await;
    let gateway = limited(&demo, "  - { name: tokens, by: \"'all'\", tokens: 10k/h }").await;
    let call = |max: u64, text: &str| {
        let user = json!([{"role": "user", "content": text}]);
        Call::post("/v1/chat/completions")
            .json(&json!({"model": "gpt-demo", "max_tokens": max, "messages": user}))
    };
    let left = |answer: &Message| -> u64 {
        let state = answer.head.field("ratelimit").expect("a state").to_owned();
        let left = state.split(";r=").nth(1).and_then(|rest| rest.split(';').next()).expect("what is left");
        left.parse().expect("a number")
    };
    let first = call(2000, "one two three").send(gateway.proxy()).await;
    assert_eq!(first.head.field("ratelimit-policy"), Some("\"tokens tokens\";q=10000;qu=\"tokens\";w=3600"));
    let reserved = left(&first);
    assert!((7900..=7970).contains(&reserved), "2000 of output and half the bytes of the body: {reserved}");
    gateway.log_until(|line| line["message"] == "request_completed").await;
    let used = first.json()["usage"]["total_tokens"].as_u64().expect("counts");
    let second = call(1000, "one").send(gateway.proxy()).await;
    let expected = 10_000 - used - 1000;
    assert!((expected - 60..=expected).contains(&left(&second)), "{used} {}", left(&second));
    // What may not fit is refused, what fits is not; a request that makes no model write is not asked for tokens.
    let long = call(8000, "[[words 9900]]").send(gateway.proxy()).await;
    assert_eq!(long.status(), 200, "{}", long.text());
    let refused = call(9000, "one").send(gateway.proxy()).await;
    assert_eq!(refused.status(), 403, "{}", refused.text());
    assert!(refused.text().contains("10000 tokens per hour"), "{}", refused.text());
    assert_eq!(Call::get("/v1/models").send(gateway.proxy()).await.status(), 200);
    // A failed request gives its estimate back.
    let gateway = limited(&demo, "  - { by: \"'all'\", tokens: 10k/h }").await;
    for number in 0..5 {
        let session = format!("s-{number}");
        assert_eq!(call(9000, "[[error 500]]").session(&session).send(gateway.proxy()).await.status(), 500);
        gateway.session_until(&session, |session| session["open_legs"] == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_of_a_socket_are_counted_and_end_it() {
    let demo = Demo::start().await;
    let gateway = limited(&demo, "  - { by: \"'all'\", tokens: 50/min }").await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", "voice").await;
    socket.until("session.created").await;
    socket.ask("a b c d e f g h i j k l m n o p q r s t u v w x y z").await;
    socket.until("response.done").await;
    socket.send(&json!({"type": "response.create"})).await;
    let (events, ended) = socket.end().await;
    assert_eq!(ended.map(|(code, _)| code), Some(1013), "{events:?}");
    assert!(events.iter().any(|event| event.to_string().contains("rate_limited")), "{events:?}");
    let handshake = Socket::connect(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", &[]).await;
    assert!(handshake.is_err(), "the next one is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_names_and_a_reload() {
    let demo = Demo::start().await;
    let limits = |rate: &str| {
        format!(
            "backend: {:?}\nlimits:\n  - {{ name: team, by: 'request.headers[\"x-team\"] + \"/\" + request.model', \
             when: 'request.model.startsWith(\"gpt-\") && request.path != \"/v1/responses\"', requests: {rate} }}\n",
            demo.url()
        )
    };
    let gateway = Gateway::with(limits("2/min")).await;
    let status = async |team: &str, model: &str| {
        let user = json!([{"role": "user", "content": "hello"}]);
        let call = Call::post("/v1/chat/completions").header("x-team", team);
        call.json(&json!({"model": model, "messages": user})).send(gateway.proxy()).await.status()
    };
    for (team, model, expected) in [
        ("red", "gpt-a", 200),
        ("red", "gpt-a", 200),
        ("red", "gpt-a", 429),
        ("red", "gpt-b", 200),
        ("blue", "gpt-a", 200),
        ("red", "other", 200),
        ("red", "other", 200),
        ("red", "other", 200),
    ] {
        assert_eq!(status(team, model).await, expected, "{team} {model}");
    }
    // Whoever leaves the name out shares one with all who do.
    let nameless = async || Call::chat("hello").send(gateway.proxy()).await;
    assert_eq!([nameless().await.status(), nameless().await.status()], [200, 200]);
    assert_eq!(nameless().await.status(), 429);
    gateway.rewrite(&limits("3/min"));
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(status("red", "gpt-a").await, 200, "one more");
    assert_eq!(status("red", "gpt-a").await, 429, "and what was counted before stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_merged_list_of_models_is_counted_too() {
    let demo = Demo::start().await;
    let yaml = format!(
        "backends: {{ demo: {{ url: {:?}, type: openai, default: true }} }}\nmodels: {{ discovery: merged }}\n\
         limits: [{{ by: session.id, requests: 1/min }}]\n",
        demo.url()
    );
    let gateway = Gateway::with(yaml).await;
    let list = async || Call::get("/v1/models").session("s").send(gateway.proxy()).await;
    let first = list().await;
    assert_eq!((first.status(), first.head.field("ratelimit")), (200, Some("\"session.id\";r=0;t=60")));
    assert_eq!(list().await.status(), 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_never_pass_a_limit() {
    let demo = Demo::start().await;
    let gateway = limited(&demo, "  - { by: client.addr, requests: 100/h, in_flight: 60 }").await;
    let calls = (0..400).map(|number| {
        let proxy = gateway.proxy();
        let call = if number % 2 == 0 { Call::chat("one") } else { Call::chat_stream("one two") };
        tokio::spawn(async move { call.send(proxy).await.status() })
    });
    let calls: Vec<_> = calls.collect();
    let mut admitted = 0;
    for call in calls {
        admitted += usize::from(call.await.expect("a status") == 200);
    }
    assert!(admitted <= 100, "{admitted}");
    assert_eq!(asked(&demo), admitted);
    // What in_flight turned away was not counted by the rate.
    let mut client = RawClient::connect(gateway.proxy()).await;
    for _ in admitted..100 {
        let answer = Call::chat("one").send_over(&mut client, gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    assert_eq!(
        Call::chat("one").send_over(&mut client, gateway.proxy()).await.status(),
        429,
        "in 36 s there is room for one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_expression_is_reported_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let text = "limits:\n  - by: client.addr\n    when: 'principal.id == \"a\" && request.modle == \"b\"'\n    requests: 1/s\n";
    std::fs::write(&file, text).expect("the configuration");
    let check =
        Command::new(env!("CARGO_BIN_EXE_elida")).args(["check", "-c"]).arg(&file).output().expect("it runs");
    let report =
        String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success());
    assert!(report.contains("3:35") && report.contains("did you mean request.model?"), "{report}");
}

/// The blocks of the page that begin with this word.
fn blocks(kind: &str) -> Vec<&'static str> {
    let page = include_str!("../../../docs/limits.md");
    let example =
        page.split("\n## ").find(|section| section.starts_with("A worked example")).expect("the section");
    let fence = format!("```{kind}\n");
    let blocks = example.split(fence.as_str()).skip(1);
    blocks.map(|block| block.split("```").next().expect("an end")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worked_example_does_what_the_page_says() {
    let demo = Demo::start().await;
    let yaml = blocks("yaml").concat().replace("http://localhost:9100", &demo.url());
    let gateway = Gateway::with(yaml).await;
    for (commands, expected) in blocks("sh").into_iter().zip(blocks("text")) {
        let commands = commands.replace("localhost:8080", &gateway.proxy().to_string());
        let commands = commands.replace("localhost:9090", &gateway.control().to_string());
        let run = tokio::task::spawn_blocking(move || Command::new("sh").args(["-ec", &commands]).output());
        let output = run.await.expect("the shell").expect("sh runs");
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        // How many seconds are left depends on how fast this test runs.
        let timeless = |line: &str| line.split(";t=").next().unwrap_or_default().to_ascii_lowercase();
        for line in expected.lines().map(timeless) {
            assert!(text.lines().any(|found| timeless(found) == line), "{line}\nis not in\n{text}");
        }
    }
}

#[test]
fn the_page_lists_all_facts() {
    use elida::policy::facts::Phases;

    let page = include_str!("../../../docs/limits.md");
    for fact in elida::policy::facts::Fact::ALL {
        if *fact == elida::policy::facts::Fact::RequestSystemDigest {
            // Rules alone read it.
            continue;
        }
        let phase = match fact.phases() {
            Phases::ALL => "head",
            Phases::LATER => "request",
            // Those of rules.
            _ => continue,
        };
        let row = format!("| `{}` | {} | {phase} | {} |", fact.name(), fact.kind().name(), fact.meaning());
        assert!(page.contains(&row), "docs/limits.md has no row\n{row}");
    }
}
