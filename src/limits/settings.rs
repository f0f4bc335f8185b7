//! The `limits:` and `budgets:` sections.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::amount::AmountText;
use super::bucket::Rate;
use super::budgets::{Budget, BudgetAction, BudgetHold, BudgetPeriod, Budgets};
use super::classes::{AdmissionConfig, AdmissionRules};
use super::limit::{Amounts, Limit};
use super::limiter::Limits;
use crate::policy::expr::{Expression, SourceFault};
use crate::policy::facts::{Fact, Phase};
use crate::settings::fault::Faults;
use crate::settings::rate::RateText;

/// The most limits.
const MAX_LIMITS: usize = 64;

/// A limit. Requests that its `when` holds for are counted by the name that its `by` gives them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Limit")]
pub struct LimitConfig {
    /// Its name in refusals, header fields and metrics; the text of `by` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// An expression for the name that is counted, such as `client.addr` or `principal.id + "/" + request.model`. What is
    /// absent counts as empty.
    pub by: String,
    /// A condition for the requests that are counted; all, if absent. A condition that cannot be decided counts as true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Requests in a time, such as `100/s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RateText>,
    /// Requests that may come at once; as many as `requests` names, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Tokens of prompts and answers in a time, such as `2M/min`: estimated when a request comes, corrected when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<RateText>,
    /// Requests, streams and WebSockets that may be open at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Sessions that may live at the same time. Requests of a live session are never refused by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    /// Sessions that may begin in a time, such as `30/min`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_starts: Option<RateText>,
}

/// Compiles all sections, even after a fault.
pub fn compile_all(
    limits: Vec<LimitConfig>,
    admission: AdmissionConfig,
    budgets: Vec<BudgetConfig>,
    faults: &mut Faults,
) -> (Option<Limits>, Option<AdmissionRules>, Option<Budgets>) {
    (compile(limits, faults), admission.compile(faults), compile_budgets(budgets, faults))
}

/// Compiles the section `limits`.
pub(super) fn compile(written: Vec<LimitConfig>, faults: &mut Faults) -> Option<Limits> {
    if written.len() > MAX_LIMITS {
        let message = format!("{} limits are more than {MAX_LIMITS}", written.len());
        faults.add("limits", message, "one limit has a counter for each name that its expression gives");
        return None;
    }
    let mut names = BTreeSet::new();
    let mut limits = Vec::with_capacity(written.len());
    for (place, one) in written.into_iter().enumerate() {
        let path = format!("limits[{place}]");
        let name = one.name.clone().unwrap_or_else(|| one.by.clone());
        if !names.insert(name.clone()) {
            let hint = "give it a name of its own with name:";
            faults.add(path.clone(), format!("another limit is called '{name}', too"), hint);
        }
        limits.push(one.compile(&path, &name, faults).map(Arc::new));
    }
    let limits: Option<Vec<_>> = limits.into_iter().collect();
    Some(Limits::new(limits?))
}

impl LimitConfig {
    fn compile(self, path: &str, name: &str, faults: &mut Faults) -> Option<Limit> {
        let mut at =
            |key: &str, message: String, hint: &str| faults.add(format!("{path}.{key}"), message, hint);
        if self.name.is_some() && !is_plain(name) {
            at("name", "a name has 1 to 128 printable ASCII characters".into(), "write a short word");
            return None;
        }
        if self.burst.is_some() && self.requests.is_none() {
            at("burst", "it goes with requests, which is absent".into(), "add requests: 100/s, or remove it");
            return None;
        }
        for (key, most) in [("in_flight", self.in_flight), ("sessions", self.sessions)] {
            if most == Some(0) {
                let message = if key == "sessions" {
                    "zero would refuse every session"
                } else {
                    "zero would refuse every request"
                };
                at(key, message.into(), "write a number above zero");
                return None;
            }
        }
        let amounts = self.amounts(path, faults)?;
        if amounts.is_empty() {
            let hint = "add requests, tokens, in_flight, sessions or session_starts";
            faults.add(path, "it limits nothing", hint);
            return None;
        }
        // Sessions begin before the body of their first request is read.
        let known = if amounts.count_sessions() { Phase::Connect } else { Phase::Request };
        let by = expression(&format!("{path}.by"), &self.by, Expression::name, known, faults);
        let when = match self.when.as_deref() {
            Some(when) => {
                Some(expression(&format!("{path}.when"), when, Expression::condition, known, faults)?)
            }
            None => None,
        };
        Some(Limit::new(name, by?, when, amounts))
    }

