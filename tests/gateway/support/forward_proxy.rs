//! Forward proxies: one for programs under test, which refuses all connections to other hosts and records which ones
//! were requested, and one in front of backends.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The proxy; stopped when dropped.
pub struct ForwardProxy {
    address: SocketAddr,
    requested_hosts: Arc<Mutex<BTreeSet<String>>>,
    accepting: JoinHandle<()>,
}

impl ForwardProxy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let requested_hosts = Arc::new(Mutex::new(BTreeSet::new()));
        let recorded = Arc::clone(&requested_hosts);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut line = String::new();
                // Bytes that are not a request line are not recorded; the connection ends in both cases.
                let _ = BufReader::new(stream).read_line(&mut line).await;
                if let Some(target) = line.split(' ').nth(1) {
                    recorded.lock().expect("the recorder").insert(target.trim_end_matches(":443").to_owned());
                }
            }
        });
        Self { address, requested_hosts, accepting }
    }

    /// Routes all traffic of this program that is not for loopback through this proxy.
    pub fn set_for(&self, command: &mut Command) {
        let proxy = format!("http://{}", self.address);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env(name, &proxy);
        }
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    }

    /// The requested hosts, sorted.
    pub fn requested_hosts(&self) -> Vec<String> {
        self.requested_hosts.lock().expect("the recorder").iter().cloned().collect()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The proxy of a company: whatever host is wanted, it leads to one server. Stopped when dropped.
pub struct EgressProxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl EgressProxy {
    /// Leads to this server; with `refusal`, answers that instead.
    pub async fn start(target: SocketAddr, refusal: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&heads);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relay(stream, target, refusal, Arc::clone(&recorded)));
            }
        });
        Self { address, heads, accepting }
    }

    /// Its URL with these credentials (`user:password@`, or nothing).
    pub fn url(&self, credentials: &str) -> String {
        format!("http://{credentials}{}", self.address)
    }

    /// The first head of each connection.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("the recorder").clone()
    }
}

impl Drop for EgressProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(
    mut client: TcpStream,
    target: SocketAddr,
    refusal: Option<&'static str>,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
            break end + 4;
        }
        if !matches!(client.read_buf(&mut read).await, Ok(1..)) {
            return;
        }
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let is_tunnel = head.starts_with("CONNECT ");
    heads.lock().expect("the recorder").push(head);
    if let Some(refusal) = refusal {
        let _ = client.write_all(refusal.as_bytes()).await;
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let begun = match is_tunnel {
        true => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await,
        false => server.write_all(&read).await,
    };
    if begun.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
