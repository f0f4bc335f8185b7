use std::path::PathBuf;
use std::process::Command;

use rcgen::string::Ia5String;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use serde_json::json;

use crate::support::authority::{Authority, dns};
use crate::support::{Backend, Call, Gateway, RawBackend, RawClient, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
const HOUSE: &str = "sk-house-0123456789abcdef0123456789";

fn backends(url: &str) -> String {
    format!(
        "backends:\n  main: {{ url: {url:?}, type: openai, default: true, auth: {{ mode: inject, api_key: {HOUSE} }} }}\n  \
         own: {{ url: {url:?}, type: openai }}\n"
    )
}

/// An authority with a certificate for the gateway and some for clients, as files.
struct Issued(Authority);

impl Issued {
    fn new() -> Self {
        let issued = Self(Authority::new());
        issued.issue("server", vec![dns("localhost")], ExtendedKeyUsagePurpose::ServerAuth);
        issued
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.file(name)
    }

    fn issue(&self, file: &str, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose) {
        self.0.write(file, &self.0.issue(names, usage));
    }

    fn yaml(&self) -> String {
        let [cert, key, ca] = ["server.crt", "server.key", "ca.pem"].map(|name| self.file(name));
        format!("server: {{ tls: {{ enabled: true, cert: {cert:?}, key: {key:?}, client_ca: {ca:?} }} }}\n")
    }

    /// A call with this client's certificate; returns the status.
    fn ask(&self, gateway: &Gateway, client: &str, more: &[&str]) -> String {
        let url = format!("https://localhost:{}/v1/chat/completions", gateway.proxy().port());
        let mut command = Command::new("curl");
        command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-d", "{\"model\":\"gpt-demo\"}"]);
        command.args(["-H", "content-type: application/json", "--cacert"]).arg(self.file("ca.pem"));
        command.arg("--cert").arg(self.file(&format!("{client}.crt")));
        command.arg("--key").arg(self.file(&format!("{client}.key"))).args(more).arg(&url);
        String::from_utf8(command.output().expect("curl").stdout).expect("text")
    }
}

