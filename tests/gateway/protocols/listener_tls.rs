use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use h2::client::Builder;
use rcgen::{Certificate, CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use crate::support::authority::{Authority, dns};
use crate::support::http2::{Client, End};
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, RawClient, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An authority, and the gateway's certificate in its folder.
struct Issued(Authority);

impl Issued {
    fn new() -> Self {
        let issued = Self(Authority::new());
        issued.server();
        issued
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.file(name)
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (Certificate, KeyPair) {
        self.0.issue(vec![dns(name), SanType::IpAddress([127, 0, 0, 1].into())], usage)
    }

    /// Writes a new certificate for localhost and its key; returns the certificate.
    fn server(&self) -> CertificateDer<'static> {
        let issued = self.issue("localhost", ExtendedKeyUsagePurpose::ServerAuth);
        self.0.write("tls", &issued);
        fs::set_permissions(self.file("tls.key"), fs::Permissions::from_mode(0o600)).expect("permissions");
        issued.0.der().clone()
    }

    /// `server.tls` with these files.
    fn keys(&self, more: &str) -> String {
        format!(
            "tls: {{ enabled: true, cert: {:?}, key: {:?}{more} }}",
            self.file("tls.crt"),
            self.file("tls.key")
        )
    }

    fn yaml(&self, backend: &impl Backend, more: &str, server: &str) -> String {
        format!("backend: {:?}\nserver: {{ {}{server} }}\n", backend.url(), self.keys(more))
    }

    /// A client that trusts this authority.
    fn client(&self, alpn: &[&str], versions: &[&'static SupportedProtocolVersion]) -> Connecting {
        Connecting(self.client_config(versions, None), alpn.iter().map(|name| (*name).to_owned()).collect())
    }

    fn client_config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<(Certificate, KeyPair)>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.issuer.der().clone()).expect("an authority");
        let builder = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
        match own {
            None => builder.with_no_client_auth(),
            Some((leaf, key)) => builder
                .with_client_auth_cert(
                    vec![leaf.der().clone()],
                    PrivateKeyDer::Pkcs8(key.serialize_der().into()),
                )
                .expect("a certificate and its key"),
        }
    }
}

const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// A client's TLS configuration that offers these protocols.
struct Connecting(ClientConfig, Vec<String>);

impl Connecting {
    async fn to(mut self, gateway: &Gateway) -> std::io::Result<TlsStream<TcpStream>> {
        self.0.alpn_protocols = self.1.into_iter().map(String::into_bytes).collect();
        let tcp = TcpStream::connect(gateway.proxy()).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a name");
        within("the TLS handshake", TlsConnector::from(Arc::new(self.0)).connect(name, tcp)).await
    }
}

fn protocol(stream: &TlsStream<TcpStream>) -> Option<&[u8]> {
    stream.get_ref().1.alpn_protocol()
}

fn certificate(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("certificates")[0].clone().into_owned()
}

/// Sends a request over a connection that speaks HTTP/1.1, and reads to its end.
async fn ask(mut stream: TlsStream<TcpStream>, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.expect("an orderly end (close_notify)");
    answer
}

