//! Questions: the live sessions laid over what the store keeps.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;

use super::fleet::Which;
use super::live::Live;
use super::manager::Manager;
use super::model::State;
use super::snapshot::{Filter, Page, Snapshot};
use super::stats::Stats;
use super::store::{Listed, StoreError};
use crate::ids::{Scope, Uid};

impl Manager {
    /// One page of sessions, newest first. When the store does not answer, the live ones are listed.
    pub async fn list(&self, filter: &Filter) -> Page {
        self.write_before_reading(None).await;
        let before = filter.before();
        let pick = |live: &std::sync::Arc<Live>| {
            let asked = before.is_none_or(|before| live.uid() < before) && filter.matches_live(live);
            asked.then(|| live.clone())
        };
        // Closing ones after the live ones: a session that ends meanwhile is seen twice, never missed.
        let mut here = self.live.collect(pick);
        here.extend(self.closing.collect(pick));
        here.sort_by_key(|live| std::cmp::Reverse(live.uid()));
        here.dedup_by_key(|live| live.uid());
        let len = filter.page_len();
        let mut truncated = false;
        let Listed { sessions: stored, searched_to } =
            self.store.list(filter).await.unwrap_or_else(|fault| {
                tracing::warn!(%fault, "ended sessions are missing from a list");
                truncated = true;
                Listed::default()
            });
        let mut sessions: BTreeMap<Uid, Snapshot> =
            stored.iter().map(|session| (session.uid, session.brief())).collect();
        let here = here.into_iter().filter(|live| searched_to.is_none_or(|lowest| live.uid() >= lowest));
        for live in here.take(len + 1) {
            // In a fleet the store knows the shares of all.
            let in_fleet = self.fleet.is_some() && sessions.contains_key(&live.uid());
            if !in_fleet {
                sessions.insert(live.uid(), live.snapshot(&self.clock, false));
            }
        }
        let more = sessions.len() > len;
        let sessions: Vec<Snapshot> = sessions.into_values().rev().take(len).collect();
        let last = sessions.last().filter(|_| more).map(|last| last.uid);
        let next_cursor = last.or(searched_to).map(|uid| uid.to_string());
        Page { sessions, next_cursor, truncated: truncated || last.is_none() && searched_to.is_some() }
    }

    /// The sessions `target` names, with detail, newest first: one for a uid; for an id the newest
    /// incarnation in each scope. More than one is for the caller to resolve.
    pub async fn get(&self, target: &str) -> Vec<Snapshot> {
        self.write_before_reading(Some(target)).await;
        let mut found = self.find(target).await.unwrap_or_else(|fault| {
            tracing::warn!(%fault, "an ended session was not looked up");
            Vec::new()
        });
        if self.fleet.is_some() {
            for session in &mut found {
                if let Ok(Some(whole)) = self.store.get(session.uid).await {
                    *session = Snapshot::clone(&whole);
                }
            }
        }
        found
    }

    /// In a fleet the store is to know this instance's shares as they are now: of the sessions that `target`
    /// names, or of all.
    async fn write_before_reading(&self, target: Option<&str>) {
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.is_up()) else { return };
        let written = match target {
            None => self.flush(fleet, Which::All).await,
            Some(target) => {
                let mut named = self.live.by_id(target);
                if let Some(uid) = Uid::parse(target) {
                    named.extend(self.live.collect(|live| (live.uid() == uid).then(|| live.clone())));
                }
                self.flush_some(fleet, named).await
            }
        };
        if let Err(fault) = written {
            self.store_lost(fleet, &fault);
        }
    }

    /// Totals since the start.
    pub fn stats(&self) -> Stats {
        let mut stats = self.totals().clone();
        let mut counted = HashSet::new();
        let mut add = |live: &std::sync::Arc<Live>| {
            if !counted.insert(live.uid()) || live.is_recorded() {
                return;
            }
            let inner = live.inner();
            stats.open_legs += inner.legs.len();
            *stats.by_state.entry(inner.state).or_default() += 1;
            for used in inner.tally.backends() {
                stats.add_backend(used.name.as_str(), used.requests);
            }
            stats.add_client(live.identity().client.as_deref());
            stats.requests += live.requests();
            stats.errors += live.errors();
            stats.bytes_in += live.bytes_in();
            stats.bytes_out += live.bytes_out();
        };
        self.live.each(&mut add);
        self.closing.each(&mut add);
        for state in State::ALL {
            stats.by_state.entry(state).or_default();
        }
        stats.active = self.census.active();
        stats.kills = self.kills.load(Ordering::Relaxed);
        stats.kills_in_force = self.book.count(self.clock.now());
        stats
    }

    /// Sessions active now.
    pub fn active(&self) -> usize {
        self.census.active()
    }

    /// What [`Manager::get`] gives, or the store's fault when nothing is found here.
    pub(super) async fn find(&self, target: &str) -> Result<Vec<Snapshot>, StoreError> {
        let snapshot = |live: std::sync::Arc<Live>| live.snapshot(&self.clock, true);
        if let Some(uid) = Uid::parse(target) {
            let here = |live: &std::sync::Arc<Live>| (live.uid() == uid).then(|| live.clone());
            let mut found = self.live.collect(here);
            if found.is_empty() {
                found = self.closing.collect(here);
            }
            if let Some(live) = found.pop() {
                return Ok(vec![snapshot(live)]);
            }
            if let Some(stored) = self.store.get(uid).await? {
                return Ok(vec![Snapshot::clone(&stored)]);
            }
        }
        let mut found: Vec<Snapshot> = self.live.by_id(target).into_iter().map(snapshot).collect();
        found.extend(self.closing.by_id(target).into_iter().map(snapshot));
        match self.store.by_id(target).await {
            Ok(stored) => found.extend(stored.iter().map(|stored| Snapshot::clone(stored))),
            Err(fault) if found.is_empty() => return Err(fault),
            Err(fault) => tracing::warn!(%fault, "ended sessions are missing from a search"),
        }
        // A stable sort: what was found here stays before what the store says of the same one.
        found.sort_by_key(|session| std::cmp::Reverse(session.uid));
        let mut scopes: HashSet<Scope> = HashSet::new();
        found.retain(|session| scopes.insert(session.key().scope.clone()));
        Ok(found)
    }
}
