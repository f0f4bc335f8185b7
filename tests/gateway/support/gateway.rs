//! The real binary with its own configuration; its log is read as it is written.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::control::{Control, Killed};
use super::quiet::Quiet;
use super::{Backend, within};

/// The child's output so far.
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

/// A running gateway; killed when dropped. A panic inside it fails the test.
pub struct Gateway {
    child: Child,
    folder: TempDir,
    log: Arc<Log>,
    /// What the processes before a crash wrote.
    earlier: Vec<Value>,
    proxy: SocketAddr,
    control: SocketAddr,
    _quiet: Quiet,
}

impl Gateway {
    /// Starts a gateway with this backend and defaults for everything else.
    pub async fn start(backend: &impl Backend) -> Self {
        Self::with(format!("backend: {:?}\n", backend.url())).await
    }

    /// Starts a gateway with these keys beside its listeners and its data folder.
    pub async fn with(yaml: impl AsRef<str>) -> Self {
        Self::launch(yaml.as_ref(), Quiet::shared().await, None).await
    }

    /// As [`Gateway::with`], with this limit of open files.
    pub async fn with_files(yaml: &str, files: usize) -> Self {
        Self::launch(yaml, Quiet::shared().await, Some(format!("ulimit -n {files}"))).await
    }

    /// As [`Gateway::with`], after running this line of shell.
    pub async fn with_limit(yaml: &str, limit: &str) -> Self {
        Self::launch(yaml, Quiet::shared().await, Some(limit.to_owned())).await
    }

    /// Lowers the limit of open files to those that are open now.
    pub fn exhaust_files(&self) {
        let open: Vec<usize> = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .expect("proc")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        // A descriptor number below the limit could be used again after a close.
        let free = (0..).find(|number| !open.contains(number)).expect("a number");
        self.limit_files(free);
    }

