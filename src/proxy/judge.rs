//! What follows from the rules of `policy`. [`decide`] is the one place that turns a verdict into what happens: for requests,
//! answers, calls and results, whole or in pieces.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use pingora_proxy::Session;

use super::ask::{About as Asked, Asking, ask};
use super::error_response::Reject;
use super::facts::RequestFacts;
use super::findings::{finding_event, held};
use super::request_ctx::{Identified, RequestCtx, reached};
use super::spending::kill;
use super::state::ProxyState;
use super::waiting::while_waiting;
use crate::clock::Moment;
use crate::error::{ErrorKind, Refusal, RefusalMetadata};
use crate::ids::AgentId;
use crate::policy::facts::{Phase, ToolFacts};
use crate::policy::rule::{Action, Mode, Rule, RuleKind};
use crate::policy::session_state::{Refused, SessionState};
use crate::policy::suppressions::{About, shown};
use crate::policy::verdict::{Finding, Verdict, strongest};
use crate::session::{BY_POLICY, FindingEvent, Leg, Session as LiveSession};

/// What happens to what was judged.
pub(crate) enum Decision {
    /// It passes.
    Pass,
    /// It passes after this time.
    Wait(Duration),
    /// It waits for what services say to these questions.
    Ask(Vec<Asking>),
    /// It waits until an operator approves it.
    Hold(Box<HoldRequest>),
    /// It is refused; the order against its repetition is written already.
    Refuse(Box<Refusal>),
}

/// What was judged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unit<'a> {
    /// The elements of the request, by which its repetition is known; empty if they are not known.
    pub(crate) digests: &'a [u64],
    /// The tool call or the result.
    pub(crate) tool: Option<&'a ToolFacts<'a>>,
}

/// What waits for an approval.
#[derive(Clone, Debug)]
pub(crate) struct HoldRequest {
    pub(crate) rule: Arc<Rule>,
    pub(crate) phase: Phase,
    pub(crate) generation: u64,
    pub(crate) agent: Option<AgentId>,
    /// The tool that is called.
    pub(crate) tool: Option<String>,
    pub(crate) server: Option<String>,
    /// Method, target, backend and model of a request that is held for what it is; `None` for the call of a tool.
    pub(crate) target: Option<Box<str>>,
    /// The arguments of the call, as JSON; the body of a request.
    pub(crate) args: Box<[u8]>,
    /// Not all arguments were kept, so that they stand for no other call.
    pub(crate) args_truncated: bool,
    /// The elements of the request.
    pub(crate) digests: Box<[u64]>,
}

/// Records the findings (metrics, events, score, marks), writes the order against repetition or the kill order, and says what
/// happens.
pub(crate) fn decide(
    app: &ProxyState,
    who: &Identified,
    leg: Option<&Leg>,
    phase: Phase,
    verdict: &Verdict,
    unit: &Unit<'_>,
) -> Decision {
    let rules = &who.received.handle.settings.rules;
    let known = leg.and_then(|leg| leg.session().policy());
    if verdict.is_empty() && (known.is_none() || !rules.has_scores()) {
        return Decision::Pass;
    }
    let judging =
        Judging { app, who, leg, phase, unit, now: app.clock.now(), agent: leg.and_then(Leg::agent) };
    for rule in &verdict.undecided {
        app.metrics.rule_undecided(&rule.id);
    }
    let mut counted: Vec<&Finding> = verdict.findings.iter().collect();
    if !app.suppressions.is_empty() {
        counted.retain(|finding| !judging.is_suppressed(finding));
    }
    for finding in &counted {
        judging.note(finding);
    }
    let of_rules = strongest(counted).map(|finding| &finding.rule);
    let score = leg.and_then(|leg| leg.session().policy()).map(|state| state.score(judging.now.as_millis()));
    // An answer that has begun is not worth less because of what was found before.
    let of_score = score.filter(|_| phase == Phase::Request).and_then(|score| rules.of_score(score));
    let of_score = of_score.filter(|rule| rule.mode == Mode::Enforce);
    if let Some(rule) = of_score {
        app.metrics.rule_holds(&rule.id, rule.action.name(), rule.mode.name());
    }
    let deciding = match (of_rules, of_score) {
        (Some(rule), Some(score)) if score.action > rule.action => Some(score),
        (None, score) => score,
        (rule, _) => rule,
    };
    deciding.map_or(Decision::Pass, |rule| judging.act(rule))
}

