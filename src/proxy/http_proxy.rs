//! Pingora's proxy with the gateway's own upstream client.

use std::sync::Arc;

use anyhow::Context as _;
use elida_service_app::into_app;
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, ProxyHttp, ProxyServiceBuilder};

use crate::upstream::http1::Http1Connector;

/// Builds the proxy that runs the phases of `phases`.
///
/// # Errors
/// Pingora's service has no application, which would be a bug.
pub(crate) fn http_proxy<P>(conf: &Arc<ServerConf>, phases: P) -> anyhow::Result<HttpProxy<P, Http1Connector>>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    let connector = Http1Connector::new(conf.upstream_keepalive_pool_size);
    // Called for clients that have negotiated the connector's protocol in place of HTTP; there are none.
    let refuse =
        Arc::new(|_, _, _: &_| -> futures::future::BoxFuture<'static, _> { Box::pin(async { None }) });
    let mut options = HttpServerOptions::default();
    // `receive` decides on CONNECT; without this Pingora refuses it before any phase.
    options.allow_connect_method_proxying = true;
    let service =
        ProxyServiceBuilder::new(conf, phases).custom(connector, refuse).server_options(options).build();
    into_app(service).context("Pingora's service has no application")
}

#[cfg(test)]
mod tests {
    use pingora_core::services::listening::Service;

    use super::*;

    #[test]
    fn the_application_of_a_service_is_moved_and_dropped_once() {
        let app = Arc::new("app");
        let taken = into_app(Service::new("name".to_owned(), Arc::clone(&app))).unwrap();
        assert_eq!((Arc::strong_count(&app), Arc::ptr_eq(&app, &taken)), (2, true));
        drop(taken);
        assert_eq!(Arc::strong_count(&app), 1);
    }
}