    fn amounts(&self, path: &str, faults: &mut Faults) -> Option<Amounts> {
        let mut rate = |key: &str, text: Option<RateText>, burst: Option<u64>| match text {
            None => Some(None),
            Some(text) => {
                let rate = Rate::new(text.count, burst.unwrap_or(text.count), text.period.millis());
                if rate.is_none() {
                    let hint = "write numbers above zero, or a shorter time";
                    let message = "it is zero, or too large to count exactly";
                    faults.add(format!("{path}.{key}"), message, hint);
                }
                rate.map(|rate| Some((rate, text)))
            }
        };
        let requests = rate("requests", self.requests, self.burst);
        let tokens = rate("tokens", self.tokens, None);
        let session_starts = rate("session_starts", self.session_starts, None);
        Some(Amounts {
            requests: requests?,
            tokens: tokens?,
            session_starts: session_starts?,
            in_flight: self.in_flight,
            sessions: self.sessions,
        })
    }
}

/// A budget. The requests that its `when` holds for may together cost as much as its limit in a period, for each name that
/// its `by` gives them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Budget")]
pub struct BudgetConfig {
    /// Its name in refusals, metrics and the control API.
    pub name: String,
    /// An expression for the name that the budget is for, such as `principal.id`. What is absent counts as empty.
    pub by: String,
    /// A condition for the requests that it concerns; all, if absent. A condition that cannot be decided counts as true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// How long it lasts. Days, weeks and months are those of UTC.
    pub period: BudgetPeriod,
    /// The most that may be spent, such as `500 USD` or `2M tokens`.
    pub limit: AmountText,
    /// The share of the limit whose passing is reported, above 0 and at most 1; absent reports nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<f64>,
    /// What happens when a request passes it: `block` refuses the request, `kill` kills its session.
    #[serde(default)]
    pub action: BudgetAction,
    /// How much is held of a stream: `full` is all that it may cost, `steps` 4,096 output tokens at a time.
    #[serde(default)]
    pub hold: BudgetHold,
}

/// `BudgetConfig` is compared to find out what a reload changes; a float that is read is never NaN.
impl Eq for BudgetConfig {}

/// Compiles the section `budgets`.
fn compile_budgets(written: Vec<BudgetConfig>, faults: &mut Faults) -> Option<Budgets> {
    if written.len() > MAX_LIMITS {
        let message = format!("{} budgets are more than {MAX_LIMITS}", written.len());
        faults.add("budgets", message, "one budget has an account for each name that its expression gives");
        return None;
    }
    let mut names = BTreeSet::new();
    let mut budgets = Vec::with_capacity(written.len());
    for (place, one) in written.into_iter().enumerate() {
        let path = format!("budgets[{place}]");
        if !is_plain(&one.name) {
            let message = "a name has 1 to 128 printable ASCII characters";
            faults.add(format!("{path}.name"), message, "write a short word");
        }
        if !names.insert(one.name.clone()) {
            faults.add(
                path.clone(),
                format!("another budget is called '{}', too", one.name),
                "rename one of them",
            );
        }
        if one.soft.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            let message = "the share of the limit is above 0 and at most 1";
            faults.add(format!("{path}.soft"), message, "write 0.8 for 80 %");
        }
        let by = expression(&format!("{path}.by"), &one.by, Expression::name, Phase::Request, faults);
        let when = one.when.as_deref();
        let when = when.map(|when| {
            expression(&format!("{path}.when"), when, Expression::condition, Phase::Request, faults)
        });
        check_left(&format!("{path}.by"), by.as_ref(), faults);
        check_left(&format!("{path}.when"), when.as_ref().and_then(Option::as_ref), faults);
        let compiled = by.zip(when.map_or(Some(None), |when| when.map(Some)));
        budgets.push(compiled.map(|(by, when)| {
            let share = one.soft.unwrap_or(f64::INFINITY);
            // A float becomes the nearest integer in range.
            let soft = (one.limit.amount as f64 * share).ceil() as u64;
            Arc::new(Budget {
                current: ArcSwapOption::empty(),
                name: one.name.into(),
                by,
                when,
                period: one.period,
                limit: one.limit,
                soft,
                action: one.action,
                hold: one.hold,
            })
        }));
    }
    Some(Budgets::new(budgets.into_iter().collect::<Option<_>>()?))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= 128 && name.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Refuses expressions of budgets that ask what budgets have left.
fn check_left(path: &str, compiled: Option<&Expression>, faults: &mut Faults) {
    let asked = [Fact::BudgetLeftUsd, Fact::BudgetLeftRatio];
    if let Some(fact) = asked.into_iter().find(|fact| compiled.is_some_and(|found| found.asks_for(*fact))) {
        let message = format!("{} is what budgets have left, and this decides on it", fact.name());
        faults.add(path, message, "ask for it in a rule or a limit");
    }
}

fn expression(
    path: &str,
    text: &str,
    compile: fn(&str, Phase) -> Result<Expression, SourceFault>,
    known: Phase,
    faults: &mut Faults,
) -> Option<Expression> {
    let compiled = compile(text, known).and_then(Expression::outside_rules);
    compiled.map_err(|fault| faults.add_within(path, text, fault.at, fault.message, fault.hint)).ok()
}
