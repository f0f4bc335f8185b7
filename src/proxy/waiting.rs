//! Requests that there is no room for yet (`admission:`). In an emergency those of low classes are refused before their body is
//! read. Others wait until there is room in the limits that count them and in their budgets: before they are forwarded, never
//! inside a stream. A kill, and a client that leaves, end the wait.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use pingora_core::{Error, ErrorType};
use pingora_proxy::Session;

use super::downstream::LEG_CUT;
use super::error_response::Reject;
use super::facts::RequestFacts;
use super::govern;
use super::request_ctx::{RequestCtx, reached};
use crate::error::{ErrorKind, Refusal};
use crate::limits::budgets::OverBudget;
use crate::limits::{Class, Patience};
use crate::session::Cut;

/// The most requests of an instance that wait. More are refused at once: each holds a connection and its body.
const MOST: i64 = 1024;
/// When a request may come again that was shed.
const SHED: Duration = Duration::from_secs(5);
/// How often the first in line for a budget asks again without being called.
const AGAIN: Duration = Duration::from_secs(1);
/// The scope of requests that are shed in metrics.
const EMERGENCY: &str = "admission.emergency";

impl RequestCtx {
    /// Finds out how important a request is, and refuses it if too many are open for that.
    ///
    /// # Errors
    /// It is shed.
    pub(super) fn classify(&mut self, headers: &HeaderMap) -> Result<(), Reject> {
        let who = reached(self.stage.identified())?;
        let rules = &who.received.handle.settings.admission;
        let (wait, emergency) = (rules.wait(), rules.emergency());
        if wait == 0 && emergency.is_none() {
            return Ok(());
        }
        let now = self.app.clock.now();
        let class = match rules.has_classes() {
            true => rules.class(&RequestFacts::new(who, headers, &self.app.clock)),
            false => Class::Normal,
        };
        if let Some(emergency) = emergency {
            let (counted, open) = self.app.load.open_one();
            if open > emergency.in_flight && class <= emergency.shed {
                self.app.metrics.rate_limited(EMERGENCY, "in_flight");
                return Err(shed(class, emergency.in_flight).into());
            }
            self.counting.open = Some(counted);
        }
        if wait > 0 {
            self.admission.be_patient(Patience { until: now.as_millis() + wait, class });
        }
        Ok(())
    }

    /// Counts a request as waiting if it has to wait.
    ///
    /// # Errors
    /// Too many wait.
    fn begin_to_wait(&mut self) -> Result<(), Reject> {
        if !self.admission.is_early() || self.admission.begin_to_wait() && self.wait_one_more() {
            return Ok(());
        }
        self.stop_waiting()
    }

    /// Returns whether there is room for one more that waits.
    fn wait_one_more(&mut self) -> bool {
        let counted = self.app.load.waiting.enter();
        let has_room = self.app.load.waiting.get() <= MOST;
        self.counting.waiting = has_room.then_some(counted);
        has_room
    }

    /// Takes back what limits have counted.
    ///
    /// # Errors
    /// What the request waited for, if it did.
    fn stop_waiting(&mut self) -> Result<(), Reject> {
        match self.admission.give_up() {
            Some(refused) => Err(govern::refuse(&self.app.metrics, &refused)),
            None => Ok(()),
        }
    }

    /// Passes all limits that count a request which is about to be forwarded.
    ///
    /// # Errors
    /// There is no room in one of them, the leg was cut, or the client has left.
    pub(super) async fn pass_limits(&mut self, session: &mut Session) -> Result<(), Reject> {
        if let Some(patience) = self.admission.patience() {
            // The time that its body took to arrive is not counted.
            let wait = reached(self.stage.received())?.handle.settings.admission.wait();
            let until = self.app.clock.now().as_millis() + wait;
            self.admission.be_patient(Patience { until, ..patience });
        }
        self.limit_forward(&session.req_header().headers)?;
        self.settle_limits().await?;
        self.begin_to_wait()?;
        if self.admission.is_early() {
            return Box::pin(self.wait_for_limits(session)).await;
        }
        Ok(())
    }

    async fn wait_for_limits(&mut self, session: &mut Session) -> Result<(), Reject> {
        let cut = self.cut()?;
        let (left, clock) = (self.patience_left(), &self.app.clock);
        let turn = while_waiting(session, &cut, left, self.admission.turn(clock)).await;
        self.counting.waiting = None;
        match turn {
            Ok(Some(())) => Ok(()),
            Ok(None) => self.stop_waiting(),
            Err(left) => {
                self.admission.give_up();
                Err(left)
            }
        }
    }

