use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use serde_json::Value;

use crate::callers::keys::{auth, key};
use crate::support::agent::Agent;
use crate::support::authority::{Authority, dns};
use crate::support::program::{Home, Outcome, Program, node, python};
use crate::support::{Backend, Demo, Gateway, RawBackend};

/// What the plain host says.
const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nplain text";
/// The refs of a repository, as a static server has them.
const REFS: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904\trefs/heads/main\n";

/// Hosts with certificates of an authority that the programs are told to trust: a model provider behind a listener with TLS, and
/// one without; and the gateway, whose forward proxy leads to them.
pub struct Stage {
    pub demo: Demo,
    pub authority: Authority,
    _far: Gateway,
    _plain: RawBackend,
    _git: RawBackend,
    pub near: Gateway,
    /// The configuration of `near`.
    pub yaml: String,
    pub key: String,
}

impl Stage {
    /// With further keys of the gateway's configuration.
    pub async fn set(more: &str) -> Self {
        let (demo, authority, key) = (Demo::start().await, Authority::new(), key());
        let names = ["api.anthropic.com", "secure.test", "localhost"];
        let issued = authority.issue(names.map(dns).to_vec(), ExtendedKeyUsagePurpose::ServerAuth);
        authority.write("far", &issued);
        let plain = RawBackend::answering(PLAIN).await;
        let git = RawBackend::start(async |mut connection| {
            while let Some(request) = connection.request().await {
                let text =
                    if request.head.target().ends_with("/HEAD") { "ref: refs/heads/main\n" } else { REFS };
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
                    text.len()
                );
                let _ = connection.send(head + text).await;
            }
        })
        .await;
        let tls = format!("cert: {:?}, key: {:?}", authority.file("far.crt"), authority.file("far.key"));
        let far = Gateway::with(format!(
            "server: {{ tls: {{ enabled: true, {tls} }} }}\n\
             backends:\n  demo: {{ url: {:?}, type: anthropic, default: true }}\n  git: {{ url: {:?}, type: http }}\n",
            demo.url(),
            git.url()
        ))
        .await;
        let (far_address, plain_address) = (far.proxy(), plain.url().replace("http://", ""));
        let yaml = format!(
            "forward_proxy:\n  enabled: true\n  connect_ports: [443, 80]\n  hosts: {{ api.anthropic.com: '{far_address}', secure.test: '{far_address}', \
             plain.test: '{plain_address}' }}\n{more}{}backend: 'http://127.0.0.1:9'\n",
            auth("optional", &[("ci", &key, "")])
        );
        // The gateway trusts the hosts of the test, as it would trust those of the Internet.
        let ca = authority.file("ca.pem");
        let near = Gateway::with_variables(&yaml, &[("SSL_CERT_FILE", ca.as_os_str())]).await;
        Self { demo, authority, _far: far, _plain: plain, _git: git, near, yaml, key }
    }

    /// The URL of the proxy, as programs are given it.
    pub fn proxy(&self, session: &str) -> String {
        format!("http://{session}:{}@{}", self.key, self.near.proxy())
    }

    /// The file of the authority.
    pub fn ca(&self) -> std::path::PathBuf {
        self.authority.file("ca.pem")
    }

    /// Runs a program with nothing but the proxy of the environment.
    pub async fn run(&self, mut command: Command, session: &str) -> Outcome {
        for (name, value) in [("HTTPS_PROXY", self.proxy(session)), ("HTTP_PROXY", self.proxy(session))] {
            command.env(name, &value).env(name.to_lowercase(), value);
        }
        Program::start(command, &Home::new()).outcome_in(Duration::from_secs(120)).await
    }
}

fn curl(arguments: &[&str], ca: &Path) -> Command {
    let mut command = Command::new("curl");
    command.args(["-s", "-S", "--max-time", "20", "--cacert"]).arg(ca).args(arguments);
    command
}

