//! When rules and other expressions are judged.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A point at which rules are judged. Each knows other facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The head of the request has been read and its caller is known.
    Connect,
    /// The body has been read, the backend is chosen and the session is open.
    Request,
    /// The answer: its text and reasoning, while it is written.
    Response,
    /// The model calls a tool, or a client of MCP does.
    ToolCall,
    /// A tool has given a result, in a request to a model or in an answer of an MCP server.
    ToolResult,
    /// The answers to all calls of a turn are there: the next request brings them.
    Turn,
    /// No request: a session is looked at, by a kill or a webhook. No rule is judged then.
    #[serde(skip)]
    Session,
    /// A request whose backend is not chosen yet, nor its session known (`routing.rules`). No rule of `policy` is judged then.
    #[serde(skip)]
    Routing,
}

impl Phase {
    /// All phases of rules, in their order.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::Request, Self::Response, Self::ToolCall, Self::ToolResult, Self::Turn];

    /// The word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Request => "request",
            Self::Response => "response",
            Self::ToolCall => "tool_call",
            Self::ToolResult => "tool_result",
            Self::Turn => "turn",
            Self::Session => "session",
            Self::Routing => "routing",
        }
    }

    /// Whether a fact of these phases is known in this one.
    pub fn knows(self, phases: Phases) -> bool {
        phases.0 & Phases::of(&[self]).0 != 0
    }
}

/// A set of phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases(u8);

impl Phases {
    /// Those of rules, and before a backend is chosen.
    pub const ALL: Self = Self(Self::RULES.0 | Self::of(&[Phase::Routing]).0);
    /// Those, and without a request.
    pub const EVERYWHERE: Self = Self(Self::ALL.0 | Self::of(&[Phase::Session]).0);
    /// All from the request on, and without a request.
    pub const SESSIONS: Self = Self(Self::LATER.0 | Self::of(&[Phase::Session]).0);
    /// All from the request on.
    pub const LATER: Self = Self(Self::RULES.0 & !Self::of(&[Phase::Connect]).0);
    /// Those, and before a backend is chosen.
    pub const BODIES: Self = Self(Self::LATER.0 | Self::of(&[Phase::Routing]).0);
    /// All phases of rules.
    const RULES: Self = Self::of(&Phase::ALL);
    /// Those that read texts.
    pub const TEXTS: Self = Self::of(&[Phase::Request, Phase::Response, Phase::ToolResult]);
    /// Tool calls.
    pub const CALLS: Self = Self::of(&[Phase::ToolCall]);
    /// Results of tools.
    pub const RESULTS: Self = Self::of(&[Phase::ToolResult]);
    /// Tool calls and their results.
    pub const TOOLS: Self = Self::of(&[Phase::ToolCall, Phase::ToolResult]);
    /// Turns.
    pub const TURNS: Self = Self::of(&[Phase::Turn]);

    const fn of(phases: &[Phase]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < phases.len() {
            bits |= 1 << phases[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    /// Their names, for messages and the documentation.
    pub fn names(self) -> String {
        match self {
            Self::ALL | Self::EVERYWHERE => "all".to_owned(),
            Self::LATER | Self::SESSIONS | Self::BODIES => "all but connect".to_owned(),
            _ => {
                let known = Phase::ALL.into_iter().filter(|phase| phase.knows(self));
                known.map(Phase::name).collect::<Vec<_>>().join(", ")
            }
        }
    }
}
