//! A forward proxy for programs under test: it refuses all connections to other hosts and records
//! which ones were requested.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
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
