//! Calls that a rule holds until an operator answers. A request waits here, an answer at the gate of its client; the session
//! goes on.
//!
//! An approval is for exactly one call, once: it is taken by one atomic step, on disk and in Redis, before the call goes on. A
//! client that leaves, or a kill, drops the wait and leaves the approval as it is; the same call again finds it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pingora_proxy::Session as Exchange;
use tokio::time::{Instant, sleep, sleep_until};

use super::downstream::GateWait;
use super::error_response::Reject;
use super::judge::{self, HoldRequest};
use super::judging::Patience;
use super::request_ctx::{Identified, RequestCtx, reached};
use super::state::ProxyState;
use super::waiting::while_waiting;
use crate::capture::redact::redact_body;
use crate::capture::redact_text;
use crate::error::{ErrorKind, Refusal, RefusalMetadata};
use crate::ids::{ClientNetwork, PrincipalId};
use crate::policy::approval::shown::{both_ends, visible};
use crate::policy::approval::{Approval, ApprovalState, HeldCall, HeldDetails};
use crate::policy::approvals::ApprovalRules;
use crate::policy::arguments::arguments_digest;
use crate::policy::facts::Phase;
use crate::policy::rule::{Action, Mode};
use crate::policy::session_state::Refused;
use crate::protocol::Dialect;
use crate::protocol::wire::framing::Framing;
use crate::session::{Event, Leg, Session};
use crate::telemetry::access::mask_line;
use crate::telemetry::metrics::{GaugeGuard, Metrics};

/// How often it is tried again to take an approval that Redis or the disk did not give.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest part of the arguments that is redacted, and the longest that is shown.
const READ: usize = 64 << 10;
const SHOWN: usize = 4 << 10;

/// Holds a call until an operator answers, at most for `longest` from when this is first polled. Before a denial is returned,
/// the order against repeats is written; a call that nobody has answered may come again, since it may be approved meanwhile.
pub(crate) fn wait(
    app: &Arc<ProxyState>,
    who: &Identified,
    leg: Option<&Leg>,
    request: HoldRequest,
    longest: Duration,
) -> GateWait {
    Holder::new(app, who, leg, longest).wait(request)
}

/// Who calls, for a hold that may follow.
pub(crate) struct Holder {
    app: Arc<ProxyState>,
    session: Option<Arc<Session>>,
    principal: PrincipalId,
    tenant: Option<Arc<str>>,
    dialect: Dialect,
    from: ClientNetwork,
    rules: ApprovalRules,
    longest: Duration,
}

impl Holder {
    /// For a call of this caller that may wait for `longest`.
    pub(crate) fn new(app: &Arc<ProxyState>, who: &Identified, leg: Option<&Leg>, longest: Duration) -> Self {
        let rules = who.received.handle.settings.approvals;
        Self {
            app: Arc::clone(app),
            session: leg.map(|leg| Arc::clone(leg.session())),
            principal: who.caller.principal.clone(),
            tenant: who.caller.membership().and_then(|found| found.tenant.clone()),
            dialect: who.received.dialect,
            from: ClientNetwork::of(who.received.client),
            rules,
            longest: longest.min(rules.wait),
        }
    }

    /// Holds a call until an operator answers.
    pub(crate) fn wait(self, request: HoldRequest) -> GateWait {
        let (call, details, longest) = (self.call(&request), self.details(&request), self.longest);
        let Self { app, session, from, rules, .. } = self;
        let held = Held { app, session, call, details, request, from, rules };
        Box::pin(async move {
            let mut timer = Timer::start(&held.app.metrics);
            let outcome = held.until(Instant::now() + longest).await;
            timer.outcome = match &outcome {
                Ok(()) => "approved",
                Err(refusal) if refusal.kind == ErrorKind::ApprovalTimeout => "timeout",
                Err(refusal) if refusal.kind == ErrorKind::ApprovalDenied => "denied",
                Err(_) => "refused",
            };
            if let Err(refusal) = &outcome
                && refusal.kind == ErrorKind::ApprovalDenied
            {
                held.refuse_repeats(refusal);
            }
            outcome
        })
    }

