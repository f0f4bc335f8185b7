//! Routes commands to servers.
//!
//! Without a cluster there is one server. In a cluster each key has a slot and each slot a server, which the
//! servers report. This is done here and not by the client crate, which on `ASK` takes the answer to another
//! command for its own (docs/adr/0023).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::prelude::*;
use fred::types::cluster::ClusterRouting;
use fred::types::config::Server;
use futures::future::join_all;
use parking_lot::RwLock;

use super::call::{Call, NextStep, command};
use super::connect::{ANSWER, LinkError};
use super::plan::{Notices, Plan};

/// How long to wait for the slot map of one server.
const MAP: Duration = Duration::from_millis(100);
/// How often the slot map is read even if nothing indicates a change.
const STALE: Duration = Duration::from_secs(5);
/// The first delay before a command is sent again whose keys are on two servers; it doubles.
const PAUSE: Duration = Duration::from_millis(2);
/// How long connections to a server without slots are kept, because slots may be on their way to it.
const IDLE: Duration = Duration::from_secs(60);

/// The servers that own the keys.
pub(super) enum Servers {
    /// One server, whose address may come from sentinels.
    One(Pool),
    /// The servers of a cluster.
    Cluster(Arc<Cluster>),
}

/// A command without a final answer: its index, and where to send it if not to the owner of its slot.
struct Open {
    at: usize,
    redirect: Option<Server>,
    asking: bool,
}

/// Commands for one server.
struct Batch {
    server: Option<Server>,
    pool: Pool,
    open: Vec<Open>,
}

impl Servers {
    pub(super) fn new(plan: &Plan, notices: &Arc<Notices>) -> Result<Self, LinkError> {
        Ok(match plan.cluster() {
            None => Self::One(plan.pool(None)?),
            Some(seeds) => Self::Cluster(Arc::new(Cluster::new(plan.clone(), notices.clone(), seeds)?)),
        })
    }

    /// Starts connecting, on the current runtime.
    pub(super) fn connect(&self, notices: &Arc<Notices>) {
        match self {
            Self::One(pool) => notices.connect(pool),
            Self::Cluster(cluster) => cluster.seeds.iter().for_each(|(_, pool)| notices.connect(pool)),
        }
    }

    /// Closes all connections.
    pub(super) async fn quit(&self) {
        match self {
            Self::One(pool) => drop(pool.quit().await),
            Self::Cluster(cluster) => drop(join_all(cluster.all().iter().map(Pool::quit)).await),
        }
    }

    /// Connections to each server that owns keys.
    pub(super) fn pools(&self) -> Vec<Pool> {
        match self {
            Self::One(pool) => vec![pool.clone()],
            Self::Cluster(cluster) => cluster.owners().into_iter().map(|(_, pool)| pool).collect(),
        }
    }

    /// Connections to each server that may forward messages, including those that owned keys recently.
    pub(super) fn all_connected(&self) -> Vec<Pool> {
        match self {
            Self::One(pool) => vec![pool.clone()],
            Self::Cluster(cluster) => {
                let known = cluster.known();
                let pools = known.pools.values().map(|(pool, _)| pool.clone());
                pools.filter(|pool| pool.clients().iter().any(ClientLike::is_connected)).collect()
            }
        }
    }

    /// True if a connection for commands exists, whether its server answers or not.
    pub(super) fn is_connected(&self) -> bool {
        self.all_connected().iter().any(|pool| pool.clients().iter().any(ClientLike::is_connected))
    }

    /// The servers that own keys; `None` without a cluster.
    pub(super) fn addresses(&self) -> Option<Vec<Server>> {
        match self {
            Self::One(_) => None,
            Self::Cluster(cluster) => Some(cluster.owners().into_iter().map(|(server, _)| server).collect()),
        }
    }

    /// Checks that every server that owns keys answers.
    pub(super) async fn ping(&self) -> Result<(), Error> {
        if let Self::Cluster(cluster) = self {
            cluster.read_map(STALE).await;
        }
        let pools = self.pools();
        let away = |pool: &Pool| pool.clients().iter().all(|client| client.state() != ClientState::Connected);
        let answers = match pools.is_empty() || pools.iter().any(away) {
            true => vec![Err(Error::new(ErrorKind::IO, "not connected"))],
            false => join_all(pools.iter().map(|pool| pool.next_connected().ping::<()>(None))).await,
        };
        let answer: Result<(), Error> = answers.into_iter().collect();
        if let (Self::Cluster(cluster), Err(_)) = (self, &answer) {
            // Another server may have replaced it.
            cluster.read_map(Duration::ZERO).await;
        }
        answer
    }

