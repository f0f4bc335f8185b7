//! Pingora's proxy with the gateway's own upstream client.

use std::sync::Arc;

use anyhow::Context as _;
use elida_service_app::into_app;
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
    let service = ProxyServiceBuilder::new(conf, phases).custom(connector, refuse).build();
    into_app(service).context("Pingora's service has no application")
}
