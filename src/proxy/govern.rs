//! Counts a request by the limits of `limits:`, twice: when its head was read, by those that need to know no more, and
//! before it is forwarded, by all others. Every kind of request passes both.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use pingora_core::Result;
use pingora_http::ResponseHeader;

use super::dispatch::Route;
use super::error_response::Reject;
use super::identify;
use super::request_ctx::{Identified, Outcome, RequestCtx, reached};
use super::verdict;
use crate::clock::{Clock, Moment};
use crate::error::{ErrorKind, Refusal, RefusalMetadata};
use crate::identity::FoundSession;
use crate::ids::Membership;
use crate::limits::{Admission, Refused, Unit};
use crate::policy::facts::{Fact, Facts, Value};
use crate::protocol::Dialect;
use crate::protocol::dialects::output_limit;
use crate::protocol::facts::usage::Usage;
use crate::session::Leg;
use crate::telemetry::metrics::Metrics;

/// The longest wait that a client is asked to sit out, in milliseconds: clients wait about as long as this at most.
const LONGEST_WAIT: u64 = 60_000;
/// `Retry-After` in milliseconds when room depends on other requests.
const SOON: u64 = 1000;
/// Tokens of an image that the body only names.
const IMAGE: u64 = 1600;
/// The same when it depends on the end of a session.
const SESSION_ENDS: u64 = 5000;
/// The most output tokens that a limit charges for a request.
const LONGEST_ANSWER: u64 = 1 << 20;
/// Output tokens of a request that sets no limit.
const DEFAULT_OUTPUT: u64 = 16_384;

impl RequestCtx {
    /// Counts a request whose caller is known.
    ///
    /// # Errors
    /// A limit is used up.
    pub(super) fn limit_head(&mut self, headers: &HeaderMap) -> Result<(), Reject> {
        let who = reached(self.stage.identified())?;
        let limits = &who.received.handle.settings.caller_limits;
        // Without the id in the body, a client of JSON-RPC would not know which request is refused.
        if limits.is_empty() || who.received.dialect.is_json_rpc() {
            return Ok(());
        }
        if let Some(fleet) = &self.app.fleet_rates {
            self.admission.share(fleet.lease());
        }
        let now = self.app.clock.now();
        let facts = RequestFacts { who, headers, clock: &self.app.clock, now, forward: None };
        let counted = limits.at_head(&facts, now.as_millis(), &mut self.admission);
        counted.map_err(|refused| refuse(&self.app.metrics, &refused))
    }

    /// Takes from the fleet what was not granted to this instance.
    ///
    /// # Errors
    /// A limit is used up.
    pub(super) async fn settle_limits(&mut self) -> Result<(), Reject> {
        if self.admission.asks()
            && let Some(fleet) = self.app.fleet_rates.clone()
        {
            let settings = &reached(self.stage.received())?.handle.settings;
            let otherwise = settings.admission.on_unavailable();
            let asked = fleet.ask(&mut self.admission, otherwise).await;
            asked.map_err(|refused| refuse(&self.app.metrics, &refused))?;
        }
        Ok(())
    }

    /// Counts a request that is about to be forwarded, and the tokens that it may need.
    ///
    /// # Errors
    /// A limit is used up.
    pub(super) fn limit_forward(&mut self, headers: &HeaderMap) -> Result<(), Reject> {
        let who = reached(self.stage.identified())?;
        let limits = &who.received.handle.settings.caller_limits;
        if limits.is_empty() {
            return Ok(());
        }
        if let Some(fleet) = &self.app.fleet_rates {
            self.admission.share(fleet.lease());
        }
        let now = self.app.clock.now();
        let (leg, route) = (reached(self.stage.leg())?, self.stage.route());
        let tokens = match route.and_then(|route| estimate(who, route)) {
            // Those of a WebSocket are counted as its answers end.
            Some(_) if who.received.socket => 1,
            estimate => estimate.map_or(0, Estimate::charged),
        };
        let facts = RequestFacts { who, headers, clock: &self.app.clock, now, forward: Some((leg, route)) };
        let counted = match who.received.dialect.is_json_rpc() {
            true => limits.at_once(&facts, tokens, now.as_millis(), &mut self.admission),
            false => limits.at_forward(&facts, tokens, now.as_millis(), &mut self.admission),
        };
        counted.map_err(|refused| refuse(&self.app.metrics, &refused))
    }
}