    /// Sends commands concurrently and follows redirects. A redirect is returned as the answer only when [`ANSWER`]
    /// has passed.
    ///
    /// # Errors A server did not answer.
    pub(super) async fn send(&self, calls: Vec<Call>) -> Result<Vec<Result<Value, Error>>, Error> {
        match self {
            Self::One(_) => self.follow(calls).await,
            Self::Cluster(_) => tokio::time::timeout(ANSWER, self.follow(calls))
                .await
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "no answer in time"))),
        }
    }

    async fn follow(&self, mut calls: Vec<Call>) -> Result<Vec<Result<Value, Error>>, Error> {
        let mut answers: Vec<Option<Result<Value, Error>>> = calls.iter().map(|_| None).collect();
        let mut open: Vec<Open> =
            (0..calls.len()).map(|at| Open { at, redirect: None, asking: false }).collect();
        let (until, mut pause) = (Instant::now() + ANSWER, PAUSE);
        while !open.is_empty() {
            let batches = self.batches(std::mem::take(&mut open), &calls)?;
            let sent = join_all(batches.iter().map(|batch| batch.send(&calls))).await;
            let mut wait = false;
            for (batch, sent) in batches.into_iter().zip(sent) {
                for (Open { at, .. }, answer) in batch.open.into_iter().zip(sent?) {
                    let next = NextStep::of(&answer, &calls[at], batch.server.as_ref());
                    answers[at] = Some(answer);
                    wait |= next == NextStep::Wait;
                    open.extend(self.again(at, next, &mut calls[at]));
                }
            }
            // Commands about the same key keep their order.
            open.sort_by_key(|open| open.at);
            if wait {
                if Instant::now() + pause >= until {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
        let lost = || Err(Error::new(ErrorKind::Protocol, "a command was not answered"));
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect())
    }

    /// Where a command is sent again, if its answer requires that.
    fn again(&self, at: usize, next: NextStep, call: &mut Call) -> Option<Open> {
        let (redirect, asking) = match next {
            NextStep::Done => return None,
            NextStep::Wait => (None, false),
            NextStep::SendText => {
                call.use_text();
                (None, false)
            }
            NextStep::Ask(server) => (Some(server), true),
            NextStep::Moved(server) => {
                if let Self::Cluster(cluster) = self {
                    cluster.clone().read_map_soon();
                }
                (Some(server), false)
            }
        };
        Some(Open { at, redirect, asking })
    }

    /// Groups commands by server, in the given order.
    fn batches(&self, open: Vec<Open>, calls: &[Call]) -> Result<Vec<Batch>, Error> {
        let mut batches: Vec<Batch> = Vec::new();
        for open in open {
            let server = match (self, &open.redirect) {
                (Self::One(_), _) => None,
                (Self::Cluster(_), Some(server)) => Some(server.clone()),
                (Self::Cluster(cluster), None) => Some(cluster.owner(calls[open.at].slot())?),
            };
            if let Some(batch) = batches.iter_mut().find(|batch| batch.server == server) {
                batch.open.push(open);
                continue;
            }
            let pool = match (self, &server) {
                (Self::Cluster(cluster), Some(server)) => cluster.pool(server)?,
                (Self::Cluster(_), None) => return Err(Error::new(ErrorKind::Routing, "no server")),
                (Self::One(pool), _) => pool.clone(),
            };
            batches.push(Batch { server, pool, open: vec![open] });
        }
        Ok(batches)
    }
}

impl Batch {
    async fn send(&self, calls: &[Call]) -> Result<Vec<Result<Value, Error>>, Error> {
        let client = self.pool.next_connected();
        if let [Open { at, asking: false, .. }] = self.open[..] {
            let (command, arguments) = calls[at].command();
            return Ok(vec![client.custom(command, arguments).await]);
        }
        let pipeline = client.pipeline();
        for Open { at, asking, .. } in &self.open {
            if *asking {
                // Applies to the next command on this connection.
                pipeline.custom::<(), Value>(command("ASKING"), Vec::new()).await?;
            }
            let (command, arguments) = calls[*at].command();
            pipeline.custom::<(), _>(command, arguments).await?;
        }
        let answers = pipeline.try_all::<Value>().await;
        let sent = self.open.iter().map(|open| 1 + usize::from(open.asking)).sum::<usize>();
        if answers.len() != sent {
            // One error for all of them.
            let fault = answers.into_iter().find_map(Result::err);
            return Err(fault.unwrap_or_else(|| Error::new(ErrorKind::Protocol, "answers are missing")));
        }
        let (mut answers, mut all) = (answers.into_iter(), Vec::with_capacity(self.open.len()));
        for open in &self.open {
            let asked = if open.asking { answers.next() } else { None };
            match (asked, answers.next()) {
                (Some(Err(fault)), _) => all.push(Err(fault)),
                (_, Some(answer)) => all.push(answer),
                (_, None) => {}
            }
        }
        Ok(all)
    }
}

/// What is known about a cluster.
pub(super) struct Cluster {
    plan: Plan,
    notices: Arc<Notices>,
    /// The servers in the settings, with one connection each, which report the others.
    seeds: Vec<(Server, Pool)>,
    known: RwLock<Known>,
    /// When the slot map was last read.
    read: tokio::sync::Mutex<Option<Instant>>,
}

struct Known {
    map: ClusterRouting,
    /// Connections, and when their server last owned slots, or when they were made.
    pools: HashMap<Server, (Pool, Instant)>,
}

impl Cluster {
    fn new(plan: Plan, notices: Arc<Notices>, seeds: Vec<Server>) -> Result<Self, Error> {
        let single = |server: Server| plan.single(&server).map(|pool| (server, pool));
        let seeds = seeds.into_iter().map(single).collect::<Result<_, _>>()?;
        let known = RwLock::new(Known { map: ClusterRouting::new(), pools: HashMap::new() });
        Ok(Self { plan, notices, seeds, known, read: tokio::sync::Mutex::default() })
    }

    fn known(&self) -> parking_lot::RwLockReadGuard<'_, Known> {
        self.known.read()
    }

    fn owner(&self, slot: u16) -> Result<Server, Error> {
        let none = || Error::new(ErrorKind::Cluster, format!("no server of the cluster has slot {slot}"));
        self.known().map.get_server(slot).cloned().ok_or_else(none)
    }

    /// The servers that own slots.
    fn owners(&self) -> Vec<(Server, Pool)> {
        let known = self.known();
        let with_pool = |server: Server| known.pools.get(&server).map(|(pool, _)| (server, pool.clone()));
        known.map.unique_primary_nodes().into_iter().filter_map(with_pool).collect()
    }

    fn all(&self) -> Vec<Pool> {
        let pools = self.known().pools.values().map(|(pool, _)| pool.clone()).collect::<Vec<_>>();
        self.seeds.iter().map(|(_, pool)| pool.clone()).chain(pools).collect()
    }

    /// The connections to a server, created if there are none.
    fn pool(&self, server: &Server) -> Result<Pool, Error> {
        if let Some((pool, _)) = self.known().pools.get(server) {
            return Ok(pool.clone());
        }
        let mut known = self.known.write();
        if let Some((pool, _)) = known.pools.get(server) {
            return Ok(pool.clone());
        }
        let pool = self.plan.pool(Some(server))?;
        self.notices.connect(&pool);
        known.pools.insert(server.clone(), (pool.clone(), Instant::now()));
        Ok(pool)
    }

    /// Reads the slot map in the background, once for any number of callers.
    fn read_map_soon(self: Arc<Self>) {
        if self.read.try_lock().is_ok() {
            tokio::spawn(async move { self.read_map(Duration::ZERO).await });
        }
    }

    /// Reads the slot map from all servers, unless that was done recently. The map that most of them report counts,
    /// because a server that was partitioned reports an old one.
    async fn read_map(&self, older_than: Duration) {
        let asked_at = Instant::now();
        let mut read = self.read.lock().await;
        // Another task may have read it meanwhile.
        if read.is_some_and(|read| read >= asked_at || read.elapsed() < older_than) {
            return;
        }
        let mut servers = self.seeds.clone();
        servers.extend(self.known().pools.iter().map(|(server, (pool, _))| (server.clone(), pool.clone())));
        let maps = join_all(servers.iter().map(|(server, pool)| self.map_of(server, pool))).await;
        let maps: Vec<ClusterRouting> = maps.into_iter().flatten().collect();
        let votes = |map: &&ClusterRouting| maps.iter().filter(|other| other.slots() == map.slots()).count();
        if let Some(map) = maps.iter().max_by_key(votes) {
            self.take_map(map.clone());
            *read = Some(Instant::now());
        }
    }

    fn take_map(&self, map: ClusterRouting) {
        let owners: HashSet<Server> = map.unique_primary_nodes().into_iter().collect();
        let before: HashSet<Server> = self.known().map.unique_primary_nodes().into_iter().collect();
        for server in &owners {
            if let Err(error) = self.pool(server) {
                self.notices.fail(&error);
            }
        }
        let mut known = self.known.write();
        known.map = map;
        known.pools.retain(|server, (pool, since)| {
            if owners.contains(server) {
                *since = Instant::now();
            }
            let stays = since.elapsed() < IDLE;
            if !stays {
                let pool = pool.clone();
                tokio::spawn(async move { pool.quit().await });
            }
            stays
        });
        drop(known);
        if !before.is_empty() && !owners.is_subset(&before) {
            // The new owner may be a replica that lacks the latest writes.
            self.notices.renew();
        }
    }

    /// The slot map of a server; `None` if it is not connected or knows no slots.
    async fn map_of(&self, server: &Server, pool: &Pool) -> Option<ClusterRouting> {
        let client = pool.clients().iter().find(|client| client.is_connected())?;
        let asked = client.custom::<Value, _>(command("CLUSTER"), vec!["SLOTS"]);
        let slots = tokio::time::timeout(MAP, asked).await.ok()?;
        let map = slots.and_then(|slots| ClusterRouting::from_cluster_slots(slots, server.host.clone()));
        let map = map.inspect_err(|error| self.notices.fail(error)).ok()?;
        (!map.slots().is_empty()).then_some(map)
    }
}
