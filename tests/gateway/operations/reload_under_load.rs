use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::gateway::signal;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, RawClient, within};

const RELOADS: usize = 20;
const CLIENTS: usize = 6;
const STREAMS: usize = 4;

/// The words of a stream that outlasts the reloads.
const WORDS: usize = 400;

/// Two backends change with each reload, the third one stays.
fn yaml(round: usize, demos: [&Demo; 2], steady: &RawBackend) -> String {
    let (one, two) = if round.is_multiple_of(2) { (demos[0], demos[1]) } else { (demos[1], demos[0]) };
    format!(
        "backends:\n  main: {{ url: {:?}, type: openai, default: true }}\n  \
         other: {{ url: {:?}, type: openai, models: [\"other-*\"] }}\n  \
         steady: {{ url: {:?}, type: openai, models: [\"steady-*\"] }}\n\
         session: {{ max_active: {} }}\nlogging: {{ level: {} }}\nserver: {{ timeouts: {{ read: {}s }} }}\n",
        one.url(),
        two.url(),
        steady.url(),
        1000 + round,
        if round.is_multiple_of(2) { "info" } else { "debug" },
        20 + round,
    )
}

/// Sends requests in sequence over one connection until it is stopped. Each must be answered completely.
async fn keep_asking(gateway: SocketAddr, call: Call, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    let mut client = RawClient::connect(gateway).await;
    while !stop.load(Ordering::Relaxed) {
        let answer = call.send_over(&mut client, gateway).await;
        assert_eq!((answer.status(), answer.is_whole), (200, true), "{}", answer.text());
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_reloads_under_load_lose_no_request_and_cut_no_stream() {
    let demos = [&Demo::start().await, &Demo::start().await];
    let body = r#"{"choices":[]}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let steady = RawBackend::answering(answer).await;
    let gateway = Gateway::with(yaml(0, demos, &steady)).await;
    let proxy = gateway.proxy();

    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let call = Call::chat_stream(&format!("[[words {WORDS}]] [[pace 20ms]]"));
        let mut stream = call.open(proxy).await;
        stream.until("word1").await;
        streams.push(tokio::spawn(async move { stream.message(Unframed::UntilEnd).await }));
    }
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let steady_call =
        Call::post("/v1/chat/completions").json(&serde_json::json!({"model": "steady-1", "messages": []}));
    let mut clients = vec![tokio::spawn(keep_asking(proxy, steady_call, stop.clone(), count.clone()))];
    for _ in 0..CLIENTS {
        clients.push(tokio::spawn(keep_asking(proxy, Call::chat("hello"), stop.clone(), count.clone())));
    }

    let mut operator = gateway.operator().await;
    for round in 1..=RELOADS {
        let asked_before = count.load(Ordering::Relaxed);
        let is_broken = round.is_multiple_of(4);
        match is_broken {
            true => gateway.rewrite("backend: \"http://127.0.0.1:1\"\nno_such_key: 1\n"),
            false => gateway.rewrite(&yaml(round, demos, &steady)),
        }
        if round.is_multiple_of(2) {
            let answer = operator.post("/control/config/reload", &Value::Null).await;
            assert_eq!(answer.status(), if is_broken { 422 } else { 200 }, "{}", answer.text());
        } else {
            gateway.hangup();
            let done = |line: &&Value| line["message"] == "configuration reloaded";
            let so_far = round - round / 4;
            within("the reload", async {
                while gateway.log_lines().iter().filter(done).count() < so_far {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
            .await;
        }
        within("requests between two reloads", async {
            while count.load(Ordering::Relaxed) < asked_before + 20 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client whose every request was answered");
    }
    let last = format!("word{} ", WORDS - 1);
    for stream in streams {
        let answer = stream.await.expect("a stream").expect("an answer");
        let text = answer.text();
        assert!(answer.is_whole && text.contains("[DONE]"), "a stream was cut after {} bytes", text.len());
        assert!(text.contains(last.trim()), "the last word is missing");
    }
    assert!(count.load(Ordering::Relaxed) >= 20 * RELOADS);
    assert_eq!(steady.connections(), 1, "the pool of a backend that did not change survives");
    assert!(demos.iter().all(|demo| demo.ledger().arrived() > 20), "both were the default in turn");
    assert_eq!(gateway.metric(r#"elida_config_reloads_total{result="rejected"}"#).await, 5.0);
    assert_eq!(gateway.metric(r#"elida_config_reloads_total{result="applied"}"#).await, 15.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_needs_a_restart_is_named() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    gateway.rewrite(&format!("backend: {:?}\nserver: {{ threads: 3 }}\n", demo.url()));
    gateway.hangup();
    let line = gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    assert!(line["restart_required"].to_string().contains("server.threads"), "{line}");
}

/// Whether the process has a handler for SIGHUP (signal 1), from `SigCgt` of proc(5).
fn handles_hangup(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

struct Spawned(Child);

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Before `main` runs, the default action is in place and the program cannot change that. So the
/// first signals are sent as soon as the kernel knows the handler. The configuration is a pipe that holds
/// the program up: its handler is installed before it reads anything or listens. Then it gets signals
/// without a pause until it has answered a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_while_it_starts_does_not_end_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pipe, file) = (folder.path().join("elida.yaml"), folder.path().join("written.yaml"));
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let yaml = format!(
        "listen: \"{proxy}\"\ndata_dir: {:?}\ncontrol: {{ listen: \"127.0.0.1:0\" }}\nbackend: \"http://127.0.0.1:1\"\n",
        folder.path()
    );
    std::fs::write(&file, &yaml).expect("the configuration");
    let child = Command::new(env!("CARGO_BIN_EXE_elida"))
        .args(["run", "-c"])
        .arg(&pipe)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the gateway's binary");
    let mut child = Spawned(child);
    let pid = child.0.id();
    within("the handler", async {
        while !handles_hangup(pid) {
            assert_eq!(child.0.try_wait().expect("the child"), None);
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..5 {
        assert!(signal(pid, "HUP"), "it lives");
    }
    let mut writer = std::fs::File::options().write(true).open(&pipe).expect("the reader is there");
    writer.write_all(yaml.as_bytes()).expect("the pipe");
    // The requested reloads read a file.
    std::fs::rename(&file, &pipe).expect("the file in the place of the pipe");
    drop(writer);
    within("an answer under a hail of signals", async {
        loop {
            assert!(signal(pid, "HUP"), "it lives");
            if tokio::net::TcpStream::connect(proxy).await.is_ok() {
                assert_eq!(Call::get("/health").send(proxy).await.status(), 200);
                return;
            }
        }
    })
    .await;
    assert_eq!(child.0.try_wait().expect("the child"), None, "it lives");
}
