//! What the legs of a session added up to. Everything a client can vary is bounded here.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::latency::{Latencies, Quantiles};
use super::leg::LegKind;
use crate::capture::redact_text;
use crate::clock::millis;
use crate::error::ErrorKind;
use crate::ids::{AgentId, BackendName, RequestId};
use crate::protocol::facts::tools::ToolCounts;
use crate::protocol::facts::usage::Usage;
use crate::summary::{RequestSummary, SocketReport};

/// Requests that stay visible one by one.
pub(super) const LAST_REQUESTS: usize = 20;
/// Distinct models or errors that are counted apart; later models count as [`OTHER`].
const DISTINCT: usize = 32;
/// Bytes that are kept of a path or a model.
const NAME_BYTES: usize = 256;
const OTHER: &str = "other";

/// One request that has ended, for the detail view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// The request's id.
    pub request_id: RequestId,
    /// What it was.
    pub kind: LegKind,
    /// Its method.
    pub method: Box<str>,
    /// Its path, without a query.
    pub path: Box<str>,
    /// The agent that sent it; `None` is the main one.
    pub agent: Option<AgentId>,
    /// When it came.
    pub started_at: Timestamp,
    /// The backend that served it.
    pub backend: Option<BackendName>,
    /// The backend that failed before, when another one took its place.
    pub failover_from: Option<BackendName>,
    /// How many backends were asked.
    pub attempts: u32,
    /// The model.
    pub model: Option<Arc<str>>,
    /// What a JSON-RPC request asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Box<str>>,
    /// The status sent to the client.
    pub status: Option<u16>,
    /// The code of its failure.
    pub error: Option<Box<str>>,
    /// How it ended, in a word.
    pub outcome: Cow<'static, str>,
    /// How many tools the request offered.
    pub tools_offered: u32,
    /// About how many tokens the request had: the bytes of its body by four.
    pub input_tokens_estimate: u64,
    /// Why the model stopped, in the provider's word.
    pub stop_reason: Option<Box<str>>,
    /// The tools it called.
    pub tools: ToolCounts,
    /// True when the answer was a stream.
    pub stream: bool,
    /// Milliseconds from the request to the end.
    pub duration_ms: u64,
    /// Milliseconds from the end of the request's head to the first attempt at a backend; absent when none was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u64>,
    /// Milliseconds from the request to the first byte of the answer.
    pub ttfb_ms: Option<u64>,
    /// Bytes received from the client.
    pub bytes_in: u64,
    /// Bytes sent to the client.
    pub bytes_out: u64,
    /// What passed, when it was an upgraded connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Box<SocketReport>>,
}

/// The requests a backend served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendUse {
    /// The backend.
    pub name: BackendName,
    /// How many requests.
    pub requests: u64,
}

/// The requests and tokens of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelUse {
    /// The model.
    pub model: Arc<str>,
    /// How many requests named it.
    pub requests: u64,
    /// The provider's own token counts, summed.
    #[serde(flatten)]
    pub usage: Usage,
}

/// A failed answer: by its status, or by our own code when there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Status(u16),
    Code(ErrorKind),
}

/// The sums of one session.
#[derive(Debug, Default)]
pub(super) struct Tally {
    lines: VecDeque<Kept>,
    backends: Vec<BackendUse>,
    models: Vec<ModelUse>,
    ttfb: Latencies,
    seldom: Option<Box<Seldom>>,
}

/// What most sessions have nothing of.
#[derive(Debug, Default)]
struct Seldom {
    failures: Vec<(Failure, u64)>,
    failovers: u64,
    tools: ToolCounts,
    /// Of answers that named no model.
    usage: Usage,
}

impl Tally {
    /// Counts where an open leg goes, so that its session shows it while the answer is still coming.
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

    /// Takes back what [`Tally::routed`] counted for this line.
    pub(super) fn withdraw(&mut self, line: &RequestLine) {
        if let Some(used) = self.backends.iter_mut().find(|used| Some(&used.name) == line.backend.as_ref()) {
            used.requests -= 1;
        }
        if let Some(used) = self.models.iter_mut().find(|used| Some(&used.model) == line.model.as_ref()) {
            used.requests -= 1;
        }
        self.backends.retain(|used| used.requests > 0);
    }

    /// Moves an open leg to the backend that takes the place of another.
    pub(super) fn rerouted(&mut self, line: &mut RequestLine, backend: &BackendName) {
        if let Some(left) = line.backend.take()
            && let Some(used) = self.backends.iter_mut().find(|used| used.name == left)
        {
            used.requests -= 1;
            self.backends.retain(|used| used.requests > 0);
        }
        self.routed(line, Some(backend), None);
    }

    /// Adds a leg that is done, and gives what is kept of it. `line` is the part that was known when it started.
    pub(super) fn add(&mut self, mut line: RequestLine, summary: &RequestSummary) -> &Kept {
        self.routed(
            &mut line,
            summary.backend.as_ref(),
            summary.model.as_deref().map(redact_text).as_deref(),
        );
        if let Some(usage) = summary.usage {
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
            // Without this it would begin with room for four.
            self.lines.reserve_exact(1);
        }
        self.lines.push_back_mut(line.into())
    }

