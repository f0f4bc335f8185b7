use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::quiet::Quiet;
use crate::support::{json, within};

/// What `just fleet` runs after the build.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/fleet/run.sh");

/// The variables that set its ports.
const PORTS: [&str; 6] = [
    "FLEET_PROXY_1",
    "FLEET_CONTROL_1",
    "FLEET_PROXY_2",
    "FLEET_CONTROL_2",
    "FLEET_REDIS_PORT",
    "FLEET_PROVIDER_PORT",
];

/// The running script, in its own process group as under a terminal; stopped when dropped.
struct Fleet {
    child: Child,
    folder: TempDir,
    _quiet: Quiet,
}

impl Fleet {
    /// Starts it on free ports, except for those given.
    async fn start(ports: &[(&str, u16)]) -> Self {
        let quiet = Quiet::shared().await;
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("tmp")).expect("a folder");
        // All ports are bound before the first one is released, so that no two are the same.
        let free = PORTS.map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
        let free = free.map(|listener| listener.local_addr().expect("an address").port().to_string());
        let output = File::create(folder.path().join("output")).expect("a file");
        let child = Command::new(SCRIPT)
            .arg(env!("CARGO_BIN_EXE_elida"))
            .env("TMPDIR", folder.path().join("tmp"))
            .envs(PORTS.into_iter().zip(free))
            .envs(ports.iter().map(|(name, port)| (name, port.to_string())))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .process_group(0)
            .spawn()
            .expect("the script");
        Self { child, folder, _quiet: quiet }
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    /// Ctrl-C: the terminal signals the whole group.
    fn interrupt(&self) {
        let script = format!("kill -s INT -- -{}", self.child.id());
        let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
    }

    /// Its processes that still run.
    fn processes(&self) -> Vec<String> {
        let group = self.child.id().to_string();
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        // After the name in brackets: state, parent, group (proc_pid_stat(5)).
        let is_ours = |stat: &String| {
            let rest = stat.rsplit(')').next().unwrap_or_default();
            rest.split_whitespace().nth(2) == Some(&group)
        };
        stats.filter(is_ours).collect()
    }

    /// Its temporary folders.
    fn leftovers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("tmp")).expect("the folder");
        entries.flatten().map(|entry| entry.path()).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.interrupt();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprint!("{}", fs::read_to_string(self.output()).unwrap_or_default());
        }
    }
}

/// Waits until a file contains this text; returns its content.
async fn says(file: &Path, text: &str) -> String {
    within(text, async {
        loop {
            let found = fs::read_to_string(file).expect("the file");
            if found.contains(text) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

async fn end(what: &str, child: &mut Child) -> ExitStatus {
    within(what, async {
        loop {
            if let Some(status) = child.try_wait().expect("the child") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Runs a command in a shell; returns its output.
async fn run(command: &str) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-ec", command]);
    let output = tokio::task::spawn_blocking(move || shell.output()).await.expect("the shell");
    let output = output.expect("sh runs");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_tells_to_try_works_and_ctrl_c_ends_everything() {
    let mut fleet = Fleet::start(&[]).await;
    let printed = says(&fleet.output(), "End with Ctrl-C.").await;
    let commands: Vec<&str> =
        printed.lines().map(str::trim).filter(|line| line.starts_with("curl ")).collect();
    let [stream, list, kill] = commands[..] else {
        panic!("it prints commands that this test does not know: {printed}");
    };

    let answer = fleet.folder.path().join("answer");
    let mut agent = Command::new("sh")
        .args(["-ec", stream])
        .stdout(File::create(&answer).expect("a file"))
        .spawn()
        .expect("sh runs");
    says(&answer, "word2").await;
    let listed = json(run(list).await.as_bytes());
    let session = &listed["sessions"][0];
    assert_eq!((&session["id"], &session["state"]), (&"one".into(), &"active".into()), "{listed}");
    let killed = json(run(kill).await.as_bytes());
    assert_eq!((&killed["state"], &killed["instances_notified"]), (&"killed".into(), &2.into()), "{killed}");
    end("the agent's stream", &mut agent).await;
    let streamed = fs::read_to_string(&answer).expect("the answer");
    assert!(streamed.contains("session_killed") && !streamed.contains("message_stop"), "{streamed}");

    // The script, Redis, the provider, two instances.
    assert_eq!((fleet.processes().len(), fleet.leftovers().len()), (5, 1), "{:?}", fleet.processes());
    fleet.interrupt();
    assert!(end("the fleet", &mut fleet.child).await.success());
    assert_eq!((fleet.processes(), fleet.leftovers()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_told_and_nothing_stays() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    for (variable, name) in [("FLEET_CONTROL_2", "elida-2"), ("FLEET_REDIS_PORT", "redis")] {
        let mut fleet = Fleet::start(&[(variable, port)]).await;
        assert_eq!(end("the fleet", &mut fleet.child).await.code(), Some(1));
        let printed = fs::read_to_string(fleet.output()).expect("the output");
        assert!(printed.contains(&format!("{name} did not start")), "{printed}");
        assert!(printed.to_lowercase().contains("address already in use"), "{printed}");
        assert_eq!((fleet.processes(), fleet.leftovers()), (vec![], vec![]));
    }
}

#[test]
fn without_redis_server_it_says_what_to_install() {
    let nothing = tempfile::tempdir().expect("a folder");
    let output = Command::new("/bin/sh")
        .args([SCRIPT, env!("CARGO_BIN_EXE_elida")])
        .env("PATH", nothing.path())
        .env("TMPDIR", nothing.path())
        .output()
        .expect("sh runs");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(1), ""));
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(printed.contains("redis-server is missing: install it"), "{printed}");
    assert_eq!(fs::read_dir(nothing.path()).expect("the folder").count(), 0);
}
