//! Judges a request once more for each backend that it may fail over to, if rules ask which backend it is. One that a rule would
//! refuse, or hold, is not tried: when it is its turn, nobody is asked any more.

use std::sync::Arc;

use http::HeaderMap;

use super::facts::RequestFacts;
use super::judge_call::call_verdict;
use super::judge_request::{Body, calls, read_texts, tool_facts};
use super::request_ctx::Routed;
use super::state::ProxyState;
use super::unknown_api;
use crate::policy::facts::Phase;
use crate::policy::ruleset::RuleSet;
use crate::routing::Choice;

/// Leaves out the backends that rules refuse.
pub(super) fn keep_permitted(app: &ProxyState, routed: &mut Routed, headers: &HeaderMap, body: &Body<'_>) {
    if routed.route.others.is_empty() {
        return;
    }
    let received = &routed.who.received;
    let settings = &received.handle.settings;
    if settings.rules.acts_on_what_is_heard() && !received.dialect.is_llm() {
        let has_body = !matches!(body, Body::None);
        let kind = |backend: usize| settings.backends[backend].settings().kind();
        let is_heard = |other: &Choice| !unknown_api::is_asked(received, kind(other.backend), has_body);
        routed.route.others.retain(is_heard);
    }
    if !settings.rules.asks_for_backend() {
        return;
    }
    let rules = Arc::clone(&settings.rules);
    let refused = |backend: usize| {
        let name = settings.backends[backend].settings().name().as_str();
        // What of a body is still to come cannot be judged for a backend that does not get it yet.
        matches!(body, Body::Streamed(_)) || is_refused(app, &rules, routed, headers, body, name)
    };
    let kept = routed.route.others.iter().filter(|other| !refused(other.backend)).cloned().collect();
    routed.route.others = kept;
}

/// Whether a rule that asks for the backend refuses the request for this one.
fn is_refused(
    app: &ProxyState,
    rules: &RuleSet,
    routed: &Routed,
    headers: &HeaderMap,
    body: &Body<'_>,
    backend: &str,
) -> bool {
    let forward = Some((&routed.leg, Some(&routed.route)));
    let facts = RequestFacts {
        forward,
        backend: Some(backend),
        ..RequestFacts::new(&routed.who, headers, &app.clock)
    };
    let table = app.judged(rules);
    let mut found = read_texts(app, rules, routed, &facts, table, body);
    if routed.who.received.dialect.is_json_rpc() {
        rules.finish(Phase::Connect, &facts, &mut found.request);
    }
    rules.finish(Phase::Request, &facts, &mut found.request);
    if rules.refuses_backend(&found.request) || rules.refuses_backend(&found.results) {
        return true;
    }
    calls(rules, routed, body).iter().any(|call| {
        let verdict = call_verdict(rules, &facts, &tool_facts(call, backend), table);
        rules.refuses_backend(&verdict)
    })
}
