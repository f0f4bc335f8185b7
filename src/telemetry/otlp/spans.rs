//! Spans and log records out of facts. Names: OpenTelemetry's semantic conventions, those for generative AI and HTTP;
//! `elida.` before what they have no name for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, status};
use serde_json::Value;

use super::facts::{ModelCall, Request, Session, Tokens};
use crate::telemetry::trace::Context;

/// The conventions that the names are taken from.
pub(super) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.41.0";

/// The name of the log record that holds a call detail record.
const RECORD: &str = "elida.session.record";

/// Flags of a span (`SpanFlags` of OTLP): sampled, whether the parent is remote is known, it is.
const SAMPLED: u32 = 1;
const PARENT_KNOWN: u32 = 0x100;
const PARENT_REMOTE: u32 = 0x200;

/// The span of a request.
pub(super) fn of_request(request: &Request) -> Span {
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
    let end = nanos(request.ended);
    let duration = u64::try_from(request.duration.as_nanos()).unwrap_or(u64::MAX);
    let links = request.uid.filter(|_| request.context.is_remote).map(|uid| {
        let session = Context::of_session(uid, |_| true);
        Link { trace_id: trace_id(&session), span_id: span_id(session.span), ..Link::default() }
    });
    let kind = if request.backend.is_some() { SpanKind::Client } else { SpanKind::Server };
    Span {
        start_time_unix_nano: end.saturating_sub(duration),
        end_time_unix_nano: end,
        name: name(request),
        kind: kind.into(),
        attributes: attributes.0,
        links: links.into_iter().collect(),
        status: error.map(|_| failed(request.outcome)),
        ..placed(&request.context)
    }
}

/// What was asked of a model and which one, or what of a tool; of other requests the method, since their paths are
/// without number.
fn name(request: &Request) -> String {
    match &request.call {
        Some(ModelCall { operation, model: Some(model), .. }) => format!("{operation} {model}"),
        Some(call) => call.operation.to_owned(),
        None => request.operation.clone().unwrap_or_else(|| request.method.to_string()),
    }
}

/// Our own word for a failure, else a status that is one.
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
    attributes.text_option("elida.client", request.client.as_deref());
    attributes.text("elida.request_id", request.request_id.as_str());
    attributes.text("elida.outcome", request.outcome);
}

fn about_call(call: &ModelCall, attributes: &mut Attributes) {
    attributes.text("gen_ai.operation.name", call.operation);
    attributes.text("gen_ai.provider.name", call.provider);
    attributes.text_option("gen_ai.request.model", call.model.as_deref());
    attributes.text_option("gen_ai.response.model", call.answered_by.as_deref());
    attributes.flag("gen_ai.request.stream", call.stream);
    if let (true, Some(after)) = (call.stream, call.first_chunk) {
        attributes.seconds("gen_ai.response.time_to_first_chunk", after);
    }
    if let Some(reason) = &call.stop_reason {
        attributes.texts("gen_ai.response.finish_reasons", [&**reason]);
    }
    if let Some(Tokens { input, output, cache_read, cache_write, reasoning }) = call.tokens {
        attributes.number("gen_ai.usage.input_tokens", input);
        attributes.number("gen_ai.usage.output_tokens", output);
        attributes.number("gen_ai.usage.cache_read.input_tokens", cache_read);
        attributes.number("gen_ai.usage.cache_creation.input_tokens", cache_write);
        attributes.number("gen_ai.usage.reasoning.output_tokens", reasoning);
    }
    if !call.tools.is_empty() {
        attributes.number("elida.tool_calls", call.tools.iter().map(|(_, calls)| calls).sum());
        attributes.texts("elida.tools", call.tools.iter().map(|(name, _)| &**name));
    }
}

/// The span of a session that ended, with what happened to it.
pub(super) fn of_session(session: &Session, context: &Context) -> Span {
    let record = &session.record;
    let word = |key: &str| record[key].as_str();
    let (start, end) = (moment(session.started), moment(session.ended));
    let mut events = vec![event("session.started", start, Attributes::default())];
    let orders = record["agent_kills"].as_array().into_iter().flatten().map(|order| ("agent.killed", order));
    let kill = Some(&record["kill"]).filter(|order| order.is_object());
    for (name, order) in orders.chain(kill.map(|order| ("session.killed", order))) {
        let mut attributes = Attributes::default();
        for (key, attribute) in
            [("agent", "gen_ai.agent.id"), ("by", "elida.kill.by"), ("reason", "elida.kill.reason")]
        {
            attributes.text_option(attribute, order[key].as_str());
        }
        let at = order["at"].as_str().and_then(|at| at.parse().ok()).map_or(end, moment);
        events.push(event(name, at, attributes));
    }
    let mut last = Attributes::default();
    last.text_option("elida.session.state", word("state"));
    last.text_option("elida.session.end_reason", word("end_reason"));
    events.push(event("session.ended", end, last));
    let mut attributes = Attributes(scalars(record, "elida.session."));
    attributes.text_option("gen_ai.conversation.id", word("session_id"));
    attributes.text_option("session.id", word("session_id"));
    attributes.text_option("client.address", word("client_addr"));
    for (key, name) in
        [("input_tokens", "gen_ai.usage.input_tokens"), ("output_tokens", "gen_ai.usage.output_tokens")]
    {
        attributes.number(name, record["usage"][key].as_u64().unwrap_or_default());
    }
    attributes.text_option("error.type", kill.map(|_| "session_killed"));
    Span {
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        name: "session".to_owned(),
        kind: SpanKind::Internal.into(),
        attributes: attributes.0,
        events,
        status: kill.map(|order| failed(order["reason"].as_str().unwrap_or_default())),
        ..placed(context)
    }
}

