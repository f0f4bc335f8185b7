//! The trace context of a request (W3C Trace Context): read from the client, sent to the backend. Nothing of it is kept
//! while `telemetry.enabled` is false.

use http::HeaderMap;
use pingora_core::Result;
use pingora_http::RequestHeader;

use super::state::ProxyState;
use crate::ids::Uid;
use crate::telemetry::trace::{Context, Parent, TRACEPARENT, TRACESTATE};

/// Trace context of a request.
pub(crate) struct Trace {
    /// The client's span.
    parent: Option<Parent>,
    /// Its own, the same for each attempt.
    context: Option<Context>,
}

impl Trace {
    /// Reads the client's `traceparent`; `None` without a collector.
    pub(crate) fn begin(app: &ProxyState, headers: &HeaderMap) -> Option<Self> {
        app.exporter.as_ref()?;
        let mut values = headers.get_all(TRACEPARENT).iter();
        let parent = match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().and_then(Parent::read),
            _ => None,
        };
        Some(Self { parent, context: None })
    }

    /// The request's own span, the same for each attempt; `session` is its parent unless the client named one.
    pub(super) fn context(&mut self, app: &ProxyState, session: Option<Uid>) -> Option<Context> {
        let exporter = app.exporter.as_ref()?;
        Some(*self.context.get_or_insert_with(|| exporter.place(self.parent, session)))
    }
}

/// Sends the request's span to the backend as its parent.
///
/// # Errors
/// A header cannot be set, which would be a bug.
pub(crate) fn propagate(
    head: &mut RequestHeader,
    app: &ProxyState,
    trace: Option<&mut Trace>,
    session: Uid,
) -> Result<()> {
    let Some(trace) = trace else { return Ok(()) };
    let Some(context) = trace.context(app, Some(session)) else { return Ok(()) };
    if trace.parent.is_none() {
        // It belongs to another trace.
        head.remove_header(TRACESTATE);
    }
    head.insert_header(TRACEPARENT, context.traceparent())
}
