//! Counts active sessions, in total and by account, and picks sessions that may end to make room.
//!
//! An account is a principal. A request with several credentials counts against the credential with most sessions,
//! so that a constant credential next to changing ones has one limit. A permit is reserved before a session is
//! created, so the limits are exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use dashmap::{DashMap, Entry};
use parking_lot::{Mutex, MutexGuard};

use super::request::{Denied, Limit, SessionRequest};
use super::session::Session;
use crate::ids::{PrincipalId, Uid};
use crate::session::settings::Settings;
use crate::session::views::state::Identity;

/// Size of the sample in which the longest idle session is looked for. With as many sessions or fewer it is the
/// longest idle of all.
const SAMPLE: usize = 32;
/// Distance between the starts of two samples; a prime, so that every position is reached.
const STRIDE: usize = 7919;
/// Position of a session that is in no roster.
const NOWHERE: u32 = u32::MAX;

/// Active sessions of this instance.
#[derive(Debug, Default)]
pub(in crate::session) struct ActiveCounts {
    active: AtomicUsize,
    all: Mutex<Roster>,
    by_account: DashMap<PrincipalId, AccountCounts>,
    /// The account of sessions that count against another account than their principal; few do.
    accounts: DashMap<Uid, PrincipalId>,
    pub(in crate::session) counts: Counts,
}

/// What the limits have done since startup.
#[derive(Debug, Default)]
pub(in crate::session) struct Counts {
    /// Sessions refused, by [`Limit`].
    pub(in crate::session) refused: [AtomicU64; Limit::ALL.len()],
    /// Sessions ended to make room, by [`Limit`].
    pub(in crate::session) evicted: [AtomicU64; Limit::ALL.len()],
}

/// Use of the session limits, and what they have done since startup.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Capacity {
    /// Active sessions as a fraction of `session.max_active`.
    pub all: f64,
    /// Active sessions of the largest account as a fraction of `session.max_active_per_principal`.
    pub largest_principal: f64,
    /// Sessions refused, by the key of the limit.
    pub refused: [(&'static str, u64); Limit::ALL.len()],
    /// Sessions ended to make room, by the key of the limit.
    pub evicted: [(&'static str, u64); Limit::ALL.len()],
}

/// Active sessions of one account.
#[derive(Debug, Default)]
struct AccountCounts {
    active: usize,
    /// The identity of the first session; most others have an equal one and share it.
    identity: Option<Arc<Identity>>,
    sessions: Roster,
}

/// An unordered list of sessions with constant-time insertion, removal and sampling.
#[derive(Debug, Default)]
struct Roster {
    sessions: Vec<Arc<Session>>,
    begin: usize,
}

/// The positions of a session in the rosters.
#[derive(Debug)]
pub(in crate::session) struct RosterPositions {
    all: AtomicU32,
    own: AtomicU32,
}

impl Default for RosterPositions {
    fn default() -> Self {
        Self { all: AtomicU32::new(NOWHERE), own: AtomicU32::new(NOWHERE) }
    }
}

/// Permission to create one more session; returned on drop unless a session uses it.
#[derive(Debug)]
pub(in crate::session) struct SessionPermit<'c> {
    active_counts: &'c ActiveCounts,
    account: PrincipalId,
    taken: bool,
}

impl SessionPermit<'_> {
    /// Uses the permit for this session.
    pub(in crate::session) fn take(mut self, session: &Arc<Session>) {
        self.taken = true;
        if session.principal() != &self.account {
            self.active_counts.accounts.insert(session.uid(), self.account.clone());
        }
        if let Some(mut counts) = self.active_counts.by_account.get_mut(&self.account) {
            counts.identity.get_or_insert_with(|| Arc::clone(session.identity()));
            counts.sessions.add(session, |session| &session.positions.own);
        }
        self.active_counts.all().add(session, |session| &session.positions.all);
    }
}

impl Drop for SessionPermit<'_> {
    fn drop(&mut self) {
        if !self.taken {
            self.active_counts.release_permit(&self.account, |_| {});
        }
    }
}

impl ActiveCounts {
    pub(in crate::session) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Lets a new session share memory with the other sessions of its principal.
    pub(in crate::session) fn share(&self, session: Session) -> Session {
        match self.by_account.get(session.principal()) {
            Some(counts) => match &counts.identity {
                Some(identity) => session.sharing(counts.key(), identity),
                None => session,
            },
            None => session,
        }
    }

    /// The account that a session of this request counts against.
    pub(super) fn account(&self, request: &SessionRequest) -> PrincipalId {
        let count = |account: &PrincipalId| self.by_account.get(account).map_or(0, |counts| counts.active);
        let busiest = request.accounts.iter().max_by_key(|account| (count(account), account.as_str()));
        busiest.unwrap_or(&request.principal).clone()
    }

