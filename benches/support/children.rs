//! The processes under test and their backends. Each is killed when it is dropped.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::roles::{self, PACED};

/// How long a process may take until it listens.
const START: Duration = Duration::from_secs(20);

/// The backends' addresses.
#[derive(Clone, Copy)]
pub(crate) struct Backends {
    /// The demo provider.
    pub(crate) demo: SocketAddr,
    /// The paced source.
    pub(crate) paced: SocketAddr,
    /// The collector.
    pub(crate) collector: SocketAddr,
    /// The files.
    pub(crate) files: SocketAddr,
}

/// The key of the caller of [`Equipment::Governed`].
pub(crate) const KEY: &str = "sk-a-key-of-the-bench-with-thirty-two-characters";

/// The price file of [`Equipment::Governed`].
const PRICES: &str = "prices.yaml";

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The optional parts of ELIDA that are switched on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Equipment {
    /// The defaults: a history.
    Default,
    /// No optional part.
    Nothing,
    /// Sessions in this Redis, a history, and OpenTelemetry with all spans, records and histograms.
    Full {
        /// The address of Redis.
        redis: SocketAddr,
    },
    /// The defaults, and callers with keys, two limits and a budget of two levels.
    Governed,
    /// The defaults, and the presets `standard` and `coding-agent`.
    Judged,
    /// The defaults, and a cache before the files.
    Cached,
    /// A history, and sessions that end a second after their request.
    Brief,
}

impl Equipment {
    fn name(self) -> &'static str {
        match self {
            Self::Default | Self::Cached | Self::Brief => "ELIDA",
            Self::Nothing => "ELIDA without",
            Self::Full { .. } => "ELIDA with",
            Self::Governed => "ELIDA with keys, limits and budgets",
            Self::Judged => "ELIDA with the presets standard and coding-agent",
        }
    }

    /// The sections it adds; the text continues the `session` section that all have.
    fn sections(self, collector: SocketAddr, folder: &Path) -> String {
        match self {
            Self::Default => "session:\n".to_owned(),
            Self::Judged => "policy: { presets: [standard, coding-agent] }\nsession:\n".to_owned(),
            Self::Cached => "cache: { enabled: true, max_memory: 256MB }\nsession:\n".to_owned(),
            Self::Nothing => "history: { enabled: false }\nsession:\n".to_owned(),
            Self::Full { redis } => format!(
                "telemetry: {{ enabled: true, protocol: http, endpoint: 'http://{collector}', metrics: true }}\n\
                 session:\n  store: redis\n  redis: {{ addr: '{redis}' }}\n"
            ),
            Self::Governed => format!(
                "auth:\n  proxy: required\n  principals: [{{ id: bench, key_sha256: '{}', tenant: acme, models: ['*'] }}]\n\
                 limits:\n\
                 \x20 - {{ name: key, by: principal.id, requests: 1M/s, tokens: 1000M/min, in_flight: 1000 }}\n\
                 \x20 - {{ name: model, by: principal.tenant + \"/\" + request.model, requests: 1M/s }}\n\
                 budgets:\n\
                 \x20 - {{ name: tenant, by: principal.tenant, period: month, limit: 1000000 USD }}\n\
                 \x20 - {{ name: key, by: principal.id, period: day, limit: 100000 USD }}\n\
                 usage: {{ prices_file: {:?} }}\nsession:\n",
                sha256(KEY),
                folder.join(PRICES)
            ),
            Self::Brief => "session:\n  completed_after: 1s\n  retention: 1s\n".to_owned(),
        }
    }
}

/// How a program is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launcher {
    /// The command line that runs it; empty to run it directly.
    pub(crate) prefix: Vec<String>,
    /// Its worker threads; `None` for one per core.
    pub(crate) threads: Option<usize>,
}

impl Launcher {
    fn command(&self, program: &Path) -> Command {
        match self.prefix.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }
}

/// A process under test.
pub(crate) struct Proxy {
    /// Its name in the report.
    pub(crate) name: String,
    /// The address of its listener.
    pub(crate) address: SocketAddr,
    /// The address of its control API; only ELIDA has one.
    pub(crate) control: Option<SocketAddr>,
    child: Running,
    folder: Option<TempDir>,
}

/// A child process that ends with its owner.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Proxy {
    /// The folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().expect("a program with a folder").path()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Starts a program that listens on `address`, and waits until it does.
    pub(crate) fn start(
        name: impl Into<String>,
        address: SocketAddr,
        command: &mut Command,
        folder: Option<TempDir>,
    ) -> Self {
        let child = Running(command.stdin(Stdio::piped()).spawn().expect("the program starts"));
        let proxy = Self { name: name.into(), address, control: None, child, folder };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < START, "{} does not listen on {address}", proxy.name);
            std::thread::sleep(Duration::from_millis(20));
        }
        proxy
    }
}

/// A free port, for programs that cannot report which port they took.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// This program in another role.
fn ourselves(role: &str, launcher: &Launcher) -> Command {
    let mut command = launcher.command(&std::env::current_exe().expect("our own path"));
    command.args(["--role", role]);
    command
}

