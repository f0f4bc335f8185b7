//! The facts of a request, for limits, budgets, rules and routing.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;

use super::dispatch::Route;
use super::identify;
use super::request_ctx::Identified;
use super::unknown_api;
use crate::clock::{Clock, Moment};
use crate::identity::FoundSession;
use crate::ids::{AgentId, Membership};
use crate::policy::facts::{Fact, Facts, Step, ToolFacts, TurnFacts, Value};
use crate::protocol::dialects::output_limit::{self, Asked};
use crate::protocol::request::Instructions;
use crate::session::{Leg, Session};

/// The facts of one request.
pub(super) struct RequestFacts<'a> {
    pub(super) who: &'a Identified,
    pub(super) headers: &'a HeaderMap,
    pub(super) clock: &'a Clock,
    pub(super) now: Moment,
    /// The session, and the backend unless the proxy answers itself; `None` before they are known.
    pub(super) forward: Option<(&'a Leg, Option<&'a Route>)>,
    /// The backend in place of that of the route: one that the request may fail over to.
    pub(super) backend: Option<&'a str>,
    /// Which of its models.
    pub(super) model: AskedModel<'a>,
    /// The tool call or the result that is judged.
    pub(super) tool: Option<&'a ToolFacts<'a>>,
    /// The turn that is judged.
    pub(super) turn: Option<&'a TurnFacts>,
}

/// The model for which a request is judged.
#[derive(Clone, Copy, Debug)]
pub(super) enum AskedModel<'a> {
    /// The one that the request names first.
    First,
    /// One that it names besides.
    Other(&'a str),
    /// One of those that are too many.
    Unknown,
}

impl<'a> RequestFacts<'a> {
    /// Those of the head alone.
    pub(super) fn new(who: &'a Identified, headers: &'a HeaderMap, clock: &'a Clock) -> Self {
        Self {
            who,
            headers,
            clock,
            now: clock.now(),
            forward: None,
            backend: None,
            model: AskedModel::First,
            tool: None,
            turn: None,
        }
    }
}

