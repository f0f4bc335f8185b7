use std::process::Command;

use rcgen::ExtendedKeyUsagePurpose;

use crate::support::authority::{Authority, dns};
use crate::support::wire::{Head, Unframed};
use crate::support::{Backend, Call, Gateway, RawBackend, RawClient, http2};

const CSP: &str = "default-src 'none'; frame-ancestors 'none'";
const HTML: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi";
const OWN: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-Frame-Options: SAMEORIGIN\r\n\
                   Content-Security-Policy: mine\r\nStrict-Transport-Security: max-age=0\r\nContent-Length: 2\r\n\r\nhi";

fn yaml(backend: &RawBackend, headers: &str) -> String {
    format!(
        "backends: {{ web: {{ url: {:?}, type: http, default: true }} }}\n\
         server: {{ security_headers: {{ {headers} }} }}\nrouting: {{ blocked_models: [bad] }}\n",
        backend.url()
    )
}

/// The four fields.
fn shown(head: &Head) -> [Option<&str>; 4] {
    let names =
        ["x-content-type-options", "x-frame-options", "strict-transport-security", "content-security-policy"];
    names.map(|name| head.field(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_them_once_and_backends_keep_theirs() {
    let backend = RawBackend::answering(HTML).await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    let (plain, own) =
        ([Some("nosniff"), Some("DENY"), None, None], [Some("nosniff"), Some("DENY"), None, Some(CSP)]);
    let proxied = Call::get("/page").send(gateway.proxy()).await;
    assert_eq!((shown(&proxied.head), proxied.text()), (plain, "hi".into()));
    // Answers of the gateway: health, a refusal, a method that is not supported, a head that is none.
    let refused =
        Call::post("/v1/chat/completions").json(&serde_json::json!({"model": "bad", "messages": []}));
    for (call, status) in [
        (Call::get("/health"), 200),
        (Call::new("HEAD", "/"), 200),
        (refused, 403),
        (Call::get("*"), 405),
        (Call::get("/").header("x-backend", "none"), 400),
    ] {
        let answer = call.send(gateway.proxy()).await;
        assert_eq!((answer.status(), shown(&answer.head)), (status, own), "{call:?}");
    }
    let mut broken = RawClient::connect(gateway.proxy()).await;
    let answer = broken.exchange(b"what is this\r\n\r\n", Unframed::UntilEnd).await;
    assert_eq!((answer.status(), shown(&answer.head)), (400, own));
    // HTTP/2.
    let mut client = http2::Client::connect(gateway.proxy()).await;
    let answer = client.ask(&Call::get("/page")).await;
    assert_eq!(
        (answer.headers["x-frame-options"].as_bytes(), answer.body.as_slice()),
        (&b"DENY"[..], &b"hi"[..])
    );
    assert!(!answer.headers.contains_key("content-security-policy"));
    // A backend's own.
    let backend = RawBackend::answering(OWN).await;
    let gateway = Gateway::with(yaml(&backend, "csp_on_proxied: true")).await;
    let answer = Call::get("/page").send(gateway.proxy()).await;
    assert_eq!(shown(&answer.head), [Some("nosniff"), Some("SAMEORIGIN"), Some("max-age=0"), Some("mine")]);
    let counted = answer.head.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-frame-options"));
    assert_eq!(counted.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn html_of_backends_gets_a_policy_only_when_asked_and_all_can_be_turned_off() {
    let backend = RawBackend::answering(HTML).await;
    let gateway = Gateway::with(yaml(&backend, "csp_on_proxied: true, csp: \"default-src 'self'\"")).await;
    let answer = Call::get("/page").send(gateway.proxy()).await;
    assert_eq!(shown(&answer.head)[3], Some("default-src 'self'"));
    gateway.rewrite(&yaml(&backend, "enabled: false"));
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    for path in ["/page", "/health"] {
        assert_eq!(shown(&Call::get(path).send(gateway.proxy()).await.head), [None; 4], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_transport_security_goes_to_clients_over_tls_only() {
    let authority = Authority::new();
    authority.write("server", &authority.issue(vec![dns("localhost")], ExtendedKeyUsagePurpose::ServerAuth));
    let [cert, key, ca] = ["server.crt", "server.key", "ca.pem"].map(|name| authority.file(name));
    let backend = RawBackend::answering(HTML).await;
    let tls = format!(
        "server: {{ tls: {{ enabled: true, cert: {cert:?}, key: {key:?} }}, security_headers: {{ }} }}"
    );
    let gateway = Gateway::with(yaml(&backend, "").replace("server: { security_headers: {  } }", &tls)).await;
    for version in ["--http1.1", "--http2"] {
        for path in ["page", "health"] {
            let url = format!("https://localhost:{}/{path}", gateway.proxy().port());
            let mut command = Command::new("curl");
            command.args(["-sS", "-D", "-", "-o", "/dev/null", version, "--cacert"]).arg(&ca).arg(url);
            let output = command.output().expect("curl");
            let head = String::from_utf8_lossy(&output.stdout).to_lowercase();
            assert!(
                head.contains("\r\nstrict-transport-security: max-age=31536000\r\n"),
                "{version} {path}: {head}"
            );
        }
    }
}