    /// Reserves a permit for a new session of this account.
    ///
    /// # Errors
    /// `Denied::Capacity` names the limit that is reached.
    pub(in crate::session) fn reserve(
        &self,
        account: PrincipalId,
        settings: &Settings,
    ) -> Result<SessionPermit<'_>, Denied> {
        let counts = self.by_account.entry(account.clone());
        let max = settings.max_active_per_principal;
        if matches!(&counts, Entry::Occupied(counts) if counts.get().active >= max) {
            return Err(Denied::Capacity { what: Limit::ActivePerPrincipal, limit: max });
        }
        let below = |active| (active < settings.max_active).then_some(active + 1);
        let all = self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, below);
        let all = all.map_err(|_| Denied::Capacity { what: Limit::Active, limit: settings.max_active })? + 1;
        let mut counts = counts.or_default();
        counts.active += 1;
        if is_near(counts.active, max) {
            tracing::warn!(
                principal = account.as_str(),
                active = counts.active,
                max,
                "a caller has four fifths of session.max_active_per_principal; beyond it its idle sessions end early"
            );
        }
        if is_near(all, settings.max_active) {
            tracing::warn!(
                active = all,
                max = settings.max_active,
                "four fifths of session.max_active are in use; beyond it idle sessions end early"
            );
        }
        Ok(SessionPermit { active_counts: self, account, taken: false })
    }

    /// Returns the permit of a session that has ended.
    pub(in crate::session) fn release(&self, session: &Session) {
        self.all().remove(session, |session| &session.positions.all);
        let account = self.accounts.remove(&session.uid()).map(|(_, account)| account);
        self.release_permit(account.as_ref().unwrap_or(session.principal()), |counts| {
            counts.sessions.remove(session, |session| &session.positions.own)
        });
    }

    fn release_permit(&self, account: &PrincipalId, change: impl FnOnce(&mut AccountCounts)) {
        self.active.fetch_sub(1, Ordering::AcqRel);
        if let Entry::Occupied(mut counts) = self.by_account.entry(account.clone()) {
            change(counts.get_mut());
            counts.get_mut().active = counts.get().active.saturating_sub(1);
            if counts.get().active == 0 {
                counts.remove();
            }
        }
    }

    /// A sample of the sessions that this limit counts, spread over the roster.
    pub(super) fn sample(&self, limit: Limit, account: &PrincipalId) -> Vec<Arc<Session>> {
        match limit {
            Limit::ActivePerPrincipal => self
                .by_account
                .get_mut(account)
                .map(|mut counts| counts.sessions.sample())
                .unwrap_or_default(),
            Limit::Active => self.all().sample(),
        }
    }

    pub(super) fn capacity(&self, settings: &Settings) -> Capacity {
        let share = |active: usize, max: usize| active as f64 / max as f64;
        let largest = self.by_account.iter().map(|counts| counts.active).max().unwrap_or(0);
        let read = |counts: &[AtomicU64; Limit::ALL.len()]| {
            Limit::ALL.map(|limit| (limit.key(), counts[limit as usize].load(Ordering::Relaxed)))
        };
        Capacity {
            all: share(self.active(), settings.max_active),
            largest_principal: share(largest, settings.max_active_per_principal),
            refused: read(&self.counts.refused),
            evicted: read(&self.counts.evicted),
        }
    }

    fn all(&self) -> MutexGuard<'_, Roster> {
        self.all.lock()
    }
}

/// True at exactly one number of sessions, so that the warning is logged once.
fn is_near(active: usize, max: usize) -> bool {
    active == max - max / 5 && max >= 5
}

impl Roster {
    fn add(&mut self, session: &Arc<Session>, position: impl Fn(&Session) -> &AtomicU32) {
        position(session).store(self.sessions.len() as u32, Ordering::Relaxed);
        self.sessions.push(Arc::clone(session));
    }

    fn remove(&mut self, session: &Session, position: impl Fn(&Session) -> &AtomicU32) {
        let at = position(session).swap(NOWHERE, Ordering::Relaxed) as usize;
        if at < self.sessions.len() {
            self.sessions.swap_remove(at);
            if let Some(moved) = self.sessions.get(at) {
                position(moved).store(at as u32, Ordering::Relaxed);
            }
        }
        // Releases memory after a burst.
        if self.sessions.capacity() > 64 && self.sessions.len() < self.sessions.capacity() / 4 {
            self.sessions.shrink_to(self.sessions.len() * 2);
        }
    }

    fn sample(&mut self) -> Vec<Arc<Session>> {
        let len = self.sessions.len();
        let step = (len / SAMPLE).max(1);
        self.begin = self.begin.wrapping_add(STRIDE);
        (0..SAMPLE.min(len))
            .map(|i| Arc::clone(&self.sessions[(self.begin % len + i * step) % len]))
            .collect()
    }
}
