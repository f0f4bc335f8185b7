//! The real binary as a process with any environment and its raw output: for starts that
//! must fail, and for what `Gateway` does not show (the order of keys in a line).

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::quiet::Quiet;
use super::within;

/// `elida` without the variables of this process; its temporary files go to this folder.
pub fn elida(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
    command.env_clear().env("TMPDIR", folder);
    command
}

/// `elida run` with its own configuration; killed when dropped.
pub struct Process {
    child: Child,
    output: Arc<watch::Sender<String>>,
    _folder: TempDir,
    _quiet: Quiet,
}

impl Process {
    /// Starts it with these keys (beside `data_dir`) and variables; does not wait for anything.
    pub async fn start(yaml: &str, variables: &[(&str, &str)]) -> Self {
        let quiet = Quiet::shared().await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("elida.yaml");
        let data = folder.path().join("data");
        std::fs::write(&file, format!("data_dir: {data:?}\n{yaml}")).expect("the configuration");
        let mut child = Command::new(env!("CARGO_BIN_EXE_elida"))
            .args(["run", "-c"])
            .arg(&file)
            .env_clear()
            .env("TMPDIR", folder.path())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway's binary");
        let output = Arc::new(watch::Sender::new(String::new()));
        read(&output, child.stdout.take().expect("stdout"));
        read(&output, child.stderr.take().expect("stderr"));
        Self { child, output, _folder: folder, _quiet: quiet }
    }

    /// Everything it has written so far, on both pipes.
    pub fn output(&self) -> String {
        self.output.borrow().clone()
    }

    /// Waits for a line for which `wanted` is true; returns it as it was written.
    pub async fn line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> String {
        let fits = |line: &&str| serde_json::from_str(line).is_ok_and(|value| wanted(&value));
        let mut changes = self.output.subscribe();
        within(what, async {
            loop {
                if let Some(line) = changes.borrow_and_update().lines().find(fits) {
                    return line.to_owned();
                }
                changes.changed().await.expect("the output lives as long as the process");
            }
        })
        .await
    }

    /// Waits until it has written this text; returns its whole output.
    pub async fn output_with(&self, text: &str) -> String {
        let mut changes = self.output.subscribe();
        let output = within(text, changes.wait_for(|output| output.contains(text))).await;
        output.expect("the output lives as long as the process").clone()
    }

    /// Waits until a service (`proxy`, `control`) listens; returns its address on loopback.
    pub async fn address(&self, service: &str) -> SocketAddr {
        let is_it = |line: &Value| line["message"] == "listening" && line["service"] == service;
        let line = super::json(self.line(service, is_it).await.as_bytes());
        let address: SocketAddr = line["address"].as_str().expect("text").parse().expect("an address");
        SocketAddr::from(([127, 0, 0, 1], address.port()))
    }

    /// Waits until it exits.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the process to end", async {
            loop {
                if let Some(status) = self.child.try_wait().expect("the child") {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

fn read(output: &Arc<watch::Sender<String>>, pipe: impl Read + Send + 'static) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            output.send_modify(|text| text.extend([&line, "\n"]));
        }
    });
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprint!("{}", self.output());
        }
    }
}