impl RequestFacts<'_> {
    fn found(&self) -> Option<FoundSession> {
        identify::by_head(&self.who.received, self.headers).ok().flatten()
    }

    fn agent(&self) -> Option<AgentId> {
        self.found()?.agent_id
    }

    fn parent_agent(&self) -> Option<AgentId> {
        self.found()?.parent_agent_id
    }

    fn membership(&self) -> Option<&Membership> {
        self.who.caller.membership().map(|membership| &**membership)
    }

    fn session(&self) -> Option<&Arc<Session>> {
        self.forward.map(|(leg, _)| leg.session())
    }

    fn risk(&self) -> f64 {
        let state = self.session().and_then(|session| session.policy());
        state.map_or(0.0, |state| state.score(self.now.as_millis()))
    }

    fn marks(&self) -> Vec<Arc<str>> {
        self.session().and_then(|session| session.policy()).map(|state| state.marks()).unwrap_or_default()
    }

    /// Returns what is known of a session.
    fn of_session<'s>(&self, session: &'s Session, fact: Fact) -> Value<'s> {
        match fact {
            Fact::SessionId => Value::text(Some(session.key().id.as_str())),
            Fact::SessionAge => Value::count(session.duration(self.now).as_secs()),
            Fact::SessionRequests => Value::count(session.requests()),
            Fact::SessionToolCalls => Value::count(session.tool_calls()),
            Fact::UsageInputTokens => Value::count(session.usage().prompt_tokens()),
            Fact::UsageOutputTokens => Value::count(session.usage().output_tokens),
            Fact::UsageCost => session.usage().cost.as_usd().map_or(Value::Unknown, Value::Float),
            _ => Value::Unknown,
        }
    }

    /// The names of the tools that the request offers for sure.
    fn tools(&self) -> impl Iterator<Item = &str> {
        self.who.call.tools_offered.sure_names()
    }

    /// Whether it may offer others.
    fn may_offer_more(&self) -> bool {
        let Identified { received, call, .. } = self.who;
        let is_read = received.handle.settings.call_paths.finds_all_tools();
        let is_sure = !call.irregular() && call.tools_offered.is_sure();
        self.is_unreadable() || call.tools_offered.has_body() && !(is_read && is_sure)
    }

    fn groups(&self) -> &[Arc<str>] {
        self.membership().map_or(&[], |membership| &membership.groups)
    }

    /// Whether the body may say something that was not understood.
    fn is_unreadable(&self) -> bool {
        let Identified { received, call, .. } = self.who;
        let is_unread = || call.malformed || call.unread.is_some() || received.socket;
        let route = self.forward.and_then(|(_, route)| route);
        received.dialect.is_llm() && is_unread()
            || route.is_some_and(|route| {
                let kind = route.backend.settings().kind();
                unknown_api::is_asked(received, kind, call.tools_offered.has_body())
            })
    }

    fn model(&self) -> Value<'_> {
        let call = &self.who.call;
        match (&self.model, &call.model) {
            (AskedModel::Other(model), _) => Value::text(Some(model)),
            (AskedModel::Unknown, _) => Value::Unknown,
            _ if call.model_doubled => Value::Unknown,
            (_, None) if self.is_unreadable() || call.model_is_odd => Value::Unknown,
            (_, model) => Value::text(model.as_deref()),
        }
    }

    fn stream(&self) -> Value<'_> {
        let Identified { received, call, .. } = self.who;
        match call.streams(received.dialect.streams_by_default(received.uri.path())) {
            Some(stream) if call.stream.is_some() || !self.is_unreadable() => Value::Bool(stream),
            _ => Value::Unknown,
        }
    }

    /// How many messages the request has.
    fn messages(&self) -> Value<'_> {
        let Identified { received, call, .. } = self.who;
        let is_read = received.handle.settings.call_paths.counts_messages() || !call.tools_offered.has_body();
        match call.messages.count().filter(|_| is_read && !self.is_unreadable() && !call.irregular()) {
            Some(count) => count.map_or(Value::Absent, |count| Value::count(count.into())),
            None => Value::Unknown,
        }
    }

    fn instructions(&self) -> Value<'_> {
        let call = &self.who.call;
        match &call.instructions {
            _ if self.is_unreadable() => Value::Unknown,
            Instructions::Digest(digest) => Value::text(Some(digest)),
            Instructions::None => Value::Absent,
            Instructions::Unread if call.tools_offered.has_body() => Value::Unknown,
            Instructions::Unread => Value::Absent,
        }
    }

    /// What is left of the budgets that concern the request.
    fn left(&self, fact: Fact) -> Value<'_> {
        let session = self.session().map_or(0, |session| session.uid().as_u128());
        let budgets = &self.who.received.handle.settings.budgets;
        let left = budgets.left(self, session, self.clock.wall(self.now));
        let left = if fact == Fact::BudgetLeftUsd { left.usd } else { left.ratio };
        left.map_or(Value::Absent, Value::Float)
    }

    /// The limit of the answer, as the backend reads it.
    fn max_tokens(&self) -> Value<'_> {
        let Identified { received, call, .. } = self.who;
        let route = self.forward.and_then(|(_, route)| route);
        let dialect = route.map_or(received.dialect, |route| route.dialect);
        let first = received.handle.settings.output_hints;
        if self.is_unreadable() {
            return Value::Unknown;
        }
        match output_limit::asked(call, first, dialect) {
            Asked::Nothing => Value::Absent,
            Asked::AtMost(tokens) => Value::count(tokens),
            Asked::Unlimited => Value::Int(i64::MAX),
            Asked::Unclear => Value::Unknown,
        }
    }
}

fn backend_name(route: &Route) -> &str {
    route.backend.settings().name().as_str()
}

fn owned<'a>(text: impl ToString) -> Value<'a> {
    Value::Text(Cow::Owned(text.to_string()))
}

