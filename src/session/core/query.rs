//! Queries: active sessions combined with what the store holds.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::active_counts::Capacity;
use super::lookup::{NameMatches, SessionRef};
use super::manager::Manager;
use super::session::Session;
use super::upgrade_peers::PeerChannel;
use crate::ids::Uid;
use crate::session::store::{Filter, Listed, MOST_SCOPES, Page, StoreError};
use crate::session::views::session_view::SessionView;
use crate::session::views::state::SessionState;
use crate::session::views::stats::Stats;

impl Manager {
    /// One page of sessions, newest first. If the store does not answer, only active sessions are listed.
    pub async fn list(&self, filter: &Filter) -> Page {
        self.list_for(filter, None).await
    }

    /// Lists sessions for `asker`, a peer process that is not queried itself.
    pub(super) async fn list_for(&self, filter: &Filter, asker: Option<&Arc<PeerChannel>>) -> Page {
        let page = self.list_here(filter).await;
        self.page_with_peers(page, filter, asker).await
    }

    /// Lists sessions without those of peer processes.
    async fn list_here(&self, filter: &Filter) -> Page {
        self.flush_before_read(None).await;
        let before = filter.before();
        let pick = |session: &Arc<Session>| {
            let is_lively = |since| self.clock.wall(session.last_activity()) >= since;
            let asked = before.is_none_or(|before| session.uid() < before)
                && filter.active_since.is_none_or(is_lively)
                && session.matches(filter);
            asked.then(|| session.clone())
        };
        // Closing sessions after active ones: a session that ends meanwhile is seen twice, never missed.
        let mut here = self.active.collect(pick);
        here.extend(self.closing.collect(pick));
        here.sort_by_key(|session| std::cmp::Reverse(session.uid()));
        here.dedup_by_key(|session| session.uid());
        let len = filter.page_len();
        let mut truncated = false;
        let Listed { sessions: stored, searched_to } =
            self.store.list(filter).await.unwrap_or_else(|fault| {
                tracing::warn!(%fault, "ended sessions are missing from a list");
                truncated = true;
                Listed::default()
            });
        let mut sessions: BTreeMap<Uid, SessionView> =
            stored.iter().map(|session| (session.uid, session.brief())).collect();
        let here =
            here.into_iter().filter(|session| searched_to.is_none_or(|lowest| session.uid() >= lowest));
        for session in here.take(len + 1) {
            // With replication the store has the sum of all shares.
            let is_complete = self.replication.is_shared() && sessions.contains_key(&session.uid());
            if !is_complete {
                sessions.insert(session.uid(), session.view(&self.clock, false));
            }
        }
        let more = sessions.len() > len;
        let sessions: Vec<SessionView> = sessions.into_values().rev().take(len).collect();
        let last = sessions.last().filter(|_| more).map(|last| last.uid);
        let next_cursor = last.or(searched_to).map(|uid| uid.to_string());
        Page { sessions, next_cursor, truncated: truncated || last.is_none() && searched_to.is_some() }
    }

