//! A real Redis Cluster for one test: masters and replicas, each with its own folder.

use std::process::{Command, Output};
use std::time::Duration;

use super::redis::{Redis, free_address};
use super::{Shared, within};

/// A node counts as failed after this many milliseconds; a replica is promoted soon after.
const NODE_TIMEOUT: &str = "1000";

/// A running cluster.
pub struct Cluster {
    pub servers: Vec<Redis>,
    url: String,
}

impl Cluster {
    /// Starts this many masters, each with this many replicas.
    pub async fn start(masters: usize, copies: usize) -> Self {
        let mut servers = Vec::new();
        for _ in 0..masters * (1 + copies) {
            let bus = free_address().port().to_string();
            let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let more = ["--cluster-node-timeout", NODE_TIMEOUT, "--cluster-replica-validity-factor", "0"];
            servers.push(Redis::with(&[&arguments[..], &more[..]].concat()).await);
        }
        let addresses: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
        let (first, last) = (&addresses[0], &addresses[addresses.len() - 1]);
        let cluster = Self { url: format!("redis-cluster://{first}?node={last}"), servers };
        let mut words = vec!["--cluster", "create"];
        words.extend(addresses.iter().map(String::as_str));
        let copies = copies.to_string();
        words.extend(["--cluster-replicas", &copies, "--cluster-yes"]);
        cluster.cli(&words).await;
        cluster.whole().await;
        cluster
    }

    /// Waits until every running node reports the cluster as complete.
    pub async fn whole(&self) {
        within("the cluster", async {
            for server in self.servers.iter().filter(|server| server.is_running()) {
                while !server.ask(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok") {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
        .await;
    }

    /// Runs redis-cli; it must succeed. Returns its output.
    pub async fn cli(&self, words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let shown = words.join(" ");
        let run = tokio::task::spawn_blocking(move || {
            Command::new("redis-cli").args(words).output().expect("redis-cli (it comes with redis-server)")
        });
        let Output { status, stdout, stderr } = run.await.expect("redis-cli");
        let reply = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        assert!(status.success(), "redis-cli {shown}: {reply}");
        reply
    }

    /// A node's id.
    pub async fn name(&self, server: usize) -> String {
        let reply = self.servers[server].ask(&["CLUSTER", "MYID"]).await;
        reply.lines().last().expect("a name").to_owned()
    }

    /// The running masters.
    pub async fn masters(&self) -> Vec<usize> {
        let mut masters = Vec::new();
        for (number, server) in self.servers.iter().enumerate() {
            if server.is_running() && server.ask(&["ROLE"]).await.contains("master") {
                masters.push(number);
            }
        }
        masters
    }

    /// The masters at which gateways are subscribed.
    pub async fn subscribed_masters(&self) -> Vec<usize> {
        let mut subscribed = Vec::new();
        for number in self.masters().await {
            let reply = self.servers[number].ask(&["PUBSUB", "NUMSUB", "elida:end"]).await;
            if !reply.ends_with(":0") {
                subscribed.push(number);
            }
        }
        subscribed
    }

    /// The slot of a key, and the node that owns it.
    pub async fn slot(&self, key: &str) -> (String, usize) {
        let reply = self.servers[0].ask(&["CLUSTER", "KEYSLOT", key]).await;
        let slot = reply.trim_start_matches(':').to_owned();
        for number in self.masters().await {
            let reply = self.servers[number].ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).await;
            let has = self.servers[number].ask(&["EXISTS", key]).await;
            if reply.starts_with(':') && !has.starts_with('-') {
                return (slot, number);
            }
        }
        panic!("no node owns slot {slot}");
    }
}

impl Shared for Cluster {
    fn url(&self) -> &str {
        &self.url
    }
}