/// The most tokens that a request may need.
#[derive(Clone, Copy)]
pub(super) struct Estimate {
    pub(super) input: u64,
    pub(super) output: u64,
    /// Whether the request limits its answer to that.
    pub(super) is_limited: bool,
}

impl Estimate {
    /// Returns what limits of tokens charge. No model writes more than [`LONGEST_ANSWER`]: whoever asks for more, and gets an
    /// answer without counts, must not use up a limit for years.
    fn charged(self) -> u64 {
        self.input.saturating_add(self.output.min(LONGEST_ANSWER))
    }

    pub(super) fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// Returns the most tokens that the request may need: two bytes of the body a token, [`IMAGE`] for each image that it
/// names, and what the answer may have. `None` for what makes no model write.
pub(super) fn estimate(who: &Identified, route: &Route) -> Option<Estimate> {
    let received = &who.received;
    let asks = received.socket && route.dialect.is_llm() || verdict::makes_answer(received, route);
    let sent = received.handle.upload.bytes().max(received.declared.unwrap_or(0));
    let images = output_limit::images(&who.call, received.handle.settings.output_hints);
    let input = sent.max(who.call.tools_offered.bytes()).div_ceil(2) + images * IMAGE;
    asks.then(|| {
        let most = max_output(who, route.dialect);
        Estimate { input, output: most.unwrap_or(DEFAULT_OUTPUT), is_limited: most.is_some() }
    })
}

/// Returns the limit that the request sets for its answer.
fn max_output(who: &Identified, dialect: Dialect) -> Option<u64> {
    output_limit::of(&who.call, who.received.handle.settings.output_hints, dialect)
}

pub(super) fn refuse(metrics: &Metrics, refused: &Refused) -> Reject {
    metrics.rate_limited(&refused.limit, refused.unit.name());
    refusal(refused).into()
}

/// Words the refusal. Waits of more than a minute are final: clients do not wait so long, but ask again and again.
pub(super) fn refusal(refused: &Refused) -> Refusal {
    let soon = if refused.unit == Unit::Sessions { SESSION_ENDS } else { SOON };
    let wait = refused.wait.unwrap_or(soon);
    let seconds = wait.div_ceil(1000).max(1);
    let kind = if wait > LONGEST_WAIT { ErrorKind::QuotaExceeded } else { ErrorKind::RateLimited };
    let message = match refused.unit {
        Unit::Requests | Unit::Tokens | Unit::InFlight => {
            format!("{refused}; there is room again in {seconds} s")
        }
        Unit::SessionStarts => {
            format!("{refused}; send the id of a live session, or begin this one in {seconds} s")
        }
        Unit::Sessions => {
            format!(
                "{refused}; send the id of one of them, or wait until one has ended (session.idle_timeout)"
            )
        }
    };
    let retry_after = Some(std::time::Duration::from_secs(seconds));
    let metadata = RefusalMetadata {
        scope: (*refused.limit).into(),
        limit: refused.allowed.clone(),
        spent: None,
        resets_at: None,
    };
    Refusal { retry_after, metadata: Some(metadata.into()), ..Refusal::new(kind, message) }
}

/// Replaces the estimate by what the response has used. One that failed has used nothing; one that does not say keeps its
/// estimate.
pub(super) fn correct(admission: &mut Admission, outcome: &Outcome, usage: Option<Usage>) {
    match usage {
        Some(usage) => admission.correct_tokens(usage.prompt_tokens().saturating_add(usage.output_tokens)),
        None if outcome.answer.status.is_some_and(|status| status < 400) && outcome.answer.sent > 0 => {}
        None => admission.correct_tokens(0),
    }
}

/// Adds the `RateLimit` fields for a request that limits count. A backend's own stay beside them: both are lists.
///
/// # Errors
/// A field cannot be set, which would be a bug.
pub(super) fn announce(head: &mut ResponseHeader, admission: &Admission, clock: &Clock) -> Result<()> {
    if admission.is_empty() {
        return Ok(());
    }
    if let Some((policy, state)) = admission.fields(clock.now().as_millis()) {
        head.append_header("RateLimit-Policy", policy)?;
        head.append_header("RateLimit", state)?;
    }
    Ok(())
}

/// The facts of one request.
pub(super) struct RequestFacts<'a> {
    pub(super) who: &'a Identified,
    pub(super) headers: &'a HeaderMap,
    pub(super) clock: &'a Clock,
    pub(super) now: Moment,
    /// The session, and the backend unless the proxy answers itself; `None` before they are known.
    pub(super) forward: Option<(&'a Leg, Option<&'a Route>)>,
}

