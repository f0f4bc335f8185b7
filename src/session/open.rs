//! What happens to the open legs of a session, under its lock.

use std::sync::atomic::Ordering;

use super::leg::LegStart;
use super::live::{Closed, Inner, Live, NotOpened, OpenLeg};
use super::model::{Identity, State};
use super::tally::{self, RequestLine};
use crate::clock::{Clock, Moment};
use crate::ids::{BackendName, LegId};
use crate::protocol::facts::tools_offered::ToolsOffered;
use crate::protocol::facts::usage::Usage;
use crate::summary::{DROPPED, RequestSummary};

impl Live {
    /// Opens a leg, unless the session has ended or an order stands against the agent.
    pub(super) fn open(
        &self,
        id: LegId,
        who: &Identity,
        start: LegStart,
        now: Moment,
        clock: &Clock,
    ) -> Result<(), NotOpened> {
        let started_at = clock.wall(now);
        let mut inner = self.inner();
        if inner.state != State::Active {
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
        tally::push_lean(&mut inner.legs, leg);
        Ok(())
    }

    /// Notes where an open leg goes.
    pub(super) fn routed(&self, id: LegId, backend: &BackendName, model: Option<&str>) {
        let Inner { legs, tally, .. } = &mut *self.inner();
        if let Some(leg) = legs.iter_mut().find(|leg| leg.id == id) {
            tally.routed(&mut leg.line, Some(backend), model);
        }
    }

    /// Notes what the request of an open leg offers.
    pub(super) fn offers(&self, id: LegId, offer: &ToolsOffered) {
        if let Some(leg) = self.inner().legs.iter_mut().find(|leg| leg.id == id) {
            leg.line.tools_offered = offer.count();
            leg.line.input_tokens_estimate = offer.token_estimate();
            leg.offered = offer.names().into();
        }
    }

    /// Notes that an open leg goes elsewhere.
    pub(super) fn rerouted(&self, id: LegId, backend: &BackendName) {
        let Inner { legs, tally, .. } = &mut *self.inner();
        if let Some(leg) = legs.iter_mut().find(|leg| leg.id == id) {
            tally.rerouted(&mut leg.line, backend);
        }
    }

    /// Counts the tokens of an answer inside a leg.
    pub(super) fn add_usage(&self, id: LegId, model: Option<&str>, usage: Usage) {
        let inner = &mut *self.inner();
        inner.tally.add_usage(model, usage);
        let Some(leg) = inner.legs.iter_mut().find(|leg| leg.id == id) else { return };
        leg.line.socket.get_or_insert_default().usage += usage;
        if let Some(agents) = &mut inner.agents {
            agents.sums(leg.agent).usage += usage;
        }
    }

    /// Closes a leg and gives what is kept of it, if that is `wanted`; `None` when there is no such leg.
    pub(super) fn close(
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
        if tally::failed(summary) {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        inner.leave(leg.agent, summary.usage, now);
        let kept = inner.tally.add(leg.line, summary);
        let kept = wanted.then(|| kept.clone());
        let was_last = inner.state.is_final() && inner.legs.is_empty() && !inner.recorded;
        Some(Closed { kept, was_last })
    }

    /// Takes an open leg out with all that was counted of it; true when the session had ended and waited for
    /// this leg only.
    pub(super) fn withdraw(&self, id: LegId, bytes_in: u64, now: Moment) -> bool {
        let mut inner = self.inner();
        let Some(at) = inner.legs.iter().position(|leg| leg.id == id) else { return false };
        let leg = inner.legs.swap_remove(at);
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.bytes_in.fetch_sub(bytes_in, Ordering::Relaxed);
        inner.leave(leg.agent, None, now);
        inner.tally.withdraw(&leg.line);
        inner.state.is_final() && inner.legs.is_empty() && !inner.recorded
    }
}