    /// Sets the soft limit of open files of the running process.
    pub fn limit_files(&self, files: usize) {
        let pid = self.child.id().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}:")]).status();
        assert!(limited.expect("prlimit").success());
    }

    /// As [`Gateway::start`], while no other test runs: for measurements.
    pub async fn alone(backend: &impl Backend) -> Self {
        Self::launch(&format!("backend: {:?}\n", backend.url()), Quiet::alone().await, None).await
    }

    /// As [`Gateway::with`], while no other test runs: for measurements.
    pub async fn alone_with(yaml: &str) -> Self {
        Self::launch(yaml, Quiet::alone().await, None).await
    }

    /// As [`Gateway::with`], but no file of the process may exceed this size: a full disk for this process.
    pub async fn with_file_size(yaml: &str, kib: usize) -> Self {
        // Without the trap the kernel would kill the process instead of failing the write.
        let limit = format!("trap '' XFSZ; ulimit -S -f {}", kib * 2);
        Self::launch(yaml, Quiet::shared().await, Some(limit)).await
    }

    /// Removes the limit of [`Gateway::with_file_size`].
    pub fn lift_file_size(&self) {
        let pid = self.child.id().to_string();
        let lifted = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
        assert!(lifted.expect("prlimit").success());
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn launch(yaml: &str, quiet: Quiet, limit: Option<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("elida.yaml");
        std::fs::write(&file, Self::written(&folder, yaml)).expect("the configuration");
        Self::run(folder, &["run".as_ref(), "-c".as_ref(), file.as_os_str()], quiet, limit).await
    }

    /// Starts `elida demo` on free ports.
    pub async fn demo() -> Self {
        Self::demo_with(&[], &[]).await
    }

    /// As [`Gateway::demo`], with further arguments and environment variables.
    pub async fn demo_with(arguments: &[&OsStr], variables: &[(&str, &OsStr)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = ["demo", "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0"];
        let arguments = [&ports.map(OsStr::new)[..], arguments].concat();
        Self::run_with(folder, &arguments, variables, Quiet::shared().await, None).await
    }

    async fn run(folder: TempDir, arguments: &[&OsStr], quiet: Quiet, limit: Option<String>) -> Self {
        Self::run_with(folder, arguments, &[], quiet, limit).await
    }

    /// Starts a gateway with this backend and these environment variables.
    pub async fn in_environment(backend: &impl Backend, variables: &[(&str, &OsStr)]) -> Self {
        Self::with_variables(&format!("backend: {:?}\n", backend.url()), variables).await
    }

    /// As [`Gateway::with`], with these environment variables.
    pub async fn with_variables(yaml: &str, variables: &[(&str, &OsStr)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("elida.yaml");
        std::fs::write(&file, Self::written(&folder, yaml)).expect("the configuration");
        let arguments = ["run".as_ref(), "-c".as_ref(), file.as_os_str()];
        Self::run_with(folder, &arguments, variables, Quiet::shared().await, None).await
    }

    async fn run_with(
        folder: TempDir,
        arguments: &[&OsStr],
        variables: &[(&str, &OsStr)],
        quiet: Quiet,
        limit: Option<String>,
    ) -> Self {
        // A symbolic link, so that a test can replace the program.
        let program = folder.path().join("elida");
        symlink(env!("CARGO_BIN_EXE_elida"), &program).expect("a link");
        let mut command = Command::new(if limit.is_some() { "sh".as_ref() } else { program.as_os_str() });
        if let Some(limit) = limit {
            command.args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")]).arg(&program);
        }
        let mut child = command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .env("RUST_BACKTRACE", "1")
            .envs(variables.iter().copied())
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
        let earlier = Vec::new();
        let mut gateway =
            Self { child, folder, log, earlier, proxy: unknown, control: unknown, _quiet: quiet };
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

    /// Opens a connection to the control service.
    pub async fn operator(&self) -> Control {
        Control::connect(self.control).await
    }

    /// The JSON lines of the log so far.
    pub fn log_lines(&self) -> Vec<Value> {
        self.log.lines.lock().expect("the log").clone()
    }

    /// The JSON lines of the log so far, with those of the processes before a crash.
    pub fn all_log_lines(&self) -> Vec<Value> {
        self.earlier.iter().cloned().chain(self.log_lines()).collect()
    }

    /// Everything the gateway wrote, as text: to show that a secret is not in it.
    pub fn log_text(&self) -> String {
        let lines: String = self.log_lines().iter().map(|line| format!("{line}\n")).collect();
        lines + &self.log.noise.lock().expect("the log")
    }

    /// Output that is not a JSON object.
    pub fn noise(&self) -> String {
        self.log.noise.lock().expect("the log").clone()
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
        self.answer_until(&format!("/control/sessions/{id}"), done).await
    }

    /// Polls the control service until it answers 200 and `done` holds for the answer.
    pub async fn answer_until(&self, target: &str, done: impl Fn(&Value) -> bool) -> Value {
        let mut operator = self.operator().await;
        within(target, async {
            loop {
                let answer = operator.get(target).await;
                let value = answer.json();
                if answer.status() == 200 && done(&value) {
                    return value;
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

    /// Resumes a killed session; returns the status.
    pub async fn resume(&self, id: &str) -> u16 {
        self.operator().await.post(&format!("/control/sessions/{id}/resume"), &Value::Null).await.status()
    }

    /// Runs a command against it, which must succeed; returns its output.
    pub async fn elida(&self, words: &[&str]) -> String {
        let mut command = Command::new(self.program());
        command.args(words).env_clear().env("ELIDA_CONTROL", format!("http://{}", self.control));
        let run = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
        let output = within("the command", run).await.expect("the command");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Asks the gateway to stop (SIGTERM).
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Asks the gateway to reload its configuration (SIGHUP).
    pub fn hangup(&self) {
        self.signal("HUP");
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        assert!(signal(self.child.id(), name), "the gateway runs and can be signalled");
    }

    /// The pid of the process that the harness started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The link through which the program was started.
    pub fn program(&self) -> PathBuf {
        self.folder.path().join("elida")
    }

    /// The pids of the processes that this one started as its successors.
    fn successors(&self) -> Vec<u32> {
        let started =
            self.log_lines().into_iter().filter(|line| line["message"] == "starting the new process");
        started.filter_map(|line| line["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())).collect()
    }

    /// Kills the process (SIGKILL), and starts another one with this
    /// configuration on the same ports.
    pub async fn crash_and_restart(&mut self, yaml: &str) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("the child");
        let text = Self::written(&self.folder, yaml)
            .replacen("127.0.0.1:0", &self.proxy.to_string(), 1)
            .replacen("127.0.0.1:0", &self.control.to_string(), 1);
        let file = self.folder.path().join("elida.yaml");
        std::fs::write(&file, text).expect("the configuration");
        self.earlier.append(&mut self.log.lines.lock().expect("the log"));
        self.child = Command::new(self.program())
            .args(["run", "-c"])
            .arg(&file)
            .env_clear()
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway's binary");
        self.log.read(self.child.stdout.take().expect("stdout"));
        self.log.read(self.child.stderr.take().expect("stderr"));
        assert_eq!(self.address_of("proxy").await, self.proxy);
        assert_eq!(self.address_of("control").await, self.control);
    }

    /// Waits until the process exits.
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

    /// The number of open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("proc").count()
    }

    /// The metrics in the Prometheus text format.
    pub async fn metrics(&self) -> String {
        self.operator().await.get("/metrics").await.text()
    }

    /// The value of one series of the metrics.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.metrics().await;
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in {text}"))
    }

    /// The anonymous memory of the process, in bytes (`RssAnon` of proc(5)).
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("proc");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
        let kilobytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
        kilobytes.expect("a number") * 1024
    }
}

/// Sends a signal; false when there is no such process.
pub fn signal(pid: u32, name: &str) -> bool {
    let script = format!("kill -{name} {pid}");
    Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().expect("sh").success()
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for successor in self.successors() {
            // The kernel may have given the pid to another process.
            let command = std::fs::read(format!("/proc/{successor}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&*self.folder.path().to_string_lossy()) {
                signal(successor, "KILL");
            }
        }
        let has_panicked = self.log.noise.lock().expect("the log").contains("panicked at")
            || self.log.find(&|line| line["message"] == "panic").is_some();
        if thread::panicking() {
            self.log.print();
        } else if has_panicked {
            self.log.print();
            panic!("the gateway panicked while it ran");
        }
    }
}
