use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::process::Process;
use crate::support::{Backend, Call, Demo, within};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A gateway whose control service requires a token, and the commands that talk to it.
struct Running {
    process: Process,
    proxy: SocketAddr,
    control: SocketAddr,
}

impl Running {
    async fn start(demo: &Demo) -> Self {
        let yaml = format!(
            "listen: \"127.0.0.1:0\"\ncontrol: {{ listen: \"127.0.0.1:0\" }}\nbackend: {:?}\n",
            demo.url()
        );
        let process = Process::start(&yaml, &[("ELIDA_CONTROL_TOKEN", TOKEN)]).await;
        let (proxy, control) = (process.address("proxy").await, process.address("control").await);
        Self { process, proxy, control }
    }

    /// Runs `elida` with these arguments; returns its exit code and output.
    async fn elida(&self, words: &[&str], token: Option<&str>) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
        command.args(words).env_clear().env("ELIDA_CONTROL", format!("http://{}", self.control));
        command.envs(token.map(|token| ("ELIDA_CONTROL_TOKEN", token)));
        let run = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
        let output = within("the command", run).await.expect("the command");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Runs it with the token; it must succeed.
    async fn done(&self, words: &[&str]) -> String {
        let (code, out, error) = self.elida(words, Some(TOKEN)).await;
        assert_eq!((code, error.as_str()), (0, ""), "{words:?}: {out}");
        out
    }

    async fn json(&self, words: &[&str]) -> Value {
        crate::support::json(self.done(&[words, &["--json"]].concat()).await.as_bytes())
    }

    async fn status(&self, id: &str) -> u16 {
        let call = Call::chat("hello").session(id).header("user-agent", "curl/8.5.0");
        call.send(self.proxy).await.status()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_needs_no_more_than_the_commands() {
    let demo = Demo::start().await;
    let running = Running::start(&demo).await;
    assert_eq!(running.done(&["sessions"]).await, "no sessions\n");
    assert_eq!(running.done(&["kills"]).await, "no kill orders in force\n");
    assert_eq!((running.status("runaway").await, running.status("good").await), (200, 200));
    let table = running.done(&["sessions", "--client", "curl", "--limit", "1"]).await;
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("ID") && lines[1].starts_with("good") && lines[1].contains("curl/8.5.0"),
        "{table}"
    );
    let sessions = running.json(&["sessions", "--state", "active"]).await;
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(2), "{sessions}");
    assert_eq!(running.json(&["sessions", "--state", "killed"]).await["sessions"], json!([]));

    let mut stream = Call::chat_stream("first [[stall]]").session("runaway").open(running.proxy).await;
    stream.until("first").await;
    let killed = running.done(&["kill", "runaway", "--reason", "too dear", "--until-resumed"]).await;
    assert_eq!(killed, "runaway killed: 1 open request cut\n");
    stream.until("too dear").await;
    assert_eq!(running.status("runaway").await, 403);
    let kills = running.json(&["kills"]).await;
    let order = &kills["kills"][0];
    assert_eq!(
        (&order["session_id"], &order["reason"], &order["mode"]),
        (&json!("runaway"), &json!("too dear"), &json!("until_resumed")),
        "{kills}"
    );
    let stats = running.json(&["stats"]).await;
    assert_eq!((&stats["kills"], &stats["active"]), (&json!(1), &json!(1)), "{stats}");
    let (code, out, error) = running.elida(&["kill", "runaway"], Some(TOKEN)).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains("--force"), "the remedy is named: {error}");
    assert_eq!(running.done(&["resume", "runaway"]).await, "runaway resumed: its next request is accepted\n");
    assert_eq!(running.status("runaway").await, 200);
    assert_eq!(running.json(&["kill", "good"]).await["legs_cut"], 0);
    assert!(running.done(&["stats"]).await.contains("kills_in_force"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_or_missing_token_is_told_with_the_remedy() {
    let demo = Demo::start().await;
    let running = Running::start(&demo).await;
    for token in [None, Some("another-token-of-some-length")] {
        let (code, out, error) = running.elida(&["stats"], token).await;
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(error.contains("--token-file") && error.contains("ELIDA_CONTROL_TOKEN"), "{error}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("a file");
    let file = file.display().to_string();
    let (code, _, error) = running.elida(&["stats", "--token-file", &file], None).await;
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = running.elida(&["kill", "nobody"], Some(TOKEN)).await;
    assert_eq!(code, 1);
    assert!(error.contains("'nobody'"), "{error}");
    assert!(!running.process.output().contains("another-token"), "a wrong token is not logged either");
}
