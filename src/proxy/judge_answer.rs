//! Judges an answer while it passes: its texts by the rules `on: response`, the calls in it by those `on: tool_call`, and what
//! an MCP server returns by those `on: tool_result`. Whole answers, streams and messages of sockets take the same way.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use http::HeaderMap;

use super::answer_lanes::{AnswerLanes, MAX_GATHERED, Told};
use super::ask::{About, Asking, ask};
use super::downstream::GateWait;
use super::facts::RequestFacts;
use super::hold;
use super::judge::{Decision, HoldRequest, Unit, decide, refusal, refuse_repeats};
use super::judge_call::{call_verdict, model_calls};
use super::judging::{Follows, Heard, Judging};
use super::request_ctx::Ends;
use super::state::ProxyState;
use super::upgrade::Frames;
use super::withheld::{Exit, Judge, Part, Ruling, Source};
use crate::error::{ErrorKind, Refusal};
use crate::policy::facts::{Phase, ToolFacts};
use crate::policy::ruleset::RuleSet;
use crate::policy::scan::Patterns;
use crate::policy::verdict::Verdict;
use crate::protocol::Dialect;
use crate::protocol::answer::events::Event;
use crate::protocol::answer::tap::ResponseTap;
use crate::protocol::facts::tools::ToolCall;

/// Why what a socket says cannot wait.
const NO_SOCKET: &str = "a message of a WebSocket cannot wait for an approval: ask for it by a request";

/// Judges a chunk, and returns what of the answer may leave now.
///
/// # Errors
/// A rule refuses the answer.
pub(super) fn pass(
    judging: &mut Judging,
    with: With<'_>,
    tap: Option<&mut ResponseTap>,
    frames: Option<&mut Frames<'_>>,
    chunk: Option<Bytes>,
    end: bool,
    leaving: &mut dyn FnMut(&[u8]),
) -> Result<Bytes, Box<Refusal>> {
    let holds_calls = with.ends.who.received.handle.settings.rules.acts(Phase::ToolCall);
    let body = tap.map(|tap| Body { tap, holds_calls });
    let (mut body, chunk) = (body, chunk.unwrap_or_default());
    let source: &mut dyn Source = match (&mut body, frames) {
        (_, Some(frames)) => frames,
        (Some(body), None) => body,
        (None, None) => return Ok(chunk),
    };
    let Ends { who, leg, route, .. } = with.ends;
    let forward = Some((leg, Some(route)));
    let facts = RequestFacts { forward, ..RequestFacts::new(who, with.headers, &with.app.clock) };
    let rules = &*who.received.handle.settings.rules;
    let mut hearing = Hearing {
        rules,
        patterns: rules.patterns(judging.heard.phase),
        facts,
        with,
        heard: &mut judging.heard,
    };
    match &mut judging.withheld {
        Some(withheld) => {
            let exit = Exit::new(&who.received.handle.gate, leaving);
            withheld.feed(chunk, end, source, &mut hearing, exit)
        }
        None => {
            hearing.listen(&chunk, end, source);
            leaving(&chunk);
            Ok(chunk)
        }
    }
}

/// What an answer is judged with.
pub(super) struct With<'a> {
    pub(super) app: &'a Arc<ProxyState>,
    pub(super) ends: Ends<'a>,
    /// Those of the request.
    pub(super) headers: &'a HeaderMap,
    /// Counts the bytes of text for budgets.
    pub(super) text_bytes: &'a mut u64,
}

/// The body of an answer.
struct Body<'a> {
    tap: &'a mut ResponseTap,
    /// Rules act on calls.
    holds_calls: bool,
}

impl Source for Body<'_> {
    fn read(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) -> usize {
        self.tap.listen_unit(bytes, on)
    }

    fn end(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        self.tap.end_listening(on);
    }

    fn is_between(&self) -> bool {
        self.tap.is_between_units()
    }

    fn has_units(&self) -> bool {
        self.tap.has_units() == Some(true)
    }

    fn is_unread(&self) -> bool {
        self.tap.unread().is_some()
    }

    fn has_open_call(&self) -> bool {
        self.holds_calls && self.tap.has_open_call()
    }
}

/// Judges what is heard.
pub(super) struct Hearing<'a> {
    pub(super) rules: &'a RuleSet,
    pub(super) patterns: Option<&'a Patterns>,
    pub(super) facts: RequestFacts<'a>,
    pub(super) with: With<'a>,
    pub(super) heard: &'a mut Heard,
}

