//! Real client programs: Python with the official SDKs, and Claude Code. They talk to loopback
//! only. A program that is missing fails the test; nothing is skipped silently.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::within;

/// What a program did.
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
    _home: TempDir,
}

impl Program {
    /// A script of `tests/clients/`; it gets the gateway's URL as its first argument.
    pub fn python(script: &str, url: &str, arguments: &[&str]) -> Self {
        let python = installed("ELIDA_TEST_PYTHON", ".venv/bin/python");
        let mut command = Command::new(python);
        command.arg(in_package("tests/clients").join(script)).arg(url).args(arguments);
        command.env("PYTHONUNBUFFERED", "1").env("PYTHONWARNINGS", "ignore");
        Self::start(command)
    }

    /// Claude Code with one prompt.
    pub fn claude(url: &str, prompt: &str, arguments: &[&str]) -> Self {
        let binary = "tests/clients/node_modules/@anthropic-ai/claude-code-linux-x64/claude";
        let mut command = Command::new(installed("ELIDA_TEST_CLAUDE", binary));
        command.args(["-p", prompt, "--output-format", "stream-json", "--verbose"]);
        command.args(["--model", "claude-sonnet-4-5"]).args(arguments);
        command.env("ANTHROPIC_BASE_URL", url).env("ANTHROPIC_API_KEY", "sk-ant-test");
        command.env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1").env("DISABLE_TELEMETRY", "1");
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let home = tempfile::tempdir().expect("a home");
        let variables: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command.env_clear().envs(variables).env("PATH", "/usr/bin:/bin").env("HOME", home.path());
        command.current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
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
        Self { child, lines, seen: Vec::new(), errors: Some(errors), _home: home }
    }

    /// Waits until it has printed so many lines that begin with `start`.
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

    /// Waits for its end.
    pub async fn outcome(mut self) -> Outcome {
        within("the program's end", async {
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

fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn installed(variable: &str, path: &str) -> PathBuf {
    let program = std::env::var_os(variable).map_or_else(|| in_package(path), PathBuf::from);
    assert!(
        program.exists(),
        "{} is missing: run `sh .ci/setup --tests`, or set {variable} to where it is",
        program.display()
    );
    program
}
