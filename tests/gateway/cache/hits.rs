use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, Connection, Gateway, RawBackend, sha256, within};

/// A backend that answers each request with what `answer` returns for its target and number.
pub async fn origin(answer: impl Fn(&Message, usize) -> String + Send + Sync + 'static) -> RawBackend {
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    RawBackend::start(move |mut connection: Connection| {
        let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
        async move {
            while let Some(request) = connection.request().await {
                let answer = answer(&request, count.fetch_add(1, SeqCst));
                if answer.is_empty() || connection.send(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// An answer with these fields and this body.
pub fn answer(status: u16, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
}

/// A gateway with this backend and a cache.
pub fn yaml(backend: &impl Backend, keys: &str) -> String {
    format!(
        "backends:\n  files: {{ url: {:?}, type: http }}\ncache: {{ enabled: true{keys} }}\n",
        backend.url()
    )
}

pub fn field<'a>(message: &'a Message, name: &str) -> &'a str {
    message.head.field(name).unwrap_or_default()
}

fn status_of(message: &Message) -> &str {
    field(message, "cache-status")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_is_a_leg_like_any_other() {
    let backend = origin(|_, number| {
        let fields =
            "Cache-Control: max-age=60\r\nETag: \"1\"\r\nX-Odd: a\r\nConnection: x-hop\r\nX-Hop: 1\r\n";
        answer(200, fields, &format!("body {number} of ten"))
    })
    .await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    let call = || Call::get("/a.json?x=1").session("reader");
    let first = call().send(gateway.proxy()).await;
    assert_eq!((first.status(), status_of(&first)), (200, "elida; fwd=uri-miss; stored"));
    let second = call().send(gateway.proxy()).await;
    assert_eq!((second.status(), second.text(), second.is_whole), (200, "body 0 of ten".to_owned(), true));
    assert!(status_of(&second).starts_with("elida; hit; ttl="), "{:?}", second.head);
    assert!(!field(&second, "age").is_empty());
    assert_eq!((field(&second, "x-odd"), field(&second, "x-hop")), ("a", ""));
    assert_eq!(field(&second, "x-session-id"), "reader");
    assert_ne!(field(&second, "x-request-id"), field(&first, "x-request-id"));
    let head = Call::new("HEAD", "/a.json?x=1").session("reader").send(gateway.proxy()).await;
    assert_eq!((head.status(), field(&head, "content-length"), head.body.len()), (200, "13", 0));
    let part = call().header("range", "bytes=5-5").send(gateway.proxy()).await;
    assert_eq!(
        (part.status(), part.text().as_str(), field(&part, "content-range")),
        (206, "0", "bytes 5-5/13")
    );
    // A 304 has no body, and the connection goes on.
    let mut client = call().header("if-none-match", "\"1\"").open(gateway.proxy()).await;
    let same = client.head().await.expect("a head");
    assert_eq!((same.status(), same.field("etag")), (304, Some("\"1\"")), "{same:?}");
    assert_eq!(call().send_over(&mut client, gateway.proxy()).await.text(), "body 0 of ten");
    assert_eq!(backend.requests().len(), 1);
    let hit =
        gateway.log_until(|line| line["message"] == "request_completed" && line["backend"] == "cache").await;
    assert_eq!((&hit["status"], &hit["session_id"]), (&200.into(), &"reader".into()), "{hit}");
    gateway.session_until("reader", |session| session["request_count"] == 6).await;
    assert_eq!(gateway.metric("elida_cache_hits_total").await, 5.0);
    assert_eq!(gateway.metric("elida_cache_misses_total").await, 1.0);
    assert!((gateway.metric("elida_cache_hit_ratio").await - 5.0 / 6.0).abs() < 1e-9);
    assert!(gateway.metric("elida_cache_bytes").await > 13.0);
    // A killed session gets no hit.
    gateway.kill("reader").await;
    let refused = call().send(gateway.proxy()).await;
    assert_eq!(
        (refused.status(), refused.json()["error"]["type"].as_str().is_some()),
        (403, true),
        "{}",
        refused.text()
    );
    assert_eq!(Call::get("/a.json?x=1").session("other").send(gateway.proxy()).await.status(), 200);
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_answers_are_confirmed_replaced_or_stand_in_for_a_backend_that_fails() {
    let backend = origin(|request, number| match request.head.target() {
        "/confirmed" if request.head.field("if-none-match") == Some("\"1\"") => {
            "HTTP/1.1 304 X\r\nCache-Control: max-age=60\r\nX-New: 1\r\n\r\n".to_owned()
        }
        "/confirmed" => answer(200, "Cache-Control: no-cache\r\nETag: \"1\"\r\n", "same"),
        "/replaced" => {
            answer(200, &format!("Cache-Control: no-cache\r\nETag: \"{number}\"\r\n"), &format!("{number}"))
        }
        "/fails" if number > 0 && request.head.field("x-fail").is_some() => answer(503, "", "no"),
        "/fails" => answer(200, "Cache-Control: max-age=0, stale-if-error=600\r\n", "kept"),
        _ => answer(404, "", ""),
    })
    .await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    let ask = async |path: &str, fields: &[(&str, &str)]| {
        let call = fields.iter().fold(Call::get(path), |call, (name, value)| call.header(name, value));
        call.send(gateway.proxy()).await
    };
    ask("/confirmed", &[]).await;
    let confirmed = ask("/confirmed", &[]).await;
    assert_eq!((confirmed.status(), confirmed.text().as_str()), (200, "same"));
    assert_eq!(status_of(&confirmed), "elida; fwd=stale; fwd-status=304; stored");
    assert_eq!((field(&confirmed, "x-new"), field(&confirmed, "cache-control")), ("1", "max-age=60"));
    assert!(status_of(&ask("/confirmed", &[]).await).starts_with("elida; hit"));
    let asked = ask("/confirmed", &[("cache-control", "no-cache")]).await;
    assert_eq!(status_of(&asked), "elida; fwd=request; fwd-status=304; stored");
    let first = ask("/replaced", &[]).await.text();
    assert_ne!(ask("/replaced", &[]).await.text(), first);
    ask("/fails", &[]).await;
    let kept = ask("/fails", &[("x-fail", "1")]).await;
    assert_eq!((kept.status(), kept.text().as_str()), (200, "kept"));
    assert!(status_of(&kept).starts_with("elida; hit; ttl="), "{:?}", kept.head);
    let none = ask("/none", &[("cache-control", "only-if-cached")]).await;
    assert_eq!(none.status(), 504);
    let stats = gateway.operator().await.get("/admin/cache/stats").await.json();
    assert_eq!((&stats["revalidated"], &stats["stale_hits"]), (&2.into(), &1.into()), "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_stands_in_for_a_backend_that_is_gone() {
    let fields = "Cache-Control: max-age=0, stale-if-error=600\r\n";
    let backend = origin(move |_, number| match number {
        0 => answer(200, fields, "kept"),
        // Closes the connection without an answer.
        _ => String::new(),
    })
    .await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    for _ in 0..3 {
        let kept = Call::get("/x").send(gateway.proxy()).await;
        assert_eq!((kept.status(), kept.text().as_str()), (200, "kept"));
    }
    assert!(backend.requests().len() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_makes_what_is_stored_invalid() {
    let backend = origin(|request, number| match request.head.line.split(' ').next() {
        Some("POST") => answer(201, "Location: /made\r\nContent-Location: http://other.test/kept\r\n", ""),
        Some("DELETE") => answer(500, "", ""),
        _ => answer(200, "Cache-Control: max-age=60\r\n", &number.to_string()),
    })
    .await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    let ask = async |path: &str| Call::get(path).send(gateway.proxy()).await.text();
    let before = [ask("/x").await, ask("/made").await, ask("/kept").await];
    assert_eq!([ask("/x").await, ask("/made").await, ask("/kept").await], before);
    assert_eq!(Call::new("DELETE", "/x").send(gateway.proxy()).await.status(), 500);
    assert_eq!(ask("/x").await, before[0]);
    assert_eq!(Call::post("/x").body("b").send(gateway.proxy()).await.status(), 201);
    assert_ne!(ask("/x").await, before[0]);
    assert_ne!(ask("/made").await, before[1]);
    assert_eq!(ask("/kept").await, before[2]);
}

/// A body of many pieces.
fn body() -> String {
    (0..2000).map(|number| format!("data: {number}\n\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_and_nothing_that_must_not_be_stored_is_touched() {
    let chunked = |kind: &str, status: &str| {
        let pieces = body()
            .as_bytes()
            .chunks(999)
            .map(|piece| format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece)))
            .collect::<String>();
        format!(
            "HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\nCache-Control: public, max-age=60\r\n{kind}\r\n{pieces}0\r\n\r\n"
        )
    };
    let kinds = [
        "Content-Type: text/event-stream\r\n",
        "Content-Type: application/x-ndjson\r\n",
        "Content-Type: application/grpc+proto\r\n",
        "Content-Type: application/vnd.amazon.eventstream\r\n",
        "Content-Type: text/plain\r\nVary: *\r\n",
        "Content-Type: text/plain\r\nCache-Control: private\r\n",
        "Content-Type: text/plain\r\nCache-Control: no-store\r\n",
    ];
    let backend = origin(move |request, _| {
        let path = request.head.target().trim_start_matches('/').to_owned();
        match path.as_str() {
            "cookie" => answer(200, "Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n", "x"),
            "part" => answer(206, "Cache-Control: max-age=60\r\nContent-Range: bytes 0-0/9\r\n", "x"),
            // Larger than `max_object`, with and without a length.
            "large" => answer(200, "Cache-Control: max-age=60\r\n", &"x".repeat(80_000)),
            "larger" => chunked("Content-Type: text/plain\r\n", "200").replace("data", &"datum".repeat(30)),
            number => chunked(kinds[number.parse::<usize>().expect("a number")], "200"),
        }
    })
    .await;
    let gateway = Gateway::with(yaml(&backend, ", max_object: 64KiB, max_memory: 4MiB")).await;
    let off = Gateway::start(&backend).await;
    for path in ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/cookie", "/part", "/large"] {
        let before = backend.requests().len();
        let mut sums = Vec::new();
        for through in [&gateway, &gateway, &off] {
            let answer = Call::get(path).send(through.proxy()).await;
            assert!(answer.is_whole, "{path}");
            sums.push(sha256(&answer.body));
        }
        assert_eq!((&sums[0], &sums[1]), (&sums[2], &sums[2]), "{path}");
        assert_eq!(backend.requests().len(), before + 3, "{path} was stored");
    }
    let stats = gateway.operator().await.get("/control/cache/stats").await.json();
    assert_eq!(stats["entries"], 0, "{stats}");
    for (why, count) in
        [("stream", 8), ("vary", 2), ("private", 2), ("no_store", 2), ("set_cookie", 2), ("too_large", 2)]
    {
        assert_eq!(stats["refused"][why], count, "{why}: {stats}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_that_turns_out_too_large_passes_whole() {
    let piece = "y".repeat(10_000);
    let body: String = (0..20).map(|_| format!("2710\r\n{piece}\r\n")).collect();
    let backend = origin(move |_, _| {
        format!(
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n{body}0\r\n\r\n"
        )
    })
    .await;
    let gateway = Gateway::with(yaml(&backend, ", max_object: 64KiB, max_memory: 4MiB")).await;
    for _ in 0..2 {
        let answer = Call::get("/x").send(gateway.proxy()).await;
        assert_eq!((answer.status(), answer.body.len(), answer.is_whole), (200, 200_000, true));
    }
    assert_eq!(backend.requests().len(), 2);
    let stats = gateway.operator().await.get("/control/cache/stats").await.json();
    assert_eq!((&stats["entries"], &stats["refused"]["too_large"]), (&0.into(), &2.into()), "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn model_backends_and_requests_with_conditions_of_their_own_are_not_cached() {
    let backend = origin(|_, number| answer(200, "Cache-Control: max-age=60\r\n", &number.to_string())).await;
    let url = backend.url();
    let gateway = Gateway::with(format!(
        "backends:\n  m: {{ url: {url:?}, type: openai }}\n  t: {{ url: {url:?}, type: mcp }}\ncache: {{ enabled: true }}\n"
    ))
    .await;
    for path in ["/m/v1/models", "/t/x", "/m/other"] {
        let bodies =
            [Call::get(path).send(gateway.proxy()).await, Call::get(path).send(gateway.proxy()).await];
        assert_ne!(bodies[0].text(), bodies[1].text(), "{path}");
        assert_eq!(status_of(&bodies[1]), "", "{path}");
    }
    let plain = Gateway::with(yaml(&backend, "")).await;
    for fields in [[("if-match", "\"1\"")], [("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT")]] {
        let [(name, value)] = fields;
        let ask = async || Call::get("/x").header(name, value).send(plain.proxy()).await.text();
        assert_ne!(ask().await, ask().await);
    }
    // Pipelined requests on one connection, each answered once: hits keep connections alive.
    let mut client = Call::get("/y").open(plain.proxy()).await;
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let answer = within("an answer", client.message(Unframed::Empty)).await.expect("an answer");
        bodies.push(answer.text());
        client.send(&Call::get("/y").bytes("gateway")).await.expect("the next request");
    }
    assert_eq!(bodies[1], bodies[2]);
}
