//! The examples of `docs/policies.md`, executed as a reader pastes them; and its tables.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use elida::policy::facts::Fact;
use elida::policy::presets::{PRESETS, Preset};

use crate::support::{Backend, Demo, Gateway};

const PAGE: &str = include_str!("../../../docs/policies.md");

/// The blocks of a section that begin with this word.
fn blocks<'a>(section: &'a str, kind: &str) -> Vec<&'a str> {
    let fence = format!("```{kind}\n");
    let blocks = section.split(fence.as_str()).skip(1);
    blocks.map(|block| block.split("```").next().expect("an end")).collect()
}

/// Runs commands in a folder; `elida` is the program that is tested.
async fn run(commands: String, folder: &Path) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_elida")).parent().expect("a folder").to_owned();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("PATH"));
    let folder = folder.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        Command::new("sh").args(["-ec", &commands]).env("PATH", path).current_dir(folder).output()
    });
    let output = run.await.expect("the shell").expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_does_what_the_page_says() {
    let tour = PAGE.split("\n## ").find(|section| section.starts_with("A tour")).expect("the section");
    let examples: Vec<&str> = tour.split("\n### ").skip(1).collect();
    assert_eq!(examples.len(), 5);
    for example in examples {
        let demo = Demo::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let yaml = blocks(example, "yaml").concat();
        let mut commands = blocks(example, "sh").concat();
        let gateway = match yaml.starts_with("# cases.yaml") {
            true => {
                std::fs::write(folder.path().join("cases.yaml"), &yaml).expect("the cases");
                None
            }
            false => Some(Gateway::with(yaml.replace("http://localhost:9100", &demo.url())).await),
        };
        if let Some(gateway) = &gateway {
            commands = commands.replace("localhost:8080", &gateway.proxy().to_string());
            commands = commands.replace("localhost:9090", &gateway.control().to_string());
        }
        let text = run(commands, folder.path()).await;
        for line in blocks(example, "text").concat().lines() {
            assert!(text.contains(line), "{line}\nis not in\n{text}\nof {example}");
        }
    }
}

/// A program that ends with the test.
struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_external_decisions_does_what_the_page_says() {
    let section =
        PAGE.split("\n## ").find(|section| section.starts_with("External decisions")).expect("the section");
    let demo = Demo::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    // A port of its own, which the service tells when it listens.
    let service = blocks(section, "python").concat();
    let service = service.replace("8181", "0").replace(
        "http.server.ThreadingHTTPServer((\"127.0.0.1\", 0), Decide).serve_forever()",
        "server = http.server.ThreadingHTTPServer((\"127.0.0.1\", 0), Decide)\n\
         print(server.server_port, flush=True)\nserver.serve_forever()",
    );
    assert!(service.contains("server_port"), "{service}");
    std::fs::write(folder.path().join("decide.py"), service).expect("the service");
    let mut python = Python(
        Command::new("python3")
            .arg(folder.path().join("decide.py"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3"),
    );
    let output = python.0.stdout.take().expect("its output");
    let port = tokio::task::spawn_blocking(move || BufReader::new(output).lines().next());
    let port = port.await.expect("a task").expect("a line").expect("a port");
    let yaml = blocks(section, "yaml").concat().replace("http://localhost:9100", &demo.url());
    let gateway = Gateway::with(yaml.replace("127.0.0.1:8181", &format!("127.0.0.1:{port}"))).await;
    let commands = blocks(section, "sh").concat();
    let commands = commands.replace("localhost:8080", &gateway.proxy().to_string());
    let commands = commands.replace("localhost:9090", &gateway.control().to_string());
    let text = run(commands, folder.path()).await;
    for line in blocks(section, "text").concat().lines() {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn the_page_lists_all_facts_and_presets() {
    for fact in Fact::ALL {
        let phases = fact.phases().names();
        let row = format!("| `{}` | {} | {phases} | {} |", fact.name(), fact.kind().name(), fact.meaning());
        assert!(PAGE.contains(&row), "docs/policies.md has no row\n{row}");
    }
    for (name, text) in PRESETS {
        let preset: Preset = serde_yaml::from_str(text).expect("a preset");
        let row = format!("| `{name}` | {} |", preset.summary);
        assert!(PAGE.contains(&row), "docs/policies.md has no row\n{row}");
    }
}
