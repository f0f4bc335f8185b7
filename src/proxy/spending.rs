//! Reserves what a request may cost of its budgets before it is forwarded, and settles what it did cost when it has ended.

use std::iter::once;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use tracing::warn;

use super::answer::BYTES_OF_TEN_TOKENS;
use super::answer_steps::Steps;
use super::dispatch::Route;
use super::error_response::Reject;
use super::facts::RequestFacts;
use super::govern::{Estimate, estimate};
use super::request_ctx::{Identified, Outcome, RequestCtx, Routed, Stage, reached};
use super::state::ProxyState;
use super::usage::{Priceable, priced};
use crate::error::{ErrorKind, Refusal, RefusalMetadata};
use crate::limits::amount::CostUnit;
use crate::limits::budgets::{Budgets, Need, OverBudget, StepNeed};
use crate::limits::ledger::steps::STEP;
use crate::limits::ledger::{AccountKey, Claim, Reservation};
use crate::protocol::dialects::output_limit;
use crate::protocol::facts::usage::{Cost, Usage};
use crate::session::{
    BY_BUDGET, CutReason, KillError, KillRequest, NamedBy, Session as LiveSession, SessionRef,
};
use crate::summary::RequestSummary;

/// Picodollars in a nanodollar.
const PICO: u64 = 1000;
/// When a request may come again whose budget is held by others.
const SOON: Duration = Duration::from_secs(1);

impl RequestCtx {
    /// Whether budgets are configured.
    pub(super) fn has_budgets(&self) -> bool {
        self.stage.received().is_some_and(|received| !received.handle.settings.budgets.is_empty())
    }

    /// Holds what the request may cost of every budget that concerns it.
    ///
    /// Returns what is in its way, if anything. A request that is not `in_line` does not overtake those that wait for room.
    ///
    /// # Errors
    /// The request has not reached this step, which would be a bug.
    pub(super) async fn reserve(
        &mut self,
        headers: &HeaderMap,
        in_line: bool,
    ) -> Result<Option<OverBudget>, Reject> {
        let routed = reached(self.stage.routed())?;
        let (who, route) = (&*routed.who, &routed.route);
        let budgets = &who.received.handle.settings.budgets;
        let Some(estimate) = estimate(who, route) else { return Ok(None) };
        let (clock, now) = (&self.app.clock, self.app.clock.now());
        let forward = Some((&routed.leg, Some(route)));
        let facts = RequestFacts { forward, ..RequestFacts::new(who, headers, clock) };
        let (need, session) = (need(who, route, estimate), routed.leg.session().uid().as_u128());
        let now = clock.wall(now);
        let claims = budgets.claims(&facts, session, need, now);
        let reserved = match (claims, &self.app.fleet_budgets) {
            (Err(over), _) => Err(over),
            (Ok(claims), _) if claims.is_empty() => return Ok(None),
            (Ok(claims), _) if !in_line && let Some(short) = self.app.ledger.ahead_of(&claims) => {
                Err(budgets.refusal(short, now))
            }
            (Ok(claims), None) => {
                self.app.ledger.reserve_alone(claims).map_err(|short| budgets.refusal(short, now))
            }
            (Ok(claims), Some(fleet)) => {
                fleet.reserve(claims).await.map_err(|short| budgets.refusal(short, now))
            }
        };
        match reserved {
            Ok(reservation) => {
                let is_in_steps = reservation.is_in_steps();
                self.reservation = Some(reservation);
                if is_in_steps {
                    self.stage.routed_mut()?.steps =
                        Some(Box::new(Steps::new(estimate.output, estimate.is_limited)));
                }
                Ok(None)
            }
            Err(over) => Ok(Some(over)),
        }
    }

