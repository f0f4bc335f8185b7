use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::socket::Socket;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

/// A price file: a dollar for a million tokens of the prompt, two for the answer.
pub(crate) fn prices() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = "version: 1\nprices: [{ model: 'gpt-*', input: 1, output: 2 }]\n";
    std::fs::write(file.path(), text).expect("the prices");
    file
}

async fn with_budgets(demo: &Demo, prices: &tempfile::NamedTempFile, budgets: &str) -> Gateway {
    let file = prices.path().display();
    Gateway::with(format!(
        "backend: {:?}\nusage: {{ prices_file: {file:?} }}\nbudgets:\n{budgets}\n",
        demo.url()
    ))
    .await
}

/// A chat whose answer may have so many tokens.
pub(crate) fn chat(text: &str, max: u64, stream: bool) -> Call {
    let user = json!([{"role": "user", "content": text}]);
    let usage = json!({"include_usage": true});
    Call::post("/v1/chat/completions").json(&json!({"model": "gpt-demo", "max_tokens": max, "messages": user,
        "stream": stream, "stream_options": if stream { usage } else { Value::Null }}))
}

pub(crate) async fn accounts(gateway: &Gateway) -> Vec<Value> {
    let list = gateway.operator().await.get("/control/budgets").await.json();
    list["budgets"].as_array().cloned().unwrap_or_default()
}

