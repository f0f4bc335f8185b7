//! A request among the spans of OpenTelemetry: its place is found when it is sent on, its story told when it is over.
//! Nothing of this exists while `telemetry.enabled` is false.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method};
use pingora_core::Result;
use pingora_http::RequestHeader;

use super::dispatch::Route;
use super::gateway::ProxyState;
use super::receive::Received;
use super::request_ctx::RequestCtx;
use crate::capture::redact_text;
use crate::error::ErrorKind;
use crate::protocol::BackendKind;
use crate::protocol::Dialect;
use crate::protocol::facts::usage::Usage;
use crate::telemetry::otlp::facts::{Backend, ModelCall, Request, Tokens, clipped};
use crate::telemetry::trace::{Context, Parent, TRACEPARENT, TRACESTATE};

/// What is known of a request's place.
pub(crate) struct Trace {
    /// The client's span.
    parent: Option<Parent>,
    /// Its own, the same for each attempt.
    context: Option<Context>,
}

impl Trace {
    /// Reads what the client says; `None` when nobody is told of requests.
    pub(crate) fn begin(app: &ProxyState, headers: &HeaderMap) -> Option<Self> {
        app.exporter.as_ref()?;
        let mut values = headers.get_all(TRACEPARENT).iter();
        let parent = match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().and_then(Parent::read),
            _ => None,
        };
        Some(Self { parent, context: None })
    }
}

/// Tells the backend which span it works for.
///
/// # Errors
/// A header of ours cannot be set; that would be a fault of ours.
pub(crate) fn propagate(head: &mut RequestHeader, ctx: &mut RequestCtx) -> Result<()> {
    let (Some(context), Some(trace)) = (place(ctx), &ctx.trace) else { return Ok(()) };
    if trace.parent.is_none() {
        // It belongs to a trace that is not this one.
        head.remove_header(TRACESTATE);
    }
    head.insert_header(TRACEPARENT, context.traceparent())
}

fn place(ctx: &mut RequestCtx) -> Option<Context> {
    let exporter = ctx.app.exporter.as_ref()?;
    let trace = ctx.trace.as_mut()?;
    let session = ctx.leg.as_ref().map(|leg| leg.session().uid());
    Some(*trace.context.get_or_insert_with(|| exporter.place(trace.parent, session)))
}

/// Tells of a request that is over. What was answered here (probes) is not told.
pub(crate) fn finish(
    ctx: &mut RequestCtx,
    duration: Duration,
    failure: Option<ErrorKind>,
    usage: Option<Usage>,
    operation: Option<String>,
) {
    let Some(context) = place(ctx) else { return };
    let (Some(exporter), Some(received)) = (&ctx.app.exporter, &ctx.received) else { return };
    let is_local = ctx.route.is_none() && failure.is_none();
    if is_local || !exporter.wants(&context) {
        return;
    }
    let live = ctx.leg.as_ref().map(|leg| leg.session());
    exporter.request(Request {
        context,
        session: live.map(|live| live.key().id.clone()).or_else(|| ctx.named.clone()),
        uid: live.map(|live| live.uid()),
        request_id: received.request_id.clone(),
        ended: SystemTime::now(),
        duration,
        method: clipped(received.method.as_str()),
        path: clipped(&redact_text(received.uri.path())),
        status: ctx.answer.status,
        outcome: failure.map_or("ok", ErrorKind::code),
        principal: ctx.caller.as_ref().map(|caller| caller.principal.clone()),
        client: ctx.caller.as_ref().and_then(|caller| caller.client.name.as_deref()).map(clipped),
        client_address: received.client,
        backend: ctx.route.as_ref().map(backend),
        bytes_in: received.handle.upload.bytes(),
        bytes_out: ctx.answer.sent,
        operation,
        call: ctx.route.as_ref().and_then(|route| call(ctx, received, route, usage)),
    });
}

fn backend(route: &Route) -> Backend {
    let settings = route.backend.settings();
    Backend {
        name: settings.name().clone(),
        host: settings.host().into(),
        port: settings.port(),
        attempts: route.asked,
        failed_over_from: route.failed_over_from.clone(),
    }
}

