//! Converts facts to spans and log records. Names follow OpenTelemetry's semantic conventions for generative AI and HTTP, with
//! the prefix `elida.` where they have no name.

use std::time::SystemTime;

use jiff::Timestamp;
use opentelemetry::logs::{AnyValue, LogRecord, Severity};
use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value as Plain};
use opentelemetry_sdk::logs::SdkLogRecord;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use serde_json::{Map, Value};

use super::facts::{Kill, ModelCall, Request, SessionRecord, Tokens};
use crate::clock::millis;
use crate::telemetry::trace::Context;

/// The version of the semantic conventions.
pub(super) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.41.0";

/// The event name of the log record with a call detail record.
const RECORD: &str = "elida.session.record";

/// The instrumentation scope.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(SCHEMA_URL)
        .build()
}

/// Creates the span of a request.
pub(super) fn of_request(request: &Request) -> SpanData {
    let mut attributes = Attributes::default();
    about_http(request, &mut attributes);
    about_session(request, &mut attributes);
    if let Some(call) = &request.call {
        about_call(call, &mut attributes);
    }
    if let Some(operation) = &request.operation {
        attributes.text("elida.operation", operation);
    }
    let error = error_type(request);
    attributes.text_option("error.type", error.as_deref());
    let uid = request.uid.filter(|_| request.context.is_remote);
    let mut links = SpanLinks::default();
    links.links.extend(uid.map(|uid| Link::with_context(span_context(&Context::of_session(uid, |_| true)))));
    SpanData {
        name: name(request).into(),
        span_kind: if request.backend.is_some() { SpanKind::Client } else { SpanKind::Server },
        start_time: request.ended.checked_sub(request.duration).unwrap_or(request.ended),
        end_time: request.ended,
        attributes: attributes.0,
        links,
        status: error.map_or(Status::Unset, |_| Status::error(request.outcome)),
        ..placed(&request.context)
    }
}

/// The span name: operation and model, or the operation of a tool call; otherwise the method, since paths are unbounded.
fn name(request: &Request) -> String {
    match &request.call {
        Some(ModelCall { operation, model: Some(model), .. }) => format!("{operation} {model}"),
        Some(call) => call.operation.to_owned(),
        None => request.operation.clone().unwrap_or_else(|| request.method.to_string()),
    }
}

/// The `error.type`: our error code, or a status of 400 or above.
pub(super) fn error_type(request: &Request) -> Option<String> {
    match request.status {
        _ if request.outcome != "ok" => Some(request.outcome.to_owned()),
        Some(status) if status >= 400 => Some(status.to_string()),
        _ => None,
    }
}

fn about_http(request: &Request, attributes: &mut Attributes) {
    attributes.text("http.request.method", &request.method);
    attributes.text("url.path", &request.path);
    if let Some(status) = request.status {
        attributes.number("http.response.status_code", status.into());
    }
    attributes.number("http.request.body.size", request.bytes_in);
    attributes.number("http.response.body.size", request.bytes_out);
    attributes.text("client.address", &request.client_address.to_string());
    if let Some(backend) = &request.backend {
        attributes.text("server.address", &backend.host);
        attributes.number("server.port", backend.port.into());
        attributes.text("elida.backend", backend.name.as_str());
        attributes.number("elida.attempts", backend.attempts.into());
        attributes
            .text_option("elida.failover_from", backend.failed_over_from.as_ref().map(|name| name.as_str()));
    }
}

fn about_session(request: &Request, attributes: &mut Attributes) {
    if let Some(id) = &request.session {
        attributes.text("gen_ai.conversation.id", id.as_str());
        attributes.text("session.id", id.as_str());
    }
    attributes.text_option("elida.session.uid", request.uid.map(|uid| uid.to_string()).as_deref());
    attributes.text_option("elida.principal", request.principal.as_ref().map(|id| id.as_str()));
    if let Some(membership) = &request.membership {
        attributes.text_option("elida.tenant", membership.tenant.as_deref());
        if !membership.groups.is_empty() {
            attributes.texts("elida.groups", membership.groups.iter().map(|group| &**group));
        }
    }
    attributes.text_option("elida.client", request.client.as_deref());
    attributes.text("elida.request_id", request.request_id.as_str());
    attributes.text("elida.outcome", request.outcome);
    if let Some(queue) = request.queue {
        attributes.number("elida.queue_ms", millis(queue));
    }
}

fn about_call(call: &ModelCall, attributes: &mut Attributes) {
    attributes.text("gen_ai.operation.name", call.operation);
    attributes.text("gen_ai.provider.name", call.provider);
    attributes.text_option("gen_ai.request.model", call.model.as_deref());
    attributes.text_option("gen_ai.response.model", call.answered_by.as_deref());
    attributes.add("gen_ai.request.stream", call.stream);
    if let (true, Some(after)) = (call.stream, call.first_chunk) {
        attributes.add("gen_ai.response.time_to_first_chunk", after.as_secs_f64());
    }
    if let Some(reason) = &call.stop_reason {
        attributes.texts("gen_ai.response.finish_reasons", [&**reason]);
    }
    if let Some(Tokens { input, output, cache_read, cache_write, reasoning, is_estimate }) = call.tokens {
        attributes.number("gen_ai.usage.input_tokens", input);
        attributes.number("gen_ai.usage.output_tokens", output);
        attributes.number("gen_ai.usage.cache_read.input_tokens", cache_read);
        attributes.number("gen_ai.usage.cache_creation.input_tokens", cache_write);
        attributes.number("gen_ai.usage.reasoning.output_tokens", reasoning);
        if is_estimate {
            attributes.add("elida.usage.estimated", true);
        }
    }
    if !call.tools.is_empty() {
        attributes.number("elida.tool_calls", call.tools.iter().map(|(_, calls)| calls).sum());
        attributes.texts("elida.tools", call.tools.iter().map(|(name, _)| &**name));
    }
}