/// The legs of a session, from its access lines: method, URL, outcome.
pub fn legs(gateway: &Gateway, session: &str) -> Vec<(String, String, String)> {
    let lines = gateway.log_lines().into_iter();
    let of_session =
        lines.filter(|line| line["message"] == "request_completed" && line["session_id"] == session);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of_session.map(|line| (text(&line["method"]), text(&line["url"]), text(&line["outcome"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reaches_both_schemes_also_over_tls_to_the_proxy() {
    let stage = Stage::set("").await;
    let both = ["http://plain.test/", "https://secure.test/health"];
    let read = stage.run(curl(&both, &stage.ca()), "env").await;
    assert_eq!(
        (read.code, read.lines.concat().as_str()),
        (Some(0), "plain text{\"status\":\"ok\"}"),
        "{read:?}"
    );
    stage.near.access_line("secure.test:443").await;
    let found = legs(&stage.near, "env");
    assert!(found.iter().any(|(method, url, _)| method == "GET" && url == "http://plain.test/"), "{found:?}");
    assert!(
        found.iter().any(|(method, url, _)| method == "CONNECT" && url == "secure.test:443"),
        "{found:?}"
    );

    // As the documents of the seed write it.
    let open = Gateway::with(
        "forward_proxy: { enabled: true, require_auth: false, hosts: { plain.test: 'ADDRESS' } }\nbackend: 'http://127.0.0.1:9'\n"
            .replace("ADDRESS", &stage._plain.url().replace("http://", "")),
    )
    .await;
    let read = Program::start(curl(&["-x", &open.url(), "http://plain.test"], &stage.ca()), &Home::new())
        .outcome()
        .await;
    assert_eq!(read.lines.concat(), "plain text", "{read:?}");

    // A wrong password, and none.
    let denied = curl(
        &["-o", "/dev/null", "-w", "%{http_connect}", "-x", &stage.near.url(), "https://secure.test/"],
        &stage.ca(),
    );
    let read = Program::start(denied, &Home::new()).outcome().await;
    assert_eq!((read.code, read.lines.concat().as_str()), (Some(56), "407"), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_tls_to_the_proxy() {
    let (authority, key) = (Authority::new(), key());
    let issued = authority.issue(vec![dns("localhost")], ExtendedKeyUsagePurpose::ServerAuth);
    authority.write("tls", &issued);
    let plain = RawBackend::answering(PLAIN).await;
    let demo = Demo::start().await;
    let tls = format!(
        "tls: {{ enabled: true, cert: {:?}, key: {:?} }}",
        authority.file("tls.crt"),
        authority.file("tls.key")
    );
    let far = Gateway::with(format!("backend: {:?}\nserver: {{ {tls} }}\n", demo.url())).await;
    let near = Gateway::with(format!(
        "forward_proxy: {{ enabled: true, hosts: {{ plain.test: '{}', secure.test: '{}' }} }}\nserver: {{ {tls} }}\n{}\
         backend: 'http://127.0.0.1:9'\n",
        plain.url().replace("http://", ""),
        far.proxy(),
        auth("required", &[("ci", &key, "")]),
    ))
    .await;
    let proxy = format!("https://tls:{key}@localhost:{}", near.proxy().port());
    let ca = authority.file("ca.pem");
    let ca_text = ca.to_str().expect("a path");
    let arguments = ["--proxy-cacert", ca_text, "-x", &proxy, "http://plain.test/"];
    let read = Program::start(curl(&arguments, &ca), &Home::new()).outcome().await;
    assert_eq!(read.lines.concat(), "plain text", "{read:?}");
    // A tunnel, in which another handshake is made.
    let inner = ["--proxy-cacert", ca_text, "-x", &proxy, "-k", "https://secure.test/health"];
    let read = Program::start(curl(&inner, &ca), &Home::new()).outcome().await;
    assert_eq!(read.lines.concat(), "{\"status\":\"ok\"}", "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_httpx_and_aiohttp_work_with_the_proxy_of_the_environment() {
    let stage = Stage::set("").await;
    let mut command = python("proxied.py");
    command.arg(stage.ca()).args(["http://plain.test/", "https://secure.test/health"]);
    let read = stage.run(command, "python").await;
    let values = read.values();
    assert_eq!(values.len(), 6, "{read:?}");
    for value in values {
        let expected =
            if value["url"] == "http://plain.test/" { "plain text" } else { "{\"status\":\"ok\"}" };
        assert_eq!(value["read"], expected, "{value}");
    }
    assert_eq!(legs(&stage.near, "python").iter().filter(|(method, ..)| method == "GET").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn undici_works_with_the_proxy_of_the_environment() {
    let stage = Stage::set("").await;
    let mut command = node("proxied.mjs");
    command.env("NODE_USE_ENV_PROXY", "1").env("NODE_EXTRA_CA_CERTS", stage.ca());
    command.args(["http://plain.test/", "https://secure.test/health"]);
    let read = stage.run(command, "node").await;
    // It opens a tunnel for http URLs, too.
    let texts: Vec<Value> = read.values().into_iter().map(|value| value["read"].clone()).collect();
    assert_eq!(texts, ["plain text", "{\"status\":\"ok\"}"], "{read:?}");
    assert!(!legs(&stage.near, "node").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn git_lists_a_repository_through_a_tunnel() {
    let stage = Stage::set("").await;
    let mut command = Command::new("git");
    command.args(["ls-remote", "https://secure.test/git/repo.git"]).env("GIT_SSL_CAINFO", stage.ca());
    command.env("GIT_TERMINAL_PROMPT", "0");
    let read = stage.run(command, "git").await;
    assert!(read.text().contains("4b825dc642cb6eb9a060e54bf8d69288fbee4904\trefs/heads/main"), "{read:?}");
    let shown = stage.near.session_until("git", |view| view["bytes_out"].as_u64() > Some(1000)).await;
    assert!(shown["bytes_out"].as_u64() > Some(1000), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_works_with_nothing_but_https_proxy_and_its_host_and_bytes_are_on_record() {
    let stage = Stage::set("").await;
    let mut command = Agent::Claude.command("https://api.anthropic.com", "one two three", None);
    command.env("NODE_EXTRA_CA_CERTS", stage.ca());
    let served = stage.run(command, "claude").await;
    assert_eq!(served.code, Some(0), "{served:?}");
    assert_eq!(Agent::Claude.shown(&served).trim_matches('"'), "one two three");
    let line = stage.near.access_line("api.anthropic.com:443").await;
    assert_eq!((&line["method"], &line["session_id"]), (&"CONNECT".into(), &"claude".into()), "{line}");
    let shown = stage.near.session_until("claude", |view| view["open_legs"] == 0).await;
    assert!(shown["bytes_in"].as_u64() > Some(10_000), "the prompt has passed: {shown}");
    assert_eq!(shown["usage"]["output_tokens"], 0, "what is encrypted stays unknown: {shown}");
    assert!(!stage.demo.ledger().requests().is_empty());
}
