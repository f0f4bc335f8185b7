//! Counts a request by the limits of `limits:`, twice: when its head was read, by those that need to know no more, and
//! before it is forwarded, by all others. Every kind of request passes both.

use http::HeaderMap;
use pingora_core::Result;
use pingora_http::ResponseHeader;

use super::dispatch::Route;
use super::error_response::Reject;
use super::facts::RequestFacts;
use super::request_ctx::{Identified, Outcome, RequestCtx, reached};
use super::verdict;
use crate::clock::Clock;
use crate::error::{ErrorKind, Refusal, RefusalMetadata};
use crate::limits::{Admission, Refused, Unit};
use crate::protocol::Dialect;
use crate::protocol::dialects::output_limit;
use crate::protocol::facts::usage::Usage;
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
        let facts = RequestFacts::new(who, headers, &self.app.clock);
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
        let facts =
            RequestFacts { forward: Some((leg, route)), ..RequestFacts::new(who, headers, &self.app.clock) };
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
pub(super) fn max_output(who: &Identified, dialect: Dialect) -> Option<u64> {
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
        scope: Some((*refused.limit).into()),
        limit: Some(refused.allowed.clone()),
        ..RefusalMetadata::default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_charges_no_more_than_a_model_can_write() {
        let of = |output| Estimate { input: 10, output, is_limited: true }.charged();
        assert_eq!((of(100), of(u64::MAX)), (110, 10 + LONGEST_ANSWER));
    }
}