/// The call detail record as a log record: whole in the body, its plain values among the attributes too.
pub(super) fn record(session: &Session, context: &Context) -> LogRecord {
    let mut attributes = Attributes(scalars(&session.record, ""));
    attributes.text_option("gen_ai.conversation.id", session.record["session_id"].as_str());
    LogRecord {
        time_unix_nano: moment(session.ended),
        observed_time_unix_nano: nanos(SystemTime::now()),
        severity_number: SeverityNumber::Info.into(),
        severity_text: "INFO".to_owned(),
        body: Some(any(&session.record)),
        attributes: attributes.0,
        flags: u32::from(context.sampled),
        trace_id: trace_id(context),
        span_id: span_id(context.span),
        event_name: RECORD.to_owned(),
        ..LogRecord::default()
    }
}

fn event(name: &str, at: u64, attributes: Attributes) -> Event {
    Event { time_unix_nano: at, name: name.to_owned(), attributes: attributes.0, ..Event::default() }
}

fn failed(message: &str) -> Status {
    Status { message: message.to_owned(), code: status::StatusCode::Error.into() }
}

/// A span in its place, and empty otherwise.
fn placed(context: &Context) -> Span {
    let remote = if context.is_remote { PARENT_REMOTE } else { 0 };
    Span {
        trace_id: trace_id(context),
        span_id: span_id(context.span),
        parent_span_id: if context.parent == 0 { Vec::new() } else { span_id(context.parent) },
        flags: SAMPLED | PARENT_KNOWN | remote,
        ..Span::default()
    }
}

fn trace_id(context: &Context) -> Vec<u8> {
    context.trace.to_be_bytes().to_vec()
}

fn span_id(id: u64) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

/// Nanoseconds since 1970.
pub(super) fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn moment(at: jiff::Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or_default()
}

/// The plain values of an object, each under its key.
fn scalars(object: &Value, before: &str) -> Vec<KeyValue> {
    let plain = |(key, value): (&String, &Value)| {
        let is_plain = value.is_string() || value.is_number() || value.is_boolean();
        is_plain.then(|| pair(&format!("{before}{key}"), any(value)))
    };
    object.as_object().into_iter().flatten().filter_map(plain).collect()
}

/// A JSON value as OTLP has it.
fn any(value: &Value) -> AnyValue {
    let value = match value {
        Value::Null => None,
        Value::Bool(flag) => Some(any_value::Value::BoolValue(*flag)),
        Value::Number(number) => Some(match number.as_i64() {
            Some(whole) => any_value::Value::IntValue(whole),
            None => any_value::Value::DoubleValue(number.as_f64().unwrap_or_default()),
        }),
        Value::String(text) => Some(any_value::Value::StringValue(text.clone())),
        Value::Array(values) => {
            Some(any_value::Value::ArrayValue(ArrayValue { values: values.iter().map(any).collect() }))
        }
        Value::Object(map) => {
            let values = map.iter().map(|(key, value)| pair(key, any(value))).collect();
            Some(any_value::Value::KvlistValue(KeyValueList { values }))
        }
    };
    AnyValue { value }
}

fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// Attributes as they are gathered.
#[derive(Default)]
pub(super) struct Attributes(pub(super) Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, key: &str, value: any_value::Value) {
        self.0.push(pair(key, AnyValue { value: Some(value) }));
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.add(key, any_value::Value::StringValue(text.to_owned()));
    }

    fn text_option(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn number(&mut self, key: &str, number: u64) {
        self.add(key, any_value::Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX)));
    }

    fn seconds(&mut self, key: &str, time: Duration) {
        self.add(key, any_value::Value::DoubleValue(time.as_secs_f64()));
    }

    fn flag(&mut self, key: &str, flag: bool) {
        self.add(key, any_value::Value::BoolValue(flag));
    }

    fn texts<'a>(&mut self, key: &str, texts: impl IntoIterator<Item = &'a str>) {
        let value = |text: &str| AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) };
        let values = texts.into_iter().map(value).collect();
        self.add(key, any_value::Value::ArrayValue(ArrayValue { values }));
    }
}
