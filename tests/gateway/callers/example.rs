//! The commands of "A worked example" in `docs/identity.md`, verbatim except for ports, the provider and the digest.

use std::process::Command;

use crate::support::{Backend, Demo, Gateway};

/// The blocks of "A worked example" in this language.
fn blocks(language: &str) -> Vec<String> {
    blocks_of("A worked example", language)
}

/// The blocks of a section in this language.
fn blocks_of(heading: &str, language: &str) -> Vec<String> {
    let page = include_str!("../../../docs/identity.md");
    let section = page.split("\n## ").find(|text| text.starts_with(heading)).expect("the section");
    let fence = format!("```{language}\n");
    let blocks = section.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().expect("an end").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worked_example_does_what_the_page_says() {
    let (shell, [yaml]) = (blocks("sh"), <[String; 1]>::try_from(blocks("yaml")).expect("one configuration"));
    let [make, call, show, denied] = shell.as_slice() else { panic!("other commands: {shell:#?}") };
    let (elida, directory) = (env!("CARGO_BIN_EXE_elida"), tempfile::tempdir().expect("a folder"));
    let run = |block: &str, key: &str| {
        let path = std::path::Path::new(elida).parent().expect("a folder").display().to_string();
        let mut command = Command::new("sh");
        command.args(["-ec", block]).env_clear().env("PATH", format!("{path}:/usr/bin:/bin")).env("KEY", key);
        let output = command.current_dir(directory.path()).output().expect("sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let made = run(make, "");
    let line = |name: &str| {
        let line = made.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {made}")).trim().to_owned()
    };
    let (key, digest) = (line("key:"), line("key_sha256:"));

    let demo = Demo::start().await;
    let yaml = yaml.replace(&"0".repeat(64), &digest).replace("https://api.anthropic.com", &demo.url());
    let house = [("ANTHROPIC_API_KEY", "sk-house".as_ref())];
    let gateway = Gateway::with_variables(&yaml, &house).await;
    let local = |block: &str| {
        let block = block.replace("localhost:8080", &gateway.proxy().to_string());
        block.replace("localhost:9090", &gateway.control().to_string())
    };
    let answer = run(&local(call), &key);
    assert!(answer.contains("\"type\":\"message\""), "{answer}");
    assert_eq!(demo.ledger().last().expect("a request").header("x-api-key"), Some("sk-house"));
    gateway.session_until("nightly", |session| session["open_legs"] == 0).await;
    let promised = blocks("json");
    let plain = |text: &str| text.replace([' ', '\n'], "");
    assert!(plain(&run(&local(show), &key)).contains(&plain(&promised[0])));
    let refused = run(&local(denied), &key);
    assert!(refused.contains(promised[1].trim()), "{refused}");
    assert_eq!(demo.ledger().arrived(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_as_the_page_says() {
    let heading = "People who log in";
    let (shell, [yaml]) = (
        blocks_of(heading, "sh"),
        <[String; 1]>::try_from(blocks_of(heading, "yaml")).expect("one configuration"),
    );
    let [make, log_in, me, call] = shell.as_slice() else { panic!("other commands: {shell:#?}") };
    let demo = Demo::start().await;
    let house = [("ANTHROPIC_API_KEY", "sk-house".as_ref())];
    let gateway =
        Gateway::with_variables(&yaml.replace("https://api.anthropic.com", &demo.url()), &house).await;
    let run = |block: &str, name: &str, value: &str| {
        let path = std::path::Path::new(env!("CARGO_BIN_EXE_elida"))
            .parent()
            .expect("a folder")
            .display()
            .to_string();
        let block = block.replace("localhost:8080", &gateway.proxy().to_string());
        let block = block.replace("localhost:9090", &gateway.control().to_string());
        let mut command = Command::new("sh");
        command.args(["-ec", &block]).env_clear().env("PATH", format!("{path}:/usr/bin:/bin"));
        command.env("ELIDA_DATA_DIR", gateway.data()).env(name, value).current_dir(gateway.data());
        let output = command.output().expect("sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let password = run(make, "X", "").trim().to_owned();
    crate::callers::people::knows(&gateway, "ada").await;
    let answer = crate::support::json(run(log_in, "PASSWORD", &password).as_bytes());
    let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    let shown = crate::support::json(run(me, "TOKEN", &token).as_bytes());
    assert_eq!(shown, crate::support::json(blocks_of(heading, "json")[0].as_bytes()));
    assert!(run(call, "TOKEN", &token).contains("\"type\":\"message\""));
    assert_eq!(demo.ledger().last().expect("a request").header("x-api-key"), Some("sk-house"));
}
