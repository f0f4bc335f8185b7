//! The facts that expressions may use: their names, types and phases.
//!
//! One table serves the type check, the evaluation and the documentation (`docs/policies.md`).

use std::borrow::Cow;
use std::sync::OnceLock;

use super::json::Json;
pub use super::phase::{Phase, Phases};

/// The type of a fact or an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// True or false.
    Bool,
    /// A whole number of 64 bits.
    Int,
    /// A floating-point number.
    Float,
    /// UTF-8 text.
    Text,
    /// A list of texts.
    List,
    /// Texts by name.
    Map,
    /// Whether a name was noted.
    Marks,
    /// JSON whose types are known when it is read.
    Any,
}

impl Type {
    /// The type in CEL's words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "double",
            Self::Text => "string",
            Self::List => "list(string)",
            Self::Map => "map(string, string)",
            Self::Marks => "map(string, bool)",
            Self::Any => "dyn",
        }
    }

    /// The name with its article.
    pub(super) fn a_name(self) -> String {
        format!("{} {}", if self == Self::Int { "an" } else { "a" }, self.name())
    }

    /// Whether it is a number, or may be one.
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Float | Self::Any)
    }

    /// Whether a value of this type may be one of `wanted`.
    pub(super) fn may_be(self, wanted: Self) -> bool {
        self == wanted || self == Self::Any
    }
}

macro_rules! facts {
    ($($id:ident = $name:literal $type:ident $phases:ident $meaning:literal;)*) => {
        /// A fact.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fact {
            $(#[doc = $meaning] $id,)*
        }

        impl Fact {
            /// All facts, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$id),*];

            /// The name in expressions.
            pub fn name(self) -> &'static str {
                match self { $(Self::$id => $name),* }
            }

            /// The type.
            pub fn kind(self) -> Type {
                match self { $(Self::$id => Type::$type),* }
            }

            /// The phases that know it.
            pub fn phases(self) -> Phases {
                match self { $(Self::$id => Phases::$phases),* }
            }

            /// What it is, for the documentation.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$id => $meaning),* }
            }
        }
    };
}

