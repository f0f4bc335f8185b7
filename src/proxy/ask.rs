//! Asks the services of `policy.external` about what rules have let pass. A request waits for the answers as for an approval, an
//! answer at the gate of its client: what completes a call stays there meanwhile. An answer can make things stricter, never
//! weaker: the rules have decided already.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use http::HeaderMap;
use pingora_proxy::Session as Exchange;
use serde_json::{Map, Value, json};

use super::error_response::Reject;
use super::facts::RequestFacts;
use super::findings::{finding_event, held};
use super::judge::{Decision, HoldRequest, Unit, message, refusal, refuse_repeats, stop};
use super::request_ctx::{Identified, RequestCtx, reached};
use super::state::ProxyState;
use super::waiting::while_waiting;
use crate::error::{ErrorKind, Refusal};
use crate::notify::services::{Failure, Reply, Services};
use crate::policy::expr::may_be_credential;
use crate::policy::external::{Content, External, facts_as_json};
use crate::policy::facts::{Phase, ToolFacts};
use crate::policy::rule::{Action, Mode, Rule};
use crate::policy::verdict::{Finding, Verdict};
use crate::session::{FindingEvent, Leg, Session};

/// Bytes of a text that a service is told.
pub(super) const MAX_TEXT: usize = 64 << 10;
/// Longer than any service may take.
const LONGEST: Duration = Duration::from_secs(30);
/// Facts that change with each request: answers are used again whatever they are.
const PASSING: [(&str, &[&str]); 4] = [
    ("session", &["age_s", "requests", "tool_calls", "risk"]),
    ("usage", &["input_tokens", "output_tokens", "cost_usd"]),
    ("request", &["bytes"]),
    ("time", &["hour", "weekday"]),
];

/// What services are asked about.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) phase: Phase,
    pub(super) facts: &'a RequestFacts<'a>,
    /// What the rules have found.
    pub(super) verdict: &'a Verdict,
    pub(super) unit: &'a Unit<'a>,
    /// What is said.
    pub(super) text: &'a dyn Fn() -> Vec<u8>,
    /// Notes that all services let it pass.
    pub(super) clean: Option<u128>,
}

/// Questions to services, not asked yet.
pub(crate) struct Asking {
    services: Arc<Services>,
    questions: Vec<Question>,
    subject: Subject,
}

struct Question {
    external: Arc<External>,
    input: Map<String, Value>,
    /// What changes with each request.
    passing: Map<String, Value>,
}

/// What is asked about, for what follows from the answers.
struct Subject {
    app: Arc<ProxyState>,
    session: Option<Arc<Session>>,
    held: HoldRequest,
    event: FindingEvent,
    clean: Option<u128>,
}

/// Returns the questions to the services that decide on this; `None` if none does. Those that only note their answers are asked
/// at once, and nothing waits for them.
pub(super) fn ask(app: &Arc<ProxyState>, leg: Option<&Leg>, about: About<'_>) -> Option<Asking> {
    let who = about.facts.who;
    let settings = &who.received.handle.settings;
    if !settings.rules.asks_services(about.phase) {
        return None;
    }
    let asked = settings.rules.externals().iter().filter(|one| one.is_asked(about.phase, about.facts));
    let questions = asked.map(|external| question(external, who, about));
    let (acting, noting): (Vec<_>, Vec<_>) =
        questions.partition(|question| question.external.mode == Mode::Enforce);
    let asking = |questions: Vec<Question>, clean| {
        let rule = questions.first()?.external.rule(about.phase, Action::Hold, None);
        let held = held(&rule, who, leg, about.phase, about.unit);
        let event = finding_event(app, who, leg, about.phase, about.unit, &rule);
        let session = leg.map(|leg| Arc::clone(leg.session()));
        let subject = Subject { app: Arc::clone(app), session, held, event, clean };
        Some(Asking { services: Arc::clone(&settings.services), questions, subject })
    };
    if let Some(noting) = asking(noting, None) {
        tokio::spawn(noting.decide());
    }
    asking(acting, about.clean)
}