/// What was asked of a model; `None` for what is no such question (a list of models, a count of tokens).
fn call(ctx: &RequestCtx, received: &Received, route: &Route, usage: Option<Usage>) -> Option<ModelCall> {
    let operation = operation(route.dialect, &received.method, received.uri.path())?;
    let tap = ctx.answer.tap.as_ref();
    let tools = tap.and_then(|tap| tap.tools());
    Some(ModelCall {
        operation,
        provider: provider(route.dialect, route.backend.settings().kind()),
        model: ctx.call.model.as_deref().map(|model| clipped(&redact_text(model))),
        answered_by: tap.and_then(|tap| tap.model()).map(|model| clipped(&redact_text(model))),
        stream: ctx.answer.is_stream,
        first_chunk: ctx.answer.first_byte,
        stop_reason: tap.and_then(|tap| tap.stop_reason()).map(clipped),
        tokens: usage.map(|usage| tokens(route.dialect, usage)),
        tools: tools.into_iter().flat_map(|tools| tools.iter()).map(|(name, n)| (name.into(), n)).collect(),
    })
}

/// The operation, by the conventions' word for it.
fn operation(dialect: Dialect, method: &Method, path: &str) -> Option<&'static str> {
    if !dialect.is_llm() || method != Method::POST {
        return None;
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let ends = |endings: &[&str]| endings.iter().any(|ending| path.ends_with(ending));
    if ends(&["/chat/completions", "/responses", "/v1/messages", "/api/chat"]) {
        Some("chat")
    } else if ends(&["/completions", "/v1/complete", "/api/generate"]) {
        Some("text_completion")
    } else if ends(&["/embeddings", "/api/embed"]) {
        Some("embeddings")
    } else if ends(&[":generateContent", ":streamGenerateContent"]) {
        Some("generate_content")
    } else if ends(&[":embedContent", ":batchEmbedContents"]) {
        Some("embeddings")
    } else {
        None
    }
}

/// The provider, by the conventions' word for it: as configured, else by what is spoken.
fn provider(dialect: Dialect, kind: BackendKind) -> &'static str {
    match (kind, dialect) {
        (BackendKind::Openai, _) => "openai",
        (BackendKind::Mistral, _) | (BackendKind::Http, Dialect::Mistral) => "mistral_ai",
        (BackendKind::Anthropic, _) | (BackendKind::Http, Dialect::Anthropic) => "anthropic",
        (BackendKind::Ollama, _) | (BackendKind::Http, Dialect::Ollama) => "ollama",
        (BackendKind::Gemini, _) | (BackendKind::Http, Dialect::Gemini) => "gcp.gemini",
        (BackendKind::Http | BackendKind::Mcp | BackendKind::A2a, _) => "openai",
    }
}

/// The conventions count cached tokens in; Anthropic does not.
fn tokens(dialect: Dialect, usage: Usage) -> Tokens {
    let cached = match dialect {
        Dialect::Anthropic => usage.cache_read_tokens.saturating_add(usage.cache_write_tokens),
        _ => 0,
    };
    Tokens {
        input: usage.input_tokens.saturating_add(cached),
        output: usage.output_tokens,
        cache_read: usage.cache_read_tokens,
        cache_write: usage.cache_write_tokens,
        reasoning: usage.reasoning_tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_told_by_path_and_method() {
        for (path, expected) in [
            ("/v1/chat/completions", Some("chat")),
            ("/openai/v1/responses/", Some("chat")),
            ("/v1/messages", Some("chat")),
            ("/v1/messages/count_tokens", None),
            ("/api/chat", Some("chat")),
            ("/api/generate", Some("text_completion")),
            ("/v1/completions", Some("text_completion")),
            ("/v1/embeddings", Some("embeddings")),
            ("/v1/models", None),
            ("/v1beta/models/gemini-3:streamGenerateContent", Some("generate_content")),
            ("/x/completions.html", None),
        ] {
            assert_eq!(operation(Dialect::OpenAiChat, &Method::POST, path), expected, "{path}");
        }
        assert_eq!(operation(Dialect::OpenAiChat, &Method::GET, "/v1/chat/completions"), None);
        assert_eq!(operation(Dialect::Plain, &Method::POST, "/v1/chat/completions"), None);
    }

    #[test]
    fn tokens_out_of_the_cache_are_input_whoever_counts() {
        let usage =
            Usage { input_tokens: 3, cache_read_tokens: 40, cache_write_tokens: 500, ..Usage::default() };
        assert_eq!(tokens(Dialect::Anthropic, usage).input, 543);
        assert_eq!(tokens(Dialect::OpenAiChat, usage).input, 3);
    }
}
