//! What became of an answer whose head promised success: whether its provider reported an error in it or ended it before
//! its last event, and what that says about the backend's health.
//!
//! Only requests that make a model write an answer are judged here. If it is a stream, its backend's health is judged when
//! it has ended, not by its head: a backend that always answers 200 and then fails is not healthy.

use http::header::CONTENT_TYPE;
use pingora_http::ResponseHeader;

use super::awaited::AwaitedAnswers;
use super::dispatch::Route;
use super::receive::Received;
use super::request_ctx::{Outcome, Stage};
use crate::clock::Moment;
use crate::error::ErrorKind;
use crate::protocol::facts::usage::Usage;
use crate::protocol::wire::framing::Framing;

/// Parts of the words by which providers say that the caller is at fault, or asks for too much. Another caller may well be
/// served.
const OF_CALLER: [&str; 14] = [
    "invalid",
    "validation",
    "throttling",
    "rate_limit",
    "too_many",
    "too_large",
    "authentication",
    "permission",
    "not_found",
    "billing",
    "quota",
    "exhausted",
    "context_length",
    "content",
];

/// Returns whether the request makes a model write an answer.
pub(crate) fn makes_answer(received: &Received, route: &Route) -> bool {
    // The name of a backend in front of the path is no part of the API's path.
    let path = received.uri.path().get(route.strip.end..).unwrap_or_default();
    route.dialect.makes_answer(&received.method, path)
}

/// Returns whether a response with this head says something about the backend's health only at its end.
pub(super) fn is_judged_at_its_end(received: &Received, route: &Route, head: &ResponseHeader) -> bool {
    let media = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Framing::of(media, None).is_stream() && makes_answer(received, route)
}

/// Returns how the answer failed although its head did not say so; to be asked after its end. `None` when it did not, or
/// for answers that were made before and are only read.
pub(super) fn fault(stage: &Stage, outcome: &Outcome) -> Option<ErrorKind> {
    if reported(stage, outcome).is_some() {
        return Some(ErrorKind::BackendError);
    }
    let (received, route) = (stage.received()?, stage.route()?);
    let tap = outcome.answer.tap.as_ref().filter(|_| makes_answer(received, route))?;
    // Only where the dialect's last event is known: a stream of progress or speech ends as it likes.
    let is_known = route.dialect.operation(received.uri.path()).is_some();
    (outcome.answer.whole && is_known && tap.is_cut_short()).then_some(ErrorKind::ResponseIncomplete)
}

/// The error that the provider has reported in the answer, in its own word, which is empty when it has none.
pub(super) fn reported<'o>(stage: &Stage, outcome: &'o Outcome) -> Option<&'o str> {
    let (received, route) = (stage.received()?, stage.route()?);
    outcome.answer.tap.as_ref().filter(|_| makes_answer(received, route))?.error()
}

/// Returns the token counts of the answer. An answer that was made by an earlier request is counted only if that request
/// saw no counts of it, because it runs in the background or its stream was cut; and then once.
pub(super) fn usage(awaited: &AwaitedAnswers, stage: &Stage, outcome: &Outcome) -> Option<Usage> {
    let tap = outcome.answer.tap.as_ref()?;
    let (who, route) = (stage.identified()?, stage.route()?);
    let (usage, caller) = (tap.usage(), &who.caller.principal);
    if makes_answer(&who.received, route) {
        if let (None, Some(id)) = (usage, tap.id()) {
            awaited.insert(caller, id);
        }
        return usage;
    }
    usage.filter(|_| tap.id().is_some_and(|id| awaited.remove(caller, id)))
}

/// Reports to the backend's health how an answer ended that is not judged by its head ([`is_judged_at_its_end`]).
pub(super) fn judge(stage: &Stage, outcome: &Outcome, error: Option<ErrorKind>, now: Moment) {
    let (Some(received), Some(route)) = (stage.received(), stage.route()) else { return };
    if outcome.answer.tap.is_none() || !outcome.answer.is_stream || !makes_answer(received, route) {
        return;
    }
    let has_failed = match error {
        Some(ErrorKind::BackendError) => !reported(stage, outcome).is_some_and(is_of_caller),
        Some(ErrorKind::ResponseIncomplete | ErrorKind::BackendUnavailable | ErrorKind::BackendTimeout) => {
            true
        }
        None => false,
        // The client left or the session was killed: what had come until then is an answer.
        Some(_) if outcome.answer.sent > 0 => false,
        Some(_) => return,
    };
    match has_failed {
        true => route.backend.failed(false, now),
        false => route.backend.answered(),
    }
}

/// Returns whether a provider's word for an error, or its status, says that the caller is at fault.
fn is_of_caller(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let is_4xx = word.len() == 3 && word.starts_with('4') && word.bytes().all(|byte| byte.is_ascii_digit());
    is_4xx || OF_CALLER.iter().any(|part| word.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_whose_fault_an_error_is() {
        for word in [
            "invalid_request_error",
            "rate_limit_exceeded",
            "RESOURCE_EXHAUSTED",
            "429",
            "INVALID_ARGUMENT",
            "throttlingException",
        ] {
            assert!(is_of_caller(word), "{word}");
        }
        for word in [
            "",
            "overloaded_error",
            "api_error",
            "server_error",
            "UNAVAILABLE",
            "500",
            "4000",
            "modelStreamErrorException",
        ] {
            assert!(!is_of_caller(word), "{word}");
        }
    }
}
