//! The examples of `docs/policies.md`, executed as a reader pastes them; and its tables.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use elida::policy::facts::Fact;
use elida::policy::presets::{PRESETS, Preset};

use crate::support::{Backend, Demo, Gateway, within};

const PAGE: &str = include_str!("../../../docs/policies.md");
const APPROVALS: &str = include_str!("../../../docs/approvals.md");
const WEBHOOKS: &str = include_str!("../../../docs/webhooks.md");

/// The section of a page that begins with this title.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    page.split("\n## ").find(|section| section.starts_with(title)).expect("the section")
}

/// The blocks of a section that begin with this word.
fn blocks<'a>(section: &'a str, kind: &str) -> Vec<&'a str> {
    let fence = format!("```{kind}\n");
    let blocks = section.split(fence.as_str()).skip(1);
    blocks.map(|block| block.split("```").next().expect("an end")).collect()
}

/// Writes the blocks of a section that name their file in their first line.
fn write_files(section: &str, folder: &Path) {
    for block in ["python", "yaml"].into_iter().flat_map(|kind| blocks(section, kind)) {
        let name = block.lines().next().and_then(|line| line.strip_prefix("# "));
        if let Some(name) = name.filter(|name| name.ends_with(".py") || name.ends_with(".yaml")) {
            std::fs::write(folder.join(name), block).expect("a file");
        }
    }
}

/// Runs commands of a page against a gateway, and checks that they print what it says.
async fn paste(commands: &str, expected: &str, gateway: Option<&Gateway>, folder: &Path) {
    let (mut commands, mut control) = (commands.to_owned(), String::new());
    if let Some(gateway) = gateway {
        control = format!("http://{}", gateway.control());
        commands = commands.replace("localhost:8080", &gateway.proxy().to_string());
        commands = commands.replace("localhost:9090", &gateway.control().to_string());
    }
    let text = run(commands.clone(), folder, control).await;
    let lines = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(lines(text.trim_end()), lines(expected.trim_end()), "{commands}");
}

/// Runs commands in a folder; `elida` is the program that is tested.
async fn run(commands: String, folder: &Path, control: String) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_elida")).parent().expect("a folder").to_owned();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("PATH"));
    let folder = folder.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        Command::new("sh")
            .args(["-ec", &commands])
            .env("PATH", path)
            .env("ELIDA_CONTROL", control)
            .current_dir(folder)
            .output()
    });
    let output = run.await.expect("the shell").expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_does_what_the_page_says() {
    let examples: Vec<&str> = section(PAGE, "A tour").split("\n### ").skip(1).collect();
    assert_eq!(examples.len(), 5);
    for example in examples {
        let demo = Demo::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        write_files(example, folder.path());
        let yaml = blocks(example, "yaml").concat();
        let gateway = match yaml.starts_with("# cases.yaml") {
            true => None,
            false => Some(Gateway::with(yaml.replace("http://localhost:9100", &demo.url())).await),
        };
        let (commands, expected) = (blocks(example, "sh").concat(), blocks(example, "text").concat());
        paste(&commands, &expected, gateway.as_ref(), folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_can_be_tried_on_stored_traffic_as_the_page_says() {
    let (demo, section) = (Demo::start().await, section(PAGE, "Last week"));
    let folder = tempfile::tempdir().expect("a folder");
    write_files(section, folder.path());
    let yaml = blocks(section, "yaml")[0].replace("http://localhost:9100", &demo.url());
    let gateway = Gateway::with(yaml.replace("data_dir: ./data\n", "")).await;
    let yaml = yaml.replace("./data", &gateway.data().display().to_string());
    std::fs::write(folder.path().join("elida.yaml"), yaml).expect("a file");
    let (commands, expected) = (blocks(section, "sh").concat(), blocks(section, "text").concat());
    paste(&commands, &expected, Some(&gateway), folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_calls_are_approved_and_denied_as_the_page_says() {
    let (demo, section) = (Demo::start().await, section(APPROVALS, "Try it"));
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = blocks(section, "yaml").concat().replace("http://localhost:9100", &demo.url());
    let gateway = Gateway::with(yaml).await;
    let (commands, expected) = (blocks(section, "sh").concat(), blocks(section, "text").concat());
    paste(&commands, &expected, Some(&gateway), folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_received_and_checked_as_the_page_says() {
    let (demo, section) = (Demo::start().await, section(WEBHOOKS, "Try it"));
    let folder = tempfile::tempdir().expect("a folder");
    write_files(WEBHOOKS, folder.path());
    let [before, after] = blocks(section, "sh")[..] else { panic!("two steps") };
    // The receiver is started by the test, on a port of its own.
    let before = before.replace("python3 receiver.py", "# python3 receiver.py");
    run(before, folder.path(), String::new()).await;
    let (receiver, port) = Python::start(folder.path(), "receiver.py", "9999", "Receiver").await;
    let yaml = blocks(section, "yaml").concat().replace("http://localhost:9100", &demo.url());
    let secret = folder.path().join("webhook").display().to_string();
    let yaml = yaml.replace("secret_file: webhook", &format!("secret_file: {secret:?}"));
    let gateway = Gateway::with(yaml.replace("127.0.0.1:9999", &format!("127.0.0.1:{port}"))).await;
    paste(after, &blocks(section, "text").concat(), Some(&gateway), folder.path()).await;
    drop(receiver);
}

/// A program that ends with the test.
struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Python {
    /// Starts a server of a page on a port of its own; what it prints goes to `received.txt`. Returns the port.
    async fn start(folder: &Path, file: &str, port: &str, handler: &str) -> (Self, u16) {
        let path = folder.join(file);
        let server = std::fs::read_to_string(&path).expect("the server");
        let begin =
            format!("http.server.ThreadingHTTPServer((\"127.0.0.1\", {port}), {handler}).serve_forever()");
        assert!(server.contains(&begin), "{server}");
        let own = format!(
            "server = http.server.ThreadingHTTPServer((\"127.0.0.1\", 0), {handler})\n\
             open(\"port.tmp\", \"w\").write(str(server.server_port))\n\
             import os\nos.rename(\"port.tmp\", \"port\")\nserver.serve_forever()"
        );
        std::fs::write(&path, server.replace(&begin, &own)).expect("the server");
        let output = std::fs::File::create(folder.join("received.txt")).expect("a file");
        let mut python = Command::new("python3");
        python.arg(file).current_dir(folder).stdout(output).stderr(Stdio::null());
        let python = Self(python.spawn().expect("python3"));
        let told = folder.join("port");
        let port = within("the server to listen", async {
            loop {
                if let Ok(port) = std::fs::read_to_string(&told) {
                    return port.parse().expect("a port");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        (python, port.await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_external_decisions_does_what_the_page_says() {
    let (demo, section) = (Demo::start().await, section(PAGE, "External decisions"));
    let folder = tempfile::tempdir().expect("a folder");
    write_files(section, folder.path());
    let (service, port) = Python::start(folder.path(), "decide.py", "8181", "Decide").await;
    let yaml = blocks(section, "yaml").concat().replace("http://localhost:9100", &demo.url());
    let gateway = Gateway::with(yaml.replace("127.0.0.1:8181", &format!("127.0.0.1:{port}"))).await;
    let (commands, expected) = (blocks(section, "sh").concat(), blocks(section, "text").concat());
    paste(&commands, &expected, Some(&gateway), folder.path()).await;
    drop(service);
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
