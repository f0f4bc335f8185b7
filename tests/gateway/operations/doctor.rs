use std::process::Command;

use serde_json::Value;

use crate::support::{Backend, Call, Demo, Gateway};

/// Runs `elida` with this configuration; returns its exit code and output.
async fn elida(words: &[&str], yaml: Option<String>) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
    command.args(words).env_clear();
    if let Some(yaml) = yaml {
        std::fs::write(&file, format!("data_dir: {:?}\n{yaml}", folder.path())).expect("a file");
        command.arg("-c").arg(&file);
    }
    let run = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
    let output = run.await.expect("a run");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().expect("findings");
    findings
        .iter()
        .find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("no {check}: {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_is_told_from_another_program() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let yaml = |listen: String| {
        format!(
            "listen: {listen:?}\nbackend: {:?}\ncontrol: {{ listen: '{}' }}\n",
            demo.url(),
            gateway.control()
        )
    };
    let (code, out) = elida(&["doctor", "--json"], Some(yaml("127.0.0.1:0".into()))).await;
    let report = crate::support::json(out.as_bytes());
    assert_eq!((code, &report["ok"]), (0, &true.into()), "{report}");
    assert_eq!(finding(&report, "configuration")["status"], "ok");
    assert_eq!(finding(&report, "data_dir")["status"], "ok");
    assert_eq!(finding(&report, "listen")["message"], "127.0.0.1:0 is free");
    let held = finding(&report, "control.listen")["message"].as_str().expect("text");
    assert!(held.contains(" is held by ELIDA "), "{held}");
    let message = finding(&report, "backends.default")["message"].as_str().expect("text");
    assert!(message.starts_with(&format!("{} answers at 127.0.0.1:", demo.url())), "{message}");

    let taken = other.local_addr().expect("an address").to_string();
    let (code, out) = elida(&["doctor"], Some(yaml(taken.clone()))).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains(&format!("FAIL  listen: {taken} is held by another program\n      -> ")), "{out}");
    assert!(!out.contains('\u{1b}'), "no colours without a terminal: {out}");
    assert_eq!(demo.ledger().arrived(), 0, "the doctor sends no request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_away_fails_with_a_remedy() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").port();
    let yaml = format!(
        "listen: 127.0.0.1:0\ncontrol: {{ listen: '127.0.0.1:0' }}\nbackends:\n\
         \x20 away: {{ url: 'http://127.0.0.1:{port}', type: http }}\n\
         \x20 nameless: {{ url: 'http://elida.invalid', type: http }}\n"
    );
    let (code, out) = elida(&["doctor", "--json"], Some(yaml)).await;
    let report = crate::support::json(out.as_bytes());
    assert_eq!((code, &report["ok"]), (1, &false.into()), "{report}");
    let text = |check: &str, key: &str| finding(&report, check)[key].as_str().unwrap_or_default().to_owned();
    assert!(text("backends.away", "message").contains("refused"), "{report}");
    assert!(text("backends.away", "remedy").contains("backends.away.url"), "{report}");
    assert!(
        text("backends.nameless", "message").starts_with("the name elida.invalid cannot be resolved"),
        "{report}"
    );
    let (code, _) = elida(&["doctor", "--json"], Some("listen: nowhere\n".into())).await;
    assert_eq!(code, 2, "an invalid configuration has its own exit code");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_follows_readiness() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let control = format!("http://{}", gateway.control());
    // Ports are reported as bound before the gateway is ready; a client that is served knows that it is.
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    assert_eq!(elida(&["healthcheck", "--control", &control], None).await, (0, "ready\n".into()));
    let (code, out) = elida(&["healthcheck", "--json", "--control", &demo.url()], None).await;
    assert_eq!(code, 1, "the demo provider is no gateway: {out}");
    assert_eq!(crate::support::json(out.as_bytes())["ready"], false);
    let (code, out) = elida(&["healthcheck", "--control", "http://127.0.0.1:1"], None).await;
    assert_eq!((code, out.as_str()), (1, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_logs_what_check_warns_of() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!("backend: {:?}\nsession: {{ scope: global }}\n", demo.url())).await;
    let line = gateway.log_until(|line| line["path"] == "session.scope").await;
    assert_eq!((&line["level"], &line["line"]), (&"WARN".into(), &6.into()), "{line}");
    assert!(line["message"].as_str().is_some_and(|text| text.starts_with("global: ")), "{line}");
}