/// Returns why a request with these elements was refused in the last minute, whoever refused it then: before any backend sees
/// it again.
pub(crate) fn repeated(app: &ProxyState, who: &Identified, leg: &Leg, digests: &[u64]) -> Option<Refusal> {
    let state = leg.session().policy()?;
    let agent = leg.agent();
    let agent = agent.as_ref().map(AgentId::as_str);
    let now = app.clock.now();
    let refused = state.repeats(agent, digests, now.as_millis())?;
    let is_killed = refused.kind == ErrorKind::SessionKilled;
    // What was suppressed meanwhile is judged again.
    if !is_killed && app.suppressions.concern(&refused.rule.id, about(who, Some(leg)), app.clock.wall(now)) {
        return None;
    }
    Some(refusal(&refused.rule, &refused.message, refused.kind))
}

/// Orders that the request is refused for a minute. Written before an answer or a hold ends because of a rule, so that the
/// client's repetition meets it.
pub(crate) fn refuse_repeats(
    app: &ProxyState,
    (session, agent): (&LiveSession, Option<&AgentId>),
    rule: &Arc<Rule>,
    refused: &Refusal,
    digests: &[u64],
) {
    let why =
        Refused { rule: Arc::clone(rule), message: refused.message.as_str().into(), kind: refused.kind };
    let now = app.clock.now().as_millis();
    session.policy_state().refuse_repeats(agent.map(AgentId::as_str), digests, why, now);
}

/// Whom suppressions may be for.
fn about<'a>(who: &'a Identified, leg: Option<&'a Leg>) -> About<'a> {
    About {
        principal: who.caller.principal.as_str(),
        tenant: who.caller.membership().and_then(|found| found.tenant.as_deref()),
        session: leg.map(|leg| leg.session().key().id.as_str()),
    }
}

struct Judging<'a> {
    app: &'a ProxyState,
    who: &'a Identified,
    leg: Option<&'a Leg>,
    phase: Phase,
    unit: &'a Unit<'a>,
    now: Moment,
    agent: Option<AgentId>,
}

impl Judging<'_> {
    fn state(&self) -> Option<&SessionState> {
        self.leg.map(|leg| leg.session().policy_state())
    }

    fn is_suppressed(&self, finding: &Finding) -> bool {
        let now = self.app.clock.wall(self.now);
        self.app.suppressions.suppress(&finding.rule.id, finding.digest, about(self.who, self.leg), now)
    }

    /// Counts a finding, once for each text.
    fn note(&self, finding: &Finding) {
        let Finding { rule, mode, .. } = finding;
        let is_new = self.state().is_none_or(|state| state.count(finding, self.now.as_millis()));
        let acts = *mode == Mode::Enforce && rule.action > Action::Flag;
        if is_new || acts {
            self.app.metrics.rule_holds(&rule.id, rule.action.name(), mode.name());
        }
        if is_new {
            self.app.sessions.found(self.event(finding));
        }
    }

    fn event(&self, finding: &Finding) -> FindingEvent {
        let Finding { rule, mode, unknown, role, via, digest, count } = finding;
        FindingEvent {
            mode: *mode,
            role: *role,
            via: via.map(|via| via.name().to_owned()),
            digest: (*digest != 0).then(|| shown(*digest)),
            count: *count,
            unknown: *unknown,
            ..finding_event(self.app, self.who, self.leg, self.phase, self.unit, rule)
        }
    }

    fn act(&self, rule: &Arc<Rule>) -> Decision {
        match rule.action {
            Action::Flag => Decision::Pass,
            Action::Throttle => self.throttle(rule),
            Action::Hold => Decision::Hold(Box::new(held(rule, self.who, self.leg, self.phase, self.unit))),
            Action::Block => self.block(rule),
            Action::Kill => self.kill(rule),
        }
    }

    fn throttle(&self, rule: &Arc<Rule>) -> Decision {
        let Some(state) = self.state() else { return Decision::Pass };
        let most = self.who.received.handle.settings.admission.wait();
        match state.pace(rule, self.now.as_millis(), most) {
            Ok(0) => Decision::Pass,
            Ok(wait) => Decision::Wait(Duration::from_millis(wait)),
            Err(wait) => {
                let seconds = wait.div_ceil(1000).max(1);
                let message = match &rule.message {
                    Some(message) => format!("{message}; try again in {seconds} s"),
                    None => {
                        format!(
                            "the session is slowed down by the rule '{}'; try again in {seconds} s",
                            rule.id
                        )
                    }
                };
                let retry_after = Some(Duration::from_secs(seconds));
                let refused = refusal(rule, &message, ErrorKind::RateLimited);
                Decision::Refuse(Box::new(Refusal { retry_after, ..refused }))
            }
        }
    }

    fn block(&self, rule: &Arc<Rule>) -> Decision {
        let kind = match (rule.kind, self.phase) {
            (RuleKind::Tools, _) => ErrorKind::ToolDenied,
            (_, Phase::Turn) => ErrorKind::LoopDetected,
            _ => ErrorKind::PolicyBlocked,
        };
        let refused = refusal(rule, &message(rule, self.phase), kind);
        if let Some(leg) = self.leg {
            refuse_repeats(self.app, (leg.session(), self.agent.as_ref()), rule, &refused, self.unit.digests);
        }
        Decision::Refuse(Box::new(refused))
    }

    fn kill(&self, rule: &Arc<Rule>) -> Decision {
        let Some(leg) = self.leg else { return self.block(rule) };
        let refused = stop(self.app, leg.session(), rule, &message(rule, self.phase));
        Decision::Refuse(Box::new(refused))
    }
}

