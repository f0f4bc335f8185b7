use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::forward_proxy::EgressProxy;
use crate::support::wire::Message;
use crate::support::{Call, Gateway, within};

const BODY: &[u8] = b"{\"over\":\"tls\"}";

/// A TLS backend with a certificate for one name, issued by its own authority.
struct Secure {
    address: SocketAddr,
    /// The file of the authority's certificate.
    folder: TempDir,
    /// Decrypted request bytes.
    received: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Secure {
    async fn start(name: &str) -> Self {
        Self::serving(name, serve).await
    }

    /// Runs `handle` for each connection.
    async fn serving<F, Fut>(name: &str, handle: F) -> Self
    where
        F: Fn(TlsAcceptor, TcpStream, Arc<AtomicUsize>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let names = CertificateParams::new([name.to_owned()]).expect("a name");
        let leaf = names.signed_by(&key, &authority).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("a file");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("a TLS configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let received = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, accepted) = (Arc::clone(&received), Arc::clone(&connections));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(handle(acceptor.clone(), stream, Arc::clone(&counted)));
            }
        });
        Self { address, folder, received, connections, accepting }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn received(&self) -> usize {
        self.received.load(Ordering::SeqCst)
    }

    fn ca(&self) -> std::path::PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Sends a request through a gateway whose backend has this host and these `tls` keys.
    async fn ask(&self, host: &str, tls: &str) -> Message {
        let url = format!("https://{host}:{}", self.address.port());
        let gateway = Gateway::with(format!(
            "backends:\n  secure: {{ url: {url:?}, type: openai, tls: {{ {tls} }} }}\n"
        ))
        .await;
        let call = Call::chat("hello").header("authorization", "Bearer sk-secret");
        let answer = call.send(gateway.proxy()).await;
        if answer.status() != 200 {
            let line = gateway.access_line("/v1/chat/completions").await;
            assert_eq!(line["outcome"], "backend_unavailable", "{line}");
        }
        answer
    }