    /// The sessions that `target` names, newest first: those that a kill would mean. If there are several, the
    /// caller has to choose; a single one has all details.
    pub async fn get<'a>(&self, target: impl Into<SessionRef<'a>>) -> Vec<SessionView> {
        let target = target.into();
        self.flush_before_read(Some(target)).await;
        let found = self.find(target).await.unwrap_or_else(|fault| {
            tracing::warn!(%fault, "an ended session was not looked up");
            NameMatches::default()
        });
        let mut found: Vec<SessionView> = found.sessions().into_iter().cloned().collect();
        if let ([session], true) = (found.as_mut_slice(), self.replication.is_shared())
            && let Ok(Some(whole)) = self.store.get(session.uid).await
        {
            *session = SessionView::clone(&whole);
        }
        found
    }

    /// With replication, writes this instance's shares of the sessions that `target` names, or of all, before the
    /// store is read.
    async fn flush_before_read(&self, target: Option<SessionRef<'_>>) {
        if !(self.replication.is_shared() && self.replication.store_answers()) {
            return;
        }
        let sessions = target.map(|target| {
            let mut named = target.id().map(|id| self.active.by_id(id)).unwrap_or_default();
            named.truncate(MOST_SCOPES);
            if let Some(uid) = target.uid() {
                named.extend(self.active.collect(|session| (session.uid() == uid).then(|| session.clone())));
            }
            named
        });
        self.replication.write_shares(self, sessions).await;
    }

    /// Totals since startup.
    pub fn stats(&self) -> Stats {
        let mut stats = self.totals().clone();
        let mut counted = HashSet::new();
        let mut add = |session: &Arc<Session>| {
            if !counted.insert(session.uid()) || session.is_recorded() {
                return;
            }
            let inner = session.inner();
            stats.open_legs += inner.legs.len();
            *stats.by_state.entry(inner.state).or_default() += 1;
            for used in inner.totals.backends() {
                stats.add_backend(used.name.as_str(), used.requests);
            }
            stats.add_client(session.identity().client.as_deref());
            stats.requests += session.requests();
            stats.errors += session.errors();
            stats.bytes_in += session.bytes_in();
            stats.bytes_out += session.bytes_out();
        };
        self.active.each(&mut add);
        self.closing.each(&mut add);
        for state in SessionState::ALL {
            stats.by_state.entry(state).or_default();
        }
        stats.active = self.active_counts.active();
        stats.kills = self.kills.load(Ordering::Relaxed);
        stats.kills_in_force = self.kill_orders.count(self.clock.now());
        stats
    }

    /// Use of the session limits, and what they have done since startup.
    pub fn capacity(&self) -> Capacity {
        self.active_counts.capacity(&self.settings.load())
    }

    /// Number of sessions active now.
    pub fn active(&self) -> usize {
        self.active_counts.active()
    }

    /// All incarnations that a name matches.
    ///
    /// # Errors Nothing was found here, and the store or a peer process does not answer.
    pub(in crate::session) async fn find(&self, target: SessionRef<'_>) -> Result<NameMatches, StoreError> {
        self.find_for(target, None).await
    }

    /// Finds sessions for `asker`, a peer process that is not queried itself.
    pub(super) async fn find_for(
        &self,
        target: SessionRef<'_>,
        asker: Option<&Arc<PeerChannel>>,
    ) -> Result<NameMatches, StoreError> {
        let view = |session: Arc<Session>| session.view(&self.clock, true);
        let mut found = NameMatches::default();
        if let Some(uid) = target.uid() {
            let here = |session: &Arc<Session>| (session.uid() == uid).then(|| session.clone());
            found.add_by_uid(self.active.collect(here).into_iter().map(view));
            if !found.has_uid() {
                found.add_by_uid(self.closing.collect(here).into_iter().map(view));
            }
        }
        if let Some(id) = target.id() {
            for registry in [&self.active, &self.closing] {
                let mut here = registry.by_id(id);
                found.is_cut |= here.len() > MOST_SCOPES;
                here.truncate(MOST_SCOPES);
                found.add_by_id(here.into_iter().map(view));
            }
        }
        let beyond = self.find_at_peers(target, asker, &mut found).await;
        let stored = self.find_stored(target, &mut found).await;
        match (beyond, stored) {
            (Ok(()), Ok(())) => {}
            (Err(fault), _) if found.is_empty() => return Err(StoreError(fault.to_owned())),
            (_, Err(fault)) if found.is_empty() => return Err(fault),
            (beyond, stored) => {
                let fault = beyond.err().map(str::to_owned).or(stored.err().map(|fault| fault.to_string()));
                tracing::warn!(fault, "sessions may be missing from a search");
                found.is_partial = true;
            }
        }
        Ok(found)
    }

    /// Adds what the store finds; what was found here is newer.
    pub(super) async fn find_stored(
        &self,
        target: SessionRef<'_>,
        found: &mut NameMatches,
    ) -> Result<(), StoreError> {
        if let Some(uid) = target.uid().filter(|_| !found.has_uid()) {
            found.add_by_uid(self.store.get(uid).await?.as_deref().cloned());
        }
        if let Some(id) = target.id() {
            let stored = self.store.by_id(id).await?;
            found.is_cut |= stored.is_cut;
            found.add_by_id(stored.sessions.iter().map(|stored| SessionView::clone(stored)));
        }
        Ok(())
    }
}