/// Kills a session. The order is written by a task: until it is in force, the session itself refuses what comes.
pub(super) fn stop(app: &ProxyState, session: &LiveSession, rule: &Arc<Rule>, why: &str) -> Refusal {
    let refused = refusal(rule, &format!("Session killed: {why}"), ErrorKind::SessionKilled);
    session.policy_state().refuse_all(Refused {
        rule: Arc::clone(rule),
        message: refused.message.as_str().into(),
        kind: refused.kind,
    });
    drop(kill(app, session, format!("{BY_POLICY}{}", rule.id), why));
    refused
}

/// Returns the message of the refusal that the client receives.
pub(super) fn message(rule: &Rule, phase: Phase) -> String {
    if let Some(message) = &rule.message {
        return message.to_string();
    }
    let what = match phase {
        Phase::Connect | Phase::Request | Phase::Session | Phase::Routing => "the request",
        Phase::Response => "the answer",
        Phase::ToolCall => "the tool call",
        Phase::ToolResult => "the result of the tool",
        Phase::Turn => "the agent goes in a circle, and this",
    };
    format!("{what} is refused by the rule '{}' of this gateway", rule.id)
}

/// Words the refusal. It never has the text that was found.
pub(crate) fn refusal(rule: &Rule, message: &str, kind: ErrorKind) -> Refusal {
    let metadata = RefusalMetadata { rule: Some((*rule.id).into()), ..RefusalMetadata::default() };
    Refusal { metadata: Some(Box::new(metadata)), ..Refusal::new(kind, message) }
}

impl RequestCtx {
    /// Whether rules are configured.
    pub(super) fn has_rules(&self) -> bool {
        self.stage.received().is_some_and(|received| !received.handle.settings.rules.is_empty())
    }

    /// Judges the head by the rules `on: connect`.
    ///
    /// # Errors
    /// A rule refuses the request, the leg was cut, or the client has left.
    pub(super) async fn judge_head(&mut self, session: &mut Session) -> Result<(), Reject> {
        let who = reached(self.stage.identified())?;
        let rules = Arc::clone(&who.received.handle.settings.rules);
        // Without the id in the body, a client of JSON-RPC would not know which request is refused.
        if !rules.has(Phase::Connect) || who.received.dialect.is_json_rpc() {
            return Ok(());
        }
        let mut verdict = Verdict::default();
        let facts = RequestFacts::new(who, &session.req_header().headers, &self.app.clock);
        rules.finish(Phase::Connect, &facts, &mut verdict);
        let unit = &Unit::default();
        let decision = decide(&self.app, who, None, Phase::Connect, &verdict, unit);
        let is_refused = matches!(decision, Decision::Refuse(_));
        let about = Asked {
            phase: Phase::Connect,
            facts: &facts,
            verdict: &verdict,
            unit,
            text: &Vec::new,
            clean: None,
        };
        let asking = if is_refused { None } else { ask(&self.app, None, about) };
        if let Some(asking) = asking {
            self.obey(session, Decision::Ask(vec![asking])).await?;
        }
        self.obey(session, decision).await
    }

    /// Does what was decided about a request of which nothing has been forwarded.
    ///
    /// # Errors
    /// It is refused, the leg was cut, or the client has left.
    pub(super) async fn obey(&self, session: &mut Session, decision: Decision) -> Result<(), Reject> {
        match decision {
            Decision::Ask(all) => Box::pin(self.obey_answers(session, all)).await,
            other => self.obey_one(session, other).await,
        }
    }

    /// Does what was decided without services.
    ///
    /// # Errors
    /// It is refused, the leg was cut, or the client has left.
    pub(super) async fn obey_one(&self, session: &mut Session, decision: Decision) -> Result<(), Reject> {
        match decision {
            // Services are asked once.
            Decision::Pass | Decision::Ask(_) => Ok(()),
            Decision::Refuse(refused) => Err(Reject::Refused(refused)),
            Decision::Wait(time) => {
                let cut = Arc::clone(&reached(self.stage.received())?.handle.cut);
                while_waiting(session, &cut, time, pending::<()>()).await.map(|_| ())
            }
            Decision::Hold(held) => Box::pin(self.hold(session, *held)).await,
        }
    }
}