impl Facts for RequestFacts<'_> {
    fn get(&self, fact: Fact) -> Value<'_> {
        let Identified { received, caller, .. } = self.who;
        let (leg, route) = self.forward.unzip();
        let utc = || self.clock.wall(self.now).to_zoned(jiff::tz::TimeZone::UTC);
        match fact {
            Fact::PrincipalId => Value::text(Some(caller.principal.as_str())),
            Fact::PrincipalKind => Value::text(caller.principal.as_str().split(':').next()),
            Fact::ClientName => Value::text(caller.client.name.as_deref()),
            Fact::ClientVersion => Value::text(caller.client.version.as_deref()),
            Fact::ClientAddr => owned(caller.address.to_canonical()),
            Fact::RequestMethod => Value::text(Some(received.method.as_str())),
            Fact::RequestPath => Value::text(Some(received.uri.path())),
            Fact::RequestHost => self.entry(Fact::RequestHeaders, "host"),
            Fact::RequestDialect => Value::text(Some(received.dialect.name())),
            Fact::RequestBackend => Value::text(self.backend.or_else(|| route.flatten().map(backend_name))),
            Fact::RequestModel => self.model(),
            Fact::RequestStream => self.stream(),
            Fact::RequestBytes => Value::count(received.handle.upload.bytes()),
            Fact::RequestMaxTokens => self.max_tokens(),
            Fact::MessagesCount => self.messages(),
            Fact::RequestSystemDigest => self.instructions(),
            Fact::BudgetLeftUsd | Fact::BudgetLeftRatio => self.left(fact),
            Fact::AgentId => self.agent().map_or(Value::Absent, owned),
            Fact::AgentParent => self.parent_agent().map_or(Value::Absent, owned),
            Fact::TimeHour => Value::Int(utc().hour().into()),
            Fact::TimeWeekday => Value::Int(utc().weekday().to_sunday_zero_offset().into()),
            Fact::PrincipalTenant => Value::text(self.membership().and_then(|found| found.tenant.as_deref())),
            Fact::SessionId
            | Fact::SessionAge
            | Fact::SessionRequests
            | Fact::SessionToolCalls
            | Fact::UsageInputTokens
            | Fact::UsageOutputTokens
            | Fact::UsageCost => {
                self.session().map_or(Value::Absent, |session| self.of_session(session, fact))
            }
            Fact::SessionRisk => Value::Float(self.risk()),
            Fact::AgentDepth => leg.map_or(Value::Absent, |leg| Value::count(leg.agent_depth())),
            Fact::ToolName
            | Fact::ToolServer
            | Fact::ToolArgsTruncated
            | Fact::ToolSource
            | Fact::ToolCallId
            | Fact::ToolIsError
            | Fact::ToolBytes => self.tool.map_or(Value::Unknown, |tool| tool.get(fact)),
            Fact::TurnToolCalls | Fact::TurnRepeat | Fact::TurnCycle | Fact::TurnNewResults => {
                self.turn.map_or(Value::Unknown, |turn| turn.get(fact))
            }
            // Maps and lists are asked for what is in them; the rules know their own findings.
            Fact::RequestHeaders
            | Fact::PrincipalGroups
            | Fact::PrincipalLabels
            | Fact::RequestTools
            | Fact::SessionLabels
            | Fact::SessionSaw
            | Fact::ToolArgs
            | Fact::TextRole
            | Fact::Findings => Value::Unknown,
        }
    }

    fn entry(&self, fact: Fact, key: &str) -> Value<'_> {
        match fact {
            Fact::RequestHeaders => match self.headers.get(key) {
                None => Value::Absent,
                Some(value) => value.to_str().map_or(Value::Unknown, |value| Value::text(Some(value))),
            },
            Fact::PrincipalLabels => {
                Value::text(self.membership().and_then(|found| found.labels.get(key)).map(|text| &**text))
            }
            Fact::SessionSaw => {
                let state = self.session().and_then(|session| session.policy());
                Value::Bool(state.is_some_and(|state| state.saw(key)))
            }
            _ => Value::Absent,
        }
    }

    fn has(&self, fact: Fact, text: &str) -> bool {
        match fact {
            Fact::PrincipalGroups => self.groups().iter().any(|group| **group == *text),
            Fact::RequestTools => self.tools().any(|tool| *tool == *text),
            Fact::SessionLabels => {
                self.session().and_then(|session| session.policy()).is_some_and(|state| state.saw(text))
            }
            _ => false,
        }
    }

    fn count(&self, fact: Fact) -> usize {
        match fact {
            Fact::PrincipalGroups => self.groups().len(),
            Fact::RequestTools => self.tools().count(),
            Fact::SessionLabels => self.marks().len(),
            _ => 0,
        }
    }

    fn is_partial(&self, fact: Fact) -> bool {
        fact == Fact::RequestTools && self.may_offer_more()
    }

    fn element(&self, fact: Fact, index: usize) -> Value<'_> {
        match fact {
            Fact::PrincipalGroups => Value::text(self.groups().get(index).map(|group| &**group)),
            Fact::RequestTools => Value::text(self.tools().nth(index)),
            Fact::SessionLabels => self.marks().get(index).map_or(Value::Absent, owned),
            _ => Value::Unknown,
        }
    }

    fn at(&self, fact: Fact, path: &[Step]) -> Value<'_> {
        match (fact, self.tool) {
            (Fact::ToolArgs, Some(tool)) => tool.at(path),
            _ => Value::Unknown,
        }
    }
}
