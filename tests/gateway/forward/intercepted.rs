use std::process::Command;
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::forward::programs::{Stage, legs};
use crate::support::agent::Agent;
use crate::support::authority::dns;
use crate::support::program::{Home, Outcome, Program};
use crate::support::{Gateway, within};

/// Opens the tunnels to these hosts.
const INTERCEPT: &str = "  intercept: { hosts: [api.anthropic.com, '*.test'] }\n";

/// curl through the proxy, which trusts the gateway's authority.
async fn curl(stage: &Stage, session: &str, arguments: &[&str]) -> Outcome {
    let mut command = Command::new("curl");
    command.args(["-s", "-S", "--max-time", "20", "--cacert"]).arg(stage.near.data().join("forward-ca.pem"));
    command.args(arguments);
    stage.run(command, session).await
}

fn claude(stage: &Stage, prompt: &str) -> Command {
    let mut command = Agent::Claude.command("https://api.anthropic.com", prompt, None);
    command.env("NODE_EXTRA_CA_CERTS", stage.near.data().join("forward-ca.pem"));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_is_a_session_with_its_own_id_and_tokens_and_is_killed_in_mid_stream() {
    let stage = Stage::set(INTERCEPT).await;
    let served = stage.run(claude(&stage, "one two three"), "x").await;
    assert_eq!(served.code, Some(0), "{served:?}");
    assert_eq!(Agent::Claude.shown(&served).trim_matches('"'), "one two three");
    let id = Agent::Claude.session(&served);
    let shown = stage.near.session_until(&id, |view| view["open_legs"] == 0).await;
    assert!(shown["usage"]["output_tokens"].as_u64() > Some(0), "{shown}");
    assert_eq!(shown["principal"]["id"], "key:ci", "the caller of the CONNECT: {shown}");
    assert_eq!(shown["identity"]["client"], "claude-code", "{shown}");
    let asked = stage.demo.ledger().requests();
    assert_eq!(asked[0].header("x-api-key"), Some("sk-ant-test"), "the client's own key goes on");
    assert!(
        legs(&stage.near, &id)
            .iter()
            .any(|(_, url, _)| url == "https://api.anthropic.com/v1/messages?beta=***"
                || url == "https://api.anthropic.com/v1/messages?beta=true"),
        "{:?}",
        legs(&stage.near, &id)
    );

    let running = tokio::spawn({
        let (command, proxy) = (claude(&stage, "first [[stall]]"), stage.proxy("x"));
        async move {
            let mut command = command;
            command.env("HTTPS_PROXY", &proxy).env("https_proxy", proxy);
            Program::start(command, &Home::new()).outcome_in(Duration::from_secs(120)).await
        }
    });
    let stalled = within("a stream", async {
        loop {
            let open = stage.near.sessions().await.into_iter().find(|session| {
                session["open_legs"].as_u64() > Some(0)
                    && session["id"] != id.as_str()
                    && session["bytes_out"].as_u64() > Some(500)
            });
            if let Some(open) = open {
                return open["id"].as_str().expect("an id").to_owned();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    stage.near.kill(&stalled).await;
    let killed = running.await.expect("a task");
    assert_eq!(killed.code, Some(1), "{killed:?}");
    assert!(killed.text().contains("Session killed"), "its user reads why: {killed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_blocks_its_host_cuts_an_open_stream_and_one_that_names_it_no_longer_lets_it_go_on() {
    let stage = Stage::set(INTERCEPT).await;
    let body = r#"{"model":"claude-demo","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"first [[stall]]"}]}"#;
    let running = tokio::spawn({
        let mut command = Command::new("curl");
        command.args(["-s", "-S", "-N", "--max-time", "60", "--cacert"]);
        command.arg(stage.near.data().join("forward-ca.pem"));
        command.args(["-H", "anthropic-version: 2023-06-01", "-H", "X-Session-ID: cut", "-d", body]);
        command.arg("https://api.anthropic.com/v1/messages");
        command.env("HTTPS_PROXY", stage.proxy("x"));
        async move { Program::start(command, &Home::new()).outcome_in(Duration::from_secs(90)).await }
    });
    stage.near.session_until("cut", |view| view["bytes_out"].as_u64() > Some(200)).await;
    let reload = async |yaml: &str, number: usize| {
        stage.near.rewrite(yaml);
        stage.near.hangup();
        within("the reload", async {
            let is_reload = |line: &&serde_json::Value| line["message"] == "configuration reloaded";
            while stage.near.log_lines().iter().filter(is_reload).count() < number {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    };
    reload(&stage.yaml.replace("api.anthropic.com, '*.test'", "'*.test'"), 1).await;
    stage.near.session_until("cut", |view| view["open_legs"] == 1).await;
    let blocked = "security: { filtering: { domains: { blocked: [api.anthropic.com] } } }\n";
    reload(&(stage.yaml.clone() + blocked), 2).await;
    let cut = running.await.expect("a task");
    assert!(cut.code != Some(0) && cut.text().contains("first"), "{cut:?}");
    let line = stage
        .near
        .log_until(|line| line["session_id"] == "cut" && line["message"] == "request_completed")
        .await;
    assert_eq!(line["outcome"], "domain_blocked", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_served_as_if_it_came_to_the_listener_over_both_versions_of_http() {
    let stage = Stage::set(INTERCEPT).await;
    for version in ["--http1.1", "--http2"] {
        let url = "https://secure.test/git/repo.git/HEAD";
        let read = curl(&stage, "named", &[version, "-w", "%{http_version} %{http_code}", url, url]).await;
        let shown = if version == "--http2" { "2 200" } else { "1.1 200" };
        assert_eq!(read.text().matches(shown).count(), 2, "{read:?}");
        let other = curl(&stage, "named", &[version, "-H", "Host: other.test", url]).await;
        assert!(other.text().contains("is not the host of its CONNECT"), "{other:?}");
        let health =
            curl(&stage, "named", &[version, "-H", "Host: secure.test", "https://secure.test/health"]).await;
        assert!(health.text().contains("\"status\":\"ok\""), "that of the host: {health:?}");
    }
    let found = legs(&stage.near, "named");
    assert!(found.iter().filter(|(method, ..)| method == "GET").count() >= 4, "{found:?}");
    assert!(found.iter().any(|(_, url, _)| url == "https://secure.test/git/repo.git/HEAD"), "{found:?}");

    // A kill refuses what comes in a tunnel, in the words of the API.
    stage.near.kill("named").await;
    let body = r#"{"model":"claude-sonnet-4-5","max_tokens":1,"messages":[]}"#;
    let fields = ["-H", "anthropic-version: 2023-06-01", "-H", "X-Session-ID: named", "-d", body];
    let arguments = [&fields[..], &["https://api.anthropic.com/v1/messages"]].concat();
    let refused = curl(&stage, "another", &arguments).await;
    assert!(
        refused.text().contains("\"type\":\"error\"") && refused.text().contains("session_killed"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_trust_the_authority_is_told_of_once_and_gets_no_opaque_tunnel() {
    let stage = Stage::set(INTERCEPT).await;
    for _ in 0..2 {
        let mut command = Command::new("curl");
        command
            .args(["-s", "-S", "--max-time", "20", "--cacert"])
            .arg(stage.ca())
            .arg("https://secure.test/health");
        let read = stage.run(command, "pinned").await;
        assert_eq!(read.code, Some(60), "{read:?}");
    }
    let told = |line: &serde_json::Value| {
        line["message"].as_str().is_some_and(|text| text.starts_with("intercept_refused_by_client"))
            && line["host"] == "secure.test"
    };
    stage.near.log_until(told).await;
    let found = within("both access lines", async {
        loop {
            let found = legs(&stage.near, "pinned");
            if found.len() == 2 {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(
        found
            .iter()
            .all(|(method, _, outcome)| method == "CONNECT" && outcome == "intercept_refused_by_client"),
        "{found:?}"
    );
    assert_eq!(stage.near.log_lines().iter().filter(|line| told(line)).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_key_of_the_authority_is_good_for_no_other_host() {
    let stage = Stage::set(INTERCEPT).await;
    let read = |name: &str| std::fs::read_to_string(stage.near.data().join(name)).expect("a file");
    let key = KeyPair::from_pem(&read("forward-ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("forward-ca.pem"), key).expect("an authority");
    for (host, is_good) in [("bank.example", false), ("stolen.test", true)] {
        let leaf_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![dns(host)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&leaf_key, &issuer).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key);
        let acceptor = TlsAcceptor::from(std::sync::Arc::new(config.expect("a server")));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.expect("a client");
            if let Ok(mut stream) = acceptor.accept(tcp).await {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        });
        let mut command = Command::new("curl");
        command
            .args(["-s", "-S", "--max-time", "20", "--cacert"])
            .arg(stage.near.data().join("forward-ca.pem"));
        command.args(["--resolve", &format!("{host}:{port}:127.0.0.1"), &format!("https://{host}:{port}/")]);
        let read = Program::start(command, &Home::new()).outcome().await;
        assert_eq!(read.code == Some(0), is_good, "{host}: {read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_cannot_be_kept_stops_the_start_and_not_a_reload() {
    let stage = Stage::set("").await;
    let refused = |text: &str| text.contains("forward_proxy.intercept") && text.contains("/proc/nowhere");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let yaml = "listen: 127.0.0.1:0\ncontrol: { listen: 127.0.0.1:0 }\ndata_dir: /proc/nowhere\nauth: { proxy: required }\n\
                forward_proxy: { enabled: true, intercept: { hosts: [a.test] } }\nbackend: 'http://127.0.0.1:9'\n";
    std::fs::write(&file, yaml).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
    command.args(["run", "-c"]).arg(&file).env_clear();
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = within("the end of the start", run).await.expect("a task").expect("the binary runs");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(!output.status.success() && refused(&text), "{text}");
    let gateway: &Gateway = &stage.near;
    assert!(!gateway.data().join("forward-ca.key").exists(), "nothing is made where nothing is intercepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_models_are_limited_a_host_without_a_backend_is_refused() {
    let stage = Stage::set(&format!("{INTERCEPT}routing: {{ blocked_models: [none-*] }}\n")).await;
    let body = r#"{"model":"claude-sonnet-4-5","max_tokens":1,"messages":[]}"#;
    let arguments =
        ["-H", "anthropic-version: 2023-06-01", "-d", body, "https://api.anthropic.com/v1/messages"];
    let refused = curl(&stage, "limited", &arguments).await;
    assert!(refused.text().contains("no backend serves api.anthropic.com"), "{refused:?}");
    assert!(stage.demo.ledger().requests().is_empty());
}
