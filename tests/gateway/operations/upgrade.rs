use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::gateway::signal;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

/// Opens a new connection for each request until it is stopped; each must be accepted and answered completely.
async fn keep_arriving(gateway: SocketAddr, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    let call = Call::chat("hello").header("Connection", "close");
    while !stop.load(Ordering::Relaxed) {
        let answer = call.send(gateway).await;
        assert_eq!((answer.status(), answer.is_whole), (200, true), "{}", answer.text());
        count.fetch_add(1, Ordering::Relaxed);
    }
}

async fn reaches(what: &str, count: &AtomicUsize, number: usize) {
    within(what, async {
        while count.load(Ordering::Relaxed) < number {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A load of new connections.
struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn on(gateway: SocketAddr) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = || tokio::spawn(keep_arriving(gateway, Arc::clone(&stop), Arc::clone(&count)));
        let clients = (0..4).map(|_| client()).collect();
        Self { stop, count, clients }
    }

    async fn more(&self, requests: usize) {
        reaches("more requests", &self.count, self.count.load(Ordering::Relaxed) + requests).await;
    }

    /// Asserts that every client was accepted and answered each time.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client that was always served");
        }
    }
}

fn message(text: &str) -> impl Fn(&Value) -> bool {
    move |line| line["message"] == text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_over_without_a_refused_connection() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::start(&demo).await;
    let (proxy, old) = (gateway.proxy(), gateway.pid());
    let mut stream = Call::chat_stream("[[words 100]] [[pace 20ms]]").session("old").open(proxy).await;
    stream.until("word1").await;
    let mut idle = RawClient::connect(proxy).await;
    assert_eq!(Call::chat("hello").send_over(&mut idle, proxy).await.status(), 200);
    let mut operator = gateway.operator().await;
    assert_eq!(operator.get("/control/sessions/old").await.status(), 200);

    let load = Load::on(proxy);
    load.more(20).await;
    // Replaces the program's file, as a package manager does.
    std::fs::remove_file(gateway.program()).expect("the old link");
    symlink(env!("CARGO_BIN_EXE_elida"), gateway.program()).expect("a link");
    gateway.signal("QUIT");
    let started = gateway.log_until(message("starting the new process")).await;
    let new = started["pid"].as_u64().expect("a pid");
    assert_ne!(new, u64::from(old));
    gateway.log_until(message("the new process serves, this one leaves")).await;
    gateway.log_until(message("draining")).await;
    let _ = idle.end().await;
    load.more(40).await;
    let asked = gateway.operator().await.get("/control/sessions/old").await;
    assert_eq!(asked.json()["state"], "active", "operators see what the old process has: {}", asked.text());
    let answer = stream.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.is_whole && answer.text().contains("[DONE]"), "a stream ends on the old process");
    assert!(gateway.ended().await.success());
    load.more(20).await;
    load.end().await;
    let inherited = |line: &&Value| line["message"] == "listening" && line["inherited"] == true;
    assert_eq!(gateway.log_lines().iter().filter(inherited).count(), 2, "proxy and control");
    let records = gateway.log_lines();
    let record = |line: &&Value| line["message"] == "session_record" && line["session_id"] == "old";
    assert_eq!(records.iter().filter(record).count(), 1, "its session has its record");

    // The new process can be replaced in turn.
    assert!(signal(u32::try_from(new).expect("a pid"), "QUIT"), "the new process lives");
    let started =
        gateway.log_until(|line| line["message"] == "starting the new process" && line["pid"] != new).await;
    let left = |line: &Value| {
        line["message"] == "the new process serves, this one leaves" && line["pid"] == started["pid"]
    };
    gateway.log_until(left).await;
    assert_eq!(Call::chat("hello").send(proxy).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_upgrade_the_old_process_goes_on() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut stream = Call::chat_stream("[[words 100]] [[pace 20ms]]").open(gateway.proxy()).await;
    stream.until("word1").await;
    let load = Load::on(gateway.proxy());
    let failed = async |times: usize| {
        within("the failure in the log", async {
            let failure =
                |line: &&Value| line["message"] == "the new process did not get ready, this one goes on";
            while gateway.log_lines().iter().filter(failure).count() < times {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    };
    // An invalid configuration: the new process logs why and exits.
    gateway.rewrite("no_such_key: 1\n");
    gateway.signal("QUIT");
    failed(1).await;
    assert!(gateway.log_text().contains("no_such_key"), "the new process has logged its faults");
    let line = gateway.log_until(message("the new process did not get ready, this one goes on")).await;
    assert!(line["status"].to_string().contains("exit status: 2"), "{line}");
    load.more(10).await;

    // A program that exits at once.
    let replace = |content: &str| {
        std::fs::remove_file(gateway.program()).expect("the old program");
        std::fs::write(gateway.program(), content).expect("another program");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(gateway.program(), mode).expect("it can be run");
    };
    replace("#!/bin/sh\nexit 7\n");
    gateway.signal("QUIT");
    failed(2).await;
    load.more(10).await;

    // A program that cannot be started.
    std::fs::remove_file(gateway.program()).expect("the program");
    gateway.signal("QUIT");
    gateway.log_until(message("cannot start the new process, this one goes on")).await;
    load.more(10).await;
    load.end().await;

    // Then one that works.
    gateway.rewrite(&format!("backend: {:?}\n", demo.url()));
    symlink(env!("CARGO_BIN_EXE_elida"), gateway.program()).expect("a link");
    gateway.signal("QUIT");
    gateway.log_until(message("the new process serves, this one leaves")).await;
    let answer = stream.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.is_whole, "no upgrade, failed or not, cut the stream");
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_an_upgrade_ends_both() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::start(&demo).await;
    std::fs::remove_file(gateway.program()).expect("the program");
    std::fs::write(gateway.program(), "#!/bin/sh\nexec sleep 1000\n").expect("a program that hangs");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(gateway.program(), mode).expect("it can be run");
    gateway.signal("QUIT");
    let started = gateway.log_until(message("starting the new process")).await;
    gateway.signal("QUIT");
    gateway.log_until(message("an upgrade is under way already")).await;
    gateway.terminate();
    assert!(gateway.ended().await.success());
    let successor = started["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    assert!(!signal(successor, "0"), "the process that hangs is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_who_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(crate::support::DEADLINE)).expect("a limit");
    let notification = || {
        let mut word = [0; 256];
        let length = manager.recv(&mut word).expect("a word to the service manager");
        String::from_utf8_lossy(&word[..length]).into_owned()
    };
    let demo = Demo::start().await;
    let mut gateway = Gateway::in_environment(
        &demo,
        &[("NOTIFY_SOCKET", std::ffi::OsStr::from_bytes(path.as_os_str().as_bytes()))],
    )
    .await;
    assert_eq!(notification(), "READY=1");
    gateway.signal("QUIT");
    let started = gateway.log_until(message("starting the new process")).await;
    assert_eq!(notification(), format!("MAINPID={}", started["pid"]));
    assert!(gateway.ended().await.success());
    let successor = started["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    assert!(signal(successor, "TERM"));
    assert_eq!(notification(), "STOPPING=1");
}
