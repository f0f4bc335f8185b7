use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::callers::keys::{auth, key};
use crate::support::{Backend, Demo, Gateway};

const PAGE: &str = include_str!("../../../docs/forward-proxy.md");
const EXAMPLE: &str = include_str!("../../../conf/examples/forward.yaml");
const INTERCEPT: &str = include_str!("../../../conf/examples/intercept.yaml");

/// The blocks of a section that begin with this word.
fn blocks(section: &str, kind: &str) -> String {
    let fence = format!("```{kind}\n");
    section.split(fence.as_str()).skip(1).map(|block| block.split("```").next().expect("an end")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_does_what_the_page_says() {
    let section = PAGE.split("\n## ").find(|section| section.starts_with("A tour")).expect("the section");
    let demo = Demo::start().await;
    let port = demo.address().port().to_string();
    let gateway = Gateway::with(blocks(section, "yaml").replace("9100", &port)).await;
    let commands = blocks(section, "sh").replace("9100", &port);
    let commands = commands.replace("localhost:8080", &gateway.proxy().to_string());
    let commands = commands.replace("localhost:9090", &gateway.control().to_string());
    let run = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &commands]).output());
    let output = run.await.expect("the shell").expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in blocks(section, "text").lines() {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_starts() {
    let yaml = EXAMPLE.replace("version: 1\nlisten: \"127.0.0.1:8080\"\n", "");
    assert_ne!(yaml, EXAMPLE);
    let gateway = Gateway::with(yaml).await;
    let refused = super::absolute::get(&gateway, "http://x.ads.example.com/").await;
    assert_eq!(refused.json()["error"]["code"], "domain_blocked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_with_interception_starts_and_makes_its_authority() {
    let yaml = INTERCEPT.replace("version: 1\nlisten: \"127.0.0.1:8080\"\ndata_dir: \"./data\"\n", "");
    assert_ne!(yaml, INTERCEPT);
    let gateway = Gateway::with(yaml).await;
    let made = std::fs::read_to_string(gateway.data().join("forward-ca.pem")).expect("the certificate");
    assert!(made.starts_with("# elida hosts: api.anthropic.com\n"), "{made}");
    let refused = super::absolute::get(&gateway, "http://example.com/").await;
    assert_eq!(refused.status(), 407, "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_when_the_authority_expires() {
    let keys = auth("optional", &[("ci", &key(), "")]);
    let folder = tempfile::tempdir().expect("a folder");
    for (days, word, part) in
        [(31, "ok", "valid until 20"), (29, "warn", "replace the files of ca_cert and ca_key")]
    {
        let (certificate, signing) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.not_after = (SystemTime::now() + Duration::from_secs(days * 86400 + 3600)).into();
        let pair = KeyPair::generate().expect("a key");
        std::fs::write(&certificate, params.self_signed(&pair).expect("an authority").pem()).expect("a file");
        std::fs::write(&signing, pair.serialize_pem()).expect("a file");
        std::fs::set_permissions(&signing, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("a mode");
        let yaml = format!(
            "listen: '127.0.0.1:0'\n{keys}forward_proxy:\n  enabled: true\n  intercept: {{ hosts: [a.test], ca_cert: {certificate:?}, \
             ca_key: {signing:?} }}\n"
        );
        let (_, text) = told("doctor", &yaml).await;
        let line = text.lines().find(|line| line.contains("forward_proxy")).expect("a line");
        assert!(line.contains(word), "{text}");
        assert!(text.contains(part), "{text}");
    }
}

/// What a command says of this configuration, and its exit code.
async fn told(command: &str, yaml: &str) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let yaml = format!("data_dir: {:?}\ncontrol: {{ listen: '127.0.0.1:0' }}\n{yaml}", folder.path());
    std::fs::write(&file, yaml).expect("a file");
    run(&[command, "-c"], &file).await
}

async fn run(words: &[&str], file: &Path) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
    command.args(words).arg(file).env_clear();
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = run.await.expect("a task").expect("the binary runs");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.code().unwrap_or(-1), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_refuses_what_lets_strangers_in_and_doctor_says_who_is_let_in() {
    let demo = Demo::start().await;
    let keys = auth("optional", &[("ci", &key(), "")]);
    let backend = format!("backend: {:?}\n", demo.url());
    for (listen, forward, more, code, part) in [
        ("0.0.0.0:0", "require_auth: false", "", 2, "can use this gateway to reach other hosts"),
        ("127.0.0.1:0", "require_auth: false", "", 0, "ok"),
        ("0.0.0.0:0", "require_auth: true", "", 2, "no keys are read"),
        ("0.0.0.0:0", "require_auth: true", keys.as_str(), 0, "ok"),
        (
            "0.0.0.0:0",
            "require_auth: false",
            "startup_guard: warn\n",
            0,
            "can use this gateway to reach other hosts",
        ),
        ("127.0.0.1:0", "require_auth: false, deny_private_ranges: false", "", 0, "the cloud's metadata"),
        ("127.0.0.1:0", "require_auth: false, intercept: { hosts: [a.test] }", "", 2, "intercept"),
    ] {
        let yaml =
            format!("listen: '{listen}'\nforward_proxy: {{ enabled: true, {forward} }}\n{more}{backend}");
        let (found, text) = told("check", &yaml).await;
        assert_eq!(found, code, "{yaml}: {text}");
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let yaml = format!(
        "listen: '127.0.0.1:0'\nforward_proxy: {{ enabled: true, allow_private: [10.0.0.1] }}\n{keys}{backend}\
         security: {{ filtering: {{ domains: {{ blocked: [a.com] }} }} }}\n"
    );
    let (code, text) = told("doctor", &yaml).await;
    assert_eq!(code, 0, "{text}");
    let line = "forward_proxy: on at 127.0.0.1:0: callers show a key; hosts that are not blocked at public addresses and 1 \
                exceptions; ports 443 (CONNECT) and 80 (http)";
    assert!(text.contains(line), "{text}");
}