impl RequestFacts<'_> {
    fn agent(&self) -> Option<FoundSession> {
        identify::by_head(&self.who.received, self.headers).ok().flatten()
    }

    fn membership(&self) -> Option<&Membership> {
        self.who.caller.membership().map(|membership| &**membership)
    }

    /// The groups of the key; the only list.
    fn groups(&self) -> &[Arc<str>] {
        self.membership().map_or(&[], |membership| &membership.groups)
    }

    /// Whether the body may say something that was not understood.
    fn is_unreadable(&self) -> bool {
        let call = &self.who.call;
        self.who.received.dialect.is_llm() && (call.malformed || call.unread.is_some())
    }

    fn model(&self) -> Value<'_> {
        let call = &self.who.call;
        match &call.model {
            _ if call.model_doubled => Value::Unknown,
            None if self.is_unreadable() => Value::Unknown,
            model => Value::text(model.as_deref()),
        }
    }

    fn stream(&self) -> Value<'_> {
        match self.who.call.stream {
            None if self.is_unreadable() => Value::Unknown,
            stream => Value::Bool(stream.unwrap_or(false)),
        }
    }
}

fn owned<'a>(text: impl ToString) -> Value<'a> {
    Value::Text(Cow::Owned(text.to_string()))
}

impl Facts for RequestFacts<'_> {
    fn get(&self, fact: Fact) -> Value<'_> {
        let Identified { received, caller, .. } = self.who;
        let (leg, route) = self.forward.unzip();
        let session = leg.map(Leg::session);
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
            Fact::RequestBackend => {
                Value::text(route.flatten().map(|route| route.backend.settings().name().as_str()))
            }
            Fact::RequestModel => self.model(),
            Fact::RequestStream => self.stream(),
            Fact::RequestBytes => Value::count(received.handle.upload.bytes()),
            Fact::RequestMaxTokens => {
                max_output(self.who, self.who.received.dialect).map_or(Value::Absent, Value::count)
            }
            Fact::SessionId => Value::text(session.map(|session| session.key().id.as_str())),
            Fact::SessionAge => {
                session.map_or(Value::Absent, |session| Value::count(session.duration(self.now).as_secs()))
            }
            Fact::SessionRequests => {
                session.map_or(Value::Absent, |session| Value::count(session.requests()))
            }
            Fact::AgentId => self.agent().and_then(|found| found.agent_id).map_or(Value::Absent, owned),
            Fact::AgentParent => {
                self.agent().and_then(|found| found.parent_agent_id).map_or(Value::Absent, owned)
            }
            Fact::TimeHour => Value::Int(utc().hour().into()),
            Fact::TimeWeekday => Value::Int(utc().weekday().to_sunday_zero_offset().into()),
            Fact::PrincipalTenant => Value::text(self.membership().and_then(|found| found.tenant.as_deref())),
            // Maps and lists are asked for what is in them.
            Fact::RequestHeaders | Fact::PrincipalGroups => Value::Unknown,
        }
    }

    fn entry(&self, fact: Fact, key: &str) -> Value<'_> {
        match fact {
            Fact::RequestHeaders => match self.headers.get(key) {
                None => Value::Absent,
                Some(value) => value.to_str().map_or(Value::Unknown, |value| Value::text(Some(value))),
            },
            _ => Value::Absent,
        }
    }

    fn has(&self, _: Fact, text: &str) -> bool {
        self.groups().iter().any(|group| **group == *text)
    }

    fn count(&self, _: Fact) -> usize {
        self.groups().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_charges_no_more_than_a_model_can_write() {
        let of = |output| Estimate { input: 10, output, is_limited: true }.charged();
        assert_eq!((of(100), of(u64::MAX)), (110, 10 + LONGEST_ANSWER));
    }
}
