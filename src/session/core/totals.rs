//! The totals of one session. Everything that a client can vary is bounded here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::packed_requests::PackedRequest;
use crate::capture::redact_text;
use crate::clock::millis;
use crate::error::ErrorKind;
use crate::ids::BackendName;
use crate::protocol::facts::tools::ToolCounts;
use crate::protocol::facts::usage::Usage;
use crate::session::views::latency::Latencies;
use crate::session::views::request_line::{BackendUse, LAST_REQUESTS, ModelUse, RequestLine, clipped};
use crate::summary::RequestSummary;

/// Distinct models and distinct errors that are counted separately; further models count as [`OTHER`].
const DISTINCT: usize = 32;
const OTHER: &str = "other";
/// Name of the model of responses for which neither request nor response names one.
const UNKNOWN: &str = "unknown";

/// A failed response: by its status, or by the error code of the gateway if there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Status(u16),
    Code(ErrorKind),
}

/// The totals of one session.
#[derive(Debug, Default)]
pub(in crate::session) struct SessionTotals {
    lines: VecDeque<PackedRequest>,
    backends: Vec<BackendUse>,
    models: Vec<ModelUse>,
    ttfb: Latencies,
    seldom: Option<Box<RareTotals>>,
}

/// Totals that are empty in most sessions.
#[derive(Debug, Default)]
struct RareTotals {
    failures: Vec<(Failure, u64)>,
    failovers: u64,
    tools: ToolCounts,
}

impl SessionTotals {
    /// Counts the backend and the model of an open leg, so that views show them before the response is complete.
    pub(super) fn routed(
        &mut self,
        line: &mut RequestLine,
        backend: Option<&BackendName>,
        model: Option<&str>,
    ) {
        if let (None, Some(backend)) = (&line.backend, backend) {
            self.backend(backend);
            line.backend = Some(backend.clone());
        }
        if let (None, Some(model)) = (&line.model, model) {
            let used = self.model(model);
            used.requests += 1;
            line.model = Some(used.model.clone());
        }
    }

    /// Reverts what [`SessionTotals::routed`] counted for this line.
    pub(super) fn withdraw(&mut self, line: &RequestLine) {
        if let Some(used) = self.backends.iter_mut().find(|used| Some(&used.name) == line.backend.as_ref()) {
            used.requests -= 1;
        }
        if let Some(used) = self.models.iter_mut().find(|used| Some(&used.model) == line.model.as_ref()) {
            used.requests -= 1;
        }
        self.backends.retain(|used| used.requests > 0);
    }

    /// Moves an open leg to the backend that it failed over to.
    pub(super) fn rerouted(&mut self, line: &mut RequestLine, backend: &BackendName) {
        if let Some(left) = line.backend.take()
            && let Some(used) = self.backends.iter_mut().find(|used| used.name == left)
        {
            used.requests -= 1;
            self.backends.retain(|used| used.requests > 0);
        }
        self.routed(line, Some(backend), None);
    }

    /// Adds a finished leg and returns its packed form. `line` has what was known at its start.
    pub(in crate::session) fn add(
        &mut self,
        mut line: RequestLine,
        summary: &RequestSummary,
    ) -> &PackedRequest {
        self.routed(&mut line, summary.backend.as_ref(), summary.any_model().map(redact_text).as_deref());
        if let Some(usage) = summary.usage {
            if line.model.is_none() {
                self.model(UNKNOWN).requests += 1;
            }
            self.add_usage(line.model.as_deref(), usage);
        }
        if let Some(ttfb) = summary.ttfb {
            self.ttfb.add(millis(ttfb));
        }
        if let Some(failure) = failure(summary) {
            self.failure(failure);
        }
        line.operation = summary.operation.as_deref().map(|operation| clipped(operation).into());
        if summary.failover_from.is_some() {
            self.seldom().failovers += 1;
        }
        line.failover_from.clone_from(&summary.failover_from);
        line.attempts = summary.attempts;
        line.status = summary.status;
        line.error = summary.error.map(|kind| kind.code().into());
        line.outcome = summary.outcome.into();
        if !summary.tools.is_empty() {
            self.seldom().tools.add_all(&summary.tools);
        }
        line.stop_reason.clone_from(&summary.stop_reason);
        line.tools = summary.tools.clone();
        line.stream = summary.stream;
        line.duration_ms = millis(summary.duration);
        line.queue_ms = summary.queue.map(millis);
        line.ttfb_ms = summary.ttfb.map(millis);
        line.bytes_in = summary.bytes_in;
        line.bytes_out = summary.bytes_out;
        if let Some(mut socket) = summary.socket.clone() {
            socket.usage = line.socket.take().map_or_else(Usage::default, |counted| counted.usage);
            line.socket = Some(socket);
        }
        if self.lines.len() == LAST_REQUESTS {
            self.lines.pop_front();
        } else if self.lines.is_empty() {
            // `push_back` would reserve four.
            self.lines.reserve_exact(1);
        }
        self.lines.push_back_mut(line.into())
    }

    /// Adds the token counts of one response.
    pub(super) fn add_usage(&mut self, model: Option<&str>, usage: Usage) {
        let used = self.model(model.unwrap_or(UNKNOWN));
        used.usage += usage;
        // A socket may switch to another model.
        used.requests = used.requests.max(1);
    }

    fn seldom(&mut self) -> &mut RareTotals {
        self.seldom.get_or_insert_default()
    }

    fn backend(&mut self, name: &BackendName) {
        match self.backends.iter_mut().find(|used| used.name == *name) {
            Some(used) => used.requests += 1,
            None => push_compact(&mut self.backends, BackendUse { name: name.clone(), requests: 1 }),
        }
    }

