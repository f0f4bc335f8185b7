use std::process::Command;

use serde_json::{Value, json};

use crate::support::program::Program;
use crate::support::{Call, Demo, Gateway};

const BINARY: &str = env!("CARGO_BIN_EXE_elida");

/// What `elida top` and the terminal did during these steps of a user.
async fn play(gateway: &Gateway, steps: &Value, variables: &[&str]) -> Value {
    let control = format!("http://{}", gateway.control());
    let steps = steps.to_string();
    let arguments = [&[BINARY, steps.as_str()], variables].concat();
    let outcome = Program::python("terminal.py", &control, &arguments).outcome().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.last()
}

async fn two_sessions(gateway: &Gateway) {
    for id in ["quiet-one", "lively-one"] {
        assert_eq!(Call::chat("hello").session(id).send(gateway.proxy()).await.status(), 200);
        gateway.session_until(id, |session| session["open_legs"] == 0).await;
    }
}

fn shows_the_screen_given_back(played: &Value) {
    let output = played["output"].as_str().expect("text");
    assert!(output.starts_with("\u{1b}[?1049h\u{1b}[?25l"), "{output:?}");
    assert!(output.ends_with("\u{1b}[?25h\u{1b}[?1049l"), "{output:?}");
    assert_eq!((&played["was_raw"], &played["restored"]), (&json!(true), &json!(true)), "{played}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_watches_and_kills() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    two_sessions(&gateway).await;
    let steps = json!([
        ["see", "2 active"],
        ["see", "quiet-one"],
        // The cursor keys as a terminal sends them: to the last row, whichever of the two it is.
        ["press", "\u{1b}[B"],
        ["press", "k"],
        ["see", "? y/n"],
        ["press", "n"],
        ["see", "q quit"],
        ["press", "k"],
        ["see", "? y/n"],
        ["press", "y"],
        ["see", "killed: 0 open requests cut"],
        ["see", "1 active"],
        ["size", 10, 40],
        ["see", "elida top"],
        ["press", "q"],
    ]);
    let played = play(&gateway, &steps, &[]).await;
    assert_eq!(played["code"], 0, "{played}");
    shows_the_screen_given_back(&played);
    let states: Vec<Value> =
        gateway.sessions().await.into_iter().map(|session| session["state"].clone()).collect();
    assert_eq!(states.iter().filter(|state| **state == "killed").count(), 1, "{states:?}");
    assert_eq!(states.iter().filter(|state| **state == "active").count(), 1, "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_gives_the_terminal_back_and_colours_can_be_refused() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let stream =
        Call::chat_stream("[[words 5000]] [[pace 20ms]]").session("open-one").open(gateway.proxy()).await;
    gateway.session_until("open-one", |session| session["open_legs"] == 1).await;
    two_sessions(&gateway).await;
    for (variables, coloured) in [(&[][..], true), (&["NO_COLOR=1"], false)] {
        // The selected row is shown in reverse, so the open session is coloured after a step down.
        let steps =
            json!([["see", "> open-one"], ["press", "\u{1b}[B"], ["see", "  open-one"], ["signal", "TERM"]]);
        let played = play(&gateway, &steps, variables).await;
        assert_eq!(played["code"], 0, "{played}");
        shows_the_screen_given_back(&played);
        let output = played["output"].as_str().expect("text");
        assert_eq!(output.contains("\u{1b}[32m  open-one"), coloured, "{output:?}");
    }
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_it_prints_one_table() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    two_sessions(&gateway).await;
    let control = format!("http://{}", gateway.control());
    let run = move |arguments: &'static [&str]| {
        let mut command = Command::new(BINARY);
        command.arg("top").args(arguments).env_clear().env("ELIDA_CONTROL", &control);
        tokio::task::spawn_blocking(move || command.output().expect("the binary runs"))
    };
    let output = run(&[]).await.expect("a run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((output.status.code(), text.lines().count()), (Some(0), 3), "{text}");
    assert!(text.starts_with("ID") && text.contains("\nlively-one") && !text.contains('\u{1b}'), "{text}");
    let report = crate::support::json(&run(&["--json"]).await.expect("a run").stdout);
    assert_eq!(report["sessions"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(report["stats"]["active"], 2);
}