facts! {
    PrincipalId = "principal.id" Text EVERYWHERE "The caller.";
    PrincipalKind = "principal.kind" Text EVERYWHERE "How the caller is known: the part of its id before the colon.";
    PrincipalTenant = "principal.tenant" Text EVERYWHERE "The tenant of the caller's key; absent when it has none.";
    PrincipalGroups = "principal.groups" List EVERYWHERE "The groups of the caller's key.";
    PrincipalLabels = "principal.labels" Map EVERYWHERE "The labels of the caller's key or token, as in `principal.labels.team`; absent when it has no such label.";
    ClientName = "client.name" Text EVERYWHERE "The client program; absent when it is not known.";
    ClientVersion = "client.version" Text EVERYWHERE "Its version; absent when it is not known.";
    ClientAddr = "client.addr" Text EVERYWHERE "The client's address, also behind `server.trusted_proxies`.";
    RequestMethod = "request.method" Text ALL "The HTTP method.";
    RequestPath = "request.path" Text ALL "The path, without the query.";
    RequestHost = "request.host" Text ALL "The requested host; absent when the request names none.";
    RequestHeaders = "request.headers" Map ALL "The fields of the head, of a repeated one the first; not those that may carry a credential.";
    RequestDialect = "request.dialect" Text ALL "The API that the path and the head tell, such as `mcp`; `plain` when none is known";
    RequestBackend = "request.backend" Text LATER "The chosen backend.";
    RequestModel = "request.model" Text BODIES "The model; absent when the request names none, unknown when its body cannot be read, or has something else than a text there.";
    RequestStream = "request.stream" Bool BODIES "Whether a streamed response is asked for; unknown when the body cannot be read, or says it twice or not by `true` or `false`.";
    RequestBytes = "request.bytes" Int BODIES "Bytes of the body that were received before the request is forwarded.";
    RequestMaxTokens = "request.max_tokens" Int BODIES "The most tokens that the response may have; absent when the request sets no limit, the largest number when it asks for none by a negative one, unknown when the body cannot be read, or has it twice or not as a number.";
    RequestTools = "request.tools" List BODIES "The names of the tools that the request offers the model; of the provider's own also their types. What is not among them is unknown when there are more than 128, one has no name, or others come from elsewhere (`mcp` tools, cached contents).";
    RequestSystemDigest = "request.system_digest" Text LATER "The SHA-256, in hexadecimal, of the instructions of the request (system prompts), one a line; absent when it has none, unknown when the body cannot be read.";
    MessagesCount = "messages.count" Int LATER "How many messages the request has: the elements of `messages`, `input` or `contents`; absent when it has no such list, unknown when the body cannot be read, or has two of them or an empty one.";
    SessionId = "session.id" Text SESSIONS "The session.";
    SessionAge = "session.age_s" Int SESSIONS "Seconds since the session began.";
    SessionRequests = "session.requests" Int SESSIONS "Requests of the session so far, with this one.";
    SessionToolCalls = "session.tool_calls" Int SESSIONS "Tool calls of the session in answers that have ended.";
    SessionRisk = "session.risk" Float LATER "The score of the session's findings; half of it is gone after 30 minutes.";
    SessionLabels = "session.labels" List LATER "The marks that rules have set in the session.";
    SessionSaw = "session.saw" Marks LATER "Whether a rule has set this mark in the session, as in `session.saw[\"web\"]`.";
    AgentId = "agent.id" Text BODIES "The agent inside the session; absent for the main one.";
    AgentParent = "agent.parent" Text BODIES "The agent that started it; absent when it names none.";
    AgentDepth = "agent.depth" Int LATER "How many agents lie above it: 0 for the main one.";
    UsageInputTokens = "usage.input_tokens" Int SESSIONS "Tokens of prompts in the session so far, by the answers that have ended.";
    UsageOutputTokens = "usage.output_tokens" Int SESSIONS "Tokens of answers in the session so far.";
    UsageCost = "usage.cost_usd" Float SESSIONS "What the session has cost so far, in US dollars.";
    BudgetLeftUsd = "budget.left_usd" Float LATER "US dollars that are left of the budget that concerns the request and has the least; absent when none is in money.";
    BudgetLeftRatio = "budget.left_ratio" Float LATER "The part that is left of the budget that concerns the request and has the smallest one, from 0 to 1; absent when none concerns it.";
    TextRole = "text.role" Text TEXTS "Who wrote the text that a pattern was found in: `user`, `assistant`, `tool` or `system`. For rules with `match`.";
    Findings = "findings" List TEXTS "The ids of the rules that this request, answer or result has met so far, in the order of the file.";
    ToolName = "tool.name" Text TOOLS "The name of the tool.";
    ToolServer = "tool.server" Text TOOLS "The MCP server of the tool: the backend, or the second part of a name such as `mcp__github__search`; absent for other tools.";
    ToolArgs = "tool.args" Any CALLS "The arguments of the call, as JSON; unknown when they cannot be read whole.";
    ToolArgsTruncated = "tool.args_truncated" Bool CALLS "Whether the arguments were too long to be kept.";
    ToolSource = "tool.source" Text CALLS "Who calls the tool: `model` in an answer, `client` in a call of MCP.";
    ToolCallId = "tool.call_id" Text RESULTS "The id of the call that the result is for; absent when it has none.";
    ToolIsError = "tool.is_error" Bool RESULTS "Whether the tool reports an error.";
    ToolBytes = "tool.bytes" Int RESULTS "The length of the result.";
    TurnToolCalls = "turn.tool_calls" Int TURNS "Tool calls of the turn.";
    TurnRepeat = "turn.repeat" Int TURNS "How often the same calls had the same results in the last 32 turns, with this one.";
    TurnCycle = "turn.cycle" Int TURNS "How many rounds the last turns have gone in a circle.";
    TurnNewResults = "turn.new_results" Int TURNS "Results of the turn that the session has not seen before.";
    TimeHour = "time.hour" Int EVERYWHERE "The hour of the day, 0 to 23, in UTC.";
    TimeWeekday = "time.weekday" Int EVERYWHERE "The day of the week in UTC: 0 is Sunday, as in CEL's `getDayOfWeek()`.";
}

/// The value of a fact or an expression for one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// The request does not have it. Comparisons and tests of it are no, except for `!=`.
    Absent,
    /// It exists and cannot be read.
    Unknown,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// A list or an object, or null.
    Json(&'a Json),
}

impl<'a> Value<'a> {
    /// A text that may be absent.
    pub fn text(text: Option<&'a str>) -> Self {
        text.map_or(Self::Absent, |text| Self::Text(Cow::Borrowed(text)))
    }

