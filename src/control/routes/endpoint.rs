//! One endpoint.

use std::sync::Arc;

use axum::handler::Handler;
use axum::routing::{MethodRouter, delete, get, post};
use http::Method;

use super::super::openapi::Operation;
use super::super::service::ControlState;

/// One endpoint.
pub(in crate::control) struct Endpoint {
    pub(in crate::control) path: &'static str,
    pub(in crate::control) method: Method,
    pub(in crate::control) operation: Operation,
    pub(super) route: MethodRouter<Arc<ControlState>>,
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
