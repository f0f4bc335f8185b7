//! Judges a request before it is forwarded: its texts and the results of tools in it, the calls of a client of MCP, and whether it
//! repeats what was refused. It happens once; where a request may fail over to is judged before it does (`judge_failover`).

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use pingora_proxy::Session;

use super::ask::{About, Asking, MAX_TEXT, ask};
use super::client_messages::ClientMessages;
use super::error_response::Reject;
use super::facts::{AskedModel, RequestFacts};
use super::judge::{Decision, Unit, decide, repeated};
use super::judge_call::call_verdict;
use super::judge_failover::keep_permitted;
use super::judge_texts::{AskedResult, Found, Texts};
use super::judge_upload::judge_upload;
use super::passing::{Passing, is_pairs, spaced};
use super::read::held_limit;
use super::request_ctx::{RequestCtx, Routed, reached};
use super::state::ProxyState;
use super::unknown_api;
use crate::policy::facts::{Phase, ToolFacts};
use crate::policy::ruleset::RuleSet;
use crate::policy::scan::Judged;
use crate::policy::verdict::Verdict;
use crate::protocol::dialects::credentials;
use crate::protocol::request::rpc_calls::{RpcCall, tool_calls};
use crate::protocol::request::{decoded, instructions, segments};
use crate::protocol::wire::coding::Coding;
use crate::protocol::wire::multipart::FormScan;
use crate::protocol::wire::quoted_printable::QuotedPrintable;
use crate::protocol::{BackendKind, Dialect};
use crate::session::Leg;

/// Models besides the first one for which a request is judged, each by itself.
const MAX_MODELS: usize = 8;

