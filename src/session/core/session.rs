//! The handle of a session that is active here: counters for the data path, legs behind a mutex.

use parking_lot::{Mutex, MutexGuard};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::active_counts::RosterPositions;
use super::agents::{AgentIndex, Agents};
use super::cut::Cut;
use super::packed_requests::PackedRequest;
use super::request::{LegStart, SessionRequest};
use super::totals::SessionTotals;
use crate::clock::Moment;
use crate::ids::{LegId, PrincipalId, Scope, SessionKey, Uid};
use crate::session::views::kill_order::KillOrder;
use crate::session::views::request_line::RequestLine;
use crate::session::views::state::{EndReason, Identity, SessionKind, SessionState};

/// One incarnation of a session. What the data path calls for each chunk is atomics only.
#[derive(Debug)]
pub struct Session {
    key: SessionKey,
    uid: Uid,
    kind: SessionKind,
    incarnation: u32,
    previous: Option<Uid>,
    principal: PrincipalId,
    identity: Arc<Identity>,
    client_addr: IpAddr,
    started: Moment,
    last_activity: AtomicU64,
    pub(in crate::session) requests: AtomicU64,
    pub(in crate::session) errors: AtomicU64,
    pub(in crate::session) bytes_in: AtomicU64,
    pub(in crate::session) bytes_out: AtomicU64,
    /// Requests of which the bodies were taken to be kept.
    captured: AtomicU32,
    /// The number of this instance's share; 0 when the session is this instance's alone.
    share: u32,
    /// The mark of the backend that served it last; 0 for none. Its prompt cache is warm there.
    home: AtomicU64,
    pub(in crate::session) seats: RosterPositions,
    inner: Mutex<Inner>,
}

/// What changes together: the state, the open legs and the sums.
#[derive(Debug)]
pub(in crate::session) struct Inner {
    pub(in crate::session) state: SessionState,
    /// Boxed: sessions without a request keep the list, which is empty then.
    #[expect(clippy::vec_box, reason = "see above")]
    pub(in crate::session) legs: Vec<Box<OpenLeg>>,
    pub(in crate::session) totals: SessionTotals,
    /// Only where more than the main agent is to be told apart.
    pub(in crate::session) agents: Option<Box<Agents>>,
    pub(in crate::session) end: Option<Box<End>>,
    pub(in crate::session) recorded: bool,
}

/// A leg that is open now.
#[derive(Debug)]
pub(in crate::session) struct OpenLeg {
    pub(in crate::session) id: LegId,
    pub(in crate::session) started: Moment,
    pub(in crate::session) line: RequestLine,
    /// The names of the tools that its request offers.
    pub(in crate::session) offered: Box<[Box<str>]>,
    pub(in crate::session) cut: Arc<Cut>,
    pub(in crate::session) agent: AgentIndex,
}

/// Why a leg was not opened.
#[derive(Debug)]
pub(in crate::session) enum NotOpened {
    /// The session has ended; the leg is given back.
    Ended(LegStart),
    /// An order stands against its agent.
    Refused(Arc<KillOrder>),
}

/// What the end of a leg leaves to be done.
#[derive(Debug)]
pub(in crate::session) struct Closed {
    /// What is kept of it, when that was asked for.
    pub(in crate::session) kept: Option<PackedRequest>,
    /// The session had ended and waited for this leg only.
    pub(in crate::session) was_last: bool,
}

/// How the session ended.
#[derive(Clone, Debug)]
pub(in crate::session) struct End {
    pub(in crate::session) at: Moment,
    pub(in crate::session) reason: EndReason,
    pub(in crate::session) order: Option<Arc<KillOrder>>,
}

/// What came before this incarnation.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct Previous {
    pub(in crate::session) uid: Uid,
    pub(in crate::session) incarnation: u32,
}

