//! The contract of every store, over a real redis-server.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use futures::StreamExt;

use crate::redis::{Settings, Written as WrittenSettings};
use crate::session::model::State;
use crate::session::snapshot::Filter;
use crate::session::store::SessionStore;
use crate::session::store::contract;
use crate::settings::fault::Faults;

/// A redis-server of its own, without persistence; ends with the value.
struct Server {
    child: Child,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Server {
    fn start() -> Self {
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
        let written: WrittenSettings =
            serde_yaml::from_str(&format!("addr: '127.0.0.1:{}'", self.port)).unwrap();
        written.compile(&mut Faults::default()).unwrap()
    }

    async fn store(&self) -> RedisStore {
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
        RedisStore::new(link, Keys::new(&settings), "here".to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A store and its server.
struct Spawned {
    store: RedisStore,
    _server: Server,
}

async fn spawned() -> Spawned {
    let server = Server::start();
    Spawned { store: server.store().await, _server: server }
}

fn store_of(spawned: &Spawned) -> &RedisStore {
    &spawned.store
}

contract::suite!(spawned().await, store_of);

/// Fills a store with ended sessions and times some lists; gives the slowest.
async fn time_lists(count: usize) -> Duration {
    let spawned = spawned().await;
    let store = &spawned.store;
    let puts = futures::stream::iter(0..count).map(|_| contract::fill(store));
    puts.buffer_unordered(64).for_each(async |()| {}).await;
    let mut slowest = Duration::ZERO;
    for query in [
        Filter::default(),
        Filter::in_state(State::Active),
        Filter::in_state(State::TimedOut),
        Filter { principal: Some("cred:bob".to_owned()), ..Filter::default() },
        Filter { client: Some("codex".to_owned()), ..Filter::default() },
        Filter { backend: Some("nowhere".to_owned()), ..Filter::default() },
        Filter { q: Some("no such text".to_owned()), ..Filter::default() },
    ] {
        let begun = std::time::Instant::now();
        let found = store.list(&query).await.unwrap();
        slowest = slowest.max(begun.elapsed());
        eprintln!("{count} ended: {:?} for {query:?}, {} found", begun.elapsed(), found.sessions.len());
        assert_eq!(found.searched_to, None);
    }
    slowest
}

#[tokio::test]
#[ignore = "writes 30,000 sessions: for measuring"]
async fn lists_over_many_ended_sessions() {
    time_lists(30_000).await;
}