/// Waits until nothing is held; returns what is spent of the first account.
pub(crate) async fn settled(gateway: &Gateway) -> f64 {
    within("nothing to be held", async {
        loop {
            let accounts = accounts(gateway).await;
            if accounts.iter().all(|account| account["held"] == 0.0) {
                return accounts.first().and_then(|account| account["spent"].as_f64()).unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

pub(crate) fn code(refusal: &Message) -> String {
    let body = refusal.json();
    body["error"]["code"].as_str().unwrap_or_else(|| panic!("no code: {body}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_accounts_is_bounded_and_finds_a_single_one() {
    let (demo, prices) = (Demo::start().await, prices());
    let budget = "  - { name: each, by: session.id, period: session, limit: 1M tokens }";
    let gateway = with_budgets(&demo, &prices, budget).await;
    for session in ["s-1", "s-2", "s-3"] {
        assert_eq!(chat("hi", 10, false).session(session).send(gateway.proxy()).await.status(), 200);
    }
    let list = async |query: &str| {
        let answer = gateway.operator().await.get(&format!("/control/budgets{query}")).await.json();
        let names = answer["budgets"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let names: Vec<Value> = names.iter().map(|one| one["name"].clone()).collect();
        (names, answer["truncated"] == true)
    };
    let counted = async |query: &str| {
        let (names, is_cut) = list(query).await;
        (names.len(), is_cut)
    };
    assert_eq!((counted("").await, counted("?limit=2").await), ((3, false), (2, true)));
    assert_eq!(list("?budget=each&account=s-2").await, (vec![json!("s-2")], false));
    assert_eq!(list("?budget=none").await, (Vec::new(), false));
    assert_eq!(gateway.operator().await.get("/control/budgets?limit=0").await.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_cost_is_spent_and_the_limit_holds() {
    let (demo, prices) = (Demo::start().await, prices());
    let gateway = with_budgets(
        &demo,
        &prices,
        "  - { name: money, by: client.addr, period: month, limit: 0.002 USD, soft: 0.001 }\n  \
         - { name: tokens, by: session.id, period: session, limit: 1M tokens }",
    )
    .await;
    let answer = chat("one two three", 100, false).session("s").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let usage = &answer.json()["usage"];
    let (input, output) = (
        usage["prompt_tokens"].as_f64().expect("input"),
        usage["completion_tokens"].as_f64().expect("output"),
    );
    let spent = settled(&gateway).await;
    assert!((spent - (input + 2.0 * output) / 1e6).abs() < 1e-12, "{spent} {usage}");
    let listed = accounts(&gateway).await;
    let tokens = listed.iter().find(|account| account["budget"] == "tokens").expect("the session's");
    assert_eq!(
        (&tokens["name"], tokens["spent"].as_f64(), &tokens["unit"]),
        (&json!("s"), Some(input + output), &json!("tokens"))
    );
    gateway
        .log_until(|line| {
            line["message"] == "a budget has passed its soft limit" && line["budget"] == "money"
        })
        .await;

    let arrived = demo.ledger().arrived();
    let refusal = chat("one", 1000, false).session("s").send(gateway.proxy()).await;
    assert_eq!((refusal.status(), code(&refusal).as_str()), (403, "budget_exceeded"), "{}", refusal.text());
    assert!(refusal.text().contains("the budget 'money' of 0.002 USD does not last"), "{}", refusal.text());
    let metadata = &refusal.json()["metadata"];
    assert_eq!(
        (&metadata["scope"], &metadata["limit"]),
        (&json!("money"), &json!("0.002 USD")),
        "{metadata}"
    );
    assert!(metadata["spent"].as_str().is_some_and(|spent| spent.ends_with(" USD")), "{metadata}");
    let resets = metadata["resets_at"].as_str().expect("when it begins anew");
    assert!(refusal.text().contains(&format!("it begins anew at {resets}")), "{}", refusal.text());
    assert_eq!(refusal.head.field("x-should-retry"), Some("false"));
    assert_eq!(demo.ledger().arrived(), arrived, "no backend sees it");
    let codex =
        chat("one", 1000, false).header("user-agent", "codex_exec/0.60.0").send(gateway.proxy()).await;
    assert_eq!(codex.status(), 400);
    assert_eq!(Call::get("/v1/models").send(gateway.proxy()).await.status(), 200, "it makes no model write");
    let series = "elida_budget_refused_total{budget=\"money\",reason=\"budget_exceeded\"}";
    assert_eq!(gateway.metric(series).await, 2.0);
    assert!(gateway.metric("elida_budget_ratio{budget=\"money\"}").await > 0.0);
    let table = gateway.elida(&["budget", "list"]).await;
    assert!(table.contains("BUDGET") && table.contains("money") && table.contains("month"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_requests_cost_nothing_and_unpriced_models_are_refused() {
    let (demo, prices) = (Demo::start().await, prices());
    let gateway =
        with_budgets(&demo, &prices, "  - { name: money, by: client.addr, period: day, limit: 1 USD }").await;
    for directive in ["[[error 500]]", "[[error 429]]"] {
        chat(directive, 100, false).send(gateway.proxy()).await;
        assert_eq!(settled(&gateway).await, 0.0, "{directive}");
    }
    let user = json!([{"role": "user", "content": "hello"}]);
    let unpriced = Call::post("/v1/chat/completions").json(&json!({"model": "mystery", "messages": user}));
    let refusal = unpriced.send(gateway.proxy()).await;
    assert_eq!((refusal.status(), code(&refusal).as_str()), (403, "model_unpriced"), "{}", refusal.text());
    assert_eq!(settled(&gateway).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_open_requests_hold_makes_others_wait() {
    let (demo, prices) = (Demo::start().await, prices());
    let gateway =
        with_budgets(&demo, &prices, "  - { name: t, by: client.addr, period: total, limit: 1000 tokens }")
            .await;
    let mut stream = chat("[[stall]] one", 700, true).session("open").open(gateway.proxy()).await;
    assert_eq!(stream.head().await.expect("a head").status(), 200);
    let busy = chat("one", 700, false).send(gateway.proxy()).await;
    assert_eq!((busy.status(), code(&busy).as_str()), (429, "budget_busy"), "{}", busy.text());
    assert_eq!(busy.head.field("retry-after"), Some("1"));
    assert_eq!(gateway.kill("open").await.status, 200);
    let spent = settled(&gateway).await;
    assert!((20.0..300.0).contains(&spent), "a stream that is cut costs its input: {spent}");
    assert_eq!(chat("one", 600, false).send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_the_answer_begins_pays_for_the_prompt() {
    let (demo, prices) = (Demo::start().await, prices());
    let gateway =
        with_budgets(&demo, &prices, "  - { name: t, by: client.addr, period: total, limit: 10k tokens }")
            .await;
    let text = format!("[[mute]] {}", "one two three ".repeat(50));
    let client = chat(&text, 500, true).session("left").open(gateway.proxy()).await;
    within("the backend to have it", async {
        while demo.ledger().arrived() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // An end of its side alone would be taken for a half-close if it were there before the gateway waits for the answer.
    client.reset();
    let spent = settled(&gateway).await;
    assert!((200.0..400.0).contains(&spent), "a token for 3.6 bytes: {spent}");
    let ended = |session: &Value| session["usage"]["estimated_answers"] == 1;
    let session = gateway.session_until("left", ended).await;
    assert_eq!(session["usage"]["input_tokens"].as_f64(), Some(spent), "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_spends_its_answers_and_ends_when_nothing_is_left() {
    let (demo, prices) = (Demo::start().await, prices());
    let gateway =
        with_budgets(&demo, &prices, "  - { name: t, by: client.addr, period: total, limit: 16390 tokens }")
            .await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", "voice").await;
    socket.until("session.created").await;
    socket.ask("a b c d e f g h i j").await;
    socket.until("response.done").await;
    socket.send(&json!({"type": "response.create"})).await;
    let (events, ended) = socket.end().await;
    assert_eq!(ended.map(|(code, _)| code), Some(1008), "{events:?}");
    assert!(events.iter().any(|event| event.to_string().contains("budget_exceeded")), "{events:?}");
    assert!(settled(&gateway).await >= 10.0);
}

/// A thousand requests, whole and streamed, some of whose clients hang up, against room for a hundred.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_at_once_never_pass_a_budget() {
    const NEED: u64 = 1000;
    let (demo, prices) = (Demo::start().await, prices());
    let body = chat("one two three", NEED, true).bytes("x").len() as u64;
    // Room for what a hundred may need, and surely not for what 130 may.
    let limit = 100 * (NEED + body / 2);
    let budgets = format!(
        "  - {{ name: outer, by: \"'all'\", period: month, limit: {limit} tokens }}\n  \
         - {{ name: inner, by: client.addr, period: day, limit: 1M tokens }}"
    );
    let gateway = with_budgets(&demo, &prices, &budgets).await;
    let served = std::sync::Arc::new(AtomicUsize::new(0));
    let mut open = tokio::task::JoinSet::new();
    for number in 0..1000_u64 {
        let (proxy, served) = (gateway.proxy(), std::sync::Arc::clone(&served));
        open.spawn(async move {
            let streamed = number % 2 == 0;
            let text = if number % 5 == 0 { "one [[stall]] two" } else { "one two three" };
            let call = chat(text, NEED, streamed);
            let mut client = call.open(proxy).await;
            if number % 5 == 0 {
                // It hangs up before its end.
                let head = tokio::time::timeout(Duration::from_millis(300), client.head()).await;
                if matches!(&head, Ok(Some(head)) if head.status() == 200) {
                    served.fetch_add(1, Ordering::Relaxed);
                }
                return 0;
            }
            let Some(answer) = client.message(crate::support::wire::Unframed::Empty).await else { return 0 };
            if answer.status() != 200 {
                assert!(matches!(answer.status(), 403 | 429), "{}", answer.text());
                return 0;
            }
            served.fetch_add(1, Ordering::Relaxed);
            tokens(&answer)
        });
    }
    let mut counted = 0;
    while let Some(used) = open.join_next().await {
        counted += used.expect("a client");
        if open.len() % 50 == 0 {
            for account in accounts(&gateway).await {
                let all =
                    account["spent"].as_f64().zip(account["held"].as_f64()).map(|(spent, held)| spent + held);
                assert!(all <= account["limit"].as_f64(), "{account}");
            }
        }
    }
    let spent = settled(&gateway).await;
    let listed = accounts(&gateway).await;
    let of =
        |budget: &str| listed.iter().find(|account| account["budget"] == budget).expect("an account").clone();
    let (outer, inner) = (of("outer"), of("inner"));
    assert_eq!(outer["spent"], inner["spent"], "all levels agree");
    assert_eq!((&outer["held"], &inner["held"]), (&json!(0.0), &json!(0.0)));
    assert!(spent <= limit as f64, "{spent} of {limit}");
    assert!(spent >= counted as f64, "{spent}: {counted} were counted for clients that stayed");
    assert!(served.load(Ordering::Relaxed) >= 20, "{served:?}");
}

/// The tokens that the provider has counted in an answer; 0 in one that is cut.
pub(crate) fn tokens(answer: &Message) -> u64 {
    let text = answer.text();
    let usage = text.rsplit("\"total_tokens\":").next().expect("a count");
    usage.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

/// Exact to the token when all clients stay: what was spent is what the provider has counted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_spent_is_exact() {
    let (demo, prices) = (Demo::start().await, prices());
    let gateway =
        with_budgets(&demo, &prices, "  - { name: t, by: client.addr, period: month, limit: 10M tokens }")
            .await;
    let (mut client, mut counted) = (RawClient::connect(gateway.proxy()).await, 0);
    for number in 0..40 {
        let text = "one two three ".repeat(number % 7 + 1);
        let answer = chat(&text, 500, number % 2 == 0).send_over(&mut client, gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        counted += tokens(&answer);
    }
    assert_eq!(settled(&gateway).await, counted as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusual_spelling_of_a_path_is_no_way_around_a_budget() {
    let (demo, prices) = (Demo::start().await, prices());
    let gateway =
        with_budgets(&demo, &prices, "  - { name: all, by: '\"all\"', period: day, limit: 1 tokens }").await;
    let usual = chat("hello", 10, false);
    assert_eq!(usual.send(gateway.proxy()).await.status(), 403);
    for path in ["/v1/chat%2Fcompletions", "/v1/chat/%63ompletions", "/v1//chat/completions"] {
        let body = json!({"model": "gpt-demo", "messages": [{"role": "user", "content": "hello"}]});
        let refusal = Call::post(path).json(&body).send(gateway.proxy()).await;
        assert!([400, 403].contains(&refusal.status()), "{path}: {}", refusal.text());
    }
    assert_eq!(demo.ledger().arrived(), 0);
}