    /// What the approval is for.
    fn call(&self, request: &HoldRequest) -> HeldCall {
        let HoldRequest { rule, phase, agent, tool, server, target, args, .. } = request;
        HeldCall {
            session: self.session.as_ref().map(|session| session.key().clone()),
            agent: agent.clone(),
            principal: self.principal.clone(),
            tenant: self.tenant.clone(),
            rule: Arc::clone(&rule.id),
            phase: phase.name().to_owned(),
            tool: tool.clone(),
            server: server.clone(),
            args_sha256: match target {
                // The same body asks for something else elsewhere.
                Some(target) => arguments_digest(format!("{target}\n{}", arguments_digest(args)).as_bytes()),
                None => arguments_digest(args),
            },
        }
    }

    /// What operators see of it.
    fn details(&self, request: &HoldRequest) -> HeldDetails {
        let mut shown = both_ends(&readable(&request.args), SHOWN, request.args.len());
        if let Some(target) = &request.target {
            let target = visible(&redact_text(&mask_line(target)));
            shown = if shown.is_empty() { target } else { format!("{target}\n{shown}") };
        }
        HeldDetails {
            uid: self.session.as_ref().map(|session| session.uid()),
            dialect: self.dialect.name().to_owned(),
            message: request.rule.message.as_deref().map(str::to_owned),
            arguments: (!shown.is_empty()).then_some(shown),
            arguments_bytes: request.args.len() as u64,
        }
    }
}

/// The arguments without secrets and with what hides written out; of very long ones the beginning and the end.
fn readable(args: &[u8]) -> String {
    let head = String::from_utf8_lossy(&args[..args.len().min(READ)]);
    let framing = if head.trim_start().starts_with(['{', '[']) { Framing::Json } else { Framing::Opaque };
    let is_cut = args.len() > READ;
    let mut shown = visible(&redact_body(&head, framing, is_cut));
    if is_cut {
        // What is redacted of a secret that is divided here is before what is shown.
        let from = args.len().saturating_sub(READ).max(READ);
        let tail = redact_body(&String::from_utf8_lossy(&args[from..]), Framing::Opaque, false);
        let begin = tail.ceil_char_boundary(tail.len().min(SHOWN));
        let tail = visible(&tail[begin..]);
        // Short as it may have become, the middle is missing.
        shown.truncate(shown.floor_char_boundary(SHOWN / 2));
        shown = format!("{shown} […{} bytes in all…] {tail}", args.len());
    }
    shown
}

struct Held {
    app: Arc<ProxyState>,
    session: Option<Arc<Session>>,
    call: HeldCall,
    details: HeldDetails,
    request: HoldRequest,
    from: ClientNetwork,
    rules: ApprovalRules,
}

