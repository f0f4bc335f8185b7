//! The HTTP cache: what is stored, and purges.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};

use crate::cache::{CacheStats, PurgePattern, Purged};
use crate::control::api::cache::{PurgeQuery, PurgeReport};
use crate::control::api::error::ErrorCode;
use crate::control::extract::ApiQuery;
use crate::control::operator::{Change, Operator};
use crate::control::problem::Problem;
use crate::control::service::ControlState;

/// Returns what is stored.
pub(super) async fn stats(State(state): State<Arc<ControlState>>) -> Json<CacheStats> {
    Json(state.parts.runtime.cache().map(|cache| cache.stats()).unwrap_or_default())
}

/// Forgets what the query names.
pub(super) async fn purge(
    State(state): State<Arc<ControlState>>,
    Extension(operator): Extension<Operator>,
    ApiQuery(query): ApiQuery<PurgeQuery>,
) -> Result<(Extension<Change>, Json<PurgeReport>), Problem> {
    let (pattern, named) = match (query.pattern, query.all) {
        (Some(text), None) if !text.is_empty() => {
            let pattern = PurgePattern::new(&text).map_err(|why| {
                Problem::bad_request(format!("pattern: {why}; write a glob such as *.example.com"))
            })?;
            (pattern, text)
        }
        (None, Some(_)) => (PurgePattern::everything(), "everything".to_owned()),
        _ => {
            let detail = "write pattern= with a glob such as *.example.com, or all=true to forget everything";
            return Err(Problem::bad_request(detail));
        }
    };
    let purged = match state.parts.runtime.cache() {
        None => Purged::default(),
        Some(cache) => cache.purge_everywhere(&pattern).await.map_err(|own| {
            let detail = format!(
                "{} answers are forgotten here, but Redis does not answer, so the other instances keep theirs; try again",
                own.removed
            );
            Problem::new(ErrorCode::StoreUnavailable, detail)
        })?,
    };
    let Purged { removed, bytes } = purged;
    tracing::info!(pattern = named, removed, bytes, by = operator.id(), "the HTTP cache was purged");
    let change = Change { made: Some(named), ..Change::default() };
    Ok((Extension(change), Json(PurgeReport { removed, bytes })))
}
