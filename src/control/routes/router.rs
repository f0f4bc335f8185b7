//! The router of all endpoints.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;

use super::super::dashboard::assets;
use super::super::operator::permit;
use super::super::service::ControlState;
use super::dashboard::asset;
use super::table::endpoints;

/// The router of every endpoint, each behind its gate, and of the files of the dashboard, which need none.
pub(in crate::control) fn router(state: &Arc<ControlState>) -> Router<Arc<ControlState>> {
    let files = assets::paths().fold(Router::new(), |router, path| router.route(path, get(asset)));
    endpoints().fold(files, |router, endpoint| {
        let gate = endpoint.operation.gate(state);
        let route = endpoint.route.route_layer(from_fn_with_state(gate, permit));
        let paths = endpoint.operation.aliases().iter().chain([&endpoint.path]);
        paths.fold(router, |router, path| router.route(path, route.clone()))
    })
}

/// Returns whether this is the path of an endpoint or of a file that needs no credential.
pub(in crate::control) fn is_open(path: &str) -> bool {
    static OPEN: LazyLock<HashSet<&str>> = LazyLock::new(|| {
        let open = endpoints().filter(|endpoint| endpoint.operation.is_open());
        open.flat_map(|endpoint| endpoint.operation.aliases().iter().copied().chain([endpoint.path]))
            .collect()
    });
    OPEN.contains(path) || assets::is_file(path)
}