impl Held {
    /// # Errors
    /// The call is denied, nobody answered in time, or it may not go on any more.
    async fn until(&self, deadline: Instant) -> Result<(), Box<Refusal>> {
        let mut changes = self.app.approvals.changes();
        loop {
            changes.mark_unchanged();
            let approval = self.ask()?;
            let state = approval.state(Timestamp::now());
            match state {
                ApprovalState::Denied => return Err(self.denied(&approval)),
                ApprovalState::Approved => {
                    self.check_again(&approval)?;
                    if self.take(&approval).await {
                        return Ok(());
                    }
                }
                // What has expired or was used meanwhile is asked for anew.
                ApprovalState::Pending | ApprovalState::Used | ApprovalState::Expired => {}
            }
            let is_pending = state == ApprovalState::Pending;
            let until = if is_pending { expiry(&approval) } else { AGAIN };
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep_until(deadline) => return Err(self.timed_out(&approval)),
                () = sleep(until) => {}
            }
        }
    }

    /// Returns the approval of the call; a new one is stored and told to the others.
    fn ask(&self) -> Result<Approval, Box<Refusal>> {
        let (call, details, now) = (self.call.clone(), || self.details.clone(), Timestamp::now());
        let asked = self.app.approvals.ask(call, details, self.from, &self.rules, now);
        let asked = asked.map_err(|fault| {
            let message = format!("the rule '{}' holds {}, but {fault}", self.request.rule.id, self.name());
            self.refusal(ErrorKind::PolicyBlocked, message, None)
        })?;
        if asked.is_new {
            self.app.sessions.publish(Event::ApprovalRequested(Arc::new(asked.approval.clone())));
            // A task of its own: the approval outlives a client that leaves at once.
            tokio::spawn(store(Arc::clone(&self.app), asked.approval.clone()));
        }
        Ok(asked.approval)
    }

    /// # Errors
    /// The rules of now, or the score of the session, do not permit the call.
    fn check_again(&self, approval: &Approval) -> Result<(), Box<Refusal>> {
        let rules = &self.app.live.load().rules;
        if rules.generation() != self.request.generation {
            let message = "the rules have changed while this call was held; send it again";
            return Err(self.refusal(ErrorKind::PolicyBlocked, message.to_owned(), Some(approval)));
        }
        let Some(state) = self.session.as_ref().and_then(|session| session.policy()) else { return Ok(()) };
        let now = self.app.clock.now().as_millis();
        if let Some(Refused { rule, message, kind }) = state.repeats(None, &[], now) {
            return Err(Box::new(judge::refusal(&rule, &message, kind)));
        }
        let of_score = rules.of_score(state.score(now));
        match of_score.filter(|rule| rule.mode == Mode::Enforce && rule.action >= Action::Block) {
            None => Ok(()),
            Some(rule) => {
                let message = format!("the rule '{}' refuses {} now", rule.id, self.name());
                Err(Box::new(judge::refusal(rule, &message, ErrorKind::PolicyBlocked)))
            }
        }
    }

    /// Takes the approval; false if somebody else has, or it cannot be found out.
    async fn take(&self, approval: &Approval) -> bool {
        let Some(used) = self.app.approvals.begin_use(&approval.id, Timestamp::now()) else { return false };
        let app = Arc::clone(&self.app);
        // A task of its own: what is begun is ended, also when the client leaves.
        let taken = tokio::spawn(async move {
            let outcome = take(&app, &used).await;
            app.approvals.finish_use(&used.id, outcome.is_some().then_some(&used));
            outcome == Some(true)
        });
        taken.await.unwrap_or(false)
    }

    fn denied(&self, approval: &Approval) -> Box<Refusal> {
        let name = self.name();
        let message = match approval.decisions.last().and_then(|last| last.reason.as_deref()) {
            Some(reason) => format!("an operator has denied {name}: {reason}"),
            None => format!("an operator has denied {name}"),
        };
        self.refusal(ErrorKind::ApprovalDenied, message, Some(approval))
    }

    fn timed_out(&self, approval: &Approval) -> Box<Refusal> {
        let what = format!("nobody has approved {} in time (approval {})", self.name(), approval.id);
        let message = approval.message.as_ref().map_or(what.clone(), |text| format!("{text}: {what}"));
        self.refusal(ErrorKind::ApprovalTimeout, message, Some(approval))
    }

    fn refusal(&self, kind: ErrorKind, message: String, approval: Option<&Approval>) -> Box<Refusal> {
        let metadata = RefusalMetadata {
            rule: Some((*self.request.rule.id).into()),
            approval_id: approval.map(|approval| approval.id.as_str().into()),
            ..RefusalMetadata::default()
        };
        Box::new(Refusal { metadata: Some(Box::new(metadata)), ..Refusal::new(kind, message) })
    }

    fn name(&self) -> String {
        match &self.call.tool {
            Some(tool) => format!("this call of {tool}"),
            None => "this request".to_owned(),
        }
    }

    /// Clients repeat within milliseconds; what the repetition would get is known.
    fn refuse_repeats(&self, refusal: &Refusal) {
        let Some(session) = &self.session else { return };
        let HoldRequest { rule, agent, digests, .. } = &self.request;
        judge::refuse_repeats(&self.app, (session, agent.as_ref()), rule, refusal, digests);
    }
}

/// How long an approval can still be answered.
fn expiry(approval: &Approval) -> Duration {
    Duration::try_from(approval.expires.duration_since(Timestamp::now())).unwrap_or_default() + AGAIN
}

