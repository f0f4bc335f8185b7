//! The curl commands of the README's first section, verbatim except for the ports, in their order.

use std::process::Command;

use crate::support::{Backend, Demo, Gateway, json};

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

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_for_keys_and_budgets_do_what_the_readme_says() {
    let readme = include_str!("../../../README.md");
    let section = readme.split("\n### ").find(|text| text.starts_with("Keys, limits and budgets"));
    let block = section.and_then(|text| text.split("```sh\n").nth(1)).expect("a block");
    let block = block.split("```").next().expect("an end").to_owned();
    let demo = Demo::start().await;
    let yaml = include_str!("../../../conf/examples/teams.yaml");
    let (roles, rest) = yaml.split_once("  roles:\n").expect("roles");
    // Without roles the operator of a loopback needs no credential, as in the README.
    let rest = rest.split_once("limits:\n").expect("limits").1;
    let yaml = format!("{roles}limits:\n{rest}")
        .replace("listen: \"127.0.0.1:8080\"\n", "")
        .replace("data_dir: /var/lib/elida", "#");
    let yaml = yaml.replace("https://api.anthropic.com", &demo.url());
    let gateway = Gateway::with_variables(&yaml, &[("ANTHROPIC_API_KEY", "sk-house".as_ref())]).await;
    let path = gateway.program().parent().expect("a folder").display().to_string();
    let mut command = Command::new("sh");
    command.args(["-ec", &block]).env_clear().env("PATH", format!("{path}:/usr/bin:/bin"));
    command.env("ELIDA_CONTROL", format!("http://{}", gateway.control()));
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("the shell").expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("elida_") && text.contains("build"), "the key, and its group: {text}");
    for word in ["claude-haiku-*", "createKey", "revokeKey"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
