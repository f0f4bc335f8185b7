//! What the tokens of a response cost, and the metrics that count them.

use std::borrow::Cow;

use super::dispatch::Route;
use super::receive::Received;
use crate::capture::redact_text;
use crate::protocol::facts::usage::Usage;
use crate::telemetry::metrics::{BackendMetrics, TokenKind};

/// Model label of tokens for which neither the request nor the response names a model.
const NO_MODEL: &str = "unknown";

/// Adds the cost at this backend to the token counts.
pub(crate) fn priced(received: &Received, route: &Route, model: Option<&str>, usage: Usage) -> Usage {
    let backend = route.backend.settings().name().as_str();
    let prices = &received.handle.settings.prices;
    let cost = model.and_then(|model| prices.cost(backend, model, &usage));
    Usage { cost: cost.unwrap_or_default(), ..usage }
}

/// Counts the tokens of one answer, and their cost; those of an answer without a model too, so that
/// metrics and records agree.
pub(crate) fn count_tokens(metrics: &BackendMetrics, model: Option<&str>, usage: Usage) {
    let model = model.map_or(Cow::Borrowed(NO_MODEL), redact_text);
    let model = &*model;
    metrics.cost(model, usage.cost.as_usd());
    metrics.tokens(
        model,
        &[
            (TokenKind::Input, usage.input_tokens),
            (TokenKind::Output, usage.output_tokens),
            (TokenKind::CacheRead, usage.cache_read_tokens),
            (TokenKind::CacheWrite, usage.cache_write_tokens),
            (TokenKind::Reasoning, usage.reasoning_tokens),
        ],
    );
}
