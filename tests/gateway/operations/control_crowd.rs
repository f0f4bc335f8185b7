use std::time::{Duration, Instant};

use crate::support::timing::after;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

/// `control.limits.max_connections`.
const CONNECTIONS: usize = 256;

/// Heads and bodies have a time-out of 10 s; the rest is for a busy machine.
const SLOW: Duration = Duration::from_secs(20);

/// A gateway with these keys of `control`.
async fn with_control(keys: &str) -> (Demo, Gateway) {
    let demo = Demo::start().await;
    // The harness has already written the section's first key.
    let gateway = Gateway::with(format!("  {keys}\nbackend: {:?}\n", demo.url())).await;
    (demo, gateway)
}

/// Opens the event feed and reads the response head.
async fn feed(gateway: &Gateway) -> (RawClient, u16) {
    let mut client = RawClient::connect(gateway.control()).await;
    client.send(&Call::get("/control/events").bytes("localhost")).await.expect("send");
    let head = client.head().await.expect("an answer");
    (client, head.status())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_now_and_then_do_not_hold_a_connection() {
    let (_demo, gateway) = with_control("limits: { max_event_feeds: 64 }").await;
    let kill = "POST /control/sessions/x/kill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n";
    let later = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nX-Drip: ";
    let dripping = async |begin: &str, endless: &str| {
        let mut client = RawClient::connect(gateway.control()).await;
        client.send(begin.as_bytes()).await.expect("send");
        let begun = Instant::now();
        for byte in endless.bytes().cycle() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if client.send(&[byte]).await.is_err() {
                break;
            }
            assert!(begun.elapsed() < SLOW, "tolerated for {:?}", begun.elapsed());
        }
        client
    };
    let (_, _, mut body) = tokio::join!(
        dripping("GET /health HTTP/1.1\r\nX-Drip: ", "x"),
        dripping(later, "x"),
        dripping(kill, " "),
    );
    let answer = body.message(Unframed::UntilEnd).await;
    if let Some(answer) = answer {
        assert_eq!((answer.status(), &answer.json()["code"]), (408, &"request_timeout".into()));
    }
    assert_eq!(gateway.operator().await.get("/health/readiness").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_silent_peers_keeps_no_operator_out() {
    let (_demo, gateway) = with_control("limits: { max_event_feeds: 64 }").await;
    let mut client = Call::chat_stream("first [[stall]]").session("held").open(gateway.proxy()).await;
    client.until("first").await;
    let (mut events, status) = feed(&gateway).await;
    assert_eq!(status, 200);
    events.until("connected").await;
    let before = gateway.descriptors();
    let mut crowd = Vec::new();
    for number in 0..1000 {
        let mut silent = RawClient::connect(gateway.control()).await;
        if number % 2 == 0 {
            silent.send(b"GET /control/sess").await.expect("send");
        }
        crowd.push(silent);
    }
    let asked = Instant::now();
    let killed = gateway.kill("held").await;
    assert_eq!(killed.status, 200, "{}", killed.body);
    let took = after(asked, killed.answered);
    println!("kill behind the crowd: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    events.until("session.killed").await;
    client.message(Unframed::UntilEnd).await.expect("the end");
    let grown = gateway.descriptors().saturating_sub(before);
    assert!(grown < CONNECTIONS + 16, "{grown} descriptors for 1000 silent peers");
    let evicted = "elida_connections_refused_total{listener=\"control\",reason=\"evicted\"}";
    assert!(gateway.metric(evicted).await > 700.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_feeds_are_bounded() {
    let (_demo, gateway) = with_control("limits: { max_event_feeds: 3 }").await;
    let mut feeds = Vec::new();
    for _ in 0..3 {
        let (feed, status) = feed(&gateway).await;
        assert_eq!(status, 200);
        feeds.push(feed);
    }
    let refused = gateway.operator().await.get("/control/events").await;
    assert_eq!((refused.status(), &refused.json()["code"]), (429, &"too_many_feeds".into()));
    assert!(refused.head.field("retry-after").is_some(), "{:?}", refused.head);
    let detail = refused.json()["detail"].as_str().expect("a detail").to_owned();
    assert!(detail.contains("control.limits.max_event_feeds"), "{detail}");
    feeds.pop();
    within("a free place", async {
        while feed(&gateway).await.1 != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