    /// Returns the account of a budget that the request asks of.
    ///
    /// # Errors
    /// The request has not reached this step, which would be a bug.
    pub(super) fn account(&self, headers: &HeaderMap, budget: &str) -> Result<Option<AccountKey>, Reject> {
        let routed = reached(self.stage.routed())?;
        let (who, route) = (&*routed.who, &routed.route);
        let (clock, now) = (&self.app.clock, self.app.clock.now());
        let Some(estimate) = estimate(who, route) else { return Ok(None) };
        let forward = Some((&routed.leg, Some(route)));
        let facts = RequestFacts { forward, ..RequestFacts::new(who, headers, clock) };
        let (need, session) = (need(who, route, estimate), routed.leg.session().uid().as_u128());
        let budgets = &who.received.handle.settings.budgets;
        let claims = budgets.claims(&facts, session, need, clock.wall(now)).unwrap_or_default();
        Ok(claims.into_iter().map(|claim| claim.key).find(|key| *key.budget == *budget))
    }

    /// Refuses a request because of a budget, and kills its session if the budget says so.
    pub(super) async fn over_budget(&self, over: &OverBudget) -> Reject {
        let refused = refusal(over);
        self.app.metrics.budget_refused(over.budget(), refused.kind.code());
        let Ok(routed) = reached(self.stage.routed()) else { return refused.into() };
        let received = &routed.who.received;
        let kills = received.handle.settings.budgets.kills(over.budget());
        if !kills || !matches!(over, OverBudget::Exceeded { .. }) {
            return refused.into();
        }
        let killed =
            kill(&self.app, routed.leg.session(), format!("{BY_BUDGET}{}", over.budget()), &refused.message);
        let message = format!("Session killed: {}", refused.message);
        // The kill cuts this leg, too, before all instances have the order: then there is little time for the refusal.
        let is_killed = tokio::select! {
            is_killed = killed => is_killed,
            reason = received.handle.cut.soft() => reason == CutReason::Killed,
        };
        if is_killed { Refusal::new(ErrorKind::SessionKilled, message).into() } else { refused.into() }
    }
}

/// Kills the session of a request. Returns whether it was killed by this: it may have ended before.
pub(super) fn kill(
    app: &ProxyState,
    session: &LiveSession,
    by: String,
    why: &str,
) -> impl Future<Output = bool> + Send + use<> {
    let (sessions, uid) = (Arc::clone(&app.sessions), session.uid());
    let request = KillRequest { reason: why.to_owned(), by: by.clone(), ..KillRequest::default() };
    // A task of its own: the kill is complete even when the client hangs up.
    let killing = tokio::spawn(async move {
        let name = uid.to_string();
        let killed = sessions.kill(SessionRef::new(&name, Some(NamedBy::Uid)), request).await;
        if let Err(fault) = &killed
            && !matches!(fault, KillError::AlreadyEnded { .. })
        {
            warn!(%uid, %fault, by, "a session cannot be killed");
        }
        killed.is_ok()
    });
    async move { killing.await.unwrap_or(false) }
}

/// Returns the most that the request may cost at any of the backends that may serve it.
fn need(who: &Identified, route: &Route, estimate: Estimate) -> Need {
    let settings = &who.received.handle.settings;
    let model = who.call.model.as_deref();
    let tier = output_limit::tier(&who.call, settings.output_hints);
    let others = route
        .others
        .iter()
        .map(|other| (settings.backends[other.backend].settings().name(), other.served_as.as_deref()));
    let candidates = once((route.backend.settings().name(), route.served_as.as_deref())).chain(others);
    let Estimate { input, output, .. } = estimate;
    let price = |(backend, served_as): (&crate::ids::BackendName, Option<&str>), output: u64| {
        let mut names = [model, served_as].into_iter().flatten();
        names.find_map(|name| settings.prices.most(backend.as_str(), name, tier, input, output))
    };
    let dearest = |most: (u64, u64), cost: Option<(u64, u64)>| {
        let (all, input) = cost?;
        Some((most.0.max(all), most.1.max(input)))
    };
    // A socket may name its model in a message; its answers are priced when they end.
    let is_unknown = who.received.socket && model.is_none();
    let most = |output: u64| match is_unknown {
        true => Some((0, 0)),
        false => candidates.clone().map(|one| price(one, output)).try_fold((0, 0), dearest),
    };
    let picodollars = most(output);
    let nano = |pico: u64| pico.div_ceil(PICO);
    let first_step = (settings.budgets.has_steps() && is_followed(who, route)).then(|| {
        let first = output.min(STEP);
        let (all, step) = (most(first), most(STEP).map(|(all, input)| all.saturating_sub(input)));
        StepNeed {
            tokens: input.saturating_add(first),
            nanodollars: all.map_or(0, |(all, _)| nano(all)),
            step_nanodollars: step.map_or(0, nano),
        }
    });
    Need {
        tokens: estimate.total(),
        nanodollars: picodollars.map(|(all, _)| nano(all)),
        input_tokens: input,
        input_nanodollars: picodollars.map_or(0, |(_, input)| nano(input)),
        first_step,
    }
}