fn question(external: &Arc<External>, who: &Identified, about: About<'_>) -> Question {
    let About { phase, facts, verdict, unit, .. } = about;
    let mut input = Map::new();
    if external.sends(Content::Facts) {
        input = facts_as_json(phase, facts);
        if let Some(Value::Object(request)) = input.get_mut("request") {
            request.insert("headers".to_owned(), fields(facts.headers));
            if let Some((_, Some(route))) = facts.forward.filter(|(_, route)| route.is_some()) {
                let backends = &who.received.handle.settings.backends;
                let others = route.others.iter().map(|other| backends[other.backend].settings().name());
                let others: Vec<&str> = others.map(crate::ids::BackendName::as_str).collect();
                request.insert("failover".to_owned(), json!(others));
            }
        }
        let ids = verdict.findings.iter().map(|finding| &*finding.rule.id);
        input.insert("findings".to_owned(), ids.collect());
    }
    if external.sends(Content::Args)
        && phase == Phase::ToolCall
        && let Some(tool) = unit.tool
    {
        let group = input.entry("tool").or_insert_with(|| Map::new().into());
        if let Value::Object(group) = group {
            group.insert("args".to_owned(), arguments(tool));
        }
    }
    if external.sends(Content::Text) {
        let mut text = (about.text)();
        let is_cut = text.len() >= MAX_TEXT;
        text.drain(..text.len().saturating_sub(MAX_TEXT));
        input.insert("text".to_owned(), String::from_utf8_lossy(&text).into());
        input.insert("text_truncated".to_owned(), is_cut.into());
    }
    input.insert("phase".to_owned(), phase.name().into());
    let mut passing = Map::new();
    for (group, names) in PASSING {
        if let Some(Value::Object(known)) = input.get_mut(group) {
            let taken = names.iter().filter_map(|name| known.remove_entry(*name)).collect::<Map<_, _>>();
            passing.insert(group.to_owned(), taken.into());
        }
    }
    if let Some(Value::Array(unknown)) = input.remove("unknown") {
        let is_lasting = |name: &&Value| !is_passing(name.as_str().unwrap_or_default());
        let lasting: Vec<Value> = unknown.iter().filter(is_lasting).cloned().collect();
        if !lasting.is_empty() {
            input.insert("unknown".to_owned(), lasting.into());
        }
        passing.insert("unknown".to_owned(), unknown.into());
    }
    passing.insert("decision_id".to_owned(), uuid::Uuid::now_v7().to_string().into());
    Question { external: Arc::clone(external), input, passing }
}

fn is_passing(name: &str) -> bool {
    let (group, member) = name.split_once('.').unwrap_or_default();
    PASSING.iter().any(|(passing, names)| *passing == group && names.contains(&member))
}

/// The fields of the head, but for those that may carry a credential.
fn fields(headers: &HeaderMap) -> Value {
    let shown = headers.keys().filter(|name| !may_be_credential(name.as_str()));
    let shown = shown.filter_map(|name| Some((name.to_string(), headers.get(name)?.to_str().ok()?.into())));
    Value::Object(shown.collect())
}

/// The arguments of a call; a text of those that are no JSON, so that they are not taken for none.
fn arguments(tool: &ToolFacts<'_>) -> Value {
    match tool.args.trim_ascii() {
        [] if !tool.args_truncated => Value::Object(Map::new()),
        args if tool.args_truncated => String::from_utf8_lossy(args).into(),
        args => serde_json::from_slice(args).unwrap_or_else(|_| String::from_utf8_lossy(args).into()),
    }
}

impl Asking {
    /// What would be held if a service says so.
    pub(super) fn held_mut(&mut self) -> &mut HoldRequest {
        &mut self.subject.held
    }

    /// Asks all services at once, and returns what follows from their answers; never another question. The order against repeats, or
    /// to kill, is written before.
    pub(super) async fn decide(self) -> Decision {
        let Self { services, questions, subject } = self;
        let asked = questions.into_iter().map(|Question { external, input, passing }| {
            let (services, begun) = (Arc::clone(&services), Instant::now());
            let metrics = &subject.app.metrics;
            async move {
                let reply = services.ask(external.index, input, passing).await;
                let result = match &reply {
                    Ok(reply) => reply.action.map_or("allow", Action::name),
                    Err(failure) => failure.name(),
                };
                metrics.service_asked(&external.name, result, begun.elapsed());
                (external, reply)
            }
        });
        let replies = join_all(asked).await;
        subject.follow(&replies)
    }
}

