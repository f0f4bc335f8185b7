//! Exports the span of a request when the request ends. Nothing is built while `telemetry.enabled` is false.

use std::time::SystemTime;

use http::Method;

use super::dispatch::Route;
use super::request_ctx::Stage;
use super::state::ProxyState;
use crate::capture::redact_text;
use crate::protocol::Dialect;
use crate::protocol::facts::usage::Usage;
use crate::summary::RequestSummary;
use crate::telemetry::otlp::facts::{Backend, ModelCall, Request, Tokens, clipped};

/// Exports the span of a finished request. Requests to the proxy's own endpoints have none.
pub(crate) fn finish(app: &ProxyState, stage: &mut Stage, summary: &RequestSummary) {
    let uid = stage.leg().map(|leg| leg.session().uid());
    let trace = stage.received_mut().and_then(|received| received.trace.as_mut());
    let (Some(exporter), Some(context)) = (&app.exporter, trace.and_then(|trace| trace.context(app, uid)))
    else {
        return;
    };
    let is_builtin = stage.route().is_none() && summary.error.is_none();
    if is_builtin || !exporter.wants(&context) {
        return;
    }
    exporter.request(Request {
        context,
        session: summary.session_id.clone(),
        uid,
        request_id: summary.request_id.clone(),
        ended: SystemTime::now(),
        duration: summary.duration,
        queue: summary.queue,
        method: clipped(summary.method.as_str()),
        path: clipped(&summary.path()),
        status: summary.status,
        outcome: summary.outcome,
        principal: summary.principal.clone(),
        membership: summary.membership.clone(),
        client: summary.client.as_deref().map(clipped),
        client_address: summary.client_addr,
        backend: stage.route().map(|route| backend(route, summary)),
        bytes_in: summary.bytes_in,
        bytes_out: summary.bytes_out,
        operation: summary.operation.clone(),
        call: stage.route().and_then(|route| call(route, summary)),
    });
}

fn backend(route: &Route, summary: &RequestSummary) -> Backend {
    let settings = route.backend.settings();
    Backend {
        name: settings.name().clone(),
        host: settings.host().into(),
        port: settings.port(),
        attempts: summary.attempts,
        failed_over_from: summary.failover_from.clone(),
    }
}

/// What was asked of a model; `None` for other requests (a list of models, a count of tokens).
fn call(route: &Route, summary: &RequestSummary) -> Option<ModelCall> {
    let operation = operation(route.dialect, &summary.method, summary.uri.path())?;
    // What a socket's answers say is counted while it is open; its span has none of it.
    let is_socket = summary.socket.is_some();
    let tools = summary.tools.iter().filter(|_| !is_socket);
    Some(ModelCall {
        operation,
        provider: route.backend.settings().kind().gen_ai_provider(route.dialect),
        model: summary.model.as_deref().map(|model| clipped(&redact_text(model))),
        answered_by: summary.answered_by.as_deref().map(|model| clipped(&redact_text(model))),
        stream: summary.stream,
        first_chunk: summary.ttfb,
        stop_reason: summary.stop_reason.as_deref().filter(|_| !is_socket).map(clipped),
        tokens: summary.usage.map(tokens),
        tools: tools.map(|(name, n)| (name.into(), n)).collect(),
    })
}

/// The operation, by the conventions' word for it.
fn operation(dialect: Dialect, method: &Method, path: &str) -> Option<&'static str> {
    if method == Method::POST { dialect.operation(path) } else { None }
}

/// The conventions count cached tokens in the input.
fn tokens(usage: Usage) -> Tokens {
    Tokens {
        input: usage.prompt_tokens(),
        output: usage.output_tokens,
        cache_read: usage.cache_read_tokens,
        cache_write: usage.cache_write_tokens,
        reasoning: usage.reasoning_tokens,
        is_estimate: usage.estimated_answers > 0,
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
            assert_eq!(operation(Dialect::OPENAI_CHAT, &Method::POST, path), expected, "{path}");
        }
        assert_eq!(operation(Dialect::OPENAI_CHAT, &Method::GET, "/v1/chat/completions"), None);
        assert_eq!(operation(Dialect::PLAIN, &Method::POST, "/v1/chat/completions"), None);
    }

    #[test]
    fn the_input_of_a_span_includes_cached_tokens() {
        let usage =
            Usage { input_tokens: 3, cache_read_tokens: 40, cache_write_tokens: 500, ..Usage::default() };
        assert_eq!(tokens(usage).input, 543);
    }
}
