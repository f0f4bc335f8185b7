use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::control::Control;
use crate::support::process::Process;
use crate::support::{Backend, Call, Demo, RawBackend, within};

/// A free port.
const ANY: &str = "127.0.0.1:0";

#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_four_variables_win_over_the_file() {
    let (of_the_file, demo) = (RawBackend::answering("").await, Demo::start().await);
    let yaml = format!(
        "listen: \"127.0.0.1:1\"\ncontrol: {{ listen: \"127.0.0.1:2\" }}\n\
         backend: {:?}\nlogging: {{ level: error }}\n",
        of_the_file.url()
    );
    let variables = [
        ("ELIDA_LISTEN", ANY),
        ("ELIDA_BACKEND", &demo.url()),
        ("ELIDA_CONTROL_LISTEN", ANY),
        ("ELIDA_LOG_LEVEL", "debug"),
    ];
    let process = Process::start(&yaml, &variables).await;
    let proxy = process.address("proxy").await;
    let answer = Call::chat("hello").session("by-variables").send(proxy).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!((demo.ledger().arrived(), of_the_file.connections()), (1, 0));
    let mut operator = Control::connect(process.address("control").await).await;
    assert_eq!(operator.get("/control/sessions/by-variables").await.status(), 200);
    let config = operator.get("/control/config").await.json();
    assert_eq!((&config["backend"], &config["logging"]["level"]), (&json!(demo.url()), &json!("debug")));
    process.line("the access line", |line| line["message"] == "request_completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_decides_what_is_logged() {
    let demo = Demo::start().await;
    for (level, lowest) in [("debug", "DEBUG"), ("info", "INFO")] {
        let variables = [
            ("ELIDA_LISTEN", ANY),
            ("ELIDA_CONTROL_LISTEN", ANY),
            ("ELIDA_BACKEND", &demo.url()),
            ("ELIDA_LOG_LEVEL", level),
        ];
        let process = Process::start("", &variables).await;
        let proxy = process.address("proxy").await;
        // A client that disconnects before its answer is a debug line.
        let mut client = Call::chat_stream("first [[stall]]").open(proxy).await;
        client.until("first").await;
        drop(client);
        process.line("the access line", |line| line["outcome"] == "client_gone").await;
        let output = process.output();
        let lines: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let has = |name: &str| lines.iter().any(|line| line["level"] == name);
        assert!(has(lowest), "{level}: {output}");
        assert_eq!(has("DEBUG"), level == "debug", "{output}");
    }
}

/// The commands of a recipe of the justfile.
fn recipe(name: &str) -> Vec<String> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("justfile");
    let text = std::fs::read_to_string(file).expect("the justfile");
    let is_head = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':') || rest.starts_with(' '))
    };
    let body =
        text.lines().skip_while(|line| !is_head(line)).skip(1).take_while(|line| line.starts_with(' '));
    let commands: Vec<_> = body.map(|line| line.trim().to_owned()).collect();
    assert!(!commands.is_empty(), "{name} is a recipe");
    commands
}

/// Runs a recipe's commands as `just` does; returns their output.
async fn run(name: &str, proxy: SocketAddr, control: SocketAddr) -> String {
    let commands = recipe(name).join(" && ");
    let commands = commands
        .replace("{{URL}}", &format!("http://{proxy}"))
        .replace("{{control}}", &format!("http://{control}"))
        .replace("cargo run --quiet --", env!("CARGO_BIN_EXE_elida"));
    assert!(!commands.contains("{{"), "{commands}");
    let run = tokio::task::spawn_blocking(move || {
        let output = Command::new("sh").args(["-c", &commands]).output().expect("sh");
        assert!(output.status.success(), "{commands}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    });
    within(name, run).await.expect("the recipe")
}

#[test]
fn the_first_commands_share_the_build_of_the_tests() {
    for name in ["demo", "fleet", "sessions", "stats", "check"] {
        let commands = recipe(name).join(" && ");
        assert!(commands.contains("cargo") && !commands.contains("release"), "{name}: {commands}");
    }
    assert!(recipe("build")[0].contains("--release"), "what is shipped is optimised");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipes_reach_a_running_gateway() {
    let demo = Demo::start().await;
    let yaml = format!("listen: {ANY:?}\ncontrol: {{ listen: {ANY:?} }}\nbackend: {:?}\n", demo.url());
    let process = Process::start(&yaml, &[]).await;
    let (proxy, control) = (process.address("proxy").await, process.address("control").await);
    let whole = run("test-ollama", proxy, control).await;
    assert!(whole.contains("llama-demo") && whole.contains("Why is the sky blue?"), "{whole}");
    let stream = run("test-stream", proxy, control).await;
    assert!(stream.lines().count() > 3 && stream.contains("\"done\":true"), "{stream}");
    let sessions = run("sessions", proxy, control).await;
    assert!(sessions.contains("active") && sessions.contains("curl"), "{sessions}");
    assert!(run("stats", proxy, control).await.contains("requests"));
    assert_eq!(run("status", proxy, control).await, "ready\n");
}