impl Subject {
    fn follow(self, replies: &[(Arc<External>, Result<Reply, Failure>)]) -> Decision {
        let mut strongest: Option<(Arc<Rule>, bool)> = None;
        for (external, reply) in replies {
            let failed = reply.is_err();
            let rule = match reply {
                Ok(Reply { action, reason, score }) => {
                    self.add_score(*score);
                    action.map(|action| external.rule(self.held.phase, action, reason.as_deref()))
                }
                Err(_) if !external.fails_closed => None,
                Err(_) => {
                    let message = format!("'{}', which decides on this, does not answer", external.name);
                    Some(external.rule(self.held.phase, Action::Block, Some(&message)))
                }
            };
            let Some(rule) = rule else { continue };
            self.note(&rule);
            let is_stronger = |(known, _): &(Arc<Rule>, bool)| rule.action > known.action;
            if rule.mode == Mode::Enforce && strongest.as_ref().is_none_or(is_stronger) {
                strongest = Some((rule, failed));
            }
        }
        match strongest.filter(|(rule, _)| rule.action > Action::Flag) {
            Some((rule, failed)) => self.act(rule, failed),
            None => {
                if let (Some(key), true) = (self.clean, replies.iter().all(|(_, reply)| reply.is_ok())) {
                    let settings = self.app.live.load();
                    self.app.judged(&settings.rules).note_clean(key);
                }
                Decision::Pass
            }
        }
    }

    fn add_score(&self, score: f64) {
        if let Some(session) = self.session.as_ref().filter(|_| score > 0.0) {
            session.policy_state().add_score(score, self.app.clock.now().as_millis());
        }
    }

    fn note(&self, rule: &Arc<Rule>) {
        self.app.metrics.rule_holds(&rule.id, rule.action.name(), rule.mode.name());
        if let Some(session) = &self.session {
            let finding = Finding::of_service(rule);
            session.policy_state().count(&finding, self.app.clock.now().as_millis());
        }
        self.app.sessions.found(FindingEvent {
            rule: rule.id.to_string(),
            action: rule.action,
            mode: rule.mode,
            ..self.event.clone()
        });
    }

    fn act(self, rule: Arc<Rule>, failed: bool) -> Decision {
        let kind =
            if self.held.phase == Phase::Turn { ErrorKind::LoopDetected } else { ErrorKind::PolicyBlocked };
        match (rule.action, &self.session) {
            (Action::Flag | Action::Throttle, _) => Decision::Pass,
            (Action::Hold, _) => Decision::Hold(Box::new(HoldRequest { rule, ..self.held })),
            (Action::Kill, Some(session)) => {
                let why = message(&rule, self.held.phase);
                Decision::Refuse(Box::new(stop(&self.app, session, &rule, &why)))
            }
            (Action::Block | Action::Kill, session) => {
                let refused = refusal(&rule, &message(&rule, self.held.phase), kind);
                // A service that is away may be back when the request comes again.
                if let Some(session) = session.as_ref().filter(|_| !failed) {
                    let HoldRequest { agent, digests, .. } = &self.held;
                    refuse_repeats(&self.app, (session, agent.as_ref()), &rule, &refused, digests);
                }
                Decision::Refuse(Box::new(refused))
            }
        }
    }
}

/// Asks about several things at once, and returns what follows: what is refused first.
pub(super) async fn decide_all(all: Vec<Asking>) -> Vec<Decision> {
    let mut decisions = join_all(all.into_iter().map(|asking| asking.decide())).await;
    decisions.sort_by_key(|decision| !matches!(decision, Decision::Refuse(_)));
    decisions
}

impl RequestCtx {
    /// Does what follows from the answers to questions about a request of which nothing has been forwarded.
    ///
    /// # Errors
    /// It is refused, the leg was cut, or the client has left.
    pub(super) async fn obey_answers(&self, session: &mut Exchange, all: Vec<Asking>) -> Result<(), Reject> {
        let cut = Arc::clone(&reached(self.stage.received())?.handle.cut);
        // A service has a limit of time of its own.
        let decided = while_waiting(session, &cut, LONGEST, decide_all(all)).await?;
        let late =
            || Refusal::new(ErrorKind::PolicyBlocked, "a service that decides on this does not answer");
        for decision in decided.ok_or_else(late)? {
            self.obey_one(session, decision).await?;
        }
        Ok(())
    }
}
