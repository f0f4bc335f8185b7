//! The other processes of this gateway during an upgrade (docs/adr/0020).
//!
//! The old process keeps its sessions until they end, while operators only reach the new one. Each process
//! therefore asks the other what it has, and carries out the orders given to the other: a kill at the new control
//! port cuts the streams of the old process, and what was killed there stays killed here. After several upgrades in
//! a row each process forwards queries and orders to its other peer. With Redis the store knows which instance has
//! which session; peers then query each other only while it is unavailable.

mod channel;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use self::channel::{Incoming, PeerRequest, PeerResponse, SentOrder};
use super::lookup::{NameMatches, SessionRef};
use super::manager::Manager;
use crate::ids::{SessionKey, Uid};
use crate::session::store::{Filter, Page};
use crate::session::views::kill_order::KillOrder;
use crate::session::views::session_view::SessionView;

pub(in crate::session) use self::channel::PeerChannel;
pub(super) use self::channel::PeerNews;

/// How long a query waits for a peer.
const ANSWER: Duration = Duration::from_millis(250);
/// How long the new process waits for the orders of the old one before it serves.
const ORDERS: Duration = Duration::from_secs(2);
/// How long a kill waits for a peer to report the legs that it has cut.
const CUT: Duration = Duration::from_millis(100);

/// The open channels; none except during an upgrade.
#[derive(Debug, Default)]
pub(in crate::session) struct UpgradePeers {
    lines: ArcSwap<Vec<Arc<PeerChannel>>>,
    /// True while the process before this one exists.
    predecessor: watch::Sender<bool>,
}

impl UpgradePeers {
    fn others(&self, asker: Option<&Arc<PeerChannel>>) -> Vec<Arc<PeerChannel>> {
        let lines = self.lines.load();
        let others = lines.iter().filter(|line| asker.is_none_or(|asker| !Arc::ptr_eq(asker, line)));
        others.cloned().collect()
    }

    fn add(&self, line: &Arc<PeerChannel>) {
        self.lines.rcu(|lines| lines.iter().chain([line]).cloned().collect::<Vec<_>>());
    }

    fn remove(&self, line: &Arc<PeerChannel>) {
        self.lines
            .rcu(|lines| lines.iter().filter(|other| !Arc::ptr_eq(other, line)).cloned().collect::<Vec<_>>());
    }
}

/// An order on its way to the peers.
pub(in crate::session) struct Sent(Vec<oneshot::Receiver<PeerResponse>>);

impl Sent {
    /// How many legs the peers have cut.
    pub(in crate::session) async fn legs_cut(self) -> usize {
        let mut cut = 0;
        for answer in self.0 {
            match timeout(CUT, answer).await {
                Ok(Ok(PeerResponse::Killed { legs_cut })) => cut += legs_cut,
                // The peer has ended, and its streams with it.
                Ok(Err(_)) => {}
                _ => tracing::error!(
                    "the other process of this upgrade does not say that it has carried out a kill: its streams may go on"
                ),
            }
        }
        cut
    }
}

impl Manager {
    /// Opens the channel to the process that replaces this one.
    ///
    /// # Errors The socket cannot be used.
    pub fn connect_successor(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let (line, incoming) = PeerChannel::open(stream, false)?;
        self.upgrade_peers.add(&line);
        tokio::spawn(Arc::clone(self).serve_peer(line, incoming));
        Ok(())
    }