    async fn is_refused(&self, host: &str, tls: &str) {
        let answer = self.ask(host, tls).await;
        assert_eq!(answer.status(), 502, "{}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "backend_unavailable");
        assert_eq!(self.received(), 0, "not a byte for a backend that is not who it should be");
    }

    async fn is_served(&self, host: &str, tls: &str) {
        let before = self.received();
        let answer = self.ask(host, tls).await;
        assert_eq!((answer.status(), answer.body.as_slice()), (200, BODY), "{}", answer.text());
        assert!(self.received() > before);
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Answers each request as soon as its head arrives; the body is read as it comes.
async fn serve(acceptor: TlsAcceptor, stream: TcpStream, received: Arc<AtomicUsize>) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut buffer = [0; 16 * 1024];
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", BODY.len());
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        received.fetch_add(length, Ordering::SeqCst);
        let written = stream.write_all(&[answer.as_bytes(), BODY].concat()).await;
        if written.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// Answers the first request of each connection; the next one finds it closed without a `close_notify` (RFC 8446, 6.1).
async fn close_abruptly(acceptor: TlsAcceptor, stream: TcpStream, heads: Arc<AtomicUsize>, reads_all: bool) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", BODY.len());
    for is_first in [true, false] {
        let mut received = Vec::new();
        let mut end = 0;
        while received.len() < end || end == 0 {
            if !matches!(stream.read_buf(&mut received).await, Ok(1..)) {
                return;
            }
            if let (0, Some(head)) = (end, memchr::memmem::find(&received, b"\r\n\r\n")) {
                heads.fetch_add(1, Ordering::SeqCst);
                let text = String::from_utf8_lossy(&received[..head]).to_lowercase();
                let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                end = head + 4 + length.map_or(0, |length| length.parse().expect("a length"));
                if !is_first && !reads_all {
                    break;
                }
            }
        }
        if is_first {
            let written = stream.write_all(&[answer.as_bytes(), BODY].concat()).await;
            if written.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
    // Dropping the TCP stream below TLS ends it with a FIN, or a reset when bytes are unread.
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_ends_without_a_close_notify_is_sent_over_again() {
    for reads_all in [true, false] {
        let heads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&heads);
        let backend = Secure::serving("localhost", move |acceptor, stream, _| {
            close_abruptly(acceptor, stream, Arc::clone(&counted), reads_all)
        })
        .await;
        let gateway = Gateway::with(format!(
            "backends:\n  secure: {{ url: 'https://localhost:{}', type: openai, tls: {{ {} }} }}\n",
            backend.address.port(),
            ca_file(&backend.ca())
        ))
        .await;
        // What is not written completely is sent again, whatever it asks for; what may have been processed only if it
        // is idempotent.
        let large = Call::chat(&"x".repeat(8 << 20));
        let cases = match reads_all {
            true => vec![(Call::get("/get"), 200, 2), (Call::chat("hello"), 502, 1)],
            false => vec![(large, 200, 2)],
        };
        for (call, status, sent) in cases {
            within("a request on the kept connection", async {
                loop {
                    if Call::get("/first").send(gateway.proxy()).await.status() != 200 {
                        continue;
                    }
                    let (before, connections) = (heads.load(Ordering::SeqCst), backend.connections());
                    let answer = call.send(gateway.proxy()).await;
                    let seen = heads.load(Ordering::SeqCst) - before;
                    if seen > 1 || backend.connections() == connections {
                        assert_eq!((answer.status(), seen), (status, sent), "{}", answer.text());
                        break;
                    }
                }
            })
            .await;
        }
    }
}

fn ca_file(path: &Path) -> String {
    format!("ca_file: {path:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_authority_is_refused() {
    Secure::start("localhost").await.is_refused("localhost", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_authority_is_trusted_and_no_other() {
    let [backend, other] = [Secure::start("localhost").await, Secure::start("localhost").await];
    backend.is_refused("localhost", &ca_file(&other.ca())).await;
    backend.is_served("localhost", &ca_file(&backend.ca())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused() {
    let backend = Secure::start("models.example").await;
    let ca = ca_file(&backend.ca());
    backend.is_refused("localhost", &ca).await;
    backend.is_refused("127.0.0.1", &ca).await;
    backend.is_refused("localhost", &format!("{ca}, server_name: other.example")).await;
    backend.is_served("localhost", &format!("{ca}, server_name: models.example")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_checks_certificates_and_sends_nothing() {
    let backend = Secure::start("models.example").await;
    let port = backend.address.port();
    let doctor = async |tls: &str| {
        let file = backend.folder.path().join("elida.yaml");
        let yaml = format!(
            "listen: '127.0.0.1:0'\ncontrol: {{ listen: '127.0.0.1:0' }}\ndata_dir: {:?}\nbackends:\n\
             \x20 secure: {{ url: 'https://localhost:{port}', type: openai, tls: {{ {tls} }} }}\n",
            backend.folder.path()
        );
        std::fs::write(&file, yaml).expect("a file");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_elida"));
        command.arg("doctor").arg("-c").arg(&file).env_clear();
        let output = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
        let output = output.await.expect("a run");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let ca = ca_file(&backend.ca());
    let (code, out) = doctor(&format!("{ca}, server_name: models.example")).await;
    assert!(code == Some(0) && out.contains("certificate checked"), "{out}");
    for wrong in [ca.as_str(), "server_name: models.example"] {
        let (code, out) = doctor(wrong).await;
        assert!(
            code == Some(1) && out.contains("FAIL  backends.secure: no TLS with https://localhost"),
            "{out}"
        );
        assert!(out.contains("invalid peer certificate"), "it says why: {out}");
    }
    assert_eq!(backend.received(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_can_be_turned_off() {
    let backend = Secure::start("models.example").await;
    backend.is_served("localhost", "insecure_skip_verify: true").await;
    backend.is_served("127.0.0.1", "insecure_skip_verify: true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_without_tls_is_not_spoken_to_in_clear() {
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = plain.local_addr().expect("an address").port();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.expect("a connection");
        let mut first = vec![0; 4096];
        let length = stream.read(&mut first).await.expect("some bytes");
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
        first.truncate(length);
        first
    });
    let gateway = Gateway::with(format!(
        "backends:\n  secure: {{ url: \"https://localhost:{port}\", type: openai, \
         tls: {{ insecure_skip_verify: true }} }}\n"
    ))
    .await;
    let answer = Call::chat("hello").header("authorization", "Bearer sk-secret").send(gateway.proxy()).await;
    assert_eq!((answer.status(), &answer.json()["error"]["code"]), (502, &json!("backend_unavailable")));
    let first = seen.await.expect("what the backend saw");
    assert_eq!(first.first(), Some(&0x16), "the first byte is a TLS handshake (RFC 8446, 5.1)");
    assert!(memchr::memmem::find(&first, b"sk-secret").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_opens_a_tunnel_and_sees_nothing_of_the_request() {
    let backend = Secure::start("models.test").await;
    let proxy = EgressProxy::start(backend.address, None).await;
    let yaml = format!(
        "backends:\n  secure: {{ url: 'https://models.test', type: openai, proxy: '{}', tls: {{ {} }} }}\n",
        proxy.url("user:pa%20ss@"),
        ca_file(&backend.ca())
    );
    let gateway = Gateway::with(&yaml).await;
    // A connection is kept a moment after its answer has been read.
    let mut asked = 0;
    within("a request on the kept connection", async {
        while proxy.heads().len() == asked {
            let answer = Call::chat("hello").send(gateway.proxy()).await;
            assert_eq!((answer.status(), answer.body.as_slice()), (200, BODY), "{}", answer.text());
            asked += 1;
        }
    })
    .await;
    let connect = "CONNECT models.test:443 HTTP/1.1\r\nHost: models.test:443\r\n\
        Proxy-Authorization: Basic dXNlcjpwYSBzcw==\r\n\r\n";
    assert!(proxy.heads().iter().all(|head| head == connect), "{:?}", proxy.heads());

    // The certificate is checked behind the proxy, too.
    let other = Secure::start("other.test").await;
    let wrong = EgressProxy::start(other.address, None).await;
    let gateway = Gateway::with(yaml.replace(&proxy.url("user:pa%20ss@"), &wrong.url(""))).await;
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 502);
    assert_eq!(other.received(), 0);
}
