use std::ffi::OsStr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::collector::{Collector, attributes, plain};
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend};

/// The client's span in the example of W3C Trace Context.
const CLIENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Configuration keys for one OpenAI backend and a collector.
fn keys(backend: &impl Backend, telemetry: &str) -> String {
    let url = backend.url();
    format!(
        "backends: {{ up: {{ url: {url:?}, type: openai }} }}\ntelemetry: {{ enabled: true, {telemetry} }}\n"
    )
}

fn over_grpc(collector: &Collector) -> String {
    format!("endpoint: {:?}", collector.address().to_string())
}

fn over_http(collector: &Collector) -> String {
    format!("exporter: jaeger, protocol: http, endpoint: \"http://{}/\"", collector.address())
}

fn is_session(span: &Span, id: &str) -> bool {
    span.name == "session" && attributes(&span.attributes)["session.id"] == id
}

fn code(span: &Span) -> StatusCode {
    span.status.as_ref().map_or(StatusCode::Unset, |status| status.code())
}

/// A served and a killed request: the collector receives both, their session and its record.
async fn requests_sessions_and_records_are_told(collector: Collector, telemetry: String) {
    let demo = Demo::start().await;
    let gateway = Gateway::with(keys(&demo, &telemetry)).await;
    let answer =
        Call::chat("hello").session("told").header("x-request-id", "r-1").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200);
    let usage = answer.json()["usage"].clone();
    let request = collector.span("the request", |_, of| of["elida.request_id"] == "r-1").await;
    assert_eq!((request.name.as_str(), request.kind()), ("chat gpt-demo", SpanKind::Client));
    let of = attributes(&request.attributes);
    let expected = json!({
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-demo", "gen_ai.response.model": "gpt-demo",
        "gen_ai.conversation.id": "told", "session.id": "told",
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.response.finish_reasons": ["stop"], "gen_ai.request.stream": false,
        "server.address": "127.0.0.1", "server.port": demo.address().port(),
        "http.request.method": "POST", "http.response.status_code": 200,
        "http.response.body.size": answer.body.len(), "url.path": "/v1/chat/completions",
        "elida.backend": "up", "elida.outcome": "ok", "elida.principal": "anon:127.0.0.1",
        "elida.attempts": 1, "client.address": "127.0.0.1",
    });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(of[key], *value, "{key} in {of}");
    }
    assert!(of.get("error.type").is_none() && code(&request) == StatusCode::Unset, "{of}");
    assert!(request.start_time_unix_nano < request.end_time_unix_nano);
    let resource = collector.received().resource;
    assert_eq!(resource["service.name"], "elida", "{resource}");

    let mut client = Call::chat_stream("first [[stall]]").session("told").open(gateway.proxy()).await;
    client.until("first").await;
    assert_eq!(gateway.kill("told").await.status, 200);
    client.message(Unframed::UntilEnd).await.expect("the end");
    let killed = collector
        .span("the killed", |span, of| span.name != "session" && of["error.type"] == "session_killed")
        .await;
    assert_eq!((code(&killed), &killed.name), (StatusCode::Error, &"chat gpt-demo".to_owned()));
    assert!(attributes(&killed.attributes)["gen_ai.response.time_to_first_chunk"].as_f64() > Some(0.0));

    let session = collector.span("the session", |span, _| is_session(span, "told")).await;
    let events: Vec<_> = session.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["session.started", "session.killed", "session.ended"]);
    assert_eq!(attributes(&session.events[1].attributes)["elida.kill.reason"], "runaway");
    assert_eq!((code(&session), session.parent_span_id.len()), (StatusCode::Error, 0));
    let uid = hex(&session.trace_id);
    assert_eq!(of["elida.session.uid"], format!("s_{uid}"), "the trace of a session has its uid as id");
    for span in [&request, &killed] {
        assert_eq!((&span.trace_id, &span.parent_span_id), (&session.trace_id, &session.span_id));
    }

    let received = collector.until("the record", |received| !received.logs.is_empty()).await;
    let line = gateway.log_until(|line| line["message"] == "session_record").await;
    let (sent, flat) =
        (plain(received.logs[0].body.as_ref().expect("a body")), attributes(&received.logs[0].attributes));
    for (key, value) in line.as_object().expect("an object") {
        if !["timestamp", "level", "message"].contains(&key.as_str()) {
            assert_eq!(sent[key], *value, "{key} in {sent}");
            assert!(flat.get(key).is_none_or(|flat| flat == value), "{key} in {flat}");
        }
    }
    assert_eq!((&flat["session_id"], &flat["state"]), (&json!("told"), &json!("killed")), "{flat}");
    assert_eq!(
        (&received.logs[0].trace_id, &received.logs[0].event_name[..]),
        (&session.trace_id, "elida.session.record")
    );
    assert_eq!(gateway.metric("elida_otlp_dropped_total{signal=\"spans\"}").await, 0.0);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_sessions_and_records_are_told_over_grpc() {
    let collector = Collector::grpc().await;
    let telemetry = over_grpc(&collector);
    requests_sessions_and_records_are_told(collector, telemetry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_sessions_and_records_are_told_over_http() {
    let collector = Collector::http().await;
    let telemetry = over_http(&collector);
    requests_sessions_and_records_are_told(collector, telemetry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_content_and_no_credential_is_told() {
    let (demo, collector) = (Demo::start().await, Collector::http().await);
    let mut gateway = Gateway::with(keys(&demo, &over_http(&collector))).await;
    let call =
        Call::chat("SECRET-1").header("authorization", "Bearer SECRET-2").header("x-api-key", "SECRET-3");
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    let mut target =
        Call::post("/v1/embeddings?key=SECRET-4").json(&json!({"model": "m", "input": "SECRET-5"}));
    target = target.header("cookie", "SECRET-6");
    target.send(gateway.proxy()).await;
    gateway.terminate();
    assert_eq!(gateway.ended().await.code(), Some(0));
    let received = collector.until("everything", |received| received.spans.len() >= 3).await;
    let sent = format!("{:?}{:?}{}", received.spans, received.logs, received.resource);
    assert!(sent.contains("embeddings") && !sent.contains("SECRET"), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_context_comes_in_and_goes_out() {
    let (demo, collector) = (Demo::start().await, Collector::grpc().await);
    let gateway = Gateway::with(keys(&demo, &over_grpc(&collector))).await;
    let sent = |headers: Vec<(&'static str, &'static str)>| {
        let call = Call::chat("hello").session("traced");
        let call = headers.into_iter().fold(call, |call, (name, value)| call.header(name, value));
        let (proxy, demo) = (gateway.proxy(), &demo);
        async move {
            assert_eq!(call.send(proxy).await.status(), 200);
            demo.ledger().last().expect("a request")
        }
    };
    // The parent is the client's span.
    let seen = sent(vec![("traceparent", CLIENT), ("tracestate", "vendor=1")]).await;
    let onward = seen.header("traceparent").expect("a span to work for").to_owned();
    assert_eq!((&onward[..36], &onward[52..]), (&CLIENT[..36], "-01"));
    assert_eq!(seen.header("tracestate"), Some("vendor=1"));
    let span = collector.span("the request", |span, _| hex(&span.span_id) == onward[36..52]).await;
    assert_eq!(
        (hex(&span.trace_id), hex(&span.parent_span_id)),
        (CLIENT[3..35].into(), CLIENT[36..52].into())
    );
    let link = &span.links[0];
    // Without one, the session's span is the parent; an invalid field is ignored.
    for wrong in ["00-nonsense", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
        let seen = sent(vec![("traceparent", wrong), ("tracestate", "vendor=1")]).await;
        let onward = seen.header("traceparent").expect("a span to work for").to_owned();
        assert_eq!((&onward[3..35], &onward[52..]), (hex(&link.trace_id).as_str(), "-01"), "{wrong}");
        assert_eq!(seen.header("tracestate"), None);
        let span = collector.span("the request", |span, _| hex(&span.span_id) == onward[36..52]).await;
        assert_eq!(span.parent_span_id, link.span_id);
    }
    // A request that is marked as not sampled has no span.
    let unwanted = CLIENT.replace("-01", "-00").leak();
    let seen = sent(vec![("traceparent", unwanted)]).await;
    let onward = seen.header("traceparent").expect("a header");
    assert!(onward.starts_with(&CLIENT[..36]) && onward.ends_with("-00"), "{onward}");
    sent(vec![("x-request-id", "last")]).await;
    let all = collector.until("the last", |received| received.spans.len() == 4).await.spans;
    assert!(all.iter().all(|span| hex(&span.span_id) != onward[36..52]));
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_it_changes_nothing() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    Call::chat("hello").header("traceparent", CLIENT).header("tracestate", "a=b").send(gateway.proxy()).await;
    let seen = demo.ledger().last().expect("a request");
    assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (Some(CLIENT), Some("a=b")));
    Call::chat("hello").send(gateway.proxy()).await;
    assert_eq!(demo.ledger().last().expect("a request").header("traceparent"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sessions_that_are_not_sampled_only_the_record_is_told() {
    let (demo, collector) = (Demo::start().await, Collector::grpc().await);
    let telemetry = format!("sample_ratio: 0, {}", over_grpc(&collector));
    let mut gateway = Gateway::with(keys(&demo, &telemetry)).await;
    for _ in 0..5 {
        Call::chat("hello").session("unseen").send(gateway.proxy()).await;
    }
    assert!(
        demo.ledger().last().expect("a request").header("traceparent").is_some_and(|of| of.ends_with("-00"))
    );
    // Unless the client's field is marked as sampled.
    Call::chat("hello").session("unseen").header("traceparent", CLIENT).send(gateway.proxy()).await;
    gateway.terminate();
    assert_eq!(gateway.ended().await.code(), Some(0));
    let received = collector
        .until("the record", |received| !received.logs.is_empty() && !received.spans.is_empty())
        .await;
    assert_eq!((received.logs.len(), received.spans.len()), (1, 1));
    assert_eq!(hex(&received.spans[0].trace_id), CLIENT[3..35]);
    assert_eq!(plain(received.logs[0].body.as_ref().expect("a body"))["request_count"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_what_is_still_to_be_told() {
    let (demo, collector) = (Demo::start().await, Collector::http().await);
    let telemetry = format!("metrics: true, {}", over_http(&collector));
    let mut gateway = Gateway::with(keys(&demo, &telemetry)).await;
    let mut clients = Vec::new();
    for number in 0..100 {
        let call = Call::chat_stream("hello").session(&format!("s-{number}"));
        clients.push(call.open(gateway.proxy()).await);
    }
    for client in &mut clients {
        assert_eq!(client.message(Unframed::UntilEnd).await.expect("an answer").status(), 200);
    }
    // With token counts, which OpenAI streams contain only on request.
    assert_eq!(Call::chat("hello").session("s-0").send(gateway.proxy()).await.status(), 200);
    gateway.terminate();
    assert_eq!(gateway.ended().await.code(), Some(0));
    let received = collector.received();
    assert_eq!(
        (received.spans.len(), received.logs.len()),
        (201, 100),
        "a span for each request and session, the records"
    );
    let names: Vec<_> = received.metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "gen_ai.client.operation.duration",
            "gen_ai.client.token.usage",
            "gen_ai.client.operation.time_to_first_chunk"
        ]
    );
    let Some(Data::Histogram(durations)) = &received.metrics[0].data else {
        panic!("{:?}", received.metrics[0])
    };
    let point = &durations.data_points[0];
    assert_eq!((durations.data_points.len(), point.count), (1, 101));
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), 101);
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    let of = attributes(&point.attributes);
    assert_eq!(
        (&of["gen_ai.operation.name"], &of["gen_ai.request.model"]),
        (&json!("chat"), &json!("gpt-demo"))
    );
    assert!(!of.to_string().contains("s-1"), "no session is a label: {of}");
}

/// Waits until the counter moves.
async fn dropped(gateway: &Gateway, signal: &str, least: f64) -> f64 {
    let series = format!("elida_otlp_dropped_total{{signal=\"{signal}\"}}");
    crate::support::within("drops", async {
        loop {
            let count = gateway.metric(&series).await;
            if count >= least {
                return count;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

/// Requests through a gateway whose collector accepts nothing: all are served at once, and the gateway stops in time.
async fn nobody_waits_for(telemetry: &str) {
    let demo = Demo::start().await;
    let mut gateway = Gateway::with(keys(&demo, telemetry)).await;
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(Call::chat("hello").session("served").send(gateway.proxy()).await.status(), 200);
    }
    // A request that waited for the collector would take five seconds, the exporter's time-out.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    dropped(&gateway, "spans", 50.0).await;
    gateway
        .log_until(|line| line["message"].as_str().is_some_and(|text| text.contains("does not take")))
        .await;
    assert_eq!(gateway.kill("served").await.status, 200);
    assert_eq!(Call::chat("hello").session("served").send(gateway.proxy()).await.status(), 403);
    let asked = Instant::now();
    gateway.terminate();
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_nothing_but_a_number() {
    let nobody = RawBackend::answering("").await.url();
    let address = nobody.strip_prefix("http://").expect("a URL");
    nobody_waits_for(&format!("endpoint: {address:?}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_not_waited_for_at_the_end() {
    for protocol in ["grpc", "http"] {
        let (demo, nobody) = (Demo::start().await, RawBackend::start(async |_| ()).await);
        let telemetry = format!("protocol: {protocol}, endpoint: {:?}", nobody.url());
        let mut gateway = Gateway::with(keys(&demo, &telemetry)).await;
        Call::chat("hello").session("last").send(gateway.proxy()).await;
        // At the stop the request's batch is on its way, and the session's is still to be sent.
        nobody.until("an attempt", |nobody| nobody.connections() > 0).await;
        gateway.terminate();
        assert_eq!(gateway.ended().await.code(), Some(0));
        assert!(!gateway.log_text().contains("the last telemetry in time"), "{}", gateway.log_text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_costs_nothing_but_a_number() {
    let with = async |protocol: &str| {
        let silent = RawBackend::start(async |mut connection| {
            connection.until("never sent").await;
        })
        .await;
        nobody_waits_for(&format!("protocol: {protocol}, endpoint: {:?}", silent.url())).await;
    };
    tokio::join!(with("grpc"), with("http"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_answers_503_is_asked_again_and_costs_nothing_but_a_number() {
    let collector = Collector::refusing().await;
    nobody_waits_for(&over_http(&collector)).await;
    assert!(collector.received().messages >= 4, "asked {} times", collector.received().messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_refuses_of_a_message_is_counted() {
    for protocol in ["grpc", "http"] {
        let demo = Demo::start().await;
        let (collector, telemetry) = if protocol == "grpc" {
            let collector = Collector::grpc_rejecting_one().await;
            let telemetry = over_grpc(&collector);
            (collector, telemetry)
        } else {
            let collector = Collector::http_rejecting_one().await;
            let telemetry = over_http(&collector);
            (collector, telemetry)
        };
        let gateway = Gateway::with(keys(&demo, &telemetry)).await;
        Call::chat("hello").session("refused").send(gateway.proxy()).await;
        assert_eq!(dropped(&gateway, "spans", 1.0).await, 1.0, "{protocol}");
        // The session's span and its record: one part of each message.
        gateway.kill("refused").await;
        assert_eq!(dropped(&gateway, "logs", 1.0).await, 1.0, "{protocol}");
        assert_eq!(dropped(&gateway, "spans", 2.0).await, 2.0, "{protocol}");
        let received = collector.received();
        assert_eq!(
            (received.messages, received.spans.len()),
            (3, 2),
            "{protocol}: taken, and not sent again"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_told_the_credential_that_the_variable_has() {
    for protocol in ["grpc", "http"] {
        let demo = Demo::start().await;
        let collector = if protocol == "grpc" { Collector::grpc().await } else { Collector::http().await };
        let endpoint = collector.address().to_string();
        let variables: [(&str, &OsStr); 4] = [
            ("ELIDA_TELEMETRY_ENABLED", "true".as_ref()),
            ("ELIDA_TELEMETRY_ENDPOINT", endpoint.as_ref()),
            ("ELIDA__TELEMETRY__PROTOCOL", protocol.as_ref()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20for-the-collector".as_ref()),
        ];
        let gateway = Gateway::in_environment(&demo, &variables).await;
        Call::chat("hello").send(gateway.proxy()).await;
        let received = collector.until("a span", |received| !received.spans.is_empty()).await;
        assert_eq!(received.authorization.as_deref(), Some("Bearer for-the-collector"), "{protocol}");
        // This certificate authority is only for the collector.
        let seen = demo.ledger().last().expect("a request");
        assert_ne!(seen.header("authorization"), Some("Bearer for-the-collector"), "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variables_of_opentelemetry_are_heeded() {
    let (demo, collector) = (Demo::start().await, Collector::grpc().await);
    let endpoint = format!("http://{}", collector.address());
    let variables: [(&str, &OsStr); 4] = [
        ("ELIDA_TELEMETRY_ENABLED", "true".as_ref()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_ref()),
        ("OTEL_SERVICE_NAME", "gate".as_ref()),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test%2C1".as_ref()),
    ];
    let gateway = Gateway::in_environment(&demo, &variables).await;
    Call::chat("hello").send(gateway.proxy()).await;
    let resource = collector.until("a span", |received| !received.spans.is_empty()).await.resource;
    assert_eq!(resource["service.name"], "gate", "{resource}");
    assert_eq!(resource["deployment.environment.name"], "test,1", "{resource}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stdout_gets_lines_of_otlps_json() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(keys(&demo, "exporter: stdout")).await;
    Call::chat("hello").session("printed").send(gateway.proxy()).await;
    let line = gateway.log_until(|line| line.get("resourceSpans").is_some()).await;
    let span = &line["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(span["name"], "chat gpt-demo", "{line}");
    gateway.kill("printed").await;
    let is_it = |line: &Value| line["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0].is_object();
    gateway.log_until(is_it).await;
}

/// TLS for `localhost` in front of a collector; returns the port and the authority's certificate.
async fn behind_tls(collector: SocketAddr) -> (u16, NamedTempFile) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let authority = NamedTempFile::new().expect("a file");
    std::fs::write(authority.path(), issued.cert.pem()).expect("the authority");
    let key = PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
    let config = ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(vec![issued.cert.der().clone()], key).expect("a key that fits");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(collector).await.expect("the collector");
                let _ = copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    (port, authority)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_behind_tls_is_told_when_its_authority_is_trusted() {
    let demo = Demo::start().await;
    let with = async |protocol: &str| {
        let collector = if protocol == "grpc" { Collector::grpc().await } else { Collector::http().await };
        let (port, authority) = behind_tls(collector.address()).await;
        let endpoint = format!("https://localhost:{port}");
        let variables: [(&str, &OsStr); 4] = [
            ("ELIDA_TELEMETRY_ENABLED", "true".as_ref()),
            ("ELIDA_TELEMETRY_ENDPOINT", endpoint.as_ref()),
            ("ELIDA__TELEMETRY__PROTOCOL", protocol.as_ref()),
            ("SSL_CERT_FILE", authority.path().as_os_str()),
        ];
        let gateway = Gateway::in_environment(&demo, &variables).await;
        Call::chat("hello").send(gateway.proxy()).await;
        collector.until(protocol, |received| !received.spans.is_empty()).await;
        // Without that authority the gateway sends nothing.
        let stranger = Gateway::in_environment(&demo, &variables[..3]).await;
        let before = collector.received().messages;
        Call::chat("hello").send(stranger.proxy()).await;
        dropped(&stranger, "spans", 1.0).await;
        assert_eq!(collector.received().messages, before, "{protocol}");
    };
    tokio::join!(with("grpc"), with("http"));
}