impl Judge for Hearing<'_> {
    fn hear(&mut self, event: Event<'_>) {
        *self.with.text_bytes += event.text_bytes();
        match event {
            Event::Text(text) | Event::Result(text) | Event::Definition(text) => {
                self.text(&event, text);
                self.heard.has_result = true;
            }
            Event::Reasoning(text) => self.text(&event, text),
            Event::Choice(choice) => self.read(choice, None),
            Event::Piece(index) => self.read(0, index),
            Event::End { choice, index } => self.heard.lanes.close(choice, index),
            Event::Call(call) => {
                let bytes = event.text_bytes();
                self.heard.fresh += bytes;
                self.heard.bytes += bytes;
                self.heard.begin_next();
                self.call(call);
            }
            Event::Stop(_) => self.heard.has_stopped = true,
            Event::Ambiguous => self.limit(),
            Event::Usage(_) => {}
        }
    }

    fn unit(&mut self, bytes: Bytes) -> Bytes {
        match self.heard.lists_in {
            None => bytes,
            Some(framing) => self.listed(bytes, framing),
        }
    }

    fn rule(&mut self, of: Part) -> Ruling {
        match of {
            Part::Unit => {}
            Part::Long => self.read(0, None),
            Part::LongUnit | Part::Unread => {
                self.read(0, None);
                self.limit();
            }
            Part::End => {
                self.read(0, None);
                self.lanes(|lanes, patterns, on| lanes.end(patterns, on));
            }
        }
        let text = std::mem::take(&mut self.heard.fresh);
        let is_over = of == Part::End || self.heard.has_stopped;
        let is_result = self.heard.phase == Phase::ToolResult && self.heard.has_result;
        if (is_over || is_result) && !std::mem::replace(&mut self.heard.is_finished, true) {
            self.finish();
            self.conclude(true);
        } else {
            self.conclude(false);
        }
        match std::mem::take(&mut self.heard.next) {
            Follows::Refuse(refused) => Ruling::Refuse(refused),
            Follows::Wait(waits) => Ruling::Wait(all(waits.into_inner()), self.heard.keep_alive),
            Follows::Nothing => match self.heard.lanes.undecided() {
                Some((of_secret, is_new)) => Ruling::Undecided { text, of_secret, is_new },
                None => Ruling::Pass { text, is_last: is_over },
            },
        }
    }
}