/// The body of a request, as far as it can be judged before the request is forwarded.
pub(super) enum Body<'b> {
    /// It has none.
    None,
    /// JSON, or what a backend may take for it.
    Json(Cow<'b, [u8]>),
    /// A form, whole.
    Form(Cow<'b, [u8]>),
    /// It comes while it is forwarded, behind this part.
    Streamed(&'b [u8]),
    /// It cannot be read.
    Unreadable,
}

impl RequestCtx {
    /// Judges a request that is about to be forwarded.
    ///
    /// # Errors
    /// A rule refuses the request or what it repeats, the leg was cut, or the client has left.
    pub(super) async fn judge_request(&mut self, session: &mut Session) -> Result<(), Reject> {
        let app = Arc::clone(&self.app);
        let has_body = !reached(self.stage.received())?.is_tunnel() && !session.as_mut().is_body_empty();
        let held = session.as_ref().get_retry_buffer();
        let head = session.req_header();
        let routed = self.stage.routed_mut()?;
        let body = Body::of(routed, &head.headers, has_body, held.as_deref());
        let mut decisions = judge(&app, routed, &head.headers, &body)?;
        keep_permitted(&app, routed, &head.headers, &body);
        // What is refused does not wait for anything first.
        decisions.sort_by_key(|decision| match decision {
            Decision::Refuse(_) => 0,
            Decision::Ask(_) => 1,
            Decision::Pass | Decision::Wait(_) | Decision::Hold(_) => 2,
        });
        for decision in decisions {
            self.obey(session, decision).await?;
        }
        Ok(())
    }
}

impl<'b> Body<'b> {
    fn of(routed: &Routed, headers: &HeaderMap, has_body: bool, held: Option<&'b [u8]>) -> Self {
        let received = &routed.who.received;
        if received.socket || !has_body {
            return Self::None;
        }
        let call = &routed.who.call;
        if call.unread.is_some() {
            return Self::Unreadable;
        }
        let held = held.unwrap_or_default();
        if !received.handle.upload.is_buffered() {
            return Self::Streamed(held);
        }
        let plain = match received.coding {
            Coding::Identity => Cow::Borrowed(held),
            coding => match decoded(held, coding, held_limit(received)) {
                Some(plain) => Cow::Owned(plain),
                None => return Self::Unreadable,
            },
        };
        let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if FormScan::is_form(media) { Self::Form(plain) } else { Self::Json(plain) }
    }

    fn plain(&self) -> &[u8] {
        match self {
            Self::Json(plain) | Self::Form(plain) => plain,
            Self::None | Self::Streamed(_) | Self::Unreadable => &[],
        }
    }
}

/// Judges a request, and returns what follows from it; nothing behind a refusal.
///
/// # Errors
/// It repeats what was refused.
pub(super) fn judge(
    app: &Arc<ProxyState>,
    routed: &mut Routed,
    headers: &HeaderMap,
    body: &Body<'_>,
) -> Result<Vec<Decision>, Reject> {
    let rules = Arc::clone(&routed.who.received.handle.settings.rules);
    read_instructions(&rules, routed, body);
    let (who, leg) = (&*routed.who, &routed.leg);
    let forward = Some((leg, Some(&routed.route)));
    let facts = RequestFacts { forward, ..RequestFacts::new(who, headers, &app.clock) };
    let has_body = !matches!(body, Body::None);
    let kind = routed.route.backend.settings().kind();
    let is_unheard = unknown_api::check(&rules, &who.received, kind, has_body)?;
    let table = app.judged(&rules);
    let Found { mut request, results, digests, conversation, is_incomplete, asked } =
        read_texts(app, &rules, routed, &facts, table, body);
    // A request that was refused may be asked again of another model; what was refused of its answer may not.
    let of_answer = repeated(app, who, leg, &digests[..conversation]);
    if let Some(refused) = of_answer.or_else(|| repeated(app, who, leg, &digests)) {
        return Err(refused.into());
    }
    if is_incomplete || is_unheard || matches!(body, Body::Unreadable) {
        rules.scan_limit(&mut request);
    }
    if who.received.dialect.is_json_rpc() {
        rules.finish(Phase::Connect, &facts, &mut request);
    }
    rules.finish(Phase::Request, &facts, &mut request);
    let mut results = results;
    judge_other_models(app, &rules, routed, &facts, body, [&mut request, &mut results]);
    let unit = Unit { digests: &digests, ..Unit::default() };
    let mut decisions = vec![decide(app, who, Some(leg), Phase::Request, &request, &unit)];
    if !results.is_empty() && !has_refusal(&decisions) {
        decisions.push(decide(app, who, Some(leg), Phase::ToolResult, &results, &unit));
    }
    let server = routed.route.backend.settings().name().as_str();
    let mut asking = Vec::new();
    for call in calls(&rules, routed, body) {
        if has_refusal(&decisions) {
            break;
        }
        let tool = tool_facts(&call, server);
        let verdict = call_verdict(&rules, &facts, &tool, table);
        let unit = &Unit { tool: Some(&tool), ..unit };
        decisions.push(decide(app, who, Some(leg), Phase::ToolCall, &verdict, unit));
        let facts = &RequestFacts { tool: Some(&tool), ..facts };
        let about =
            About { phase: Phase::ToolCall, facts, verdict: &verdict, unit, text: &Vec::new, clean: None };
        asking.extend(ask(app, Some(leg), about));
    }
    if !has_refusal(&decisions) {
        let verdicts = [&request, &results];
        asking.extend(questions(app, &rules, leg, &facts, &unit, verdicts, &asked, body));
        decisions.extend((!asking.is_empty()).then_some(Decision::Ask(asking)));
    }
    routed.digests = digests[..conversation].into();
    decisions.extend(begin_rest(app, &rules, routed, headers, body));
    Ok(decisions)
}

/// Judges a request for each model that it names besides the first one, as OpenRouter's fallbacks: any of them may work.
fn judge_other_models(
    app: &ProxyState,
    rules: &RuleSet,
    routed: &Routed,
    facts: &RequestFacts<'_>,
    body: &Body<'_>,
    [request, results]: [&mut Verdict; 2],
) {
    let Some(others) = routed.who.call.others.as_deref().filter(|_| rules.asks_for_model()) else { return };
    let named = others.names().take(MAX_MODELS).map(AskedModel::Other);
    let rest = (others.names().count() > MAX_MODELS).then_some(AskedModel::Unknown);
    for model in named.chain(rest) {
        let facts = RequestFacts { model, ..*facts };
        let mut found = read_texts(app, rules, routed, &facts, app.judged(rules), body);
        rules.finish(Phase::Request, &facts, &mut found.request);
        request.merge(found.request);
        results.merge(found.results);
    }
}

/// Reads the instructions, if a rule asks for them.
fn read_instructions(rules: &RuleSet, routed: &mut Routed, body: &Body<'_>) {
    if rules.asks_for_instructions()
        && let Body::Json(plain) = body
    {
        routed.who.call.instructions = instructions(plain, routed.route.dialect);
    }
}

/// Begins to judge what is still to come: the rest of a body that streams, or the messages of a socket.
fn begin_rest(
    app: &Arc<ProxyState>,
    rules: &Arc<RuleSet>,
    routed: &mut Routed,
    headers: &HeaderMap,
    body: &Body<'_>,
) -> Option<Decision> {
    let received = &routed.who.received;
    match body {
        Body::None => routed.messages = ClientMessages::begin(rules, received, held_limit(received)),
        Body::Streamed(held) => {
            routed.passing = Passing::begin(rules, received, headers);
            return judge_upload(app, routed, headers, Some(held));
        }
        Body::Json(_) | Body::Form(_) | Body::Unreadable => {}
    }
    None
}

/// Returns the questions to services about the request and the results in it.
#[expect(clippy::too_many_arguments, reason = "what was judged, and what was found")]
fn questions<'a>(
    app: &'a Arc<ProxyState>,
    rules: &RuleSet,
    leg: &'a Leg,
    facts: &'a RequestFacts<'a>,
    unit: &'a Unit<'a>,
    [request, results]: [&'a Verdict; 2],
    asked: &'a [AskedResult],
    body: &'a Body<'_>,
) -> impl Iterator<Item = Asking> + use<'a> {
    let text = move || said(body, facts.who.received.dialect);
    let phases = match rules.externals().is_empty() {
        true => &[][..],
        // Without the id in the body, a client of JSON-RPC would not know which request is refused.
        false if facts.who.received.dialect.is_json_rpc() => &[Phase::Connect, Phase::Request],
        false => &[Phase::Request],
    };
    let of_request = phases.iter().filter_map(move |phase| {
        let about = About { phase: *phase, facts, verdict: request, unit, text: &text, clean: None };
        ask(app, Some(leg), about)
    });
    let of_results = asked.iter().filter_map(move |result| {
        let tool = result.facts();
        let facts = &RequestFacts { tool: Some(&tool), ..*facts };
        let unit = &Unit { tool: Some(&tool), ..*unit };
        let text = || result.text.clone();
        let clean = Some(result.key);
        let about = About { phase: Phase::ToolResult, facts, verdict: results, unit, text: &text, clean };
        ask(app, Some(leg), about)
    });
    of_request.chain(of_results)
}

/// Returns what a request says, as far as a service is told: the end of it.
fn said(body: &Body<'_>, dialect: Dialect) -> Vec<u8> {
    struct Said(Vec<u8>);
    impl segments::Reader for Said {
        fn begin(&mut self, _: &segments::Element<'_>) -> bool {
            true
        }

        fn segment(&mut self, segment: &segments::Segment<'_>) {
            self.0.extend_from_slice(segment.text);
            self.0.push(b'\n');
            if self.0.len() > 4 * MAX_TEXT {
                // One byte more than is told, so that it is seen that something is missing.
                self.0.drain(..self.0.len() - MAX_TEXT - 1);
            }
        }

        fn end(&mut self, _: &segments::Element<'_>) {}
    }
    let mut said = Said(Vec::new());
    match body {
        Body::Json(plain) => segments::read(plain, dialect, &mut said),
        Body::Form(plain) => said.0 = plain.to_vec(),
        Body::None | Body::Streamed(_) | Body::Unreadable => {}
    }
    said.0
}

/// The facts of a call that a client of MCP makes at this server.
pub(super) fn tool_facts<'c>(call: &'c RpcCall<'_>, server: &'c str) -> ToolFacts<'c> {
    ToolFacts {
        name: call.tool.as_deref(),
        args: call.arguments.unwrap_or_default(),
        args_truncated: call.is_unclear,
        server: Some(server),
        source: "client",
        ..ToolFacts::default()
    }
}

