//! The facts that expressions may use: their names, types and phases.
//!
//! One table serves the type check, the evaluation and the documentation (`docs/limits.md`).

use std::borrow::Cow;

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
        }
    }

    /// The name with its article.
    pub(super) fn a_name(self) -> String {
        format!("{} {}", if self == Self::Int { "an" } else { "a" }, self.name())
    }

    /// Whether it is a number.
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Float)
    }
}

/// From when on a fact is known. Later phases know everything that earlier ones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The head of the request has been read and its caller is known.
    Connect,
    /// The body has been read, the backend is chosen and the session is open.
    Request,
}

macro_rules! facts {
    ($($id:ident = $name:literal $type:ident $phase:ident $meaning:literal;)*) => {
        /// A fact.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

            /// The first phase that knows it.
            pub fn phase(self) -> Phase {
                match self { $(Self::$id => Phase::$phase),* }
            }

            /// What it is, for the documentation.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$id => $meaning),* }
            }
        }
    };
}

facts! {
    PrincipalId = "principal.id" Text Connect "The caller.";
    PrincipalKind = "principal.kind" Text Connect "How the caller is known: the part of its id before the colon.";
    PrincipalTenant = "principal.tenant" Text Connect "The tenant of the caller's key; absent when it has none.";
    PrincipalGroups = "principal.groups" List Connect "The groups of the caller's key.";
    ClientName = "client.name" Text Connect "The client program; absent when it is not known.";
    ClientVersion = "client.version" Text Connect "Its version; absent when it is not known.";
    ClientAddr = "client.addr" Text Connect "The client's address, also behind `server.trusted_proxies`.";
    RequestMethod = "request.method" Text Connect "The HTTP method.";
    RequestPath = "request.path" Text Connect "The path, without the query.";
    RequestHost = "request.host" Text Connect "The requested host; absent when the request names none.";
    RequestHeaders = "request.headers" Map Connect "The fields of the head, of a repeated one the first; not those that may carry a credential.";
    RequestDialect = "request.dialect" Text Connect "The API that the path and the head tell, such as `mcp`; `plain` when none is known";
    RequestBackend = "request.backend" Text Request "The chosen backend.";
    RequestModel = "request.model" Text Request "The model; absent when the request names none, unknown when its body cannot be read.";
    RequestStream = "request.stream" Bool Request "Whether a streamed response is asked for; unknown when the body cannot be read.";
    RequestBytes = "request.bytes" Int Request "Bytes of the body that were received before the request is forwarded.";
    RequestMaxTokens = "request.max_tokens" Int Request "The most tokens that the response may have; absent when the request sets no limit.";
    SessionId = "session.id" Text Request "The session.";
    SessionAge = "session.age_s" Int Request "Seconds since the session began.";
    SessionRequests = "session.requests" Int Request "Requests of the session so far, with this one.";
    AgentId = "agent.id" Text Request "The agent inside the session; absent for the main one.";
    AgentParent = "agent.parent" Text Request "The agent that started it; absent when it names none.";
    TimeHour = "time.hour" Int Connect "The hour of the day, 0 to 23, in UTC.";
    TimeWeekday = "time.weekday" Int Connect "The day of the week in UTC: 0 is Sunday, as in CEL's `getDayOfWeek()`.";
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
}

/// The facts of one request. An expression asks only for facts of the phase that it was compiled for.
pub trait Facts {
    /// Returns a fact that is neither a list nor a map.
    fn get(&self, fact: Fact) -> Value<'_>;

    /// Returns an entry of a map; absent when there is none.
    fn entry(&self, fact: Fact, key: &str) -> Value<'_>;

    /// Returns whether a text is in a list.
    fn has(&self, fact: Fact, text: &str) -> bool;

    /// Returns the length of a list.
    fn count(&self, fact: Fact) -> usize;
}
