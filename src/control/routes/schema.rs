//! The OpenAPI document of this API.

use std::sync::LazyLock;

use axum::Json;
use serde_json::Value;

use crate::control::openapi::document;

/// Returns the document; it is generated at the first request.
pub(super) async fn openapi() -> Json<&'static Value> {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(document);
    Json(&DOCUMENT)
}
