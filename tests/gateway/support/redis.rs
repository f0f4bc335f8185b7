//! A real redis-server for one test: on a free port, in a temporary folder, without persistence.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::gateway::signal;
use super::{Shared, within};

/// A running server; killed when dropped.
pub struct Redis {
    child: Option<Child>,
    folder: TempDir,
    address: SocketAddr,
    arguments: Vec<String>,
    url: String,
}

/// A free port.
pub(super) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

impl Redis {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A cluster with a single node.
    pub async fn cluster() -> Self {
        let port = free_address().port().to_string();
        let mut redis = Self::with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &port,
            "--cluster-announce-ip",
            "127.0.0.1",
        ])
        .await;
        redis.url = format!("redis-cluster://{}", redis.address);
        redis.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
        within("the cluster", async {
            while !redis.ask(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok") {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        redis
    }

    /// A replica of this server.
    pub async fn replica(&self) -> Self {
        let replica = Self::with(&["--replicaof", "127.0.0.1", &self.address.port().to_string()]).await;
        within("the copy", async {
            while !replica.ask(&["INFO", "replication"]).await.contains("master_link_status:up") {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        replica
    }

    /// A sentinel that promotes a replica when this server is gone; from now on gateways use it.
    pub async fn sentinel(&mut self) -> Self {
        let (folder, address) = (tempfile::tempdir().expect("a folder"), free_address());
        let file = folder.path().join("sentinel.conf");
        let config = format!(
            "port {}\nbind 127.0.0.1\nsentinel monitor fleet 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds fleet 500\nsentinel failover-timeout fleet 3000\n",
            address.port(),
            self.address.port()
        );
        std::fs::write(&file, config).expect("the configuration");
        let arguments = vec![file.to_string_lossy().into_owned(), "--sentinel".to_owned()];
        let url = format!("redis-sentinel://{address}/0?sentinelServiceName=fleet");
        self.url.clone_from(&url);
        let mut sentinel = Self { child: None, folder, address, arguments, url };
        let arguments = sentinel.arguments.clone();
        sentinel.spawn(&arguments).await;
        within("the sentinel to know the copy", async {
            while !sentinel.ask(&["SENTINEL", "MASTERS"]).await.contains("num-slaves\r\n$1\r\n1") {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await;
        sentinel
    }

    /// The URL for gateways.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts a server with these arguments beside its port and folder.
    pub async fn with(arguments: &[&str]) -> Self {
        let (folder, address) = (tempfile::tempdir().expect("a folder"), free_address());
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let url = format!("redis://{address}/0");
        let mut redis = Self { child: None, folder, address, arguments, url };
        redis.run().await;
        redis
    }

    /// Starts it again on the same port; it is empty, since nothing was saved.
    pub async fn run(&mut self) {
        let port = self.address.port().to_string();
        let folder = self.folder.path().to_string_lossy().into_owned();
        let own =
            ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", &folder];
        let mut arguments: Vec<String> = own.map(str::to_owned).into();
        arguments.extend(self.arguments.clone());
        self.spawn(&arguments).await;
    }

    async fn spawn(&mut self, arguments: &[String]) {
        let child = Command::new("redis-server")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server (sh .ci/setup --tests installs it)");
        self.child = Some(child);
        within("redis-server", async {
            while TcpStream::connect(self.address).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Kills it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Stops the process (SIGSTOP): it keeps its connections and does not reply.
    pub fn freeze(&self) {
        assert!(signal(self.child.as_ref().expect("a running server").id(), "STOP"));
    }

    pub fn thaw(&self) {
        assert!(signal(self.child.as_ref().expect("a running server").id(), "CONT"));
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one command; returns the reply as text (RESP2), without its last line break.
    pub async fn ask(&self, command: &[&str]) -> String {
        within("an answer of redis", async {
            let mut stream = TcpStream::connect(self.address).await.expect("redis");
            let mut request = format!("*{}\r\n", command.len());
            for part in command {
                request += &format!("${}\r\n{part}\r\n", part.len());
            }
            // The reply to PING marks the end of the reply.
            request += "*1\r\n$4\r\nPING\r\n";
            stream.write_all(request.as_bytes()).await.expect("redis");
            let mut answer = Vec::new();
            while !answer.ends_with(b"+PONG\r\n") {
                assert!(stream.read_buf(&mut answer).await.expect("redis") > 0, "redis hung up");
            }
            let text = String::from_utf8_lossy(&answer).into_owned();
            text.trim_end_matches("+PONG\r\n").trim_end().to_owned()
        })
        .await
    }
}

impl Shared for Redis {
    fn url(&self) -> &str {
        self.url()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
