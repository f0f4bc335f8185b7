//! Admission: a request joins its session, opens a new incarnation, or is refused.
//!
//! A known session costs one map lookup, one short mutex and no await that yields. A new session is created while
//! its registry shard is locked, so that no kill and no limit can take effect between the check and the creation.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::active_counts::SessionPermit;
use super::event::Event;
use super::leg::Leg;
use super::manager::Manager;
use super::reap::due;
use super::replication::Opening;
use super::request::{Denied, LegStart, Limit, SessionRequest};
use super::session::{NotOpened, Previous, Session};
use crate::clock::Moment;
use crate::ids::{LegId, PrincipalId};
use crate::limits::SessionLimits;
use crate::session::views::state::EndReason;

/// How often room is made before the request is refused, because other requests may take the room.
const TURNS: usize = 8;
/// Samples searched for a session without an open leg.
const SAMPLES: usize = 4;

impl Manager {
    /// Opens a leg in the session of the request. After `kill` has returned, no leg of that session is admitted
    /// until the order has expired or was lifted.
    pub async fn admit(self: &Arc<Self>, request: SessionRequest, start: LegStart) -> Result<Leg, Denied> {
        self.admit_within(request, start, &SessionLimits::default).await
    }

    /// As [`Manager::admit`], and a session that begins is counted by the limits that `limits` returns; it is called for
    /// no other.
    pub async fn admit_within(
        self: &Arc<Self>,
        request: SessionRequest,
        start: LegStart,
        limits: &(dyn Fn() -> SessionLimits + Sync),
    ) -> Result<Leg, Denied> {
        let now = self.clock.now();
        let mut start = start;
        if let Some(session) = self.active.find(&request.key)
            && !self.ended_before(&session, &request, now).await
        {
            match self.join(session, &request, start, now) {
                Ok(leg) => return Ok(leg),
                Err(NotOpened::Refused(order)) => return Err(Denied::Killed { order }),
                Err(NotOpened::Ended(again)) => start = again,
            }
        }
        // A killed client that keeps retrying costs no more than this lookup.
        if let Some(order) = self.kill_orders.in_force(&request.key, now) {
            return Err(Denied::Killed { order });
        }
        if let Some(address) = request.counted_from {
            let rate = self.settings.load().starts_per_address;
            self.start_limiter.take(address, rate, now).map_err(|wait| Denied::StartRate { wait })?;
        }
        let limits = limits();
        self.check_limits(&limits, &request)?;
        let permit = self.permit(&request).await?;
        let opening = self.replication.open(self, &request).await?;
        self.join_or_open(request, start, opening, permit, &limits)
    }

