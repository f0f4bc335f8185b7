use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::http2::{Client, End};
use crate::support::timing::after;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, RawClient};

/// The longest that a kill or a query may take while the proxy is full, on a busy machine.
const BOUND: Duration = Duration::from_secs(1);

/// The test process holds both ends of the connections.
fn raise_own_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a higher limit");
}

/// The soft and the hard limit of open files of a process.
fn limits(pid: u32) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("proc");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let mut words = line["Max open files".len()..].split_whitespace().map(str::to_owned);
    (words.next().expect("soft"), words.next().expect("hard"))
}

/// Kill, readiness and statistics answer on a new connection.
async fn control_answers(gateway: &Gateway, session: &str) -> serde_json::Value {
    let begun = Instant::now();
    let killed = gateway.kill(session).await;
    assert_eq!(killed.status, 200, "{}", killed.body);
    let mut operator = gateway.operator().await;
    let ready = operator.get("/health/readiness").await;
    assert_eq!(ready.status(), 200, "{}", ready.text());
    let stats = operator.get("/control/stats").await;
    let took = after(begun, stats.ended);
    println!("kill, readiness and statistics: {took:?}");
    assert!(took < BOUND, "{took:?}");
    stats.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_proxy_leaves_descriptors_to_the_kill_switch() {
    raise_own_limit();
    let demo = Demo::start().await;
    let gateway = Gateway::with_files(&format!("backend: {:?}\n", demo.url()), 1024).await;
    let warned = gateway.log_until(|line| line["path"] == "server.limits.max_connections").await;
    assert_eq!((&warned["connections"], &warned["limit"]), (&360.into(), &1024.into()), "{warned}");
    assert!(warned["hint"].as_str().is_some_and(|hint| hint.contains("LimitNOFILE=43051")), "{warned}");

    let (mut served, mut refused) = (Vec::new(), 0);
    for number in 0..600 {
        let mut client = RawClient::connect(gateway.proxy()).await;
        let call = Call::chat_stream("first [[stall]]").session(&format!("s-{number}"));
        let _ = client.send(&call.bytes("gateway")).await;
        match client.head().await {
            Some(head) => {
                assert_eq!(head.status(), 200);
                client.until("first").await;
                served.push((client, head));
            }
            None => refused += 1,
        }
    }
    assert_eq!((served.len(), refused), (360, 240));
    let stats = control_answers(&gateway, "s-7").await;
    assert_eq!(stats["kills"], 1, "{stats}");
    // The killed one settles after the answer to the kill.
    gateway.answer_until("/control/stats", |stats| stats["open_legs"] == 359).await;
    let (mut cut, head) = served.remove(7);
    let answer = cut.body(head, Unframed::UntilEnd).await;
    assert!(answer.text().contains("session_killed"), "{answer:?}");
    assert!(gateway.descriptors() < 900, "{} descriptors", gateway.descriptors());
    let series = "elida_connections_refused_total{listener=\"proxy\",reason=\"descriptors\"}";
    assert!(gateway.metric(series).await >= 240.0);
    assert!(!gateway.log_text().contains("cannot accept"));
    // The cut client's descriptors are free for another client.
    drop(cut);
    let answer = crate::support::within("a free place", async {
        loop {
            let mut client = RawClient::connect(gateway.proxy()).await;
            let _ = client.send(&Call::chat("hello").bytes("gateway")).await;
            if let Some(answer) = client.message(Unframed::UntilEnd).await {
                return answer;
            }
        }
    })
    .await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_http2_take_descriptors_too() {
    let backend = RawBackend::start(async |mut connection| {
        connection.request().await;
        connection.stay_silent().await;
    })
    .await;
    let gateway = Gateway::with_files(&format!("backend: {:?}\n", backend.url()), 256).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(gateway.proxy()).await);
    }
    let mut exchanges = Vec::new();
    for number in 0..300 {
        let call = Call::get("/silent").session(&format!("h-{number}"));
        exchanges.push(clients[number % 3].send(&call).await);
    }
    // Three connections hold two of the 165 descriptors each.
    backend.until("all that fit", |backend| backend.heads().len() == 159).await;
    let refused = async {
        let answers = exchanges.into_iter().map(crate::support::http2::PendingAnswer::answer);
        let mut answers: futures::stream::FuturesUnordered<_> = answers.collect();
        let mut refused = 0;
        while refused < 141 {
            let answer = futures::StreamExt::next(&mut answers).await.expect("an answer");
            assert_eq!(answer.end, End::Reset(h2::Reason::REFUSED_STREAM), "{answer:?}");
            refused += 1;
        }
        answers
    };
    let _open = crate::support::within("the refusals", refused).await;
    let sessions = gateway.sessions().await;
    let session = sessions[0]["id"].as_str().expect("an id");
    control_answers(&gateway, session).await;
    // The killed one settles after the answer to the kill.
    gateway.answer_until("/control/stats", |stats| stats["open_legs"] == 158).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_soft_limit_is_raised_at_start() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\n", demo.url());
    let gateway = Gateway::with_limit(&yaml, "ulimit -S -n 256").await;
    let (soft, hard) = limits(gateway.pid());
    assert_eq!(soft, hard);
    assert_ne!(hard, "256", "this machine allows more");
    let raised = gateway.log_until(|line| line["message"] == "raised the limit of open files").await;
    assert_eq!((&raised["from"], raised["to"].to_string()), (&256.into(), hard), "{raised}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_listener_has_descriptors_when_there_is_none_left() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut client = Call::chat_stream("first [[stall]]").session("held").open(gateway.proxy()).await;
    client.until("first").await;
    gateway.exhaust_files();
    let stats = control_answers(&gateway, "held").await;
    assert_eq!(stats["kills"], 1, "{stats}");
    client.message(Unframed::UntilEnd).await.expect("the end");
    // More operators than the reserve allows: each one replaces another that is idle.
    for _ in 0..20 {
        let ready = gateway.operator().await.get("/health/readiness").await;
        assert_eq!(ready.status(), 200);
    }
}