/// Starts the backends.
pub(crate) fn backends() -> (Running, Backends) {
    let mut command = ourselves(roles::BACKENDS, &Launcher::default());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the backends start");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut address = || {
        let line = lines.next().expect("a line").expect("text");
        line.parse().expect("an address")
    };
    let backends = Backends { demo: address(), paced: address(), collector: address(), files: address() };
    (Running(child), backends)
}

/// Starts the bare Pingora proxy.
pub(crate) fn bare(backends: Backends) -> Proxy {
    bare_under(&Launcher::default(), backends)
}

/// Starts the bare Pingora proxy with a launcher.
pub(crate) fn bare_under(launcher: &Launcher, backends: Backends) -> Proxy {
    let address = free_address();
    let mut command = ourselves(roles::BARE, launcher);
    command.args([address, backends.demo, backends.paced].map(|address| address.to_string()));
    command.args(launcher.threads.map(|threads| threads.to_string()));
    Proxy::start("bare Pingora", address, &mut command, None)
}

/// ELIDA's configuration: everything that is on by default, and room for `sessions` sessions.
/// `session.max_active` and `max_active_per_principal` are raised because the bench is one machine with
/// few principals; all other limits are the defaults.
fn configuration(backends: Backends, sessions: usize, folder: &Path, equipment: Equipment) -> String {
    let Backends { demo, paced, collector, files } = backends;
    let sections = equipment.sections(collector, folder);
    // A caller with a key of the gateway has none of the provider.
    let auth = match equipment {
        Equipment::Governed => ", auth: { mode: inject, api_key: sk-house }",
        _ => "",
    };
    let files = match equipment {
        Equipment::Cached => format!("  files: {{ url: 'http://{files}', type: http }}\n"),
        _ => String::new(),
    };
    let name = PACED.trim_start_matches('/');
    format!(
        "listen: 127.0.0.1:0\ndata_dir: {folder:?}\ncontrol:\n  listen: 127.0.0.1:0\n\
         backends:\n\
         \x20 demo: {{ url: 'http://{demo}', type: openai, default: true{auth} }}\n\
         \x20 {name}: {{ url: 'http://{paced}', type: openai }}\n\
         {files}routing:\n  methods: [header, path, model, default]\n\
         logging: {{ level: info, format: json, access_log: true }}\n\
         {sections}\x20 max_active: {sessions}\n  max_active_per_principal: {sessions}\n  \
         starts_per_address: {{ per_second: 0 }}\n"
    )
}

/// Starts the real program; its log is read from a pipe and discarded.
pub(crate) fn elida(program: &Path, backends: Backends, sessions: usize, equipment: Equipment) -> Proxy {
    elida_under(&Launcher::default(), program, backends, sessions, equipment)
}

/// Starts the real program with a launcher.
pub(crate) fn elida_under(
    launcher: &Launcher,
    program: &Path,
    backends: Backends,
    sessions: usize,
    equipment: Equipment,
) -> Proxy {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    fs::write(&file, configuration(backends, sessions, folder.path(), equipment)).expect("the configuration");
    fs::write(folder.path().join(PRICES), "version: 1\nprices: [{ model: 'gpt-*', input: 1, output: 2 }]\n")
        .expect("the prices");
    let mut command = launcher.command(program);
    command.arg("run").arg("--config").arg(file).env_clear();
    command.envs(launcher.threads.map(|threads| ("ELIDA__SERVER__THREADS", threads.to_string())));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().expect("elida starts"));
    let mut output = BufReader::new(child.0.stdout.take().expect("a pipe"));
    let (address, control) = listening(&mut output);
    std::thread::spawn(move || drain(output));
    Proxy { name: equipment.name().to_owned(), address, control: Some(control), child, folder: Some(folder) }
}

/// The addresses of the proxy and of the control API, from the lines in which ELIDA logs them.
fn listening(output: &mut BufReader<ChildStdout>) -> (SocketAddr, SocketAddr) {
    let (mut proxy, mut control) = (None, None);
    for line in output.lines() {
        let line = line.expect("text");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if line["message"] == "listening" {
            let address = line["address"].as_str().and_then(|text| text.parse().ok());
            if line["service"] == "proxy" { proxy = address } else { control = address }
        }
        if let (Some(proxy), Some(control)) = (proxy, control) {
            return (proxy, control);
        }
    }
    panic!("elida ended before it listened");
}

/// A Redis without persistence; `None` when none is installed.
pub(crate) fn redis() -> Option<Proxy> {
    Command::new("redis-server").arg("--version").output().ok()?;
    let (address, folder) = (free_address(), tempfile::tempdir().expect("a folder"));
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", "", "--dir"]);
    command.arg(folder.path()).stdout(Stdio::null());
    Some(Proxy::start("Redis", address, &mut command, Some(folder)))
}

/// Reads the log as a log collector does, and discards it.
fn drain(mut output: BufReader<ChildStdout>) {
    let mut piece = vec![0; 64 << 10];
    while matches!(output.read(&mut piece), Ok(read) if read > 0) {}
}
