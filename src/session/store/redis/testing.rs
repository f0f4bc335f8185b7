//! Stores on a real redis-server, for tests of the store and of replication.

pub(in crate::session) use crate::redis::testing::Server;
use crate::session::store::RedisStore;

impl Server {
    /// A store of an instance with this name, whose link is up.
    pub(in crate::session) async fn store(&self, instance: &str) -> RedisStore {
        RedisStore::new(self.link().await, self.keys(), instance.to_owned())
    }
}
