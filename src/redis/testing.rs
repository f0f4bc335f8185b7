//! A real redis-server for unit tests.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::{Keys, Link, RedisConfig, Settings};
use crate::settings::fault::Faults;

/// A redis-server of its own, without persistence; ends when it is dropped.
pub(crate) struct Server {
    child: Child,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server (sh .ci/setup --tests installs it)");
        Self { child, _folder: folder, port }
    }

    /// Lets it hang: connections stay open, and nothing is answered.
    pub(crate) fn hang(&self) {
        let hangs = Command::new("kill").args(["-STOP", &self.child.id().to_string()]).status();
        assert!(hangs.unwrap().success());
    }

    fn settings(&self) -> Settings {
        let written: RedisConfig = serde_yaml::from_str(&format!("addr: '127.0.0.1:{}'", self.port)).unwrap();
        written.compile(&mut Faults::default()).unwrap()
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys::new(&self.settings())
    }

    /// A link that is up.
    pub(crate) async fn link(&self) -> Arc<Link> {
        let link = Link::new(&self.settings()).unwrap();
        link.connect();
        let ready = async {
            while link.ping().await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ready).await.unwrap();
        link.up();
        link
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