    /// A count, saturating.
    pub fn count(count: u64) -> Self {
        Self::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// The same value, borrowed.
    pub(super) fn reborrow(&self) -> Value<'_> {
        match self {
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            other => other.clone(),
        }
    }
}

/// A step from JSON into what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The member of an object.
    Member(Box<str>),
    /// The element of a list.
    Element(usize),
}

/// The facts of one request. An expression asks only for facts of the phase that it was compiled for.
pub trait Facts {
    /// Returns a fact that is neither a list nor a map.
    fn get(&self, fact: Fact) -> Value<'_>;

    /// Returns an entry of a map; absent when there is none.
    fn entry(&self, fact: Fact, key: &str) -> Value<'_>;

    /// Returns whether a text is in a list, as far as it can be read.
    fn has(&self, fact: Fact, text: &str) -> bool;

    /// Returns the length of a list, as far as it can be read.
    fn count(&self, fact: Fact) -> usize;

    /// Returns whether a list may have more than can be read: what is not found in it is unknown then, and so is its length.
    fn is_partial(&self, _fact: Fact) -> bool {
        false
    }

    /// Returns an element of a list.
    fn element(&self, _fact: Fact, _index: usize) -> Value<'_> {
        Value::Unknown
    }

    /// Returns what is at a path in JSON.
    fn at(&self, _fact: Fact, _path: &[Step]) -> Value<'_> {
        Value::Unknown
    }
}

/// A tool call or the result of one.
#[derive(Debug, Default)]
pub struct ToolFacts<'a> {
    /// The tool; `None` if that is not known.
    pub name: Option<&'a str>,
    /// The arguments of the call, as JSON.
    pub args: &'a [u8],
    /// Not all arguments were kept.
    pub args_truncated: bool,
    /// The MCP server that is called.
    pub server: Option<&'a str>,
    /// Who calls: `model` or `client`.
    pub source: &'static str,
    /// The id of the call.
    pub call_id: Option<&'a str>,
    /// The tool reports an error.
    pub is_error: bool,
    /// The length of the result.
    pub bytes: u64,
    /// The arguments, read when a rule asks for them.
    pub parsed: OnceLock<Option<Json>>,
}

impl ToolFacts<'_> {
    /// The MCP server: the one that is called, or that which the name of the tool tells.
    pub fn server(&self) -> Option<&str> {
        self.server.or_else(|| self.name?.strip_prefix("mcp__")?.split_once("__").map(|(server, _)| server))
    }

    /// Returns a fact of a tool.
    pub fn get(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::ToolName => self.name.map_or(Value::Unknown, |name| Value::text(Some(name))),
            Fact::ToolServer => Value::text(self.server()),
            Fact::ToolArgsTruncated => Value::Bool(self.args_truncated),
            Fact::ToolSource => Value::text(Some(self.source)),
            Fact::ToolCallId => Value::text(self.call_id),
            Fact::ToolIsError => Value::Bool(self.is_error),
            Fact::ToolBytes => Value::count(self.bytes),
            _ => Value::Unknown,
        }
    }

    /// Returns what is at a path in the arguments. A call without arguments has an empty object.
    pub fn at(&self, path: &[Step]) -> Value<'_> {
        if self.args_truncated {
            return Value::Unknown;
        }
        let read = || match self.args.trim_ascii() {
            [] => Some(Json::Object(Vec::new())),
            args => Json::read(args),
        };
        self.parsed.get_or_init(read).as_ref().map_or(Value::Unknown, |args| args.at(path))
    }
}

/// A turn: calls of an answer, and the results that the next request brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnFacts {
    /// Tool calls of the turn.
    pub tool_calls: u32,
    /// How often the same calls had the same results lately, with this one.
    pub repeat: u32,
    /// How many rounds the last turns have gone in a circle.
    pub cycle: u32,
    /// Results that the session has not seen before.
    pub new_results: u32,
}

impl TurnFacts {
    /// Returns a fact of a turn.
    pub fn get(&self, fact: Fact) -> Value<'static> {
        match fact {
            Fact::TurnToolCalls => Value::Int(self.tool_calls.into()),
            Fact::TurnRepeat => Value::Int(self.repeat.into()),
            Fact::TurnCycle => Value::Int(self.cycle.into()),
            Fact::TurnNewResults => Value::Int(self.new_results.into()),
            _ => Value::Unknown,
        }
    }
}