/// Whether the answer is a stream that can be followed while it is written.
fn is_followed(who: &Identified, route: &Route) -> bool {
    !who.received.socket && who.call.stream == Some(true) && route.dialect.is_read()
}

/// Words the refusal.
fn refusal(over: &OverBudget) -> Refusal {
    match over {
        OverBudget::Exceeded { budget, spent, limit, resets_at } => {
            let resets = resets_at.map(|at| format!("; it begins anew at {at}")).unwrap_or_default();
            let message = format!(
                "the budget '{budget}' of {limit} does not last for this request; spent so far: {spent}{resets}"
            );
            let metadata = RefusalMetadata {
                scope: Some((**budget).into()),
                limit: Some(limit.to_string()),
                spent: Some(spent.clone()),
                resets_at: *resets_at,
                ..RefusalMetadata::default()
            };
            Refusal { metadata: Some(metadata.into()), ..Refusal::new(ErrorKind::BudgetExceeded, message) }
        }
        OverBudget::Busy { budget } => {
            let message = format!("open requests hold the rest of the budget '{budget}'; try again");
            Refusal { retry_after: Some(SOON), ..Refusal::new(ErrorKind::BudgetBusy, message) }
        }
        OverBudget::Unknown { budget } => {
            let message = format!(
                "what is left of the budget '{budget}' is not known, because redis does not answer; try again"
            );
            Refusal { retry_after: Some(SOON), ..Refusal::new(ErrorKind::BudgetBusy, message) }
        }
        OverBudget::Unpriced { budget } => {
            let message = format!(
                "the budget '{budget}' is in US dollars, and this model has no price (usage.prices_file)"
            );
            Refusal::new(ErrorKind::ModelUnpriced, message)
        }
    }
}

/// What a request has cost.
struct Used {
    tokens: u64,
    /// `None` if it has no price, although its model had one.
    nanodollars: Option<u64>,
}

impl Used {
    fn of(usage: &Usage) -> Self {
        let priced = usage.unpriced_answers == 0;
        Self {
            tokens: usage.prompt_tokens().saturating_add(usage.output_tokens),
            // Rounded up, so that no request is free.
            nanodollars: priced.then(|| usage.cost.picodollars().div_ceil(PICO)),
        }
    }

    /// What it cost of a budget. What has no price is not free: it costs what was held for it.
    fn cost(&self, claim: &Claim) -> u64 {
        match claim.key.unit {
            CostUnit::Tokens => self.tokens,
            CostUnit::Usd => self.nanodollars.unwrap_or(claim.need),
        }
    }
}

/// Returns the usage that budgets are charged with; `None` if the request cost nothing. An estimate replaces what the
/// provider has counted in the summary, so that records and metrics agree with the budgets.
pub(super) fn charge(
    app: &ProxyState,
    stage: &Stage,
    outcome: &Outcome,
    summary: &mut RequestSummary,
) -> Option<Usage> {
    let charged = used(stage, outcome, summary).filter(|_| summary.socket.is_none())?;
    if charged.estimated_answers > 0 && !is_counted_later(app, stage, outcome) {
        summary.usage = Some(charged);
    }
    Some(charged)
}

/// Whether the answer goes on in the background, so that the request that reads it counts it. One whose stream was cut is
/// not counted again when it is read later.
fn is_counted_later(app: &ProxyState, stage: &Stage, outcome: &Outcome) -> bool {
    let (Some(tap), Some(who)) = (outcome.answer.tap.as_ref(), stage.identified()) else { return false };
    let Some(id) = tap.id().filter(|_| tap.usage().is_none()) else { return false };
    tap.is_complete() || {
        app.awaited.remove(&who.caller.principal, id);
        false
    }
}

