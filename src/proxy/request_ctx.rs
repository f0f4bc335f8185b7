//! What is known of one request so far: the result of each step, in the order of the steps.

use std::sync::Arc;

use bytes::Bytes;

use super::capture::Capturing;
use super::dispatch::Route;
use super::gateway::ProxyState;
use super::identify::Caller;
use super::receive::Received;
use super::trace::Trace;
use super::upstream_response::Answer;
use crate::error::Refusal;
use crate::ids::SessionId;
use crate::protocol::Dialect;
use crate::protocol::answer::socket::SocketTap;
use crate::protocol::request::ModelRequest;
use crate::session::Leg;
use crate::telemetry::metrics::GaugeGuard;

/// Pingora's context of one request. A step that was not reached has left nothing.
pub(crate) struct RequestCtx {
    /// What every request needs.
    pub(crate) app: Arc<ProxyState>,
    /// Left by `arrive`.
    pub(crate) received: Option<Received>,
    /// Its place among spans, while a collector is told.
    pub(crate) trace: Option<Trace>,
    /// Left by `identify`.
    pub(crate) caller: Option<Caller>,
    /// The session the request named, also when it was not let in.
    pub(crate) named: Option<SessionId>,
    /// Left by `read`.
    pub(crate) call: ModelRequest,
    /// Left by `admit`; the leg ends with the ctx.
    pub(crate) leg: Option<Leg>,
    /// Counts the leg as open.
    pub(crate) open: Option<GaugeGuard>,
    /// Its bodies, while they may be kept.
    pub(crate) capture: Option<Box<Capturing>>,
    /// Left by `dispatch`.
    pub(crate) route: Option<Route>,
    /// Left by `outbound`: the body that is sent in the place of the one that came.
    pub(crate) renamed: Option<Bytes>,
    /// Left by `inbound` and `stream`, or by `refuse`.
    pub(crate) answer: Answer,
    /// Left by `upgrade`, when a WebSocket is asked for; gone when the backend does not switch to one.
    pub(crate) socket: Option<Box<SocketTap>>,
    /// Why the request is being stopped, on its way through Pingora to `refuse`.
    pub(crate) refusal: Option<Refusal>,
    /// How it failed, for the books.
    pub(crate) failure: Option<Refusal>,
}

impl RequestCtx {
    pub(crate) fn new(app: Arc<ProxyState>) -> Self {
        Self {
            app,
            received: None,
            trace: None,
            caller: None,
            named: None,
            call: ModelRequest::default(),
            leg: None,
            open: None,
            capture: None,
            route: None,
            renamed: None,
            answer: Answer::default(),
            socket: None,
            refusal: None,
            failure: None,
        }
    }

    /// The dialect in which the caller is answered.
    pub(crate) fn dialect(&self) -> Dialect {
        match (&self.route, &self.received) {
            (Some(route), _) => route.dialect,
            (None, Some(received)) => received.dialect,
            (None, None) => Dialect::PLAIN,
        }
    }
}

impl Drop for RequestCtx {
    /// The books are closed here and not in a phase of Pingora's, since a hard cut skips those.
    fn drop(&mut self) {
        super::finish::finish(self);
    }
}