    /// The entry of a model, under its own name or [`OTHER`].
    fn model(&mut self, model: &str) -> &mut ModelUse {
        let model = clipped(model);
        let mut at = self.models.iter().position(|used| *used.model == *model);
        let full = self.models.len() >= DISTINCT;
        if at.is_none() && full {
            at = self.models.iter().position(|used| *used.model == *OTHER);
        }
        let at = at.unwrap_or_else(|| {
            let name: Arc<str> = if full { OTHER } else { model }.into();
            push_compact(&mut self.models, ModelUse { model: name, requests: 0, usage: Usage::default() });
            self.models.len() - 1
        });
        &mut self.models[at]
    }

    fn failure(&mut self, failure: Failure) {
        let failures = &mut self.seldom().failures;
        match failures.iter().position(|(known, _)| *known == failure) {
            Some(at) => failures[at].1 += 1,
            None if failures.len() < DISTINCT => push_compact(failures, (failure, 1)),
            None => {}
        }
    }

    /// The last requests, newest first.
    pub(in crate::session) fn lines(&self) -> Vec<RequestLine> {
        self.lines.iter().rev().map(PackedRequest::line).collect()
    }

    /// The backends, most used first.
    pub(in crate::session) fn backends(&self) -> Vec<BackendUse> {
        let mut backends = self.backends.clone();
        backends.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
        backends
    }

    pub(in crate::session) fn used(&self, backend: &str) -> bool {
        self.backends.iter().any(|used| used.name.as_str() == backend)
    }

    /// The models in order of first use.
    pub(in crate::session) fn models(&self) -> &[ModelUse] {
        &self.models
    }

    /// Failed responses by status or code.
    pub(in crate::session) fn errors(&self) -> BTreeMap<String, u64> {
        let failures = self.seldom.iter().flat_map(|seldom| &seldom.failures);
        failures
            .map(|(failure, count)| match failure {
                Failure::Status(status) => (status.to_string(), *count),
                Failure::Code(kind) => (kind.code().to_owned(), *count),
            })
            .collect()
    }

    /// Requests that failed over to another backend.
    pub(in crate::session) fn failovers(&self) -> u64 {
        self.seldom.as_ref().map_or(0, |seldom| seldom.failovers)
    }

    /// Token counts of all models: the sum of what [`Self::models`] has.
    pub(in crate::session) fn usage(&self) -> Usage {
        self.models.iter().fold(Usage::default(), |mut sum, used| {
            sum += used.usage;
            sum
        })
    }

    /// Times to first byte.
    pub(in crate::session) fn latencies(&self) -> &Latencies {
        &self.ttfb
    }

    /// Tools that models called.
    pub(in crate::session) fn tools(&self) -> ToolCounts {
        self.seldom.as_ref().map(|seldom| seldom.tools.clone()).unwrap_or_default()
    }
}

/// True if the leg counts as an error of its session.
pub(in crate::session) fn failed(summary: &RequestSummary) -> bool {
    failure(summary).is_some()
}

/// A status below 400 with an error means that the response broke off: then the error code says more.
fn failure(summary: &RequestSummary) -> Option<Failure> {
    match (summary.status, summary.error) {
        (Some(status), _) if status >= 400 => Some(Failure::Status(status)),
        (_, Some(kind)) => Some(Failure::Code(kind)),
        _ => None,
    }
}

/// Appends to a list that mostly has one element; `Vec::push` would reserve four.
pub(in crate::session) fn push_compact<T>(list: &mut Vec<T>, element: T) {
    if list.capacity() == 0 {
        list.reserve_exact(1);
    }
    list.push(element);
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::RequestId;
    use crate::protocol::facts::usage::Cost;
    use crate::session::views::request_line::LegKind;

    fn line() -> RequestLine {
        let begun = Timestamp::UNIX_EPOCH;
        RequestLine::begun(LegKind::Request, "POST".into(), "/".into(), RequestId::new("r"), None, begun)
    }

    fn usage() -> impl Strategy<Value = Option<Usage>> {
        prop::option::of(prop::array::uniform8(0_u64..2_000_000_000)).prop_map(|counts| {
            let [input, output, read, write, hour, reasoning, searches, cost] = counts?;
            Some(Usage {
                unpriced_answers: 0,
                estimated_answers: 0,
                input_tokens: input,
                output_tokens: output,
                cache_read_tokens: read,
                cache_write_tokens: write,
                cache_write_1h_tokens: hour,
                reasoning_tokens: reasoning,
                web_search_requests: searches,
                cost: Cost::of(cost),
            })
        })
    }

    proptest! {
        #[test]
        fn the_models_add_up_to_the_totals(
            legs in prop::collection::vec(
                (prop::option::of("[a-z]{0,2}"), prop::option::of("[a-d]"), usage(), any::<bool>()),
                0..80,
            ),
        ) {
            let mut totals = SessionTotals::default();
            let mut expected = Usage::default();
            let mut requests = 0;
            for (model, answered_by, usage, is_socket) in legs {
                if is_socket {
                    if let Some(usage) = usage {
                        totals.add_usage(model.as_deref(), usage);
                        expected += usage;
                    }
                    continue;
                }
                if let Some(usage) = usage {
                    expected += usage;
                }
                requests += u64::from(model.is_some() || answered_by.is_some() || usage.is_some());
                totals.add(line(), &RequestSummary { model, answered_by, usage, ..RequestSummary::default() });
            }
            let mut sum = Usage::default();
            totals.models().iter().for_each(|used| sum += used.usage);
            prop_assert_eq!(sum, expected);
            prop_assert_eq!(totals.usage(), expected);
            prop_assert!(totals.models().len() <= DISTINCT + 1);
            prop_assert!(totals.models().iter().map(|used| used.requests).sum::<u64>() >= requests);
        }
    }
}