/// Settles the budgets of a request that has ended. Each answer of a WebSocket was spent when it ended.
pub(super) fn settle(
    app: &ProxyState,
    reservation: &mut Option<Reservation>,
    charged: Option<Usage>,
    summary: &RequestSummary,
) {
    let Some(mut held) = reservation.take() else { return };
    if summary.socket.is_none() {
        spend_all(app, &mut held, charged);
    }
}

/// Releases what is held, and spends this usage.
pub(super) fn spend_all(app: &ProxyState, held: &mut Reservation, charged: Option<Usage>) {
    let used = Used::of(&charged.unwrap_or_default());
    app.soft_limits_passed(&held.settle(|claim| used.cost(claim)));
}

/// A WebSocket may be open for longer than a period or an override lasts: each answer is asked for and spent as it is now.
fn renew(held: &mut Reservation, budgets: &Budgets) {
    let now = Timestamp::now();
    held.renew(|claim| budgets.renew(claim, now));
}

/// Spends an answer of a WebSocket.
pub(super) fn spend(app: &ProxyState, held: Option<&mut Reservation>, budgets: &Budgets, usage: &Usage) {
    if let Some(held) = held {
        renew(held, budgets);
        let used = Used::of(usage);
        app.soft_limits_passed(&held.spend(|claim| used.cost(claim)));
    }
}

/// Returns why a WebSocket may ask for no further answer.
pub(super) fn overdrawn(
    app: &ProxyState,
    routed: &Routed,
    reservation: Option<&mut Reservation>,
) -> Option<Refusal> {
    let held = reservation?;
    renew(held, &routed.who.received.handle.settings.budgets);
    let (budget, spent, limit) = held.overdrawn()?;
    let message =
        format!("the budget '{budget}' of {limit} does not last for another answer, {spent} is spent");
    if routed.who.received.handle.settings.budgets.kills(&budget) {
        drop(kill(app, routed.leg.session(), format!("{BY_BUDGET}{budget}"), &message));
    }
    Some(Refusal::new(ErrorKind::BudgetExceeded, message))
}

/// Returns the tokens that a request has used: those that its provider counted, and where the response was cut short at least
/// its text so far. `None` if it cost nothing: no backend was asked, or none answered well.
fn used(stage: &Stage, outcome: &Outcome, summary: &RequestSummary) -> Option<Usage> {
    let (received, route) = (stage.received()?, stage.route()?);
    outcome.queue?;
    let answer = &outcome.answer;
    if answer.first_byte.is_none() && !has_left(summary.error) {
        return None;
    }
    if answer.first_byte.is_some() && answer.status.is_none_or(|status| status >= 400) {
        return None;
    }
    let tap = answer.tap.as_ref();
    let is_cut = tap.is_none_or(|tap| !tap.is_complete());
    let streamed = answer.text_tokens();
    let usage = match summary.usage {
        Some(usage) if !is_cut || usage.output_tokens >= streamed => return Some(usage),
        Some(usage) => Usage {
            output_tokens: streamed,
            cost: Cost::default(),
            unpriced_answers: 0,
            estimated_answers: 1,
            ..usage
        },
        None => Usage {
            input_tokens: summary.bytes_in.saturating_mul(10).div_ceil(BYTES_OF_TEN_TOKENS),
            output_tokens: streamed,
            estimated_answers: 1,
            ..Usage::default()
        },
    };
    let priceable = Priceable {
        asked: summary.model.as_deref(),
        answered: summary.answered_by.as_deref(),
        tier: tap.and_then(|tap| tap.service_tier()),
    };
    Some(priced(received, route, &priceable, usage))
}

/// Whether the client's side ended the request, while the backend may have been at work.
fn has_left(error: Option<ErrorKind>) -> bool {
    matches!(
        error,
        Some(
            ErrorKind::ClientGone
                | ErrorKind::ClientStalled
                | ErrorKind::SessionKilled
                | ErrorKind::AgentKilled
                | ErrorKind::SessionTimedOut
                | ErrorKind::KeyRevoked
                | ErrorKind::KeyExpired
                | ErrorKind::KeyRequired
                | ErrorKind::TokenExpired
                | ErrorKind::ShuttingDown
        )
    )
}
