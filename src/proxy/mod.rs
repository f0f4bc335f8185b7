//! The way of a request through the proxy, one file per step, in order.
//!
//! `downstream` accepts connections and reads heads · `gateway` implements Pingora's `ProxyHttp`, each phase a few lines · `steps` moves a request from stage to stage ·
//! `request_ctx` holds the state of one request · `receive` checks its head · `framing` rejects heads that two parsers
//! could read differently · `builtin` answers the proxy's own endpoints · `identify` determines the caller and the
//! session · `read` buffers the body of a model call · `admit` opens a leg, unless the session is killed · `dispatch`
//! chooses the backend, `failover` chooses between several and after a failure · `mcp` applies the rules of MCP ·
//! `models` merges the model lists of all backends · `upstream_request` writes the head for the backend ·
//! `upstream_response` reads the head of the response · `body_filters` passes both bodies on, counts them and stops them
//! when the leg is cut · `upgrade` holds what differs for WebSockets · `finish` accounts for the request, however it ended ·
//! `trace` exports spans · `capture` stores bodies when configured · `refuse` turns an error into a response in the
//! caller's dialect.
//! Neighbours below: `session`, `identity`, `upstream`, `routing`, `protocol`, `telemetry`; this folder connects them, they
//! do not know each other.
//! Invariants: a body is forwarded byte for byte, except for the model's name where `rewrite_model` is set; every leg is
//! settled exactly once.

pub(crate) mod admit;
pub(crate) mod body_filters;
pub(crate) mod builtin;
pub(crate) mod capture;
pub(crate) mod dispatch;
pub(crate) mod downstream;
pub(crate) mod failover;
pub(crate) mod finish;
pub mod forwarded;
pub(crate) mod framing;
pub(crate) mod gateway;
pub(crate) mod identify;
pub(crate) mod mcp;
pub mod models;
pub(crate) mod read;
pub(crate) mod receive;
pub(crate) mod refuse;
pub(crate) mod request_ctx;
pub(crate) mod runtime_settings;
pub mod settings;
pub(crate) mod steps;
pub mod tls;
pub(crate) mod trace;
pub(crate) mod upgrade;
pub(crate) mod upstream_request;
pub(crate) mod upstream_response;
