//! Operations on the open legs of a session, under its lock.

use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::cut::CutReason;
use super::request::LegStart;
use super::session::{Closed, Inner, NotOpened, OpenLeg, Session};
use super::totals;
use crate::clock::{Clock, Moment};
use crate::ids::{BackendName, LegId};
use crate::protocol::facts::tools_offered::ToolsOffered;
use crate::protocol::facts::usage::Usage;
use crate::session::views::request_line::RequestLine;
use crate::session::views::state::{Identity, SessionState};
use crate::summary::{DROPPED, RequestSummary};

impl Session {
    /// Opens a leg, unless the session has ended or the agent is killed.
    pub(in crate::session) fn open(
        &self,
        id: LegId,
        who: &Identity,
        start: LegStart,
        now: Moment,
        clock: &Clock,
    ) -> Result<(), NotOpened> {
        let started_at = clock.wall(now);
        let mut inner = self.inner();
        if inner.state != SessionState::Active {
            return Err(NotOpened::Ended(start));
        }
        let agent = inner.enter(self, who, now).map_err(NotOpened::Refused)?;
        self.touch(now);
        self.requests.fetch_add(1, Ordering::Relaxed);
        let leg = Box::new(OpenLeg {
            id,
            started: now,
            offered: Box::default(),
            cut: start.cut,
            validity: start.validity,
            agent,
            line: RequestLine::begun(
                start.kind,
                start.method,
                start.path,
                start.request_id,
                who.agent_id.clone(),
                started_at,
            ),
        });
        totals::push_compact(&mut inner.legs, leg);
        Ok(())
    }

    /// Cuts the open legs whose callers are no longer accepted. Returns how many.
    pub(super) fn cut_invalid_legs(&self, now: Timestamp) -> usize {
        let inner = self.inner();
        let invalid = inner.legs.iter().filter(|leg| leg.validity.fault(now).is_some());
        invalid.filter(|leg| leg.cut.cut(CutReason::KeyRevoked)).count()
    }

    /// Records where an open leg is sent.
    pub(super) fn routed(&self, id: LegId, backend: &BackendName, model: Option<&str>) {
        let Inner { legs, totals, .. } = &mut *self.inner();
        if let Some(leg) = legs.iter_mut().find(|leg| leg.id == id) {
            totals.routed(&mut leg.line, Some(backend), model);
        }
    }

    /// Records which tools the request of an open leg offers.
    pub(in crate::session) fn offers(&self, id: LegId, offer: &ToolsOffered) {
        if let Some(leg) = self.inner().legs.iter_mut().find(|leg| leg.id == id) {
            leg.line.tools_offered = offer.count();
            leg.line.input_tokens_estimate = offer.token_estimate();
            leg.offered = offer.names().into();
        }
    }

    /// Records that an open leg failed over.
    pub(super) fn rerouted(&self, id: LegId, backend: &BackendName) {
        let Inner { legs, totals, .. } = &mut *self.inner();
        if let Some(leg) = legs.iter_mut().find(|leg| leg.id == id) {
            totals.rerouted(&mut leg.line, backend);
        }
    }

    /// Adds token counts to an open leg.
    pub(super) fn add_usage(&self, id: LegId, model: Option<&str>, usage: Usage) {
        let inner = &mut *self.inner();
        inner.totals.add_usage(model, usage);
        let Some(leg) = inner.legs.iter_mut().find(|leg| leg.id == id) else { return };
        leg.line.socket.get_or_insert_default().usage += usage;
        if let Some(agents) = &mut inner.agents {
            agents.sums(leg.agent).usage += usage;
        }
    }

    /// Closes a leg and returns what is kept of it if `wanted`; `None` if there is no such leg.
    pub(in crate::session) fn close(
        &self,
        id: LegId,
        summary: Option<&RequestSummary>,
        wanted: bool,
        now: Moment,
    ) -> Option<Closed> {
        let mut inner = self.inner();
        let at = inner.legs.iter().position(|leg| leg.id == id)?;
        let leg = inner.legs.swap_remove(at);
        self.touch(now);
        let dropped;
        let summary = match summary {
            Some(summary) => summary,
            None => {
                let duration = now.since(leg.started);
                dropped = RequestSummary { duration, outcome: DROPPED, ..RequestSummary::default() };
                &dropped
            }
        };
        if totals::failed(summary) {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        inner.leave(leg.agent, summary.usage, now);
        let kept = inner.totals.add(leg.line, summary);
        let kept = wanted.then(|| kept.clone());
        let was_last = inner.state.is_final() && inner.legs.is_empty() && !inner.recorded;
        Some(Closed { kept, was_last })
    }

    /// Removes an open leg with everything it counted. Returns true if the session had ended and waited only for
    /// this leg.
    pub(super) fn withdraw(&self, id: LegId, bytes_in: u64, now: Moment) -> bool {
        let mut inner = self.inner();
        let Some(at) = inner.legs.iter().position(|leg| leg.id == id) else { return false };
        let leg = inner.legs.swap_remove(at);
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.bytes_in.fetch_sub(bytes_in, Ordering::Relaxed);
        inner.leave(leg.agent, None, now);
        inner.totals.withdraw(&leg.line);
        inner.state.is_final() && inner.legs.is_empty() && !inner.recorded
    }
}