/// Stores a new approval, and tells the others.
async fn store(app: Arc<ProxyState>, approval: Approval) {
    let (approvals, document) = (Arc::clone(&app.approvals), approval.shared());
    let stored = tokio::task::spawn_blocking(move || approvals.store(&[document])).await;
    if let Ok(Err(fault)) = stored {
        tracing::error!(fault, "an approval cannot be stored in state.db: it does not outlive a restart");
    }
    app.sessions.share_client_key(approval.shared()).await;
}

/// Takes an approval for good. Returns whether this process was the first; `None` if that cannot be found out.
async fn take(app: &ProxyState, used: &Approval) -> Option<bool> {
    if !app.sessions.claim_document(&used.shared()).await? {
        return Some(false);
    }
    let (approvals, document) = (Arc::clone(&app.approvals), used.clone());
    match tokio::task::spawn_blocking(move || approvals.store_use(&document)).await {
        // In a fleet, Redis has decided.
        Ok(Ok(is_first)) => Some(is_first || app.sessions.is_shared()),
        Ok(Err(fault)) => {
            tracing::error!(
                fault,
                "the use of an approval cannot be stored in state.db: the call stays held"
            );
            None
        }
        Err(_) => None,
    }
}

/// Counts a call as held, and records for how long it was.
struct Timer {
    metrics: Arc<Metrics>,
    begun: Instant,
    outcome: &'static str,
    _held: GaugeGuard,
}

impl Timer {
    fn start(metrics: &Arc<Metrics>) -> Self {
        let held = metrics.held_calls().enter();
        Self { metrics: Arc::clone(metrics), begun: Instant::now(), outcome: "left", _held: held }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.metrics.call_was_held(self.outcome, self.begun.elapsed());
    }
}

impl RequestCtx {
    /// Holds a request of which nothing has been forwarded.
    ///
    /// # Errors
    /// It is refused, the leg was cut, or the client has left.
    pub(super) async fn hold(&self, session: &mut Exchange, mut held: HoldRequest) -> Result<(), Reject> {
        let who = reached(self.stage.identified())?;
        // A call without arguments is one; of all else, what is held is in the body.
        if held.args_truncated || held.args.is_empty() && held.phase != Phase::ToolCall {
            let (target, body) = self.held_text(session, held.phase)?;
            (held.target, held.args) = (Some(target.into()), body);
        }
        let is_rpc = who.received.dialect.is_json_rpc();
        let patience = if is_rpc { Patience::Mcp } else { Patience::BeforeTheHead };
        let longest = patience.longest(Duration::ZERO);
        let wait = wait(&self.app, who, self.stage.leg(), held, longest);
        let cut = Arc::clone(&who.received.handle.cut);
        match while_waiting(session, &cut, longest + AGAIN, wait).await? {
            Some(outcome) => outcome.map_err(Reject::Refused),
            None => Err(Refusal::new(ErrorKind::ApprovalTimeout, "nobody has approved this request").into()),
        }
    }

    /// What stands for a request that is no call of a tool: method, target, backend and model in one line, and the body, empty
    /// before that is read. A body that is not held whole stands for nothing but this one request.
    fn held_text(&self, session: &mut Exchange, phase: Phase) -> Result<(String, Box<[u8]>), Reject> {
        let who = reached(self.stage.identified())?;
        let received = &who.received;
        let target = received.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut line = format!("{} {target}", received.method);
        if let Some(route) = self.stage.route() {
            line += &format!(" backend={}", route.backend.settings().name());
        }
        if let Some(model) = &who.call.model {
            line += &format!(" model={model:?}");
        }
        let has_body = received.handle.upload.bytes() > 0 || received.declared.is_some_and(|size| size > 0);
        if phase == Phase::Connect || !has_body && session.as_mut().is_body_done() {
            return Ok((line, Box::default()));
        }
        let is_whole = session.as_mut().is_body_done();
        match session.as_ref().get_retry_buffer().filter(|_| is_whole) {
            Some(body) if body.len() as u64 == received.handle.upload.bytes() => {
                Ok((line, body.to_vec().into()))
            }
            _ => Ok((format!("{line} {}", received.request_id), Box::default())),
        }
    }
}
