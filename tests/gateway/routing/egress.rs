//! Backends behind a forward proxy: `backends.NAME.proxy`, `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`.

use std::ffi::OsStr;
use std::net::SocketAddr;

use crate::support::forward_proxy::EgressProxy;
use crate::support::process::elida;
use crate::support::socket::Socket;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// The address of a backend on loopback.
fn address(backend: &impl Backend) -> SocketAddr {
    backend.url().trim_start_matches("http://").parse().expect("an address")
}

/// A backend of a name that only the proxy can resolve.
fn behind(proxy: &str, keys: &str) -> String {
    format!(
        "backends:\n  a: {{ url: 'http://models.test/base', type: openai, default: true, proxy: '{proxy}'{keys} }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_the_proxy_gets_the_whole_url() {
    let backend = RawBackend::answering(OK).await;
    let proxy = EgressProxy::start(address(&backend), None).await;
    let gateway = Gateway::with(behind(&proxy.url("user:secret@"), "")).await;
    let call = Call::chat("hello").header("Proxy-Authorization", "Basic eDp5");
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    let head = backend.heads().pop().expect("a request");
    assert_eq!(head.line, "POST http://models.test/base/v1/chat/completions HTTP/1.1");
    assert_eq!(head.field("host"), Some("models.test"));
    assert_eq!(head.field("proxy-authorization"), Some("Basic dXNlcjpzZWNyZXQ="), "not the client's own");
    let shown = gateway.operator().await.get("/control/config").await.text();
    assert!(shown.contains("user:***@") && !shown.contains("secret"), "{shown}");
    assert!(!gateway.log_text().contains("secret"));

    let bare = Gateway::with(behind(&proxy.url(""), "")).await;
    assert_eq!(call.send(bare.proxy()).await.status(), 200);
    let head = backend.heads().pop().expect("a request");
    assert_eq!(head.field("proxy-authorization"), None, "nor the client's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_sockets_pass_through_it() {
    let demo = Demo::start().await;
    let proxy = EgressProxy::start(demo.address(), None).await;
    let gateway = Gateway::with(behind(&proxy.url(""), "").replace("/base", "")).await;
    let answer = Call::chat_stream("one two three").send(gateway.proxy()).await;
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=gpt-realtime", "s").await;
    socket.until("session.created").await;
    let heads = proxy.heads();
    assert_eq!(heads.len(), 2, "{heads:?}");
    assert!(
        heads[1].starts_with("CONNECT models.test:80 HTTP/1.1\r\n"),
        "a tunnel for an upgrade: {heads:?}"
    );
    // The tunnel is never used for a request to the proxy itself.
    socket.close(1000, "").await;
    assert_eq!(Call::chat("x").send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_lists_of_models_go_the_same_way() {
    let backend = RawBackend::answering(OK).await;
    let proxy = EgressProxy::start(address(&backend), None).await;
    let keys = ", health: { path: /ready, interval: 100ms }";
    let gateway = Gateway::with(behind(&proxy.url(""), keys) + "models: { discovery: merged }\n").await;
    let seen = |line: &'static str| {
        move |backend: &RawBackend| backend.heads().iter().any(|head| head.line.contains(line))
    };
    backend.until("a probe", seen("GET http://models.test/base/ready HTTP/1.1")).await;
    Call::get("/v1/models").send(gateway.proxy()).await;
    backend.until("a list", seen("GET http://models.test/base/v1/models HTTP/1.1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_names_the_proxy_but_not_for_loopback_or_no_proxy() {
    let demo = Demo::start().await;
    let proxy = EgressProxy::start(demo.address(), None).await;
    let url = proxy.url("");
    let variables =
        [("HTTP_PROXY", OsStr::new(&url)), ("no_proxy", OsStr::new("10.0.0.0/8,.direct.invalid"))];
    let yaml = format!(
        "backends:\n  a: {{ url: 'http://models.test', type: openai, default: true }}\n\
         \x20 here: {{ url: '{}', type: openai }}\n\
         \x20 direct: {{ url: 'http://x.direct.invalid', type: openai }}\n\
         \x20 off: {{ url: 'http://off.invalid', type: openai, proxy: none }}\n",
        demo.url()
    );
    let gateway = Gateway::with_variables(&yaml, &variables).await;
    for (backend, status, connections) in
        [("a", 200, 1), ("here", 200, 1), ("direct", 502, 1), ("off", 502, 1)]
    {
        let answer = Call::chat("hello").header("X-Backend", backend).send(gateway.proxy()).await;
        assert_eq!(
            (answer.status(), proxy.heads().len()),
            (status, connections),
            "{backend}: {}",
            answer.text()
        );
    }
}

/// What a caller learns of a backend that its proxy does not reach.
const UNREACHABLE: &str = "the backend a (through its proxy) cannot be reached";

/// The proxy, and why it does not lead to the backend, from the log.
async fn logged(gateway: &Gateway) -> (String, String) {
    let line = gateway.log_until(|line| line["message"] == UNREACHABLE).await;
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    (text("proxy"), text("why"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_is_logged_and_the_backend_counts_as_unreached() {
    let demo = Demo::start().await;
    let cases = [
        ("https", "HTTP/1.1 403 Forbidden\r\n\r\n", "does not connect to models.test:443: 403 Forbidden"),
        (
            "https",
            "HTTP/1.1 407 Auth\r\n\r\n",
            "407 Auth (it wants credentials in its URL; none are configured)",
        ),
        ("https", "", "it closed the connection"),
        ("http", "HTTP/1.1 407 Auth\r\nContent-Length: 0\r\n\r\n", "it wants other credentials: 407"),
    ];
    for (scheme, refusal, told) in cases {
        let proxy = EgressProxy::start(demo.address(), Some(refusal)).await;
        let backend = format!("url: '{scheme}://models.test', type: openai, proxy: '{}'", proxy.url(""));
        let gateway = Gateway::with(format!(
            "backends:\n  a: {{ {backend}, default: true }}\n  b: {{ {backend}, fallback: c }}\n\
             \x20 c: {{ url: '{}', type: openai }}\n",
            demo.url()
        ))
        .await;
        let answer = Call::chat("hello").send(gateway.proxy()).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status(), &error["code"]), (502, &"backend_unavailable".into()), "{error}");
        assert_eq!(error["message"], UNREACHABLE, "callers need not know the proxy");
        let (named, why) = logged(&gateway).await;
        assert_eq!(named, proxy.url("").trim_end_matches('/'));
        assert!(why.contains(told), "{why}");
        let moved = Call::chat("hello").header("X-Backend", "b").send(gateway.proxy()).await;
        assert_eq!(moved.status(), 200, "another backend answers: {}", moved.text());
        let failed = "elida_failovers_total{backend=\"b\",reason=\"connect_failure\"}";
        assert!(gateway.metric(failed).await >= 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_away_is_logged() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = gone.local_addr().expect("an address");
    drop(gone);
    for scheme in ["http", "https"] {
        let yaml =
            behind(&format!("http://{address}"), "").replace("http://models", &format!("{scheme}://models"));
        let gateway = Gateway::with(yaml).await;
        let answer = Call::chat("hello").send(gateway.proxy()).await;
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.json()["error"]["message"], UNREACHABLE);
        let (_, why) = logged(&gateway).await;
        assert!(why.starts_with(&format!("the proxy http://{address} cannot be reached: ")), "{why}");
    }
}

/// Runs `elida doctor` with these backends and variables; returns what it prints.
async fn doctor(backends: &str, variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let listen = "listen: '127.0.0.1:0'\ncontrol: { listen: '127.0.0.1:0' }";
    std::fs::write(&file, format!("data_dir: {:?}\n{listen}\n{backends}", folder.path())).expect("a file");
    let mut command = elida(folder.path());
    command.args(["doctor", "-c"]).arg(&file).envs(variables.iter().copied());
    let run = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
    let output = within("the doctor", run).await.expect("a run");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_which_proxy_applies_and_from_where() {
    let demo = Demo::start().await;
    let proxy = EgressProxy::start(demo.address(), None).await;
    let refusing = EgressProxy::start(demo.address(), Some("HTTP/1.1 403 No\r\n\r\n")).await;
    let (through, no) = (proxy.url(""), refusing.url(""));
    let backends = format!(
        "backends:\n  a: {{ url: 'http://models.test', type: openai, default: true }}\n\
         \x20 here: {{ url: '{}', type: openai }}\n\
         \x20 h2: {{ url: 'http://models.test', type: openai, pool: {{ http2: always }} }}\n\
         \x20 no: {{ url: 'https://models.test', type: openai, proxy: '{no}' }}\n",
        demo.url()
    );
    let told = doctor(&backends, &[("HTTP_PROXY", &through.replace("//", "//user:secret@"))]).await;
    assert!(told.contains(&format!("through the proxy {through} (HTTP_PROXY)")), "{told}");
    assert!(told.contains(&format!("backends.a: http://models.test: the proxy {through} answers")), "{told}");
    assert!(told.contains("ok    backends.h2: http://models.test answers at "), "{told}");
    assert!(told.contains("directly (HTTP_PROXY does not apply to loopback)"), "{told}");
    assert!(
        told.contains(&format!(
            "FAIL  backends.no: the proxy {no} does not connect to models.test:443: 403 No\n"
        )),
        "{told}"
    );
    assert!(
        told.contains("-> correct the proxy in backends.no.proxy, let it through to models.test:443"),
        "{told}"
    );
    assert!(
        proxy.heads().iter().any(|head| head.starts_with("CONNECT models.test:80 ")),
        "{:?}",
        proxy.heads()
    );
    assert!(!told.contains("secret"), "{told}");
    let bad = doctor(&backends, &[("HTTP_PROXY", "socks5://u:secret@p")]).await;
    assert!(
        bad.contains("HTTP_PROXY: a proxy with socks5:// is not supported") && !bad.contains("secret"),
        "{bad}"
    );
}
