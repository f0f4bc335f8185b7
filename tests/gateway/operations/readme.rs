//! The curl commands of the README's first section, verbatim except for the ports, in their order.

use std::process::Command;

use crate::support::{Gateway, json};

/// The shell blocks of one section that begin with `curl`.
fn commands(section: &str) -> Vec<String> {
    let readme = include_str!("../../../README.md");
    let text = readme.split("\n## ").find(|text| text.starts_with(section)).expect("the section");
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("an end"));
    blocks.filter(|block| block.starts_with("curl")).map(str::to_owned).collect()
}

/// Runs a block in a shell; returns its output.
async fn run(gateway: &Gateway, block: &str) -> String {
    let proxy = gateway.proxy().to_string();
    let control = gateway.control().to_string();
    let block = block.replace("localhost:8080", &proxy).replace("localhost:9090", &control);
    let output = tokio::task::spawn_blocking(move || Command::new("sh").args(["-ec", &block]).output());
    let output = output.await.expect("the shell").expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_does_what_the_readme_says() {
    let commands = commands("Try it");
    let [stream, session, kill_and_resume] = commands.as_slice() else {
        panic!("the README has other commands than this test knows: {commands:#?}");
    };
    let gateway = Gateway::demo().await;

    let answer = run(&gateway, stream).await;
    for word in ["Hello,", "who", "there?", "event: message_stop"] {
        assert!(answer.contains(word), "{answer}");
    }

    let shown = json(run(&gateway, session).await.as_bytes());
    assert_eq!(shown["id"], "my-first");
    assert_eq!(shown["identity"]["client"], "curl");
    assert_eq!(shown["backends"]["anthropic"], 1);

    let killed = run(&gateway, kill_and_resume).await;
    assert!(killed.contains("\"state\":\"killed\""), "{killed}");
    assert!(killed.contains("HTTP/1.1 403 Forbidden"), "{killed}");
    assert!(killed.contains("Session killed by operator: runaway"), "{killed}");

    let again = run(&gateway, stream).await;
    assert!(again.contains("event: message_stop"), "resumed: {again}");
}