/// Creates the span of an ended session, with its events.
pub(super) fn of_session(
    record: &dyn SessionRecord,
    members: &Map<String, Value>,
    context: &Context,
) -> SpanData {
    let mut events = SpanEvents::default();
    events.events.push(event("session.started", record.started_at(), Attributes::default()));
    events.events.extend(record.agent_kills().into_iter().map(|kill| killed("agent.killed", kill)));
    events.events.extend(record.kill().map(|kill| killed("session.killed", kill)));
    let mut last = Attributes::default();
    last.text("elida.session.state", record.state());
    last.text("elida.session.end_reason", record.end_reason());
    events.events.push(event("session.ended", record.ended_at(), last));
    let pair = |(key, value)| KeyValue::new(format!("elida.session.{key}"), value);
    let mut attributes = Attributes(scalars::<Plain>(members).map(pair).collect());
    if let Some(Value::Array(groups)) = members.get("groups") {
        attributes.texts("elida.session.groups", groups.iter().filter_map(Value::as_str));
    }
    attributes.text("gen_ai.conversation.id", record.session_id().as_str());
    attributes.text("session.id", record.session_id().as_str());
    attributes.text("client.address", &record.client_address().to_string());
    let (input, output) = record.tokens();
    attributes.number("gen_ai.usage.input_tokens", input);
    attributes.number("gen_ai.usage.output_tokens", output);
    attributes.text_option("error.type", record.kill().map(|_| "session_killed"));
    SpanData {
        name: "session".into(),
        span_kind: SpanKind::Internal,
        start_time: record.started_at().into(),
        end_time: record.ended_at().into(),
        attributes: attributes.0,
        events,
        status: record.kill().map_or(Status::Unset, |kill| Status::error(kill.reason.to_owned())),
        ..placed(context)
    }
}

fn killed(name: &'static str, kill: Kill<'_>) -> Event {
    let mut attributes = Attributes::default();
    attributes.text_option("gen_ai.agent.id", kill.agent);
    attributes.text("elida.kill.by", kill.by);
    attributes.text("elida.kill.reason", kill.reason);
    event(name, kill.at, attributes)
}

/// Writes the call detail record into an empty log record: the whole record as body, and scalar values as attributes.
pub(super) fn record(
    record: &dyn SessionRecord,
    members: Map<String, Value>,
    context: &Context,
    blank: &mut SdkLogRecord,
) {
    let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    blank.set_timestamp(record.ended_at().into());
    blank.set_observed_timestamp(SystemTime::now());
    blank.set_severity_number(Severity::Info);
    blank.set_severity_text("INFO");
    blank.set_event_name(RECORD);
    blank.set_trace_context(context.trace.into(), context.span.into(), Some(flags));
    blank.add_attributes(scalars::<AnyValue>(&members).map(|(key, value)| (key.clone(), value)));
    blank.add_attribute("gen_ai.conversation.id", record.session_id().as_str().to_owned());
    if let Some(body) = any(&Value::Object(members)) {
        blank.set_body(body);
    }
}

fn event(name: &'static str, at: Timestamp, attributes: Attributes) -> Event {
    Event::new(name, at.into(), attributes.0, 0)
}

/// Creates an otherwise empty span with this context.
fn placed(context: &Context) -> SpanData {
    SpanData {
        span_context: span_context(context),
        parent_span_id: context.parent.into(),
        parent_span_is_remote: context.is_remote,
        span_kind: SpanKind::Internal,
        name: "".into(),
        start_time: SystemTime::UNIX_EPOCH,
        end_time: SystemTime::UNIX_EPOCH,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: scope(),
    }
}

/// Converts a context. Only sampled contexts become spans.
fn span_context(context: &Context) -> SpanContext {
    let (trace, span) = (TraceId::from(context.trace), SpanId::from(context.span));
    SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE)
}

/// Iterates over the scalar values of an object and their keys.
fn scalars<T>(object: &Map<String, Value>) -> impl Iterator<Item = (&String, T)>
where
    T: From<bool> + From<i64> + From<f64> + From<String>,
{
    object.iter().filter_map(|(key, value)| Some((key, scalar(value)?)))
}

fn scalar<T>(value: &Value) -> Option<T>
where
    T: From<bool> + From<i64> + From<f64> + From<String>,
{
    Some(match value {
        Value::Bool(flag) => T::from(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => T::from(whole),
            None => T::from(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => T::from(text.clone()),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    })
}

/// Converts a JSON value to a log record's value. There is no null: such keys are left out.
fn any(value: &Value) -> Option<AnyValue> {
    match value {
        Value::Array(values) => Some(values.iter().filter_map(any).collect()),
        Value::Object(map) => {
            Some(map.iter().filter_map(|(key, value)| Some((key.clone(), any(value)?))).collect())
        }
        plain => scalar(plain),
    }
}

/// Collects attributes.
#[derive(Default)]
pub(super) struct Attributes(pub(super) Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, key: &'static str, value: impl Into<Plain>) {
        self.0.push(KeyValue::new(key, value));
    }

    pub(super) fn text(&mut self, key: &'static str, text: &str) {
        self.add(key, text.to_owned());
    }

    pub(super) fn text_option(&mut self, key: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn number(&mut self, key: &'static str, number: u64) {
        self.add(key, i64::try_from(number).unwrap_or(i64::MAX));
    }

    fn texts<'a>(&mut self, key: &'static str, texts: impl IntoIterator<Item = &'a str>) {
        let texts = texts.into_iter().map(|text| StringValue::from(text.to_owned())).collect();
        self.add(key, Plain::Array(Array::String(texts)));
    }
}