    /// Refuses a session that no limit has room for, before another one ends to make room for it and before the store is
    /// asked. With other instances only the store knows whether the session begins.
    fn check_limits(&self, limits: &SessionLimits, request: &SessionRequest) -> Result<(), Denied> {
        if limits.is_empty() || self.replication.is_shared() {
            return Ok(());
        }
        match limits.check(self.clock.now().as_millis()) {
            // Another request may have begun the session meanwhile; it then takes the place while it holds the slot.
            Err(refused) if self.active.find(&request.key).is_none() => Err(refused.into()),
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// Reserves a permit for a new session. If a limit is reached, the longest idle session without an open leg
    /// ends.
    async fn permit(&self, request: &SessionRequest) -> Result<SessionPermit<'_>, Denied> {
        let account = self.active_counts.account(request);
        let mut turns = 0;
        loop {
            let denied = match self.active_counts.reserve(account.clone(), &self.settings.load()) {
                Ok(permit) => return Ok(permit),
                Err(denied) => denied,
            };
            let Denied::Capacity { what, .. } = denied else { return Err(denied) };
            turns += 1;
            // Boxed, so that the future of every request stays small.
            if turns > TURNS || !Box::pin(self.make_room(what, &account)).await {
                self.active_counts.counts.refused[what as usize].fetch_add(1, Ordering::Relaxed);
                return Err(denied);
            }
        }
    }

    /// Ends the longest idle session without an open leg among those that this limit counts, or the longest idle of
    /// a sample if there are many. Returns false if there was none.
    async fn make_room(&self, limit: Limit, account: &PrincipalId) -> bool {
        for _ in 0..SAMPLES {
            let now = self.clock.now();
            let mut sample = self.active_counts.sample(limit, account);
            sample.retain(|session| session.open_legs() == 0);
            sample.sort_by_key(|session| session.last_activity());
            for session in sample {
                // If another instance uses the session, it only leaves this instance.
                if self.replication.end_idle(self, &session, EndReason::Capacity, session.idle(now)).await {
                    self.active_counts.counts.evicted[limit as usize].fetch_add(1, Ordering::Relaxed);
                    return true;
                }
            }
        }
        false
    }

    /// Opens a leg in an active session.
    fn join(
        self: &Arc<Self>,
        session: Arc<Session>,
        request: &SessionRequest,
        start: LegStart,
        now: Moment,
    ) -> Result<Leg, NotOpened> {
        let id = self.next_leg();
        session.open(id, &request.identity, start, now, &self.clock)?;
        Ok(Leg::new(session, self.clone(), id))
    }

    /// Ends a session that is due to end, without waiting for the next [`Manager::reap`], which would cut the
    /// request; and one with a derived id that has been idle for longer than its gap: the same id then means new
    /// work. Returns true if it is over on this instance.
    async fn ended_before(&self, session: &Arc<Session>, request: &SessionRequest, now: Moment) -> bool {
        let is_new_work = |gap: &Duration| session.idle(now) > *gap;
        let (reason, limit) = match (due(session, &self.settings.load(), now), request.idle_gap) {
            (Some(due), _) => due,
            (None, Some(gap)) if is_new_work(&gap) => (EndReason::IdleGap, gap),
            (None, _) => return false,
        };
        if reason == EndReason::MaxDuration {
            self.end(session, reason, None, |_, _| true);
            return true;
        }
        self.replication.end_idle(self, session, reason, limit).await
    }

    /// Slow path: while the slot of the id is locked, looks again, checks kill orders and limits, and creates the
    /// session with its first leg.
    fn join_or_open(
        self: &Arc<Self>,
        request: SessionRequest,
        start: LegStart,
        opening: Opening,
        permit: SessionPermit<'_>,
        limits: &SessionLimits,
    ) -> Result<Leg, Denied> {
        let now = self.clock.now();
        let id = request.key.id.clone();
        let begins = matches!(opening, Opening::Own(_) | Opening::Shared { is_new: true, .. });
        let mut is_here = false;
        let leg = self.active.with_slot(&id, |slot| {
            if self.closed.load(Ordering::SeqCst) {
                return Err(Denied::ShuttingDown);
            }
            if let Some(order) = self.kill_orders.in_force(&request.key, now) {
                return Err(Denied::Killed { order });
            }
            let mut start = start;
            let mut previous = None;
            if let Some(at) = slot.iter().position(|session| session.key().scope == request.key.scope) {
                match self.join(slot[at].clone(), &request, start, now) {
                    Ok(leg) => return Ok(leg),
                    Err(NotOpened::Refused(order)) => return Err(Denied::Killed { order }),
                    Err(NotOpened::Ended(again)) => start = again,
                }
                // It has ended and is about to be removed.
                previous = Some(slot.swap_remove(at).as_previous());
            }
            let closing = self.closing.find(&request.key).map(|session| session.as_previous());
            previous = newer(previous, closing);
            let places = if begins { limits.begin(now.as_millis())? } else { limits.join() };
            let (session, leg_id) = self.open(&request, &opening, previous, permit, start, now)?;
            if !limits.is_empty() {
                session.hold(places);
            }
            slot.push(session.clone());
            is_here = true;
            Ok(Leg::new(session, self.clone(), leg_id))
        });
        if !is_here {
            self.replication.release(&opening, &request);
            return leg;
        }
        let leg = leg?;
        self.replication.on_opened(leg.session());
        if begins {
            let started = leg.session().view(&self.clock, false);
            self.publish(Event::Started(Box::new(started)));
        }
        Ok(leg)
    }

    /// Creates a session with its first leg. Orders against its agents survive from the previous incarnation.
    fn open(
        &self,
        request: &SessionRequest,
        opening: &Opening,
        previous: Option<Previous>,
        permit: SessionPermit<'_>,
        start: LegStart,
        now: Moment,
    ) -> Result<(Arc<Session>, LegId), Denied> {
        let orders = self.kill_orders.agent_orders(&request.key, now);
        let session = match opening {
            Opening::Own(stored) => Session::new(request.clone(), newer(*stored, previous), now),
            Opening::Shared { session, share, is_new } => {
                Session::shared(session, *share, *is_new, now, &self.clock)
            }
        };
        let session = Arc::new(self.active_counts.share(session));
        for order in &orders {
            session.order_agent(order);
        }
        let leg = self.next_leg();
        match session.open(leg, &request.identity, start, now, &self.clock) {
            Ok(()) => {}
            Err(NotOpened::Refused(order)) => return Err(Denied::Killed { order }),
            Err(NotOpened::Ended(_)) => unreachable!("nobody else knows a session that was made just now"),
        }
        permit.take(&session);
        Ok((session, leg))
    }
}

/// The later of two previous incarnations.
fn newer(a: Option<Previous>, b: Option<Previous>) -> Option<Previous> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.uid > a.uid { b } else { a }),
        (a, b) => a.or(b),
    }
}
