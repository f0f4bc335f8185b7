//! The handle of one incarnation of a session: counters for the data path, the rest behind a mutex.

use parking_lot::{Mutex, MutexGuard};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::active_counts::RosterPositions;
use super::agents::{AgentIndex, Agents};
use super::cut::Cut;
use super::packed_requests::PackedRequest;
use super::request::{LegStart, SessionRequest};
use super::totals::SessionTotals;
use crate::clock::Moment;
use crate::ids::{LegId, Membership, PrincipalId, Scope, SessionKey, Uid, Validity};
use crate::limits::SessionPlaces;
use crate::policy::session_state::SessionState as PolicyState;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::request_line::RequestLine;
use crate::session::views::state::{EndReason, Identity, SessionKind, SessionState};

/// One incarnation of a session. The calls that the data path makes for each chunk only use atomics.
#[derive(Debug)]
pub struct Session {
    key: SessionKey,
    uid: Uid,
    kind: SessionKind,
    incarnation: u32,
    previous: Option<Uid>,
    principal: PrincipalId,
    membership: Option<Arc<Membership>>,
    identity: Arc<Identity>,
    client_addr: IpAddr,
    started: Moment,
    last_activity: AtomicU64,
    pub(in crate::session) requests: AtomicU64,
    pub(in crate::session) errors: AtomicU64,
    pub(in crate::session) bytes_in: AtomicU64,
    pub(in crate::session) bytes_out: AtomicU64,
    /// Requests whose bodies are captured.
    captured: AtomicU32,
    /// The number of this instance's share; 0 if the session is not shared.
    share: u32,
    /// True if this instance opened the incarnation.
    is_opener: bool,
    /// The mark of the backend that served the session last, where its prompt cache is warm; 0 for none.
    home: AtomicU64,
    pub(super) positions: RosterPositions,
    /// What rules know of it; absent until something is found.
    policy: OnceLock<Box<PolicyState>>,
    inner: Mutex<Inner>,
}

/// State that changes together: the lifecycle, the open legs and the totals.
#[derive(Debug)]
pub(in crate::session) struct Inner {
    pub(in crate::session) state: SessionState,
    /// Boxed to keep idle sessions small: they keep the list, which is then empty.
    #[expect(clippy::vec_box, reason = "see above")]
    pub(in crate::session) legs: Vec<Box<OpenLeg>>,
    pub(in crate::session) totals: SessionTotals,
    /// Only for sessions with more than the main agent.
    pub(in crate::session) agents: Option<Box<Agents>>,
    pub(in crate::session) end: Option<Box<End>>,
    pub(in crate::session) recorded: bool,
    /// Its places in the limits that count sessions; they are given back when it ends.
    places: Option<Box<SessionPlaces>>,
}

/// An open leg.
#[derive(Debug)]
pub(in crate::session) struct OpenLeg {
    pub(in crate::session) id: LegId,
    pub(in crate::session) started: Moment,
    pub(in crate::session) line: RequestLine,
    /// Names of the tools that its request offers.
    pub(in crate::session) offered: Box<[Box<str>]>,
    pub(in crate::session) cut: Arc<Cut>,
    pub(in crate::session) validity: Arc<Validity>,
    pub(in crate::session) agent: AgentIndex,
}

/// Why a leg was not opened.
#[derive(Debug)]
pub(in crate::session) enum NotOpened {
    /// The session has ended; the start is returned.
    Ended(LegStart),
    /// The agent is killed.
    Refused(Arc<KillOrder>),
}

/// What remains to be done after a leg has closed.
#[derive(Debug)]
pub(in crate::session) struct Closed {
    /// The request, if the caller wanted it.
    pub(in crate::session) kept: Option<PackedRequest>,
    /// True if the session had ended and waited only for this leg.
    pub(super) was_last: bool,
}

/// How the session ended.
#[derive(Clone, Debug)]
pub(in crate::session) struct End {
    pub(in crate::session) at: Moment,
    pub(in crate::session) reason: EndReason,
    pub(in crate::session) order: Option<Arc<KillOrder>>,
}

/// The incarnation before this one.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct Previous {
    pub(in crate::session) uid: Uid,
    pub(in crate::session) incarnation: u32,
}

impl Session {
    /// A new incarnation, active and without a leg.
    pub(in crate::session) fn new(request: SessionRequest, previous: Option<Previous>, now: Moment) -> Self {
        Self {
            key: request.key,
            uid: Uid::fresh(),
            kind: SessionKind::Traffic,
            incarnation: previous.map_or(1, |previous| previous.incarnation.saturating_add(1)),
            previous: previous.map(|previous| previous.uid),
            principal: request.principal,
            membership: request.membership,
            identity: Arc::new(request.identity),
            client_addr: request.client_addr,
            started: now,
            last_activity: AtomicU64::new(now.as_millis()),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            captured: AtomicU32::new(0),
            share: 0,
            is_opener: true,
            home: AtomicU64::new(0),
            positions: RosterPositions::default(),
            policy: OnceLock::new(),
            inner: Mutex::new(Inner {
                state: SessionState::Active,
                legs: Vec::new(),
                totals: SessionTotals::default(),
                agents: None,
                end: None,
                recorded: false,
                places: None,
            }),
        }
    }