fn curl(arguments: &[&str], ca: &Path) -> Output {
    Command::new("curl").args(["-sS", "--cacert"]).arg(ca).args(arguments).output().expect("curl")
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_served_over_tls_with_both_protocols() {
    let (demo, issued) = (Demo::start().await, Issued::new());
    let gateway = Gateway::with(issued.yaml(&demo, "", "")).await;
    let url = format!("https://localhost:{}/v1/chat/completions", gateway.proxy().port());
    let body =
        "{\"model\":\"gpt-demo\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let arguments =
            [option, "-d", body, "-H", "content-type: application/json", "-w", "\n%{http_version}", &url];
        let output = curl(&arguments, &issued.file("ca.pem"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("data: [DONE]") && text.ends_with(&format!("\n{version}")), "{text}");
    }
    let plain = format!("http://localhost:{}/v1/models", gateway.proxy().port());
    assert!(!curl(&["--http2-prior-knowledge", &plain], &issued.file("ca.pem")).status.success());
    assert!(!curl(&["--http1.1", &plain], &issued.file("ca.pem")).status.success());
    assert_eq!(demo.ledger().arrived(), 2, "requests without TLS reach no backend");
    // Without TLS, curl needs a flag.
    let plain = Gateway::start(&demo).await;
    let url = format!("{}/v1/models", plain.url());
    let output = curl(&["--http2-prior-knowledge", "-w", "\n%{http_version}", &url], &issued.file("ca.pem"));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("}\n2"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_protocols_are_those_of_the_keys() {
    let (backend, issued) = (RawBackend::answering(OK).await, Issued::new());
    let all = Gateway::with(issued.yaml(&backend, "", ", forwarded_headers: true")).await;
    for (offered, chosen) in
        [(&["h2", "http/1.1"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        for versions in [&BOTH[..], &BOTH[..1]] {
            let stream = issued.client(offered, versions).to(&all).await.expect("a connection");
            assert_eq!(protocol(&stream), chosen);
            if chosen != Some(b"h2") {
                assert!(ask(stream, "/a").await.ends_with("\r\n\r\nok"));
            }
        }
    }
    assert_eq!(backend.heads()[0].field("x-forwarded-proto"), Some("https"));
    let few = Gateway::with(issued.yaml(&backend, ", min_version: 1.3, alpn: [http/1.1]", "")).await;
    let stream = issued.client(&["h2", "http/1.1"], &BOTH).to(&few).await.expect("a connection");
    assert_eq!(protocol(&stream), Some(&b"http/1.1"[..]));
    assert!(issued.client(&[], &BOTH[..1]).to(&few).await.is_err(), "TLS 1.2 is too old");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_a_certificate_when_they_must() {
    let (backend, issued, others) = (RawBackend::answering(OK).await, Issued::new(), Issued::new());
    let more = format!(", client_ca: {:?}", issued.file("ca.pem"));
    let gateway = Gateway::with(issued.yaml(&backend, &more, "")).await;
    // In TLS 1.3 the client learns of the rejection at its first read.
    let with = async |own: Option<(Certificate, KeyPair)>| {
        let client = Connecting(issued.client_config(&BOTH, own), Vec::new());
        let mut stream = client.to(&gateway).await?;
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        within("an answer", stream.read_to_string(&mut answer)).await.map(|_| answer)
    };
    let usage = || ExtendedKeyUsagePurpose::ClientAuth;
    let (leaf, key) = issued.issue("agent", usage());
    assert!(with(Some((leaf, key))).await.expect("an answer").ends_with("ok"));
    let (leaf, key) = others.issue("agent", usage());
    assert!(with(Some((leaf, key))).await.is_err(), "of another authority");
    assert!(with(None).await.is_err(), "none at all");
    assert_eq!(backend.heads().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_a_new_certificate_and_cuts_nobody() {
    let (demo, issued) = (Demo::start().await, Issued::new());
    let yaml = issued.yaml(&demo, "", "");
    let gateway = Gateway::with(&yaml).await;
    let now = async || certificate(&issued.client(&["h2"], &BOTH).to(&gateway).await.expect("a connection"));
    let first = now().await;
    let stream = issued.client(&["h2"], &BOTH).to(&gateway).await.expect("a connection");
    let mut client = Client::over(stream, "localhost", &Builder::new()).await;
    let mut begun =
        client.send(&Call::chat_stream("[[words 600]] [[pace 5ms]]")).await.head().await.expect("a head");
    begun.until("\"delta\":{\"content\":\"").await;
    let second = issued.server();
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    let served = now().await;
    assert!(served == second && served != first);
    // A key that does not match is rejected, by signal and by the control API.
    fs::write(issued.file("tls.key"), KeyPair::generate().expect("a key").serialize_pem()).expect("a file");
    gateway.hangup();
    let line = gateway.log_until(|line| line["level"] == "ERROR").await;
    assert!(
        line["faults"].as_str().is_some_and(|reply| reply.contains("is not the key of the certificate")),
        "{line}"
    );
    let reply = gateway.operator().await.post("/control/config/reload", &json!(null)).await;
    assert!(reply.status() == 422 && reply.text().contains("server.tls.key"), "{}", reply.text());
    assert_eq!(now().await, second);
    let answer = begun.rest().await;
    assert!(answer.text().contains("[DONE]") && answer.end == End::Whole, "{}", answer.text());
    assert_eq!(client.ask(&Call::chat("hello")).await.status, 200);
    // TLS can be turned off; open connections stay.
    gateway.rewrite(&format!("backend: {:?}\n", demo.url()));
    gateway.operator().await.post("/control/config/reload", &json!(null)).await;
    assert_eq!(Call::chat("plain").send(gateway.proxy()).await.status(), 200);
    assert_eq!(client.ask(&Call::chat("hello")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let (backend, issued) = (RawBackend::answering(OK).await, Issued::new());
    let gateway = Gateway::with(issued.yaml(&backend, "", ", timeouts: { read: 500ms, idle: 300ms }")).await;
    let begun = Instant::now();
    let mut mute = RawClient::connect(gateway.proxy()).await;
    let mut slow = RawClient::connect(gateway.proxy()).await;
    slow.send(&[22, 3, 1, 2, 0, 1]).await.expect("the first bytes of a handshake");
    let silent = issued.client(&["http/1.1"], &BOTH).to(&gateway).await.expect("a connection");
    mute.end().await;
    slow.end().await;
    let (mut from, _to) = tokio::io::split(silent);
    let _ = within("the end of one that asks nothing", from.read(&mut [0])).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    within("the end of all connections", async { while gateway.metric("elida_connections").await > 0.0 {} })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_cuts_over_tls_as_it_does_without() {
    let (demo, issued) = (Demo::start().await, Issued::new());
    let gateway = Gateway::with(issued.yaml(&demo, "", "")).await;
    let mut stream = issued.client(&["http/1.1"], &BOTH).to(&gateway).await.expect("a connection");
    stream.write_all(&Call::chat_stream("[[stall]]").session("s").bytes("localhost")).await.expect("send");
    let mut answer = Vec::new();
    within("the first event", async {
        while memchr::memmem::find(&answer, b"\"delta\":{\"content\":\"").is_none() {
            assert!(stream.read_buf(&mut answer).await.expect("bytes") > 0);
        }
    })
    .await;
    let killed = gateway.kill("s").await;
    within("the last chunk", async {
        while !answer.ends_with(b"\r\n0\r\n\r\n") {
            assert!(stream.read_buf(&mut answer).await.expect("bytes") > 0);
        }
    })
    .await;
    assert!(killed.answered.elapsed() < Duration::from_secs(1));
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("session_killed") && !text.contains("[DONE]"), "{text}");
    demo.until("the end upstream", |ledger| ledger.aborts().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_doctor_say_what_is_wrong() {
    let issued = Issued::new();
    let file = issued.file("elida.yaml");
    let data = issued.0.folder.path();
    let run = |command: &str| {
        let yaml = format!(
            "listen: '127.0.0.1:0'\ncontrol: {{ listen: '127.0.0.1:0' }}\ndata_dir: {data:?}\nserver:\n  {}\n",
            issued.keys("")
        );
        fs::write(&file, yaml).expect("a file");
        let output =
            Command::new(env!("CARGO_BIN_EXE_elida")).args([command, "-c"]).arg(&file).env_clear().output();
        let output = output.expect("the binary runs");
        let reply = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&reply).into_owned())
    };
    let (code, reply) = run("check");
    assert_eq!(code, Some(0), "{reply}");
    assert!(run("doctor").1.contains("ok    server.tls: the certificate is valid for"));
    fs::set_permissions(issued.file("tls.key"), fs::Permissions::from_mode(0o644)).expect("permissions");
    let (code, reply) = run("check");
    assert!(
        code == Some(0) && reply.contains("warning: server.tls.key: every user of this machine"),
        "{reply}"
    );
    fs::set_permissions(issued.file("tls.key"), fs::Permissions::from_mode(0o600)).expect("permissions");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    fs::write(issued.file("tls.crt"), params.self_signed(&key).expect("a certificate").pem())
        .expect("a file");
    let (code, reply) = run("check");
    assert!(code == Some(2) && reply.contains("is not the key of the certificate"), "{reply}");
    fs::write(issued.file("tls.key"), key.serialize_pem()).expect("a file");
    let (code, reply) = run("check");
    assert!(
        code == Some(0) && reply.contains("warning: server.tls.cert: the certificate has expired"),
        "{reply}"
    );
    let (code, reply) = run("doctor");
    assert!(code == Some(1) && reply.contains("FAIL  server.tls: the certificate has expired"), "{reply}");
    fs::remove_file(issued.file("tls.crt")).expect("a file");
    let (code, reply) = run("check");
    assert!(
        code == Some(2) && reply.contains("server.tls.cert:") && reply.contains("cannot be read"),
        "{reply}"
    );
}
