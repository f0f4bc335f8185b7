//! Agents that go in circles: the turns of a session are watched (`policy.loops`) and judged (`on: turn`) before a request is
//! forwarded.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use pingora_http::ResponseHeader;
use pingora_proxy::Session as Exchange;

use super::ask::{About, ask};
use super::error_response::Reject;
use super::facts::RequestFacts;
use super::judge::{Decision, Unit, decide};
use super::request_ctx::{RequestCtx, reached};
use super::verdict::makes_answer;
use crate::ids::AgentId;
use crate::policy::arguments::arguments_digest;
use crate::policy::facts::{Phase, TurnFacts};
use crate::policy::loops::{FoundLoop, LoopLevel, Observation, TurnCall};
use crate::policy::verdict::Verdict;
use crate::protocol::request::decoded;
use crate::protocol::request::turn_calls::{CalledTool, called_tools};
use crate::protocol::wire::coding::Coding;

/// What tells a client that it goes in a circle.
const NOTICE: &str = "X-Elida-Notice";
/// The longest name of a tool in it.
const MAX_TOOL: usize = 64;

/// Digests are compared within a process only, and nobody can choose texts with the same one.
static DIGEST: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl RequestCtx {
    /// Whether the turns of agents are watched or judged.
    pub(super) fn watches_turns(&self) -> bool {
        self.stage.received().is_some_and(|received| {
            let rules = &received.handle.settings.rules;
            rules.loops().is_some() || rules.has(Phase::Turn)
        })
    }

    /// Judges the turn that a request brings.
    ///
    /// # Errors
    /// It is refused, the leg was cut, or the client has left.
    pub(super) async fn judge_turn(&self, session: &mut Exchange) -> Result<(), Reject> {
        let routed = reached(self.stage.routed())?;
        let (who, leg) = (&*routed.who, &routed.leg);
        if who.received.socket || !makes_answer(&who.received, &routed.route) {
            return Ok(());
        }
        let Some(body) = session.as_ref().get_retry_buffer() else { return Ok(()) };
        let settings = &who.received.handle.settings;
        let plain = match who.received.coding {
            Coding::Identity => None,
            coding => decoded(&body, coding, settings.limits.max_body_llm),
        };
        let calls: Vec<TurnCall> =
            called_tools(plain.as_deref().unwrap_or(&body)).into_iter().map(turn_call).collect();
        let (state, agent) = (leg.session().policy_state(), leg.agent());
        let agent = agent.as_ref().map(AgentId::as_str);
        let now = self.app.clock.now().as_millis();
        let seen = state.observe(agent, DIGEST.hash_one(&body[..]), &calls, now);

        let mut verdict = Verdict::default();
        let found = settings.rules.loops().and_then(|loops| loops.judge(&seen, &mut verdict));
        let mut asking = None;
        if seen.tool_calls > 0 && settings.rules.has(Phase::Turn) {
            let turn = turn_facts(&seen);
            let facts = RequestFacts {
                forward: Some((leg, Some(&routed.route))),
                turn: Some(&turn),
                ..RequestFacts::new(who, &session.req_header().headers, &self.app.clock)
            };
            settings.rules.finish(Phase::Turn, &facts, &mut verdict);
            let unit = &Unit::default();
            let about = About {
                phase: Phase::Turn,
                facts: &facts,
                verdict: &verdict,
                unit,
                text: &Vec::new,
                clean: None,
            };
            asking = ask(&self.app, Some(leg), about);
        }
        let decision = decide(&self.app, who, Some(leg), Phase::Turn, &verdict, &Unit::default());
        if let Some(found) = found.filter(|found| found.level >= LoopLevel::Hint) {
            // A request is judged once.
            let _ = who.received.handle.notice.set(notice(found, &seen));
        }
        if let (Some(asking), false) = (asking, matches!(decision, Decision::Refuse(_))) {
            self.obey(session, Decision::Ask(vec![asking])).await?;
        }
        match decision {
            Decision::Hold(held) => {
                self.hold(session, *held).await?;
                // Else the next turn would be held, too.
                state.forget_turns(agent);
            }
            other => self.obey(session, other).await?,
        }
        Ok(())
    }

    /// Tells the client that it goes in a circle.
    ///
    /// # Errors
    /// The field cannot be set, which would be a bug.
    pub(super) fn give_notice(&self, head: &mut ResponseHeader) -> pingora_core::Result<()> {
        let received = self.stage.received();
        let notice = received.and_then(|received| received.handle.notice.get());
        notice.map_or(Ok(()), |notice| head.insert_header(NOTICE, &**notice))
    }
}

fn turn_call(CalledTool { tool, arguments, result, is_error }: CalledTool) -> TurnCall {
    // Arguments may be JSON in a string.
    let arguments = arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned);
    TurnCall {
        call: DIGEST.hash_one((&tool, arguments_digest(arguments.as_bytes()))),
        result: DIGEST.hash_one(result.to_string()),
        tool: Arc::from(tool),
        is_error,
    }
}

fn turn_facts(seen: &Observation) -> TurnFacts {
    TurnFacts {
        tool_calls: seen.tool_calls,
        repeat: seen.repeat,
        cycle: seen.cycle,
        new_results: seen.new_results,
    }
}

/// Words the notice: `loop; signal=repeat; tool=Bash; count=8`. A name that does not fit into a field is left out.
fn notice(FoundLoop { signal, count, .. }: FoundLoop, seen: &Observation) -> Box<str> {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b':');
    let tool = seen.tool.as_deref().filter(|tool| tool.len() <= MAX_TOOL && tool.bytes().all(is_plain));
    let tool = tool.map_or_else(String::new, |tool| format!(" tool={tool};"));
    format!("loop; signal={};{tool} count={count}", signal.name()).into()
}