impl Session {
    /// A new incarnation, active and without a leg.
    pub(in crate::session) fn new(arrival: SessionRequest, previous: Option<Previous>, now: Moment) -> Self {
        Self {
            key: arrival.key,
            uid: Uid::fresh(),
            kind: SessionKind::Traffic,
            incarnation: previous.map_or(1, |previous| previous.incarnation.saturating_add(1)),
            previous: previous.map(|previous| previous.uid),
            principal: arrival.principal,
            identity: Arc::new(arrival.identity),
            client_addr: arrival.client_addr,
            started: now,
            last_activity: AtomicU64::new(now.as_millis()),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            captured: AtomicU32::new(0),
            share: 0,
            home: AtomicU64::new(0),
            seats: RosterPositions::default(),
            inner: Mutex::new(Inner {
                state: SessionState::Active,
                legs: Vec::new(),
                totals: SessionTotals::default(),
                agents: None,
                end: None,
                recorded: false,
            }),
        }
    }

    /// The same, in one piece of memory with another session of its principal what both have.
    pub(in crate::session) fn sharing(mut self, principal: &PrincipalId, identity: &Arc<Identity>) -> Self {
        if self.key.scope.as_str() == principal.as_str() {
            self.key.scope = Scope::of(principal);
        }
        self.principal = principal.clone();
        if self.identity == *identity {
            self.identity = Arc::clone(identity);
        }
        self
    }

    /// Which session.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Which incarnation.
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// What runs in it.
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

    /// Whose it is: who opened it.
    pub fn principal(&self) -> &PrincipalId {
        &self.principal
    }

    /// How it was recognised when it was opened.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Where it was opened from.
    pub fn client_addr(&self) -> IpAddr {
        self.client_addr
    }

    /// When it began.
    pub fn started(&self) -> Moment {
        self.started
    }

    /// Its state now.
    pub fn state(&self) -> SessionState {
        self.inner().state
    }

    /// Why it ended, if it has.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.inner().end.as_ref().map(|end| end.reason)
    }

    /// Counts bytes from the client.
    pub fn add_bytes_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes to the client.
    pub fn add_bytes_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that something moved; an earlier moment than the last one changes nothing.
    pub fn touch(&self, now: Moment) {
        // Most chunks of a fast stream fall into a millisecond already noted: no write then.
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

    /// The mark of the backend that served it last.
    pub fn home(&self) -> Option<u64> {
        Some(self.home.load(Ordering::Relaxed)).filter(|mark| *mark != 0)
    }

    /// Notes the mark of the backend that serves it.
    pub fn set_home(&self, mark: u64) {
        self.home.store(mark, Ordering::Relaxed);
    }

    /// Requests of which the bodies were taken to be kept, here.
    pub fn captured(&self) -> u32 {
        self.captured.load(Ordering::Relaxed)
    }

    /// Counts one more of them, unless there are as many already.
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

    /// When something moved last.
    pub fn last_activity(&self) -> Moment {
        Moment::from_millis(self.last_activity.load(Ordering::Relaxed))
    }

    /// How long nothing has moved.
    pub fn idle(&self, now: Moment) -> Duration {
        now.since(self.last_activity())
    }

    /// How long it has lived; after its end, how long it lived.
    pub fn duration(&self, now: Moment) -> Duration {
        self.inner().end.as_ref().map_or(now, |end| end.at).since(self.started)
    }

    pub(in crate::session) fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere must not take the session with it: its parts stay consistent by themselves.
        self.inner.lock()
    }

    /// Ends the session if `only_if` holds at the moment of ending. Gives the open legs' slots, still to
    /// be cut, or `None` when it had ended before or may not end.
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
        inner.end = Some(Box::new(end));
        Some(inner.legs.iter().map(|leg| leg.cut.clone()).collect())
    }

    /// Calls `build` once in the life of an ended session; `None` ever after, and before its end.
    pub(in crate::session) fn record_once<T>(&self, build: impl FnOnce(&Inner) -> T) -> Option<T> {
        let mut inner = self.inner();
        if inner.recorded {
            return None;
        }
        let made = inner.end.is_some().then(|| build(&inner));
        inner.recorded = made.is_some();
        made
    }

    /// True when the record was written.
    pub(in crate::session) fn is_recorded(&self) -> bool {
        self.inner().recorded
    }

    /// When it ended.
    pub(in crate::session) fn ended(&self) -> Option<Moment> {
        self.inner().end.as_ref().map(|end| end.at)
    }

    /// What it is to the incarnation after it.
    pub(in crate::session) fn as_previous(&self) -> Previous {
        Previous { uid: self.uid, incarnation: self.incarnation }
    }
}

mod share;
#[cfg(test)]
mod tests;