    /// Counts the tokens of one answer.
    pub(super) fn add_usage(&mut self, model: Option<&str>, usage: Usage) {
        if let Some(model) = model {
            let used = self.model(model);
            used.usage += usage;
            // A socket may turn to another model than the one it began with.
            used.requests = used.requests.max(1);
        } else {
            self.seldom().usage += usage;
        }
    }

    fn seldom(&mut self) -> &mut Seldom {
        self.seldom.get_or_insert_default()
    }

    fn backend(&mut self, name: &BackendName) {
        match self.backends.iter_mut().find(|used| used.name == *name) {
            Some(used) => used.requests += 1,
            None => push_lean(&mut self.backends, BackendUse { name: name.clone(), requests: 1 }),
        }
    }

    /// The counts of a model, under its own name or [`OTHER`].
    fn model(&mut self, model: &str) -> &mut ModelUse {
        let model = clipped(model);
        let mut at = self.models.iter().position(|used| *used.model == *model);
        let full = self.models.len() >= DISTINCT;
        if at.is_none() && full {
            at = self.models.iter().position(|used| *used.model == *OTHER);
        }
        let at = at.unwrap_or_else(|| {
            let name: Arc<str> = if full { OTHER } else { model }.into();
            push_lean(&mut self.models, ModelUse { model: name, requests: 0, usage: Usage::default() });
            self.models.len() - 1
        });
        &mut self.models[at]
    }

    fn failure(&mut self, failure: Failure) {
        let failures = &mut self.seldom().failures;
        match failures.iter().position(|(known, _)| *known == failure) {
            Some(at) => failures[at].1 += 1,
            None if failures.len() < DISTINCT => push_lean(failures, (failure, 1)),
            None => {}
        }
    }

    /// The last requests, newest first.
    pub(super) fn lines(&self) -> Vec<RequestLine> {
        self.lines.iter().rev().map(Kept::line).collect()
    }

    /// The backends, most used first.
    pub(super) fn backends(&self) -> Vec<BackendUse> {
        let mut backends = self.backends.clone();
        backends.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
        backends
    }

    /// True when this backend served a request.
    pub(super) fn used(&self, backend: &str) -> bool {
        self.backends.iter().any(|used| used.name.as_str() == backend)
    }

    /// The models in the order in which they came.
    pub(super) fn models(&self) -> &[ModelUse] {
        &self.models
    }

    /// Failed answers by status or code.
    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        let failures = self.seldom.iter().flat_map(|seldom| &seldom.failures);
        failures
            .map(|(failure, count)| match failure {
                Failure::Status(status) => (status.to_string(), *count),
                Failure::Code(kind) => (kind.code().to_owned(), *count),
            })
            .collect()
    }

    /// Requests that another backend took over.
    pub(super) fn failovers(&self) -> u64 {
        self.seldom.as_ref().map_or(0, |seldom| seldom.failovers)
    }

    /// All tokens.
    pub(super) fn usage(&self) -> Usage {
        let unnamed = self.seldom.as_ref().map(|seldom| seldom.usage).unwrap_or_default();
        self.models.iter().fold(unnamed, |mut sum, used| {
            sum += used.usage;
            sum
        })
    }

    /// Times to the first byte.
    pub(super) fn latencies(&self) -> &Latencies {
        &self.ttfb
    }

    /// The tools called.
    pub(super) fn tools(&self) -> ToolCounts {
        self.seldom.as_ref().map(|seldom| seldom.tools.clone()).unwrap_or_default()
    }

    /// Time to the first byte.
    pub(super) fn ttfb(&self) -> Option<Quantiles> {
        self.ttfb.quantiles()
    }
}

impl RequestLine {
    /// The line of a request that has just come.
    pub(super) fn begun(
        kind: LegKind,
        method: Box<str>,
        mut path: String,
        request_id: RequestId,
        agent: Option<AgentId>,
        started_at: Timestamp,
    ) -> Self {
        let end = path.find('?').unwrap_or(path.len());
        path.truncate(clipped(&path[..end]).len());
        Self {
            request_id,
            kind,
            method,
            path: path.into(),
            agent,
            started_at,
            backend: None,
            failover_from: None,
            attempts: 0,
            model: None,
            operation: None,
            status: None,
            error: None,
            outcome: "open".into(),
            tools_offered: 0,
            input_tokens_estimate: 0,
            stop_reason: None,
            tools: ToolCounts::default(),
            stream: false,
            duration_ms: 0,
            queue_ms: None,
            ttfb_ms: None,
            bytes_in: 0,
            bytes_out: 0,
            socket: None,
        }
    }
}

/// True when the leg counts as an error of its session.
pub(super) fn failed(summary: &RequestSummary) -> bool {
    failure(summary).is_some()
}

/// A status below 400 with an error is an answer that broke off: the code tells more.
fn failure(summary: &RequestSummary) -> Option<Failure> {
    match (summary.status, summary.error) {
        (Some(status), _) if status >= 400 => Some(Failure::Status(status)),
        (_, Some(kind)) => Some(Failure::Code(kind)),
        _ => None,
    }
}

/// Adds to a list that mostly stays at one element: without this it would begin with room for four.
pub(super) fn push_lean<T>(list: &mut Vec<T>, element: T) {
    if list.capacity() == 0 {
        list.reserve_exact(1);
    }
    list.push(element);
}

/// The first bytes of a name a client chose, on a character's border.
pub(super) fn clipped(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES)]
}
