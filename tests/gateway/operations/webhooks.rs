use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use data_encoding::BASE64;
use ring::hmac;
use serde_json::{Value, json};

use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, within};

const OK: &str = "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n";

/// A secret in a file of its own.
struct Secret {
    key: [u8; 32],
    folder: tempfile::TempDir,
}

impl Secret {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = [7; 32];
        std::fs::write(folder.path().join("secret"), format!("whsec_{}\n", BASE64.encode(&key)))
            .expect("a file");
        Self { key, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// Reads a message as a receiver does: the signature first.
    fn verified(&self, message: &Message) -> Value {
        let field = |name| message.head.field(name).unwrap_or_else(|| panic!("no {name}"));
        let signed = [field("webhook-id"), ".", field("webhook-timestamp"), ".", &message.text()].concat();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        let signature = field("webhook-signature").strip_prefix("v1,").expect("a version");
        let signature = BASE64.decode(signature.as_bytes()).expect("Base64");
        hmac::verify(&key, signed.as_bytes(), &signature).expect("the signature");
        message.json()
    }
}

/// A gateway with these lines of a webhook.
fn yaml(demo: &Demo, secret: &Secret, url: &str, more: &str) -> String {
    format!(
        "backend: {:?}\nsession: {{ kill_block: {{ mode: until_resumed }} }}\nwebhooks:\n  - name: soc\n    url: {url:?}\n    \
         secret_file: {:?}\n    allow_private: true\n{more}",
        demo.url(),
        secret.file()
    )
}

/// A counter; 0 before it was first counted.
async fn count(gateway: &Gateway, series: &str) -> u64 {
    let metrics = gateway.metrics().await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    value.unwrap_or(0)
}

async fn messages(receiver: &RawBackend, count: usize) -> Vec<Message> {
    receiver.until("messages", |receiver| receiver.requests().len() >= count).await;
    receiver.requests()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_session_is_told_and_signed() {
    let (demo, secret, receiver) = (Demo::start().await, Secret::new(), RawBackend::answering(OK).await);
    let more = "    events: ['session.*']\n    when: session.id != 'quiet'\n";
    let gateway = Gateway::with(yaml(&demo, &secret, &receiver.url(), more)).await;
    for session in ["quiet", "loud"] {
        assert_eq!(Call::chat("hello").session(session).send(gateway.proxy()).await.status(), 200);
        assert_eq!(gateway.kill(session).await.status, 200);
        assert_eq!(gateway.resume(session).await, 200);
    }
    let told: Vec<Value> =
        messages(&receiver, 4).await.iter().map(|message| secret.verified(message)).collect();
    let mut kinds: Vec<&str> = told.iter().map(|message| message["type"].as_str().expect("a type")).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["session.ended", "session.killed", "session.resumed", "session.started"]);
    let of = |kind: &str| &told.iter().find(|message| message["type"] == kind).expect("told")["data"];
    assert_eq!(of("session.started")["principal"]["id"], "anon:127.0.0.1");
    assert_eq!(
        (&of("session.ended")["state"], &of("session.ended")["session_id"]),
        (&json!("killed"), &json!("loud"))
    );
    assert_eq!(of("session.killed")["reason"], "runaway", "{told:#?}");
    assert!(told.iter().all(|message| message["timestamp"].as_str().is_some_and(|time| time.ends_with('Z'))));
    within("the count", async {
        while count(&gateway, "elida_webhook_messages_total{result=\"delivered\",webhook=\"soc\"}").await < 4
        {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_the_documentation_takes_what_is_sent_and_nothing_else() {
    const PAGE: &str = include_str!("../../../docs/webhooks.md");
    let code = PAGE.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the code");
    let (demo, secret, receiver) = (Demo::start().await, Secret::new(), RawBackend::answering(OK).await);
    let more = "    events: [session.started]\n";
    let gateway = Gateway::with(yaml(&demo, &secret, &receiver.url(), more)).await;
    assert_eq!(Call::chat("hello").session("s").send(gateway.proxy()).await.status(), 200);
    let message = messages(&receiver, 1).await.remove(0);
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let headers: Value =
        names.iter().map(|name| ((*name).to_owned(), json!(message.head.field(name)))).collect();
    let mut old = headers.clone();
    old["webhook-timestamp"] = json!("1");
    for (headers, body, genuine) in [
        (&headers, message.text(), "True"),
        (&headers, message.text() + " ", "False"),
        (&old, message.text(), "False"),
    ] {
        let given = json!([headers, body]).to_string();
        let main = format!(
            "{code}\nimport json, sys\nheaders, body = json.loads(sys.argv[1])\n\
             print(is_genuine(open(sys.argv[2]).read(), headers, body.encode()))"
        );
        let output =
            std::process::Command::new("python3").args(["-c", &main, &given]).arg(secret.file()).output();
        let output = output.expect("python3");
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(told.trim(), genuine, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_accepted_is_sent_again_with_its_id() {
    let (demo, secret) = (Demo::start().await, Secret::new());
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let receiver = RawBackend::start(move |mut connection| {
        let counter = Arc::clone(&counter);
        async move {
            while connection.request().await.is_some() {
                let answer = match counter.fetch_add(1, Ordering::SeqCst) {
                    0 => "HTTP/1.1 503 Away\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
                    1 => "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
                    _ => OK,
                };
                if connection.send(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway =
        Gateway::with(yaml(&demo, &secret, &receiver.url(), "    events: [session.started]\n")).await;
    assert_eq!(Call::chat("hello").session("s").send(gateway.proxy()).await.status(), 200);
    let messages = messages(&receiver, 3).await;
    let ids: Vec<_> = messages.iter().map(|message| message.head.field("webhook-id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(messages.iter().all(|message| secret.verified(message)["data"]["id"] == "s"));
    let series = |result: &str| format!("elida_webhook_messages_total{{result={result:?},webhook=\"soc\"}}");
    within("the count", async {
        while count(&gateway, &series("delivered")).await < 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(count(&gateway, &series("failed")).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_delays_neither_requests_nor_other_receivers_and_a_reload_moves_what_waits() {
    let (demo, secret) = (Demo::start().await, Secret::new());
    let (silent, receiver) = (RawBackend::not_accepting().await, RawBackend::answering(OK).await);
    let hooks = |first: &str| {
        let second = format!(
            "  - {{ name: other, url: {:?}, secret_file: {:?}, allow_private: true, events: [session.started] }}\n",
            receiver.url(),
            secret.file()
        );
        yaml(&demo, &secret, first, "    events: [session.started]\n") + &second
    };
    let gateway = Gateway::with(hooks(&silent.url())).await;
    for number in 0..20 {
        let call = Call::chat("hello").session(&format!("s-{number}"));
        assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!(messages(&receiver, 20).await.len(), 20, "the other receiver has them at once");
    // Nothing waits for the receiver that hangs, once it has another address.
    let moved = RawBackend::answering(OK).await;
    gateway.rewrite(&hooks(&moved.url()));
    gateway.hangup();
    let told = messages(&moved, 20).await;
    let mut ids: Vec<String> = told
        .iter()
        .map(|message| secret.verified(message)["data"]["id"].as_str().expect("an id").to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_are_refused_unless_they_are_allowed() {
    let (demo, secret) = (Demo::start().await, Secret::new());
    // The name of this machine leads to it, whatever the address is; only its look-up shows that.
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let receiver = RawBackend::on(listener, async |mut connection| {
        while connection.request().await.is_some() && connection.send(OK).await.is_ok() {}
    });
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let url = format!("http://{}:{port}/", name.trim());
    let open = yaml(&demo, &secret, &url, "    events: [session.started]\n");
    let closed = open.replace("allow_private: true", "allow_private: false");
    let gateway = Gateway::with(&closed).await;
    assert_eq!(Call::chat("hello").session("s").send(gateway.proxy()).await.status(), 200);
    within("the attempts", async {
        while count(&gateway, "elida_webhook_messages_total{result=\"failed\",webhook=\"soc\"}").await < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(receiver.connections(), 0);
    // The same receiver is called where it is allowed.
    gateway.rewrite(&open);
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(Call::chat("hello").session("t").send(gateway.proxy()).await.status(), 200);
    receiver.until("a message", |receiver| !receiver.requests().is_empty()).await;
    for (from, to, part) in [
        (url.as_str(), "http://10.0.0.1/", "its address is private"),
        (url.as_str(), "https://[::ffff:127.0.0.1]/", "its address is private"),
        (url.as_str(), "ftp://a.example/", "not an http or https URL"),
        ("session.started", "session.begun", "there is no event 'session.begun'"),
        ("events:", "when: request.model == 'a'\n    events:", "request.model is not known here"),
        ("/secret\"", "/no-such-file\"", "the secret cannot be used"),
    ] {
        gateway.rewrite(&closed.replace(from, to));
        gateway.hangup();
        gateway.log_until(|line| line.to_string().contains(part)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_kills_and_changes_by_operators_leave_as_ocsf() {
    let (demo, secret, receiver) = (Demo::start().await, Secret::new(), RawBackend::answering(OK).await);
    let syslog = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let file = secret.folder.path().join("ocsf.ndjson");
    let more = format!(
        "    format: ocsf\nocsf: {{ file: {file:?}, syslog: 'udp://{}' }}\npolicy:\n  rules:\n    - {{ id: no-bob, on: request, \
         when: 'session.id == \"bob\"', action: block, severity: high, owasp: LLM06 }}\n",
        syslog.local_addr().expect("an address")
    );
    let gateway = Gateway::with(yaml(&demo, &secret, &receiver.url(), &more)).await;
    assert_eq!(Call::chat("hello").session("bob").send(gateway.proxy()).await.status(), 403);
    assert_eq!(Call::chat("hello").session("ann").send(gateway.proxy()).await.status(), 200);
    assert_eq!(gateway.kill("ann").await.status, 200);
    let told: Vec<Value> =
        messages(&receiver, 3).await.iter().map(|message| secret.verified(message)).collect();
    let of = |class: u64, text: &str| {
        let fits = |event: &&Value| event["class_uid"] == class && event.to_string().contains(text);
        told.iter().find(fits).unwrap_or_else(|| panic!("no {class} of {text}: {told:#?}"))
    };
    let found = of(2004, "no-bob");
    assert_eq!((&found["severity_id"], &found["disposition_id"]), (&json!(4), &json!(2)), "{found}");
    assert_eq!(found["resources"][0]["uid"], "bob", "{found}");
    assert_eq!(of(2004, "killed")["message"], "runaway");
    let change = of(3004, "killSession");
    assert_eq!((&change["comment"], &change["activity_id"]), (&json!("runaway"), &json!(3)), "{change}");
    within("the file", async {
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<Value> =
                text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            if lines.len() == 3 {
                assert!(lines.iter().all(|line| line["metadata"]["version"] == "1.8.0"), "{text}");
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut packet = vec![0; 64 << 10];
    for _ in 0..3 {
        let length = within("a packet", syslog.recv(&mut packet)).await.expect("a packet");
        let text = String::from_utf8_lossy(&packet[..length]).into_owned();
        assert!(text.starts_with("<109>1 2") && text.contains(" ocsf - {"), "{text}");
    }
}
