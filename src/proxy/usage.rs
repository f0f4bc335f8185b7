//! What the tokens of a response cost, and the metrics that count them.

use std::borrow::Cow;

use super::dispatch::Route;
use super::receive::Received;
use crate::capture::redact_text;
use crate::protocol::facts::usage::Usage;
use crate::telemetry::metrics::{BackendMetrics, TokenKind};

/// Model label of tokens for which neither the request nor the response names a model.
const NO_MODEL: &str = "unknown";

/// What an answer says of itself that decides its price.
pub(crate) struct Priceable<'a> {
    /// The model that the request asks for.
    pub(crate) asked: Option<&'a str>,
    /// The model that the answer names.
    pub(crate) answered: Option<&'a str>,
    /// The service tier that the answer names.
    pub(crate) tier: Option<&'a str>,
}

/// Adds the cost at this backend to the token counts of one answer. The model that was asked for decides (its name may
/// say where it runs), unless the answer tells its version, and the answer's where the other has no price.
pub(crate) fn priced(received: &Received, route: &Route, answer: &Priceable<'_>, usage: Usage) -> Usage {
    if usage.is_empty() {
        return usage;
    }
    let backend = route.backend.settings().name().as_str();
    let prices = &received.handle.settings.prices;
    let version = answer.asked.and_then(|asked| answer.answered.filter(|name| name.starts_with(asked)));
    let mut models = [version, answer.asked, answer.answered].into_iter().flatten();
    usage.priced(models.find_map(|model| prices.cost(backend, model, answer.tier, &usage)))
}

/// Counts the tokens of one answer, and their cost; those of an answer without a model too, so that
/// metrics and records agree. `tenant` is that of the caller, with the number of tenants that are told apart.
pub(crate) fn count_tokens(
    metrics: &BackendMetrics,
    model: Option<&str>,
    tenant: Option<(&str, u16)>,
    usage: Usage,
) {
    let model = model.map_or(Cow::Borrowed(NO_MODEL), redact_text);
    let model = &*model;
    metrics.cost(model, usage.cost.as_usd().unwrap_or_default());
    metrics.unpriced(model, usage.unpriced_answers);
    let counts = [
        (TokenKind::Input, usage.input_tokens),
        (TokenKind::Output, usage.output_tokens),
        (TokenKind::CacheRead, usage.cache_read_tokens),
        (TokenKind::CacheWrite, usage.cache_write_tokens),
        (TokenKind::Reasoning, usage.reasoning_tokens),
    ];
    metrics.tokens(model, &counts);
    if let Some((tenant, max)) = tenant {
        metrics.tenant_usage(tenant, max, &counts, usage.cost.as_usd().unwrap_or_default());
    }
}