    /// Shares the memory of equal values with another session of the same principal.
    pub(super) fn sharing(mut self, principal: &PrincipalId, identity: &Arc<Identity>) -> Self {
        if self.key.scope.as_str() == principal.as_str() {
            self.key.scope = Scope::of(principal);
        }
        self.principal = principal.clone();
        if self.identity == *identity {
            self.identity = Arc::clone(identity);
        }
        self
    }

    /// Scope and id.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The uid of the incarnation.
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// What runs in the session.
    pub fn kind(&self) -> SessionKind {
        self.kind
    }

    /// 1 for the first incarnation of its id.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The incarnation before this one.
    pub fn previous(&self) -> Option<Uid> {
        self.previous
    }

    /// The principal that opened it.
    pub fn principal(&self) -> &PrincipalId {
        &self.principal
    }

    /// The tenant and groups of that principal when it opened the session; `None` if it had neither.
    pub fn membership(&self) -> Option<&Arc<Membership>> {
        self.membership.as_ref()
    }

    /// How it was recognised when it was opened, and the client program.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The address that it was opened from.
    pub fn client_addr(&self) -> IpAddr {
        self.client_addr
    }

    /// When the incarnation began.
    pub fn started(&self) -> Moment {
        self.started
    }

    /// The current state.
    pub fn state(&self) -> SessionState {
        self.inner().state
    }

    /// Why it ended; `None` while it is active.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.inner().end.as_ref().map(|end| end.reason)
    }

    /// Counts bytes received from the client.
    pub fn add_bytes_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes sent to the client.
    pub fn add_bytes_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records activity; a moment before the last activity changes nothing.
    pub fn touch(&self, now: Moment) {
        // Most chunks of a fast stream fall into a millisecond that is already recorded: no write then.
        if self.last_activity.load(Ordering::Relaxed) < now.as_millis() {
            self.last_activity.fetch_max(now.as_millis(), Ordering::Relaxed);
        }
    }

    /// Bytes from the client.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes to the client.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// The mark of the backend that served the session last.
    pub fn home(&self) -> Option<u64> {
        Some(self.home.load(Ordering::Relaxed)).filter(|mark| *mark != 0)
    }

    /// Sets the mark of the backend that serves the session.
    pub fn set_home(&self, mark: u64) {
        self.home.store(mark, Ordering::Relaxed);
    }

    /// Requests whose bodies are captured on this instance.
    pub fn captured(&self) -> u32 {
        self.captured.load(Ordering::Relaxed)
    }

    /// Counts one more captured request; false if there are `max` already.
    pub fn capture_one(&self, max: u32) -> bool {
        let next = |count| (count < max).then(|| count + 1);
        self.captured.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Legs admitted so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Legs that failed so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Legs open now.
    pub fn open_legs(&self) -> usize {
        self.inner().legs.len()
    }

    /// The time of the last byte that moved.
    pub fn last_activity(&self) -> Moment {
        Moment::from_millis(self.last_activity.load(Ordering::Relaxed))
    }

    /// Time since the last activity.
    pub fn idle(&self, now: Moment) -> Duration {
        now.since(self.last_activity())
    }

    /// Age of the session, or its lifetime after its end.
    pub fn duration(&self, now: Moment) -> Duration {
        self.inner().end.as_ref().map_or(now, |end| end.at).since(self.started)
    }

    pub(in crate::session) fn inner(&self) -> MutexGuard<'_, Inner> {
        // parking_lot does not poison: after a panic elsewhere the parts are still consistent.
        self.inner.lock()
    }

    /// Ends the session if `only_if` holds at that moment. Returns the slots of the open legs, which the caller
    /// cuts, or `None` if it had already ended or may not end.
    pub(in crate::session) fn end(
        &self,
        end: End,
        only_if: impl FnOnce(&Session, &Inner) -> bool,
    ) -> Option<Vec<Arc<Cut>>> {
        let mut inner = self.inner();
        if !inner.state.may_become(end.reason.state()) || !only_if(self, &inner) {
            return None;
        }
        inner.state = end.reason.state();
        inner.places = None;
        inner.end = Some(Box::new(end));
        Some(inner.legs.iter().map(|leg| leg.cut.clone()).collect())
    }

    /// Keeps the session's places in the limits that count it until it ends.
    pub(super) fn hold(&self, places: SessionPlaces) {
        self.inner().places = Some(Box::new(places));
    }

    /// Gives the places up if only one request was ever admitted, which turns out to have begun another session.
    pub(super) fn pass_places_on(&self) {
        let mut inner = self.inner();
        if self.requests() == 1
            && let Some(places) = inner.places.take()
        {
            places.give_starts_back();
        }
    }

    /// Calls `build` once, after the end of the session; later calls, and calls before the end, return `None`.
    pub(super) fn record_once<T>(&self, build: impl FnOnce(&Inner) -> T) -> Option<T> {
        let mut inner = self.inner();
        if inner.recorded {
            return None;
        }
        let made = inner.end.is_some().then(|| build(&inner));
        inner.recorded = made.is_some();
        made
    }

    /// True if the record has been built.
    pub(in crate::session) fn is_recorded(&self) -> bool {
        self.inner().recorded
    }

    pub(in crate::session) fn ended(&self) -> Option<Moment> {
        self.inner().end.as_ref().map(|end| end.at)
    }

    /// This session as the previous one of the next incarnation.
    pub(super) fn as_previous(&self) -> Previous {
        Previous { uid: self.uid, incarnation: self.incarnation }
    }
}

mod share;
mod sums;
#[cfg(test)]
mod tests;