impl Hearing<'_> {
    /// Judges an answer of which nothing has to wait.
    fn listen(&mut self, chunk: &[u8], end: bool, source: &mut dyn Source) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let read = source.read(rest, &mut |event| self.hear(event)).clamp(1, rest.len());
            rest = &rest[read..];
            let _ = self.rule(if source.is_unread() { Part::Unread } else { Part::Unit });
        }
        if end {
            source.end(&mut |event| self.hear(event));
            if source.is_unread() {
                let _ = self.rule(Part::Unread);
            }
            let _ = self.rule(Part::End);
        }
    }

    /// Notes that something was not read.
    pub(super) fn limit(&mut self) {
        limit(self.rules, &mut self.heard.was_limited, &mut self.heard.verdict);
    }

    /// A text is said.
    fn text(&mut self, event: &Event<'_>, text: &[u8]) {
        let heard = &mut *self.heard;
        heard.begin_next();
        heard.fresh += text.len() as u64;
        heard.bytes += text.len() as u64;
        if let Some(said) = &mut heard.said {
            let room = MAX_GATHERED.saturating_sub(said.len());
            said.extend_from_slice(&text[..text.len().min(room)]);
        }
        if self.patterns.is_some() && heard.lanes.say(event) {
            self.read(0, None);
        }
    }

    /// Reads what was said, which belongs to this choice or block.
    fn read(&mut self, choice: u64, index: Option<u64>) {
        self.lanes(|lanes, patterns, on| lanes.read(patterns, choice, index, on));
    }

    /// Judges what is found in the texts.
    fn lanes(&mut self, find: impl FnOnce(&mut AnswerLanes, &Patterns, &mut dyn FnMut(Told<'_>))) {
        let Self { rules, patterns: Some(patterns), facts, with, heard } = self else { return };
        let Heard { lanes, verdict, was_limited, phase, bytes, .. } = &mut **heard;
        find(lanes, patterns, &mut |told| match told {
            Told::Limit => limit(rules, was_limited, verdict),
            Told::Found(element) => {
                let tool = result_facts(with.ends, *bytes);
                let facts = RequestFacts { tool: tool.as_ref(), ..*facts };
                rules.judge(*phase, &facts, element, verdict);
            }
        });
    }

    /// Asks the rules that look for no text.
    fn finish(&mut self) {
        let tool = result_facts(self.with.ends, self.heard.bytes);
        let facts = RequestFacts { tool: tool.as_ref(), ..self.facts };
        self.rules.finish(self.heard.phase, &facts, &mut self.heard.verdict);
    }

    fn call(&mut self, call: &ToolCall) {
        if !self.rules.has(Phase::ToolCall) {
            return;
        }
        for tool in model_calls(call) {
            let verdict = call_verdict(self.rules, &self.facts, &tool, self.with.app.judged(self.rules));
            self.follow(Phase::ToolCall, &verdict, Some(&tool), true);
        }
    }

    /// Does what follows from the texts. Services are asked when all have been read.
    fn conclude(&mut self, is_all: bool) {
        let asks = is_all && self.rules.asks_services(self.heard.phase);
        if asks || !self.heard.verdict.is_empty() {
            let verdict = std::mem::take(&mut self.heard.verdict);
            self.follow(self.heard.phase, &verdict, None, asks);
        }
    }

    pub(super) fn follow(
        &mut self,
        phase: Phase,
        verdict: &Verdict,
        tool: Option<&ToolFacts<'_>>,
        asks: bool,
    ) {
        let (With { app, ends, .. }, result) = (&self.with, result_facts(self.with.ends, self.heard.bytes));
        let unit = Unit { digests: ends.digests, tool: tool.or(result.as_ref()) };
        let decision = decide(app, ends.who, Some(ends.leg), phase, verdict, &unit);
        if asks && !matches!(decision, Decision::Refuse(_)) {
            let facts = RequestFacts { tool: unit.tool, ..self.facts };
            let text = || self.heard.said.clone().unwrap_or_default();
            let about = About { phase, facts: &facts, verdict, unit: &unit, text: &text, clean: None };
            if let Some(asking) = ask(app, Some(ends.leg), about) {
                let answered = self.answered(asking);
                self.heard.next.add(Ok(answered));
            }
        }
        let waits = match decision {
            // A stream is not slowed down.
            Decision::Pass | Decision::Wait(_) | Decision::Ask(_) => return,
            Decision::Refuse(refused) => Err(refused),
            Decision::Hold(held) => self.hold(*held),
        };
        self.heard.next.add(waits);
    }

    /// Returns what waits for the answers of services, and for an operator if one of them says so.
    fn answered(&self, mut asking: Asking) -> GateWait {
        let With { app, ends, .. } = self.with;
        let received = &ends.who.received;
        self.complete(asking.held_mut());
        let holder = self.heard.patience.map(|patience| {
            let longest = patience.longest(received.handle.arrived.elapsed());
            hold::Holder::new(app, ends.who, Some(ends.leg), longest)
        });
        Box::pin(async move {
            match (asking.decide().await, holder) {
                (Decision::Refuse(refused), _) => Err(refused),
                (Decision::Hold(held), Some(holder)) => holder.wait(*held).await,
                (Decision::Hold(held), None) => {
                    Err(Box::new(refusal(&held.rule, NO_SOCKET, ErrorKind::PolicyBlocked)))
                }
                (Decision::Pass | Decision::Wait(_) | Decision::Ask(_), _) => Ok(()),
            }
        })
    }

    /// Returns what waits until an operator approves it.
    ///
    /// # Errors
    /// It cannot wait.
    fn hold(&self, mut held: HoldRequest) -> Result<GateWait, Box<Refusal>> {
        let With { app, ends, .. } = self.with;
        let received = &ends.who.received;
        let Some(patience) = self.heard.patience else {
            let refused = refusal(&held.rule, NO_SOCKET, ErrorKind::PolicyBlocked);
            refuse_repeats(
                app,
                (ends.leg.session(), held.agent.as_ref()),
                &held.rule,
                &refused,
                &held.digests,
            );
            return Err(Box::new(refused));
        };
        self.complete(&mut held);
        let longest = patience.longest(received.handle.arrived.elapsed());
        Ok(hold::wait(app, ends.who, Some(ends.leg), held, longest))
    }

    /// Adds what an approval of it is for.
    fn complete(&self, held: &mut HoldRequest) {
        let mut is_whole = !held.args_truncated;
        if held.phase != Phase::ToolCall {
            let said = self.heard.said.as_deref().unwrap_or_default();
            is_whole = !said.is_empty() && said.len() < MAX_GATHERED;
            held.args = said.into();
        }
        if !is_whole {
            // It stands for nothing but this one answer.
            let request = self.with.ends.who.received.request_id.as_str();
            held.args = [&*held.args, b" ", request.as_bytes()].concat().into();
        }
    }
}

/// Notes once that something was not read.
pub(super) fn limit(rules: &RuleSet, was_limited: &mut bool, verdict: &mut Verdict) {
    if !std::mem::replace(was_limited, true) {
        rules.scan_limit(verdict);
    }
}

/// Waits for all of these; each is asked for at once.
fn all(mut waits: Vec<GateWait>) -> GateWait {
    match (waits.pop(), waits.is_empty()) {
        (Some(wait), true) => wait,
        (last, _) => Box::pin(async move { try_join_all(waits.into_iter().chain(last)).await.map(drop) }),
    }
}

/// The result that an MCP server returns: of which tool, and how long it is so far.
pub(super) fn result_facts(ends: Ends<'_>, bytes: u64) -> Option<ToolFacts<'_>> {
    let rpc = ends.who.call.rpc.as_deref().filter(|_| ends.route.dialect == Dialect::MCP)?;
    let name = rpc.name.as_deref().filter(|_| rpc.calls_tool && !rpc.is_mixed);
    Some(ToolFacts {
        name: name.or(rpc.method.as_deref()),
        server: Some(ends.route.backend.settings().name().as_str()),
        source: "client",
        bytes,
        ..ToolFacts::default()
    })
}