fn name(text: &str) -> Ia5String {
    text.try_into().expect("a name")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_names_its_caller() {
    let issued = Issued::new();
    let uri = |text: &str| SanType::URI(name(text));
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    issued.issue("agent", vec![dns("x.example"), uri("spiffe://acme/agents/build-7")], client.clone());
    issued.issue("other", vec![uri("spiffe://acme/agents/a/b")], client.clone());
    issued.issue("mail", vec![SanType::Rfc822Name(name("ada@acme.example"))], client);
    let backend = RawBackend::answering(OK).await;
    let key = super::keys::key();
    let auth = format!(
        "auth:\n  proxy: required\n  principals: [{{ id: ci, key_sha256: '{}' }}]\n  mtls:\n    \
         - {{ san: 'spiffe://acme/agents/*', tenant: acme, groups: [agents] }}\n    - {{ san: '*@acme.example' }}\n",
        crate::support::sha256(key.as_bytes())
    );
    let gateway = Gateway::with(auth + &issued.yaml() + &backends(&backend.url())).await;
    for (version, id) in [("--http1.1", "one"), ("--http2", "two")] {
        let session = format!("x-session-id: {id}");
        // A header is no certificate.
        let claim = "x-forwarded-client-cert: URI=spiffe://acme/agents/root";
        assert_eq!(
            issued.ask(&gateway, "agent", &[version, "-H", &session, "-H", claim]),
            "200",
            "{version}"
        );
        let session = gateway.session_until(id, |session| session["open_legs"] == 0).await;
        let expected = json!({"id": "cert:spiffe://acme/agents/build-7", "via": "certificate", "tenant": "acme",
            "groups": ["agents"]});
        assert_eq!(session["principal"], expected);
    }
    assert_eq!(issued.ask(&gateway, "mail", &[]), "200");
    assert_eq!(issued.ask(&gateway, "other", &[]), "401", "no entry fits");
    let bearer = format!("authorization: Bearer {key}");
    assert_eq!(issued.ask(&gateway, "other", &["-H", &bearer, "-H", "x-session-id: keyed"]), "200");
    assert_eq!(issued.ask(&gateway, "agent", &["-H", &bearer, "-H", "x-session-id: both"]), "200");
    for id in ["keyed", "both"] {
        let session = gateway.session_until(id, |_| true).await;
        assert_eq!(session["principal"]["id"], "key:ci", "the key comes first");
    }
    // What the caller sends for the provider is its own, and passed on.
    let own = ["-H", "x-backend: own", "-H", "authorization: Bearer sk-mine"];
    assert_eq!(issued.ask(&gateway, "agent", &own), "200");
    let head = backend.heads().pop().expect("a request");
    assert_eq!(head.field("authorization"), Some("Bearer sk-mine"));
    let unknown = ["-H", "authorization: Bearer elida_unknown"];
    assert_eq!(issued.ask(&gateway, "agent", &unknown), "401", "a bad key never falls through");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_names_its_caller_and_a_header_alone_does_not() {
    let backend = RawBackend::answering(OK).await;
    let networks = |cidr: &str| {
        format!(
            "auth:\n  proxy: required\n  networks:\n    - {{ cidr: {cidr}, id: lan, tenant: acme, groups: [lan] }}\n"
        ) + &backends(&backend.url())
    };
    let gateway = Gateway::with(networks("127.0.0.0/8")).await;
    let call = || Call::chat("x").session("here");
    assert_eq!(call().send(gateway.proxy()).await.status(), 200);
    let principal = gateway.session_until("here", |_| true).await["principal"].clone();
    assert_eq!(
        principal,
        json!({"id": "network:lan", "via": "network", "tenant": "acme", "groups": ["lan"]})
    );
    let elsewhere = Gateway::with(networks("10.2.0.0/16")).await;
    for field in ["x-forwarded-for", "x-real-ip", "x-client-ip", "true-client-ip"] {
        let answer = call().header(field, "10.2.0.1").send(elsewhere.proxy()).await;
        assert_eq!(
            (answer.status(), &answer.json()["error"]["code"]),
            (401, &json!("key_required")),
            "{field}"
        );
    }
    assert_eq!(call().header("forwarded", "for=10.2.0.1").send(elsewhere.proxy()).await.status(), 401);
    let behind = networks("10.2.0.0/16") + "server: { trusted_proxies: [127.0.0.1] }\n";
    let behind = Gateway::with(behind).await;
    assert_eq!(call().header("x-forwarded-for", "10.2.0.1").send(behind.proxy()).await.status(), 200);
    let forged = call().header("x-forwarded-for", "10.2.0.1, 11.0.0.1").send(behind.proxy()).await;
    assert_eq!(forged.status(), 401, "what the client itself wrote does not count");
    assert_eq!(call().send(behind.proxy()).await.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_address_is_closed_before_anything_is_read() {
    let backend = RawBackend::answering(OK).await;
    let yaml = |acl: &str| format!("auth: {{ acl: {{ {acl} }} }}\nbackend: {:?}\n", backend.url());
    let gateway = Gateway::with(yaml("deny: [10.0.0.0/8]")).await;
    let mut kept = RawClient::connect(gateway.proxy()).await;
    assert_eq!(Call::chat("x").send_over(&mut kept, gateway.proxy()).await.status(), 200);
    gateway.rewrite(&yaml("allow: [10.0.0.0/8, '::1']"));
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    for _ in 0..20 {
        let mut client = RawClient::connect(gateway.proxy()).await;
        // Nothing was sent: the gateway does not wait for a head.
        within("the end", client.end()).await;
    }
    let line = gateway
        .log_until(|line| line["message"].as_str().is_some_and(|text| text.contains("auth.acl")))
        .await;
    assert_eq!(line["client"], "127.0.0.1");
    let lines = gateway.log_lines();
    let logged =
        lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains("auth.acl")));
    assert_eq!(logged.count(), 1, "one line in ten seconds");
    let denied = "elida_connections_refused_total{listener=\"proxy\",reason=\"acl\"}";
    assert!(gateway.metric(denied).await >= 20.0);
    // On a connection that was open, no further request is served.
    let served = backend.heads().len();
    let _ = kept.send(&Call::chat("x").bytes("localhost")).await;
    within("the end of an open connection", kept.end()).await;
    assert_eq!(backend.heads().len(), served);
}