    /// Passes all budgets that concern a request which is about to be forwarded.
    ///
    /// # Errors
    /// A budget does not last for it, the leg was cut, or the client has left.
    pub(super) async fn pass_budgets(&mut self, session: &mut Session) -> Result<(), Reject> {
        match self.has_budgets() {
            // Few gateways have budgets: without them the future is small.
            true => Box::pin(self.pass_each_budget(session)).await,
            false => Ok(()),
        }
    }

    async fn pass_each_budget(&mut self, session: &mut Session) -> Result<(), Reject> {
        match self.reserve(&session.req_header().headers, false).await? {
            None => Ok(()),
            Some(over @ OverBudget::Busy { .. }) if self.admission.patience().is_some() => {
                Box::pin(self.wait_for_budget(session, over)).await
            }
            Some(over) => Err(self.over_budget(&over).await),
        }
    }

    async fn wait_for_budget(&mut self, session: &mut Session, busy: OverBudget) -> Result<(), Reject> {
        if !self.wait_one_more() {
            return Err(self.over_budget(&busy).await);
        }
        let (cut, left) = (self.cut()?, self.patience_left());
        let headers = session.req_header().headers.clone();
        // Whoever waits holds no place of `in_flight`, and takes them again when it has reserved.
        self.admission.step_aside();
        let turn = while_waiting(session, &cut, left, self.reserve_and_return(&headers, &busy)).await;
        self.counting.waiting = None;
        let over = turn.and_then(Option::transpose).inspect_err(|_| drop(self.admission.give_up()))?;
        match over {
            Some(None) => Ok(()),
            Some(Some(over)) => Err(self.over_budget(&over).await),
            None => {
                self.stop_waiting()?;
                Err(self.over_budget(&busy).await)
            }
        }
    }

    async fn reserve_and_return(
        &mut self,
        headers: &HeaderMap,
        busy: &OverBudget,
    ) -> Result<Option<OverBudget>, Reject> {
        let over = self.reserve_in_line(headers, busy).await?;
        if over.is_none() {
            self.admission.turn(&self.app.clock).await;
        }
        Ok(over)
    }

    /// Waits in the line of the account that has no room, and reserves when its turn comes. Returns what is in the way for good.
    async fn reserve_in_line(
        &mut self,
        headers: &HeaderMap,
        busy: &OverBudget,
    ) -> Result<Option<OverBudget>, Reject> {
        let ledger = Arc::clone(&self.app.ledger);
        let class = self.admission.patience().map_or(Class::Normal, |patience| patience.class);
        let (since, mut budget) = (self.admission.since(), Arc::clone(busy.budget()));
        loop {
            let Some(account) = self.account(headers, &budget)? else {
                return Ok(Some(OverBudget::Busy { budget }));
            };
            let Some(place) = ledger.lines().join(account, class, since) else {
                return Ok(Some(OverBudget::Busy { budget }));
            };
            loop {
                if place.is_first() {
                    match self.reserve(headers, true).await? {
                        Some(OverBudget::Busy { budget: other }) if other != budget => {
                            budget = other;
                            break;
                        }
                        Some(OverBudget::Busy { .. }) => {}
                        done => return Ok(done),
                    }
                }
                // An override, another period and other instances do not call.
                let _ = tokio::time::timeout(AGAIN, place.called()).await;
            }
        }
    }

    fn cut(&self) -> Result<Arc<Cut>, Reject> {
        Ok(Arc::clone(&reached(self.stage.received())?.handle.cut))
    }

    fn patience_left(&self) -> Duration {
        let until = self.admission.patience().map_or(0, |patience| patience.until);
        Duration::from_millis(until.saturating_sub(self.app.clock.now().as_millis()))
    }
}

/// Waits for `turn`, for `left` at most; `None` if it has not come by then.
///
/// # Errors
/// The leg was cut, or the client has left.
pub(super) async fn while_waiting<T>(
    session: &mut Session,
    cut: &Cut,
    left: Duration,
    turn: impl Future<Output = T>,
) -> Result<Option<T>, Reject> {
    tokio::select! {
        biased;
        _ = cut.soft() => Err(Error::new(LEG_CUT).into()),
        turn = turn => Ok(Some(turn)),
        gone = session.as_mut().read_body_or_idle(true) => {
            let closed = || Error::explain(ErrorType::ConnectionClosed, "the client has left while it waited");
            Err(gone.err().unwrap_or_else(closed).into_down().into())
        }
        () = tokio::time::sleep(left) => Ok(None),
    }
}

fn shed(class: Class, most: u32) -> Refusal {
    let message = format!(
        "more than {most} requests are open, and those of class '{}' are refused until there are fewer \
         (admission.emergency); try again in {} s",
        class.name(),
        SHED.as_secs()
    );
    Refusal { retry_after: Some(SHED), ..Refusal::new(ErrorKind::Overloaded, message) }
}
