//! Views of an active session: what the control API shows, and its record.

use std::sync::Arc;

use super::session::{Inner, OpenLeg, Session};
use crate::clock::{Clock, Moment, millis};
use crate::ids::BackendName;
use crate::policy::session_state::RuleCount;
use crate::session::store::Filter;
use crate::session::views::finding::Flag;
use crate::session::views::record::{Record, RecordDetail};
use crate::session::views::session_view::{LegView, PrincipalView, SessionView};
use crate::session::views::state::Identity;

impl Session {
    /// The session as it is now.
    pub(in crate::session) fn view(&self, clock: &Clock, detail: bool) -> SessionView {
        let now = clock.now();
        let inner = self.inner();
        let brief = self.brief(&inner, clock, now);
        if !detail {
            return brief;
        }
        SessionView {
            agents: Some(inner.agent_views(self, clock, now)),
            legs: Some(inner.legs.iter().map(|leg| leg.view(now)).collect()),
            requests: Some(inner.totals.lines()),
            ..brief
        }
    }

    fn brief(&self, inner: &Inner, clock: &Clock, now: Moment) -> SessionView {
        let end = inner.end.as_deref();
        let until = end.map_or(now, |end| end.at);
        let last_activity = self.last_activity();
        let backends = inner.totals.backends();
        let models = inner.totals.models();
        SessionView {
            id: self.key().id.clone(),
            uid: self.uid(),
            kind: self.kind(),
            state: inner.state,
            incarnation: self.incarnation(),
            previous_id: self.previous(),
            identity: Identity::clone(self.identity()),
            principal: PrincipalView::new(
                self.principal().clone(),
                self.membership().map(|membership| &**membership),
            ),
            key: self.key().clone(),
            started_at: clock.wall(self.started()),
            last_activity: clock.wall(last_activity),
            ended_at: end.map(|end| clock.wall(end.at)),
            end_reason: end.map(|end| end.reason),
            kill: end.and_then(|end| end.order.clone()),
            duration_ms: millis(until.since(self.started())),
            idle_ms: if end.is_some() { 0 } else { millis(now.since(last_activity)) },
            request_count: self.requests(),
            error_count: self.errors(),
            open_legs: inner.legs.len(),
            bytes_in: self.bytes_in(),
            bytes_out: self.bytes_out(),
            backends: backends.into_iter().map(|used| (used.name, used.requests)).collect(),
            models: models.iter().map(|used| (used.model.clone(), used.requests)).collect(),
            usage: inner.totals.usage(),
            tools: inner.totals.tools(),
            flags: self
                .policy()
                .map(|state| state.flags())
                .unwrap_or_default()
                .into_iter()
                .map(flag)
                .collect(),
            client_addr: self.client_addr(),
            agents: None,
            legs: None,
            requests: None,
        }
    }

    /// What a record contains beyond the view.
    pub(in crate::session) fn record_detail(&self) -> RecordDetail {
        self.inner().record_detail()
    }

    /// The record of this session, once it has ended; only the first call returns it. `backend_url` returns the
    /// address that a backend is shown as.
    pub(super) fn record(
        &self,
        clock: &Clock,
        backend_url: impl FnOnce(&BackendName) -> Arc<str>,
    ) -> Option<Record> {
        let (view, detail) = self.record_once(|inner| {
            let brief = self.brief(inner, clock, clock.now());
            (SessionView { requests: Some(inner.totals.lines()), ..brief }, inner.record_detail())
        })?;
        Record::new(view, detail, backend_url)
    }

    /// True when the filter asks for this session; builds no view.
    pub(super) fn matches(&self, filter: &Filter) -> bool {
        let client = self.identity().client.as_deref();
        filter.matches_labels(&self.key().id, self.uid(), self.kind(), self.principal(), client)
            && filter.covers(self.membership().and_then(|member| member.tenant.as_deref()))
            && (filter.state.is_none() && filter.backend.is_none() || {
                let inner = self.inner();
                filter.state.is_none_or(|state| state == inner.state)
                    && filter.backend.as_deref().is_none_or(|name| inner.totals.used(name))
            })
    }
}

fn flag(found: RuleCount) -> Flag {
    let RuleCount { rule, action, severity, count } = found;
    Flag { rule, action, severity, count }
}

impl Inner {
    fn record_detail(&self) -> RecordDetail {
        RecordDetail {
            models: self.totals.models().to_vec(),
            errors: self.totals.errors(),
            ttfb: self.totals.latencies().clone(),
            failovers: self.totals.failovers(),
            agents: self.agent_names(),
            agent_kills: self.agent_kills(),
        }
    }
}

impl OpenLeg {
    fn view(&self, now: Moment) -> LegView {
        let line = &self.line;
        LegView {
            id: self.id,
            kind: line.kind,
            request_id: line.request_id.clone(),
            method: line.method.clone(),
            path: line.path.clone(),
            agent: line.agent.clone(),
            backend: line.backend.clone(),
            model: line.model.clone(),
            tools_offered: self.offered.clone(),
            input_tokens_estimate: line.input_tokens_estimate,
            started_at: line.started_at,
            duration_ms: millis(now.since(self.started)),
        }
    }
}
