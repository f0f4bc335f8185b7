//! Where `elida demo` keeps its state, and for how long.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::support::process::elida;
use crate::support::{Call, Gateway, within};

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A demo whose temporary folders are below this one.
async fn demo_in(temporary: &Path) -> Gateway {
    Gateway::demo_with(&[], &[("TMPDIR", temporary.as_os_str())]).await
}

async fn demo_with_state(data_dir: &Path) -> Gateway {
    Gateway::demo_with(&[OsStr::new("--data-dir"), data_dir.as_os_str()], &[]).await
}

/// Asks in the session of the README.
async fn ask(gateway: &Gateway) -> u16 {
    Call::messages_stream("hello").header("X-Session-ID", "my-first").send(gateway.proxy()).await.status()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_run_has_a_private_folder_that_is_gone_at_its_end() {
    let temporary = tempfile::tempdir().expect("a folder");
    for signal in ["TERM", "INT"] {
        let mut gateway = demo_in(temporary.path()).await;
        let made = names(temporary.path());
        assert!(made.len() == 1 && made[0].starts_with("elida-demo-"), "{made:?}");
        let folder = temporary.path().join(&made[0]);
        let mode = std::fs::metadata(&folder).expect("the folder").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(names(&folder).contains(&"history.db".to_owned()), "{:?}", names(&folder));
        assert_eq!(ask(&gateway).await, 200, "no run knows the kill of an earlier one");
        gateway.kill("my-first").await;
        assert_eq!(ask(&gateway).await, 403);
        gateway.signal(signal);
        assert!(gateway.ended().await.success(), "{signal}");
        assert!(names(temporary.path()).is_empty(), "{signal}: {:?}", names(temporary.path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_removes_it_too() {
    let temporary = tempfile::tempdir().expect("a folder");
    let mut gateway = demo_in(temporary.path()).await;
    let _open = Call::messages_stream("[[stall]]").open(gateway.proxy()).await;
    gateway.terminate();
    gateway.log_until(|line| line["message"] == "draining").await;
    gateway.signal("INT");
    assert!(gateway.ended().await.success());
    assert!(names(temporary.path()).is_empty(), "{:?}", names(temporary.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_demo_has_its_own_folder_and_knows_the_kills() {
    let temporary = tempfile::tempdir().expect("a folder");
    let mut gateway = demo_in(temporary.path()).await;
    assert_eq!(ask(&gateway).await, 200);
    gateway.kill("my-first").await;
    let old = names(temporary.path());
    gateway.signal("QUIT");
    assert!(gateway.ended().await.success());
    let new = names(temporary.path());
    assert!(new.len() == 1 && new != old, "{old:?}, {new:?}");
    assert_eq!(ask(&gateway).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_demo_left_or_another_user_planted_is_not_read() {
    let temporary = tempfile::tempdir().expect("a folder");
    // The fixed name of earlier versions, with a kill of the README's session.
    let planted = temporary.path().join("elida-demo");
    let mut old = demo_with_state(&planted).await;
    assert_eq!(ask(&old).await, 200);
    old.kill("my-first").await;
    old.terminate();
    old.ended().await;
    let before = names(&planted);

    let mut gateway = demo_in(temporary.path()).await;
    assert_eq!(ask(&gateway).await, 200);
    gateway.terminate();
    gateway.ended().await;
    assert_eq!((names(temporary.path()), names(&planted)), (vec!["elida-demo".to_owned()], before));

    let kept = demo_with_state(&planted).await;
    assert_eq!(ask(&kept).await, 403, "--data-dir keeps state");
}

#[test]
fn a_temporary_folder_that_cannot_be_made_is_named_with_remedies() {
    let own = tempfile::tempdir().expect("a folder");
    let missing: PathBuf = own.path().join("missing");
    let mut command = elida(own.path());
    command.args(["demo", "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0"]);
    let output = command.env("TMPDIR", &missing).output().expect("the binary runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let told = format!("elida: no folder can be created in {}: set TMPDIR", missing.display());
    assert!(error.contains(&told) && error.contains("--data-dir"), "{error}");
    let output =
        elida(own.path()).args(["demo", "--only-provider", "127.0.0.1:0", "--data-dir", "x"]).output();
    assert_eq!(output.expect("the binary runs").status.code(), Some(2));
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_play_and_the_one_that_runs_away_can_be_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (proxy, control) = (free_port(), free_port());
    let addresses = [format!("127.0.0.1:{proxy}"), format!("127.0.0.1:{control}")];
    let mut demo = elida(folder.path())
        .args(["demo", "--play", "--listen", &addresses[0], "--control-listen", &addresses[1]])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the demo");
    let mut lines = BufReader::new(demo.stdout.take().expect("stdout")).lines();
    let first = lines.next().expect("a line").expect("text");
    assert!(first.starts_with(&format!("Dashboard: http://127.0.0.1:{control}/")), "{first}");
    let reading = std::thread::spawn(move || lines.map_while(Result::ok).count());
    let control: SocketAddr = addresses[1].parse().expect("an address");
    let get = async |target: &str| Call::get(target).send(control).await.json();
    within("the control API", async {
        while tokio::net::TcpStream::connect(control).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    within("seven agents", async {
        while get("/control/sessions?state=active").await["sessions"].as_array().map(Vec::len) < Some(7) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    within("the open request of the one that runs away", async {
        while get("/control/sessions/runaway-crawler").await["open_legs"] != 1 {}
    })
    .await;
    let killed = Call::post("/control/sessions/runaway-crawler/kill").send(control).await;
    assert_eq!(killed.status(), 200, "{}", killed.text());
    within("its end", async { while get("/control/sessions/runaway-crawler").await["state"] != "killed" {} })
        .await;
    assert!(crate::support::gateway::signal(demo.id(), "TERM"));
    let ended = tokio::task::spawn_blocking(move || demo.wait());
    let ended = within("the end of the demo, though agents have streams open", ended).await;
    assert!(ended.expect("the wait").expect("the child").success());
    assert!(reading.join().expect("the reader") > 0);
}
