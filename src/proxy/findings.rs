//! What is told of a finding, and what waits for an approval because of one.

use std::sync::Arc;

use super::judge::{HoldRequest, Unit};
use super::request_ctx::Identified;
use super::state::ProxyState;
use crate::policy::facts::{Phase, ToolFacts};
use crate::policy::rule::Rule;
use crate::session::{FindingEvent, Leg};

/// Returns what waits for an approval by this rule.
pub(super) fn held(
    rule: &Arc<Rule>,
    who: &Identified,
    leg: Option<&Leg>,
    phase: Phase,
    unit: &Unit<'_>,
) -> HoldRequest {
    HoldRequest {
        rule: Arc::clone(rule),
        phase,
        generation: who.received.handle.settings.rules.generation(),
        agent: leg.and_then(Leg::agent),
        tool: unit.tool.and_then(|tool| tool.name).map(str::to_owned),
        server: unit.tool.and_then(ToolFacts::server).map(str::to_owned),
        target: None,
        args: unit.tool.map(|tool| tool.args).unwrap_or_default().into(),
        args_truncated: unit.tool.is_some_and(|tool| tool.args_truncated),
        digests: unit.digests.into(),
    }
}

/// Returns what is told of a finding of this rule.
pub(super) fn finding_event(
    app: &ProxyState,
    who: &Identified,
    leg: Option<&Leg>,
    phase: Phase,
    unit: &Unit<'_>,
    rule: &Rule,
) -> FindingEvent {
    let session = leg.map(Leg::session);
    FindingEvent {
        at: app.clock.wall(app.clock.now()),
        session_id: session.map(|session| session.key().id.clone()),
        uid: session.map(|session| session.uid()),
        agent: leg.and_then(Leg::agent),
        principal: who.caller.principal.clone(),
        tenant: who.caller.membership().and_then(|found| found.tenant.as_deref()).map(str::to_owned),
        request_id: who.received.request_id.to_string(),
        rule: rule.id.to_string(),
        phase,
        action: rule.action,
        mode: rule.mode,
        severity: rule.severity,
        owasp: rule.owasp.as_deref().map(str::to_owned),
        role: None,
        via: None,
        tool: unit.tool.and_then(|tool| tool.name).map(str::to_owned),
        digest: None,
        count: 1,
        unknown: false,
    }
}