fn has_refusal(decisions: &[Decision]) -> bool {
    decisions.iter().any(|decision| matches!(decision, Decision::Refuse(_)))
}

/// Reads the texts of a body that is there as a whole, if any rule asks for them, or for the digests of what is answered.
pub(super) fn read_texts(
    app: &ProxyState,
    rules: &RuleSet,
    routed: &Routed,
    facts: &RequestFacts<'_>,
    table: &Judged,
    body: &Body<'_>,
) -> Found {
    let is_asked = rules.patterns(Phase::Request).is_some()
        || rules.has(Phase::ToolResult)
        || rules.acts(Phase::Response)
        || rules.acts(Phase::ToolCall)
        || routed.leg.session().policy().is_some();
    if !is_asked {
        return Found::default();
    }
    let generation = rules.generation().to_le_bytes();
    // What was clean for one backend need not be for another.
    let of_backend = facts.backend.map(|name| [&generation[..], name.as_bytes()].concat());
    let scope =
        [routed.who.caller.principal.as_str().as_bytes(), of_backend.as_deref().unwrap_or(&generation)];
    let query = routed.who.received.uri.query().unwrap_or_default();
    let mut texts = Texts::new(rules, facts, table, scope, body.plain().len() + query.len());
    // A credential is no text: it is forwarded to whom it is for, or taken out.
    for (name, value) in credentials::other_parameters(query) {
        texts.raw(format!("{name}={value}").as_bytes());
    }
    match body {
        Body::Json(plain) => {
            segments::read(plain, routed.route.dialect, &mut texts);
            // Without a plus it would be the same text once more.
            if is_pairs(facts.headers) && plain.contains(&b'+') {
                texts.raw(&spaced(plain));
            }
        }
        Body::Form(plain) => {
            texts.raw(plain);
            let mut decoded = Vec::new();
            QuotedPrintable::default().feed(plain, &mut decoded);
            if !decoded.is_empty() {
                texts.raw(&decoded);
            }
        }
        Body::None | Body::Streamed(_) | Body::Unreadable => {}
    }
    app.metrics.scanned(texts.read, texts.known);
    texts.finish()
}

/// Returns the calls that a client of MCP makes; one of an unknown tool if they cannot be read.
pub(super) fn calls<'b>(rules: &RuleSet, routed: &Routed, body: &'b Body<'_>) -> Vec<RpcCall<'b>> {
    let is_mcp = routed.route.dialect == Dialect::MCP
        || routed.who.received.dialect == Dialect::MCP
        || routed.route.backend.settings().kind() == BackendKind::MCP;
    if !is_mcp || !rules.has(Phase::ToolCall) {
        return Vec::new();
    }
    match body {
        Body::None => Vec::new(),
        Body::Json(plain) => tool_calls(plain),
        Body::Form(_) | Body::Streamed(_) | Body::Unreadable => {
            vec![RpcCall { tool: None, arguments: None, is_unclear: true }]
        }
    }
}
