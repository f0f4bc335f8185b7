//! Judges the body of a request that is not held while it is forwarded: a file, a form, whatever is no JSON. What completes a match
//! is not forwarded.

use http::HeaderMap;
use pingora_core::{Error, Result};

use super::error_response::REFUSED;
use super::facts::RequestFacts;
use super::judge::{Decision, Unit, decide, refusal};
use super::request_ctx::{Outcome, Routed};
use super::state::ProxyState;
use crate::error::ErrorKind;
use crate::policy::facts::Phase;
use crate::policy::rule::{Place, Role};
use crate::policy::ruleset::Element;
use crate::policy::verdict::Verdict;

/// Judges the next bytes of a body; `None` is its end. Returns what follows if a rule asks for more than to be noted.
pub(super) fn judge_upload(
    app: &ProxyState,
    routed: &mut Routed,
    headers: &HeaderMap,
    chunk: Option<&[u8]>,
) -> Option<Decision> {
    let mut passing = routed.passing.take()?;
    let (who, leg) = (&*routed.who, &routed.leg);
    let rules = &who.received.handle.settings.rules;
    let hits = passing.read(rules, chunk);
    let is_incomplete = passing.take_loss();
    app.metrics.scanned(chunk.map_or(0, <[u8]>::len) as u64, 0);
    if hits.is_empty() && !is_incomplete {
        routed.passing = Some(passing);
        return None;
    }
    let forward = Some((leg, Some(&routed.route)));
    let facts = RequestFacts { forward, ..RequestFacts::new(who, headers, &app.clock) };
    let mut verdict = Verdict::default();
    let element = Element { role: Some(Role::User), place: Place::Text, hits: &hits, digest: 0 };
    rules.judge(Phase::Request, &facts, &element, &mut verdict);
    if is_incomplete {
        rules.scan_limit(&mut verdict);
    }
    let decision = decide(app, who, Some(leg), Phase::Request, &verdict, &Unit::default());
    routed.passing = Some(passing);
    match decision {
        // Services are asked about the request as a whole.
        Decision::Pass | Decision::Ask(_) => None,
        Decision::Hold(held) => {
            let message = "a part of the request would have to be approved, which is not possible while it is \
                           uploaded: send it as JSON";
            Some(Decision::Refuse(Box::new(refusal(&held.rule, message, ErrorKind::PolicyBlocked))))
        }
        Decision::Wait(_) | Decision::Refuse(_) => Some(decision),
    }
}

/// Judges the next bytes of a body that is being forwarded.
///
/// # Errors
/// A rule refuses it.
pub(super) fn pass_on(
    app: &ProxyState,
    routed: &mut Routed,
    outcome: &mut Outcome,
    headers: &HeaderMap,
    chunk: Option<&[u8]>,
) -> Result<()> {
    match judge_upload(app, routed, headers, chunk) {
        Some(Decision::Refuse(refused)) => {
            outcome.refusal = Some(refused);
            Error::e_explain(REFUSED, "what is uploaded is refused by a rule")
        }
        // A body under way cannot be slowed down as a whole.
        Some(Decision::Wait(_) | Decision::Hold(_) | Decision::Ask(_) | Decision::Pass) | None => Ok(()),
    }
}
