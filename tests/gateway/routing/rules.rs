use serde_json::json;
use tokio::net::TcpStream;

use crate::support::http2::Client;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";

/// A gateway with these rules before a model provider.
async fn gateway(provider: &Demo, rules: &str) -> Gateway {
    Gateway::with(format!(
        "server: {{ h2c: true }}\nforward_proxy: {{ enabled: true, require_auth: false }}\nrouting:\n  rules:\n{rules}\n\
         backends: {{ main: {{ url: {:?}, type: openai }} }}\n",
        provider.url()
    ))
    .await
}

/// The path of the last request that a backend has seen.
fn last(backend: &RawBackend) -> String {
    let head = backend.heads().pop().expect("a request");
    head.line.split(' ').nth(1).expect("a target").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_leads_to_its_target_over_both_versions_and_in_absolute_form() {
    let provider = Demo::start().await;
    let target = RawBackend::answering(OK).await;
    let rule = format!(
        "    - match: {{ host: api.example.com, path: \"/v1/*\" }}\n      forward: {{ target: {:?} }}",
        target.url()
    );
    let gateway = gateway(&provider, &rule).await;
    for host in ["api.example.com", "API.Example.COM:8443"] {
        let answer = Call::get("/v1/things?x=1").header("host", host).send(gateway.proxy()).await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "{host}");
        assert_eq!(last(&target), "/v1/things?x=1");
    }
    let line = gateway.access_line("/v1/things").await;
    let port = target.url().rsplit(':').next().expect("a port").to_owned();
    assert_eq!(line["backend"], format!("127.0.0.1-{port}"), "{line}");
    let stream = TcpStream::connect(gateway.proxy()).await.expect("a connection");
    let mut client = Client::over(stream, "api.example.com", &h2::client::Builder::new()).await;
    let answer = client.send(&Call::get("/v1/over-2")).await.answer().await;
    assert_eq!((answer.status, &answer.body[..], last(&target).as_str()), (200, &b"ok"[..], "/v1/over-2"));
    let absolute = Call::get("http://api.example.com/v1/absolute").header("host", "api.example.com");
    let answer = absolute.send(gateway.proxy()).await;
    assert_eq!((answer.status(), last(&target).as_str()), (200, "/v1/absolute"));
    // What no rule matches goes where it went before.
    let arrived = target.heads().len();
    for (path, host) in [("/v2/things", "api.example.com"), ("/v1/models", "xapi.example.com")] {
        Call::get(path).header("host", host).send(gateway.proxy()).await;
    }
    assert_eq!((target.heads().len(), provider.ledger().arrived()), (arrived, 2));
    // Nothing but the rule leads to the target.
    let named = Call::get("/v1/models").header("x-backend", &format!("127.0.0.1-{port}"));
    assert_eq!(named.send(gateway.proxy()).await.status(), 400);
    Call::get(&format!("/127.0.0.1-{port}/v1/models")).send(gateway.proxy()).await;
    assert_eq!(target.heads().len(), arrived);
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_fields_prefixes_and_conditions_must_all_hold_and_the_first_rule_decides() {
    let provider = Demo::start().await;
    let [files, other] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let rules = format!(
        "    - match: {{ path: \"/files*\", method: [GET], headers: {{ x-env: \"prod*\" }} }}\n      \
                 when: 'request.headers[\"x-team\"] != \"sales\"'\n      \
                 forward: {{ target: \"{}/base\", strip_prefix: /files }}\n    \
         - match: {{ path: \"/files*\" }}\n      forward: {{ target: {:?} }}",
        files.url(),
        other.url()
    );
    let gateway = gateway(&provider, &rules).await;
    let send = async |call: Call| {
        assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    };
    for (path, forwarded) in [
        ("/files/a.json?b=c", "/base/a.json?b=c"),
        ("/files?x", "/base/?x"),
        ("/filesystem", "/base/filesystem"),
    ] {
        send(Call::get(path).header("X-Env", "production")).await;
        assert_eq!(last(&files), forwarded);
    }
    let line = gateway.access_line("/files/a.json").await;
    assert_eq!(line["url"], "/files/a.json?b=***", "the log has what the client asked for: {line}");
    let arrived = files.heads().len();
    send(Call::get("/files/a").header("x-env", "test")).await;
    send(Call::get("/files/a").header("x-env", "prod").header("x-team", "sales")).await;
    send(Call::post("/files/a").header("x-env", "prod").json(&json!({}))).await;
    assert_eq!((files.heads().len(), other.heads().len(), last(&other).as_str()), (arrived, 3, "/files/a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_target_is_a_leg_of_its_session_and_is_cut() {
    let provider = Demo::start().await;
    let target = RawBackend::start(|mut connection| async move {
        if connection.request().await.is_some() {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
            let _ = connection.send(head).await;
            connection.stay_silent().await;
        }
    })
    .await;
    let rule =
        format!("    - match: {{ host: \".example.com\" }}\n      forward: {{ target: {:?} }}", target.url());
    let gateway = gateway(&provider, &rule).await;
    let call = Call::get("/slow").header("host", "files.example.com").session("at-a-target");
    let mut client = call.open(gateway.proxy()).await;
    let head = client.head().await.expect("a head");
    assert_eq!(gateway.kill("at-a-target").await.status, 200);
    let cut = client.body(head, crate::support::wire::Unframed::UntilEnd).await;
    assert!(!cut.is_whole, "{cut:?}");
    assert_eq!(
        Call::get("/slow")
            .header("host", "example.com")
            .session("at-a-target")
            .send(gateway.proxy())
            .await
            .status(),
        403
    );
}
