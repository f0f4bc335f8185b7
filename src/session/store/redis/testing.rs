//! A real redis-server for tests of the store and of replication.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::redis::{Keys, Link, RedisConfig, Settings};
use crate::session::store::RedisStore;
use crate::settings::fault::Faults;

/// A redis-server of its own, without persistence; ends when it is dropped.
pub(in crate::session) struct Server {
    child: Child,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Server {
    pub(in crate::session) fn start() -> Self {
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

    fn settings(&self) -> Settings {
        let written: RedisConfig = serde_yaml::from_str(&format!("addr: '127.0.0.1:{}'", self.port)).unwrap();
        written.compile(&mut Faults::default()).unwrap()
    }

    /// A store of an instance with this name, whose link is up.
    pub(in crate::session) async fn store(&self, instance: &str) -> RedisStore {
        let settings = self.settings();
        let link = Link::new(&settings).unwrap();
        link.connect();
        let ready = async {
            while link.ping().await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ready).await.unwrap();
        link.up();
        RedisStore::new(link, Keys::new(&settings), instance.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
