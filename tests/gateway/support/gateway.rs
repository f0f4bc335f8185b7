//! The real binary with a configuration of its own, its log read as it is written.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::control::{Control, Killed};
use super::quiet::Quiet;
use super::{Backend, within};

/// What the child wrote so far.
struct Log {
    lines: Mutex<Vec<Value>>,
    /// Everything that is not a JSON line: panics, usage errors.
    noise: Mutex<String>,
    changes: watch::Sender<()>,
}

impl Log {
    fn read(self: &Arc<Self>, output: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                match serde_json::from_str::<Value>(&line) {
                    Ok(value) if value.is_object() => log.lines.lock().expect("the log").push(value),
                    _ => *log.noise.lock().expect("the log") += &(line + "\n"),
                }
                log.changes.send_replace(());
            }
        });
    }

    fn find(&self, wanted: &impl Fn(&Value) -> bool) -> Option<Value> {
        self.lines.lock().expect("the log").iter().find(|line| wanted(line)).cloned()
    }

    fn print(&self) {
        for line in self.lines.lock().expect("the log").iter() {
            eprintln!("gateway: {line}");
        }
        eprint!("{}", self.noise.lock().expect("the log"));
    }
}

/// A running gateway; killed when dropped. A panic inside it fails the test, whatever else it shows.
pub struct Gateway {
    child: Child,
    folder: TempDir,
    log: Arc<Log>,
    proxy: SocketAddr,
    control: SocketAddr,
    _quiet: Quiet,
}

impl Gateway {
    /// A gateway before this one backend, everything else by default.
    pub async fn start(backend: &impl Backend) -> Self {
        Self::with(format!("backend: {:?}\n", backend.url())).await
    }

    /// A gateway with these keys beside its listeners and its data folder.
    pub async fn with(yaml: impl AsRef<str>) -> Self {
        Self::launch(yaml.as_ref(), Quiet::shared().await).await
    }

    /// As [`Gateway::start`], while no other test runs: for measuring.
    pub async fn alone(backend: &impl Backend) -> Self {
        Self::launch(&format!("backend: {:?}\n", backend.url()), Quiet::alone().await).await
    }

    async fn launch(yaml: &str, quiet: Quiet) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("elida.yaml");
        std::fs::write(&file, Self::written(&folder, yaml)).expect("the configuration");
        Self::run(folder, &["run".as_ref(), "-c".as_ref(), file.as_os_str()], quiet).await
    }

    /// `elida demo`, on ports of its own.
    pub async fn demo() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let arguments = ["demo", "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0"];
        Self::run(folder, &arguments.map(OsStr::new), Quiet::shared().await).await
    }

    async fn run(folder: TempDir, arguments: &[&OsStr], quiet: Quiet) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_elida"))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", folder.path())
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway's binary");
        let log = Arc::new(Log {
            lines: Mutex::default(),
            noise: Mutex::default(),
            changes: watch::Sender::new(()),
        });
        log.read(child.stdout.take().expect("stdout"));
        log.read(child.stderr.take().expect("stderr"));
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self { child, folder, log, proxy: unknown, control: unknown, _quiet: quiet };
        gateway.proxy = gateway.address_of("proxy").await;
        gateway.control = gateway.address_of("control").await;
        gateway
    }

    fn written(folder: &TempDir, yaml: &str) -> String {
        let data = folder.path().join("data");
        format!("listen: \"127.0.0.1:0\"\ndata_dir: {data:?}\ncontrol:\n  listen: \"127.0.0.1:0\"\n{yaml}\n")
    }

    async fn address_of(&self, service: &str) -> SocketAddr {
        let line = self.log_until(|line| line["message"] == "listening" && line["service"] == service).await;
        line["address"].as_str().and_then(|address| address.parse().ok()).expect("an address")
    }

    /// Writes another configuration; the gateway reads it on [`Gateway::hangup`].
    pub fn rewrite(&self, yaml: &str) {
        let file = self.folder.path().join("elida.yaml");
        std::fs::write(file, Self::written(&self.folder, yaml)).expect("the configuration");
    }

    /// The proxy's address.
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// The proxy's URL, for programs.
    pub fn url(&self) -> String {
        format!("http://{}", self.proxy)
    }

    /// The control service's address.
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// A connection to the control service.
    pub async fn operator(&self) -> Control {
        Control::connect(self.control).await
    }

    /// The JSON lines of the log so far.
    pub fn log_lines(&self) -> Vec<Value> {
        self.log.lines.lock().expect("the log").clone()
    }

    /// Everything the gateway wrote, as text: to show that a secret is not in it.
    pub fn log_text(&self) -> String {
        let lines: String = self.log_lines().iter().map(|line| format!("{line}\n")).collect();
        lines + &self.log.noise.lock().expect("the log")
    }

    /// Waits for a log line.
    pub async fn log_until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut changes = self.log.changes.subscribe();
        within("a log line", async {
            loop {
                if let Some(line) = self.log.find(&wanted) {
                    return line;
                }
                changes.changed().await.expect("the log lives as long as the gateway");
            }
        })
        .await
    }

    /// Waits for the access line of a request to `path`.
    pub async fn access_line(&self, path: &str) -> Value {
        self.log_until(|line| {
            line["message"] == "request_completed"
                && line["url"].as_str().is_some_and(|url| url.split('?').next() == Some(path))
        })
        .await
    }

    /// Waits until the gateway knows the session and `done` holds for it.
    pub async fn session_until(&self, id: &str, done: impl Fn(&Value) -> bool) -> Value {
        let mut operator = self.operator().await;
        within(&format!("session {id}"), async {
            loop {
                let answer = operator.get(&format!("/control/sessions/{id}")).await;
                let session = answer.json();
                if answer.status() == 200 && done(&session) {
                    return session;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        })
        .await
    }

    /// The sessions as the control service lists them.
    pub async fn sessions(&self) -> Vec<Value> {
        let listed = self.operator().await.get("/control/sessions").await.json();
        listed["sessions"].as_array().cloned().unwrap_or_else(|| panic!("no list of sessions: {listed}"))
    }

    /// Kills a session.
    pub async fn kill(&self, id: &str) -> Killed {
        self.operator().await.kill(id).await
    }

    /// Lifts the block on a killed session.
    pub async fn resume(&self, id: &str) -> u16 {
        self.operator().await.post(&format!("/control/sessions/{id}/resume"), &Value::Null).await.status()
    }

    /// Asks the gateway to end.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Asks the gateway to read its configuration again.
    pub fn hangup(&self) {
        self.signal("HUP");
    }

    fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &script]).status().expect("sh");
        assert!(sent.success(), "the gateway runs and can be signalled");
    }

    /// Waits for the process to end.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the gateway's end", async {
            loop {
                if let Some(status) = self.child.try_wait().expect("the child") {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// Memory of its own that the process holds now, in bytes (`RssAnon` of proc(5)).
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("proc");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
        let kilobytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
        kilobytes.expect("a number") * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let has_panicked = self.log.noise.lock().expect("the log").contains("panicked at");
        if thread::panicking() {
            self.log.print();
        } else if has_panicked {
            self.log.print();
            panic!("the gateway panicked while it ran");
        }
    }
}
