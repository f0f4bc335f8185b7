use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

use crate::fleet::shared::store_is_up;
use crate::support::redis::Redis;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway};

const PASSWORD: &str = "not-to-be-seen-4711";

/// A server with its own certificate authority, and the Redis user that the documentation describes.
struct Guarded {
    redis: Redis,
    folder: tempfile::TempDir,
    port: u16,
}

impl Guarded {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file");
            path.to_string_lossy().into_owned()
        };
        let authority = || {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
        };
        let (ours, other) = (authority(), authority());
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).and_then(|params| params.signed_by(&key, &ours));
        let ca = write("ca.pem", &ours.pem());
        write("other.pem", &other.pem());
        write("password", &format!("{PASSWORD}\n"));
        write("wrong", "wrong-but-not-to-be-seen-4712\n");
        let certificate = write("server.pem", &certificate.expect("a certificate").pem());
        let key = write("server.key", &key.serialize_pem());
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let redis = Redis::with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            "no",
        ])
        .await;
        let line = documented();
        let mut words = vec!["ACL", "SETUSER"];
        words.extend(line.split(' ').skip(1));
        assert_eq!(redis.ask(&words).await, "+OK");
        Self { redis, folder, port }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn yaml(&self, demo: &Demo, ca: &str, password: &str) -> String {
        format!(
            "backend: {:?}\nsession:\n  store: redis\n  redis:\n    addr: \"localhost:{}\"\n    username: elida\n    \
             password_file: {:?}\n    flush_interval: 200ms\n    tls: {{ enabled: true, ca_file: {:?} }}\n",
            demo.url(),
            self.port,
            self.file(password),
            self.file(ca)
        )
    }
}

/// The line of the access list in docs/operations.md.
pub(crate) fn documented() -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md"));
    let text = text.expect("the documentation");
    let line =
        text.lines().find(|line| line.starts_with("user elida on ")).expect("the line for the ACL file");
    line.replace(">PASSWORD", &format!(">{PASSWORD}"))
}

async fn doctor(gateway: &Gateway) -> Output {
    let file = gateway.program().with_file_name("elida.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
    command.args(["doctor", "-c"]).arg(file).env_clear();
    tokio::task::spawn_blocking(move || command.output().expect("doctor")).await.expect("doctor")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_the_documented_rights_is_enough_for_a_fleet_over_tls() {
    let (demo, guarded) = (Demo::start().await, Guarded::start().await);
    let yaml = guarded.yaml(&demo, "ca.pem", "password");
    let gateways = [Gateway::with(&yaml).await, Gateway::with(&yaml).await];
    for gateway in &gateways {
        store_is_up(gateway, true).await;
        assert_eq!(Call::chat("hello").session("one").send(gateway.proxy()).await.status(), 200);
    }
    gateways[0].session_until("one", |session| session["request_count"] == 2).await;
    let mut client = Call::chat_stream("[[stall]]").session("one").open(gateways[1].proxy()).await;
    client.until("\"delta\":{\"content\":\"").await;
    let killed = gateways[0].kill("one").await;
    assert_eq!((killed.status, &killed.body["instances_notified"]), (200, &Value::from(2)), "{killed:?}");
    let cut = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(cut.text().contains("session_killed"), "{}", cut.text());
    assert_eq!(crate::fleet::shared::record(&gateways, "one").await["request_count"], 3);
    assert_eq!(gateways[1].resume("one").await, 200);
    assert_eq!(gateways[0].operator().await.get("/control/sessions").await.status(), 200);
    let report = doctor(&gateways[0]).await;
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("redis") && report.contains("version 7"), "{report}");
    assert_eq!(guarded.redis.ask(&["ACL", "LOG"]).await, "*0", "no right lacks");
    for gateway in &gateways {
        let log = gateway.log_text();
        assert!(!log.contains("redis does not answer") && !log.contains("cannot be"), "{log}");
        assert!(!log.contains("not-to-be-seen"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_in_that_does_not_work_is_told_with_its_key_and_its_remedy() {
    let (demo, guarded) = (Demo::start().await, Guarded::start().await);
    let password = "correct session.redis.username and password, or password_file";
    tokio::join!(
        refused(&demo, &guarded, "ca.pem", "wrong", password),
        refused(&demo, &guarded, "other.pem", "password", "session.redis.tls.ca_file"),
    );
}

/// A gateway with a wrong password or authority serves by itself; readiness, log and doctor name the `key`.
async fn refused(demo: &Demo, guarded: &Guarded, ca: &str, password: &str, key: &str) {
    let gateway = Gateway::with(guarded.yaml(demo, ca, password)).await;
    // The instance serves by itself.
    let ready = crate::support::within("readiness", async {
        loop {
            let ready = gateway.operator().await.get("/health/readiness").await;
            let warning = ready.json()["warning"].as_str().unwrap_or_default().to_owned();
            if ready.status() == 200 && warning.contains("does not answer") {
                return warning;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(ready.contains(key), "{ready}");
    assert_eq!(Call::chat("hello").session("alone").send(gateway.proxy()).await.status(), 200);
    let line = gateway
        .log_until(|line| {
            line["level"] == "ERROR" && line["why"].as_str().is_some_and(|why| why.contains(key))
        })
        .await;
    assert!(line["message"].as_str().is_some_and(|text| text.starts_with("redis does not")), "{line}");
    let report = doctor(&gateway).await;
    assert_eq!(report.status.code(), Some(1), "{report:?}");
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains(key), "{report}");
    for text in [report, gateway.log_text(), gateway.noise()] {
        assert!(!text.contains("not-to-be-seen"), "{text}");
    }
}