    /// Waits until the process before this one has ended; returns at once if there is none.
    pub async fn predecessor_ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.upgrade_peers.predecessor.subscribe().wait_for(|is_there| !is_there).await;
    }

    /// Opens the channel to the process that this one replaces, and takes over its kill orders. Returns how many
    /// were new here.
    ///
    /// # Errors The socket cannot be used, or the old process does not answer.
    pub async fn connect_predecessor(self: &Arc<Self>, stream: UnixStream) -> io::Result<usize> {
        let (line, incoming) = PeerChannel::open(stream, true)?;
        self.upgrade_peers.add(&line);
        self.upgrade_peers.predecessor.send_replace(true);
        let serving = Arc::clone(self).serve_peer(Arc::clone(&line), incoming);
        let manager = Arc::clone(self);
        tokio::spawn(async move {
            serving.await;
            manager.upgrade_peers.predecessor.send_replace(false);
        });
        if let Some(PeerResponse::Orders(orders)) = line.ask(&PeerRequest::Orders, ORDERS).await {
            let is_new = |order: SentOrder| self.take_order(order.into()).is_some();
            return Ok(orders.into_iter().map(is_new).filter(|is_new| *is_new).count());
        }
        // A slow peer still carries out the orders it is sent; one that has ended is removed by `serve_peer`.
        Err(io::Error::new(io::ErrorKind::TimedOut, "the old process does not tell its kill orders"))
    }

    /// True while another process of this gateway is connected.
    pub fn has_upgrade_peers(&self) -> bool {
        !self.upgrade_peers.lines.load().is_empty()
    }

    /// Serves requests of a peer until it ends.
    async fn serve_peer(self: Arc<Self>, line: Arc<PeerChannel>, mut incoming: Incoming) {
        while let Some((id, ask)) = incoming.next(&line).await {
            match ask {
                // Orders are carried out one after the other.
                PeerRequest::Kill(order) => {
                    let order = KillOrder::from(order);
                    let sent = self.send_kill_to_peers(&order, Some(&line));
                    let here = self.take_order(order).unwrap_or(0);
                    let line = Arc::clone(&line);
                    tokio::spawn(async move {
                        let legs_cut = here + sent.legs_cut().await;
                        line.answer(id, &PeerResponse::Killed { legs_cut });
                    });
                }
                PeerRequest::Lift { key, agent, rev } => {
                    self.lift_until(&key, agent.as_ref(), rev);
                    self.send(&PeerRequest::Lift { key, agent, rev }, Some(&line));
                    line.answer(id, &PeerResponse::Lifted);
                }
                PeerRequest::Keys(news) => {
                    self.hear_peer(&news);
                    self.send(&PeerRequest::Keys(news), Some(&line));
                    line.answer(id, &PeerResponse::Heard);
                }
                question @ (PeerRequest::Orders | PeerRequest::Find { .. } | PeerRequest::List { .. }) => {
                    let (manager, line) = (Arc::clone(&self), Arc::clone(&line));
                    tokio::spawn(async move {
                        let answer = manager.answer_peer(question, &line).await;
                        line.answer(id, &answer);
                    });
                }
            }
        }
        self.upgrade_peers.remove(&line);
        tracing::info!("the other process of this upgrade has ended");
    }

    async fn answer_peer(&self, question: PeerRequest, asker: &Arc<PeerChannel>) -> PeerResponse {
        match question {
            PeerRequest::Orders => {
                let orders = self.kills();
                let readable = orders.iter().filter(|order| order.rev > 0);
                PeerResponse::Orders(readable.map(|order| SentOrder::from(&**order)).collect())
            }
            PeerRequest::Find { text, by } => {
                let found = self.find_for(SessionRef::new(&text, by), Some(asker)).await.unwrap_or_default();
                let is_cut = found.is_cut;
                let (by_uid, by_id) = found.into_parts();
                let sent = |sessions: Vec<SessionView>| sessions.into_iter().map(Into::into).collect();
                PeerResponse::Found { by_uid: sent(by_uid), by_id: sent(by_id), is_cut }
            }
            PeerRequest::List { filter } => {
                let Page { sessions, next_cursor, .. } = self.list_for(&filter, Some(asker)).await;
                PeerResponse::Page { sessions, more: next_cursor.is_some() }
            }
            PeerRequest::Kill(_) | PeerRequest::Lift { .. } | PeerRequest::Keys(_) => PeerResponse::Unknown,
        }
    }

    /// Sends a kill order to the peers.
    pub(super) fn send_kill_to_peers(&self, order: &KillOrder, asker: Option<&Arc<PeerChannel>>) -> Sent {
        if !self.has_upgrade_peers() {
            return Sent(Vec::new());
        }
        self.send(&PeerRequest::Kill(order.into()), asker)
    }

    /// Tells the peers that an order was lifted.
    pub(super) fn send_lift_to_peers(&self, order: &KillOrder) {
        if self.has_upgrade_peers() {
            self.send(
                &PeerRequest::Lift { key: order.key(), agent: order.agent.clone(), rev: order.rev },
                None,
            );
        }
    }

    /// Tells the peers news of client keys.
    pub(super) fn tell_peers(&self, news: PeerNews) {
        if self.has_upgrade_peers() {
            self.send(&PeerRequest::Keys(news), None);
        }
    }

    fn send(&self, ask: &PeerRequest, asker: Option<&Arc<PeerChannel>>) -> Sent {
        let mut sent = Vec::new();
        for line in self.upgrade_peers.others(asker) {
            let answer = line.send(ask);
            // A peer that is still starting reads it later.
            sent.extend(answer.filter(|_| line.is_heard()));
        }
        Sent(sent)
    }

    /// Adds what the peers find. With Redis the store knows more while it is available.
    ///
    /// # Errors A peer does not answer.
    pub(super) async fn find_at_peers(
        &self,
        target: SessionRef<'_>,
        asker: Option<&Arc<PeerChannel>>,
        found: &mut NameMatches,
    ) -> Result<(), &'static str> {
        let mut outcome = Ok(());
        for line in self.peers_to_ask(asker) {
            let ask = PeerRequest::Find { text: target.text().to_owned(), by: target.by() };
            match line.ask(&ask, ANSWER).await {
                Some(PeerResponse::Found { by_uid, by_id, is_cut }) => {
                    found.is_cut |= is_cut;
                    found.add_by_uid(by_uid.into_iter().map(Into::into));
                    found.add_by_id(by_id.into_iter().map(Into::into));
                }
                _ if line.is_closed() => {}
                _ => outcome = Err("the other process of this upgrade does not answer"),
            }
        }
        outcome
    }

    /// Adds the sessions of the peers to a page.
    pub(super) async fn page_with_peers(
        &self,
        page: Page,
        filter: &Filter,
        asker: Option<&Arc<PeerChannel>>,
    ) -> Page {
        let lines = self.peers_to_ask(asker);
        if lines.is_empty() {
            return page;
        }
        let Page { mut sessions, next_cursor, mut truncated } = page;
        let mut is_more = next_cursor.is_some();
        for line in lines {
            match line.ask(&PeerRequest::List { filter: filter.clone() }, ANSWER).await {
                Some(PeerResponse::Page { sessions: theirs, more }) => {
                    is_more |= more;
                    let known: std::collections::HashSet<Uid> = sessions.iter().map(|one| one.uid).collect();
                    sessions.extend(theirs.into_iter().filter(|one| !known.contains(&one.uid)));
                }
                _ if line.is_closed() => {}
                _ => {
                    truncated = true;
                    tracing::warn!("the sessions of the other process are missing from a list");
                }
            }
        }
        sessions.sort_by_key(|session| std::cmp::Reverse(session.uid));
        is_more |= sessions.len() > filter.page_len();
        sessions.truncate(filter.page_len());
        let next_cursor = sessions.last().filter(|_| is_more).map(|last| last.uid.to_string());
        Page { sessions, next_cursor, truncated }
    }

    fn peers_to_ask(&self, asker: Option<&Arc<PeerChannel>>) -> Vec<Arc<PeerChannel>> {
        if self.replication.is_shared() && self.replication.store_answers() {
            return Vec::new();
        }
        let mut lines = self.upgrade_peers.others(asker);
        lines.retain(|line| line.is_heard());
        lines
    }

    /// Lifts the orders against a session or an agent up to this revision.
    pub(in crate::session) fn lift_until(
        &self,
        key: &SessionKey,
        agent: Option<&crate::ids::AgentId>,
        rev: u64,
    ) {
        for order in self.kill_orders.remove_up_to(key, agent, rev) {
            self.lift_from_sessions(&order);
            self.listener.on_lifted_elsewhere(&order);
        }
    }
}

#[cfg(test)]
mod tests;
