//! The state of an answer that is judged while it passes (`judge_answer`).

use std::time::Duration;

use parking_lot::Mutex;

use super::answer_lanes::AnswerLanes;
use super::downstream::{Gate, GateWait, KeepAlive};
use super::withheld::Withheld;
use crate::error::Refusal;
use crate::policy::facts::Phase;
use crate::policy::ruleset::RuleSet;
use crate::policy::verdict::Verdict;
use crate::protocol::Dialect;
use crate::protocol::answer::tap::ResponseTap;
use crate::protocol::wire::framing::Framing;

/// How often a client that waits is sent something.
const EVERY: Duration = Duration::from_secs(10);

/// How long a client waits for an answer, or for the rest of one, while it is held.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// It is sent events that its SDK counts as such.
    Events,
    /// It is sent comments, which may not count: Codex gives up after 300 seconds without an event.
    Comments,
    /// It has a part of the answer and is sent nothing.
    Nothing,
    /// It has nothing of the answer: the HTTP clients of SDKs give up after 5 to 10 minutes.
    BeforeTheHead,
    /// It gives up a minute after it has asked, whatever it is sent: the TypeScript SDK does.
    Mcp,
}

impl Patience {
    /// Returns how long a request may wait that came `since` ago, or its answer; ten seconds at least.
    pub(super) fn longest(self, since: Duration) -> Duration {
        let (seconds, since) = match self {
            Self::Events => (540, Duration::ZERO),
            Self::Comments => (240, Duration::ZERO),
            Self::Nothing => (50, Duration::ZERO),
            Self::BeforeTheHead => (240, since),
            Self::Mcp => (50, since),
        };
        Duration::from_secs(seconds).saturating_sub(since).max(Duration::from_secs(10))
    }
}

/// Returns the phase whose rules judge the texts of an answer.
pub(super) fn phase_of_texts(dialect: Dialect) -> Phase {
    if dialect == Dialect::MCP { Phase::ToolResult } else { Phase::Response }
}

/// Whether rules ask for what answers of this dialect say.
pub(super) fn is_asked(rules: &RuleSet, dialect: Dialect) -> bool {
    rules.has(phase_of_texts(dialect)) || dialect.is_llm() && rules.has(Phase::ToolCall)
}

/// Judges one answer.
pub(crate) struct Judging {
    /// `None` if no rule acts, so that nothing has to wait.
    pub(super) withheld: Option<Withheld>,
    pub(super) heard: Heard,
}

/// What an answer has said so far.
pub(super) struct Heard {
    pub(super) phase: Phase,
    pub(super) keep_alive: Option<KeepAlive>,
    /// How long its client waits while it is held; `None` if it does not.
    pub(super) patience: Option<Patience>,
    /// What it has said so far, as far as that is kept; `None` if no rule holds it and no service is told.
    pub(super) said: Option<Vec<u8>>,
    /// Its texts, where rules look for something in them.
    pub(super) lanes: AnswerLanes,
    /// The framing of an answer that may list the tools of an MCP server.
    pub(super) lists_in: Option<Framing>,
    /// Bytes of text since the last ruling, and in all.
    pub(super) fresh: u64,
    pub(super) bytes: u64,
    pub(super) verdict: Verdict,
    /// The model has stopped.
    pub(super) has_stopped: bool,
    /// It has said something that is no reasoning.
    pub(super) has_result: bool,
    /// The rules without `match` were asked.
    pub(super) is_finished: bool,
    /// It was told that something cannot be read.
    pub(super) was_limited: bool,
    pub(super) next: Follows,
}

/// What follows from what was judged since the last ruling.
#[derive(Default)]
pub(super) enum Follows {
    #[default]
    Nothing,
    /// It waits for all of these.
    Wait(Mutex<Vec<GateWait>>),
    Refuse(Box<Refusal>),
}

impl Follows {
    /// Adds what follows besides.
    pub(super) fn add(&mut self, waits: Result<GateWait, Box<Refusal>>) {
        match (waits, &mut *self) {
            (_, Self::Refuse(_)) => {}
            (Err(refused), next) => *next = Self::Refuse(refused),
            (Ok(wait), Self::Wait(waits)) => waits.get_mut().push(wait),
            (Ok(wait), next) => *next = Self::Wait(Mutex::new(vec![wait])),
        }
    }
}

impl Heard {
    /// Something is said: behind the end of an answer, another one begins where several share a body. Sockets have the answers to
    /// several requests, and streams of MCP servers the results of several calls.
    #[inline]
    pub(super) fn begin_next(&mut self) {
        if self.is_finished && (self.patience.is_none() || self.phase == Phase::ToolResult) {
            (self.is_finished, self.has_stopped, self.has_result) = (false, false, false);
        }
    }
}

impl Judging {
    /// Begins with the head of an answer whose body is read by `tap`, or of a socket. `None` if it has no text. `has_room` tells
    /// whether events of the gateway may be put between those of the backend.
    pub(super) fn begin(
        rules: &RuleSet,
        dialect: Dialect,
        gate: &Gate,
        tap: Option<&ResponseTap>,
        framing: Framing,
        has_room: bool,
        lists_in: Option<Framing>,
    ) -> Option<Box<Self>> {
        let is_llm = dialect.is_llm();
        match tap {
            Some(tap) if !tap.is_of_text() => return None,
            None if !is_llm => return None,
            _ => {}
        }
        let phase = phase_of_texts(dialect);
        let acts = rules.acts(phase)
            || is_llm && rules.acts(Phase::ToolCall)
            || rules.limit_acts()
            || lists_in.is_some();
        if acts {
            let is_unread = tap.is_some_and(|tap| tap.unread().is_some());
            gate.begin(tap.is_some() && (framing == Framing::Json || is_unread));
        }
        let keep_alive = (framing == Framing::Sse && has_room).then(|| dialect.keep_alive());
        let patience = match keep_alive {
            _ if dialect == Dialect::MCP => Patience::Mcp,
            Some([b':', ..]) => Patience::Comments,
            Some(_) => Patience::Events,
            None if framing == Framing::Json => Patience::BeforeTheHead,
            None => Patience::Nothing,
        };
        Some(Box::new(Self {
            withheld: acts.then(|| Withheld::new(rules.hold_back())),
            heard: Heard {
                phase,
                keep_alive: keep_alive.map(|bytes| KeepAlive { every: EVERY, bytes }),
                // The client of a socket gets no answer to its pings meanwhile: that of Python gives up after 20 seconds.
                patience: tap.map(|_| patience),
                said: (rules.may_hold(phase) || rules.asks_services(phase)).then(Vec::new),
                lanes: AnswerLanes::new(phase),
                lists_in,
                fresh: 0,
                bytes: 0,
                verdict: Verdict::default(),
                has_stopped: false,
                has_result: false,
                is_finished: false,
                was_limited: false,
                next: Follows::Nothing,
            },
        }))
    }

    /// Whether the client stands between two units of the answer; `None` if that is not seen to.
    pub(super) fn is_between(&self) -> Option<bool> {
        self.withheld.as_ref().map(Withheld::is_between)
    }
}
