//! One endpoint, and the router of all of them.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::handler::Handler;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, post};
use http::Method;

use super::super::dashboard::assets;
use super::super::openapi::Operation;
use super::super::operator::permit;
use super::super::service::ControlState;
use super::dashboard::asset;
use super::table::endpoints;

/// One endpoint.
pub(in crate::control) struct Endpoint {
    pub(in crate::control) path: &'static str,
    pub(in crate::control) method: Method,
    pub(in crate::control) operation: Operation,
    route: MethodRouter<Arc<ControlState>>,
}

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

pub(super) fn on_get<T: 'static>(
    path: &'static str,
    handler: impl Handler<T, Arc<ControlState>>,
    operation: Operation,
) -> Endpoint {
    Endpoint { path, method: Method::GET, operation, route: get(handler) }
}

pub(super) fn on_post<T: 'static>(
    path: &'static str,
    handler: impl Handler<T, Arc<ControlState>>,
    operation: Operation,
) -> Endpoint {
    Endpoint { path, method: Method::POST, operation, route: post(handler) }
}

pub(super) fn on_delete<T: 'static>(
    path: &'static str,
    handler: impl Handler<T, Arc<ControlState>>,
    operation: Operation,
) -> Endpoint {
    Endpoint { path, method: Method::DELETE, operation, route: delete(handler) }
}
