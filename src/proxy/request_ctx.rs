//! Pingora's per-request context: the stage a request has reached, and what is known of its response.
//!
//! The stages are typed: each holds what its steps have found out, and includes the stages before it. A request always
//! keeps the stage it has reached, also when a step rejects it or a kill drops its future, so that `refuse` can answer it
//! and `finish` can account for it.
//!
//! A session that the head names is admitted before the body is read, any other one after routing ([`SessionHint`],
//! ADR 2). So there are two ways to [`Routed`]:
//!
//! ```text
//! New ─ receive ─▶ Received ─ identify ─▶ Identified ─┬─ admit ─▶ Admitted ─ route ─┬─▶ Routed
//!                                                     └─ route ─▶ Chosen ─── admit ─┘
//! ```
//!
//! [`SessionHint`]: super::identify::SessionHint

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::{Error, ErrorType, Result};

use super::answer::Answer;
use super::answer_steps::Steps;
use super::client_messages::ClientMessages;
use super::dispatch::Route;
use super::identify::Caller;
use super::judging::is_asked;
use super::load::Counting;
use super::lookup::Exchange;
use super::passing::Passing;
use super::receive::Received;
use super::state::ProxyState;
use crate::capture::BodyCapture;
use crate::error::Refusal;
use crate::ids::SessionId;
use crate::limits::Admission;
use crate::limits::ledger::Reservation;
use crate::protocol::answer::socket::SocketTap;
use crate::protocol::dialects::Dialect;
use crate::protocol::request::{BodyReader, ModelRequest};
use crate::session::Leg;
use crate::telemetry::metrics::GaugeGuard;

/// State of one request, from its head to its last byte. Dropping it accounts for the request (`finish`).
pub(crate) struct RequestCtx {
    /// What all requests share.
    pub(crate) app: Arc<ProxyState>,
    /// How far the request has come.
    pub(crate) stage: Stage,
    /// The response so far, and how the request failed.
    pub(crate) outcome: Outcome,
    /// What the request holds of the limits that count it, until this is dropped.
    pub(crate) admission: Admission,
    /// What it is counted as, until this is dropped.
    pub(crate) counting: Counting,
    /// What the request holds of its budgets; dropping it unsettled releases that.
    pub(crate) reservation: Option<Reservation>,
}

/// How far a request has come.
#[derive(Default)]
#[expect(
    clippy::large_enum_variant,
    reason = "each request passes the first stage once: a box would cost it an allocation"
)]
pub(crate) enum Stage {
    /// No head has been read.
    #[default]
    New,
    /// The head has been read.
    Received(Received),
    /// The caller is known.
    Identified(Box<Identified>),
    /// A leg is open; no backend has been chosen.
    Admitted(Admitted),
    /// A backend has been chosen; no leg is open.
    Chosen(Box<Chosen>),
    /// A leg is open and a backend has been chosen: the request may be forwarded.
    Routed(Box<Routed>),
}

/// The head of a request, its caller and what it asks for.
pub(crate) struct Identified {
    pub(crate) received: Received,
    pub(crate) caller: Arc<Caller>,
    /// What path and body ask for; empty until the body has been read.
    pub(crate) call: ModelRequest,
    /// Reads the rest of a form while it is uploaded; `None` for other bodies.
    pub(crate) form: Option<Box<BodyReader>>,
}

/// A request with an open leg.
pub(crate) struct Admitted {
    who: Box<Identified>,
    leg: Leg,
    open: GaugeGuard,
}

/// A request with a backend, whose session is not admitted yet.
pub(crate) struct Chosen {
    who: Box<Identified>,
    route: Route,
}

/// A request that may be forwarded.
pub(crate) struct Routed {
    /// Boxed, so that it stays where it is from stage to stage.
    pub(crate) who: Box<Identified>,
    /// Ends when the request does.
    pub(crate) leg: Leg,
    pub(crate) route: Route,
    /// The body to send in place of the buffered one, with another name of the model; taken when it is sent.
    pub(crate) rewritten: Option<Bytes>,
    /// Follows the frames of a WebSocket; `None` for other requests, and when the backend did not switch protocols.
    pub(crate) socket: Option<Box<SocketTap>>,
    /// Digests of the elements of the body, by which a repetition is known; empty if no rule asks for them.
    pub(crate) digests: Box<[u64]>,
    /// Reads a body that is not held for the rules; `None` if none asks for it.
    pub(crate) passing: Option<Box<Passing>>,
    /// Reads the messages of a client for the rules, likewise.
    pub(crate) messages: Option<Box<ClientMessages>>,
    /// How much of the answer is held, if a budget is held in steps.
    pub(crate) steps: Option<Box<Steps>>,
    /// What the cache knows of it; `None` if it does not use the cache.
    pub(crate) cached: Option<Arc<Exchange>>,
    /// Counts the leg as open.
    _open: GaugeGuard,
}

/// Where an answer comes from and goes to.
#[derive(Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub(crate) who: &'a Identified,
    pub(crate) leg: &'a Leg,
    pub(crate) route: &'a Route,
    /// Digests of the elements of the request, by which a repetition is known.
    pub(crate) digests: &'a [u64],
}

/// What is known of the response, and of the failure of the request.
#[derive(Default)]
pub(crate) struct Outcome {
    /// The session that the request names; set before admission, so that a rejected request shows it too.
    pub(crate) named: Option<SessionId>,
    pub(crate) answer: Answer,
    /// The bodies, when they may be stored.
    pub(crate) capture: Option<Box<BodyCapture>>,
    /// Why the request is being stopped, on the way through Pingora to `refuse`.
    pub(crate) refusal: Option<Box<Refusal>>,
    /// How the request failed, for `finish`.
    pub(crate) failure: Option<Box<Refusal>>,
    /// From the end of the head to the first attempt at a backend; `None` when no backend was asked.
    pub(crate) queue: Option<Duration>,
}

impl RequestCtx {
    pub(crate) fn new(app: Arc<ProxyState>) -> Self {
        Self {
            app,
            stage: Stage::New,
            outcome: Outcome::default(),
            admission: Admission::default(),
            counting: Counting::default(),
            reservation: None,
        }
    }
}

/// Returns the part of a stage that a step needs.
///
/// # Errors
/// The request has not reached that stage: a bug. The request fails with 500 and nothing of it is forwarded.
pub(crate) fn reached<T>(part: Option<T>) -> Result<T> {
    part.ok_or_else(|| Error::explain(ErrorType::InternalError, "a step ran before its stage was reached"))
}

impl Stage {
    /// The head; `None` before it has been read.
    pub(crate) fn received(&self) -> Option<&Received> {
        match self {
            Self::Received(received) => Some(received),
            Self::New | Self::Identified(_) | Self::Admitted(_) | Self::Chosen(_) | Self::Routed(_) => {
                self.identified().map(|who| &who.received)
            }
        }
    }

    /// The same, to be changed.
    pub(crate) fn received_mut(&mut self) -> Option<&mut Received> {
        match self {
            Self::Received(received) => Some(received),
            Self::New | Self::Identified(_) | Self::Admitted(_) | Self::Chosen(_) | Self::Routed(_) => {
                self.identified_mut().map(|who| &mut who.received)
            }
        }
    }

    /// The head, caller and call; `None` before the caller is known.
    pub(crate) fn identified(&self) -> Option<&Identified> {
        match self {
            Self::New | Self::Received(_) => None,
            Self::Identified(who) => Some(who),
            Self::Admitted(admitted) => Some(&admitted.who),
            Self::Chosen(chosen) => Some(&chosen.who),
            Self::Routed(routed) => Some(&routed.who),
        }
    }

    /// The same, to be changed.
    pub(crate) fn identified_mut(&mut self) -> Option<&mut Identified> {
        match self {
            Self::New | Self::Received(_) => None,
            Self::Identified(who) => Some(who),
            Self::Admitted(admitted) => Some(&mut admitted.who),
            Self::Chosen(chosen) => Some(&mut chosen.who),
            Self::Routed(routed) => Some(&mut routed.who),
        }
    }

    /// The open leg; `None` before admission.
    pub(crate) fn leg(&self) -> Option<&Leg> {
        match self {
            Self::New | Self::Received(_) | Self::Identified(_) | Self::Chosen(_) => None,
            Self::Admitted(admitted) => Some(&admitted.leg),
            Self::Routed(routed) => Some(&routed.leg),
        }
    }

    /// The same, to be settled.
    pub(crate) fn leg_mut(&mut self) -> Option<&mut Leg> {
        match self {
            Self::New | Self::Received(_) | Self::Identified(_) | Self::Chosen(_) => None,
            Self::Admitted(admitted) => Some(&mut admitted.leg),
            Self::Routed(routed) => Some(&mut routed.leg),
        }
    }

    /// The chosen backend; `None` before routing.
    pub(crate) fn route(&self) -> Option<&Route> {
        match self {
            Self::New | Self::Received(_) | Self::Identified(_) | Self::Admitted(_) => None,
            Self::Chosen(chosen) => Some(&chosen.route),
            Self::Routed(routed) => Some(&routed.route),
        }
    }

    /// The request as it may be forwarded; `None` before that.
    pub(crate) fn routed(&self) -> Option<&Routed> {
        if let Self::Routed(routed) = self { Some(routed) } else { None }
    }

    /// The request as it may be forwarded, for Pingora's phases after routing.
    ///
    /// # Errors
    /// As [`reached`]: a phase that runs too early forwards nothing.
    pub(crate) fn routed_mut(&mut self) -> Result<&mut Routed> {
        reached(if let Self::Routed(routed) = self { Some(&mut **routed) } else { None })
    }

    /// The dialect in which the caller is answered: the backend's, as soon as that is known.
    pub(crate) fn dialect(&self) -> Dialect {
        let received = || self.received().map_or(Dialect::PLAIN, |received| received.dialect);
        self.route().map_or_else(received, |route| route.dialect)
    }

    /// Received → Identified.
    ///
    /// # Errors
    /// The request is in another stage, and stays there.
    pub(crate) fn identify(&mut self, caller: Arc<Caller>) -> Result<()> {
        self.advance(|stage| match stage {
            Self::Received(received) => {
                let call = ModelRequest::default();
                (Self::Identified(Box::new(Identified { received, caller, call, form: None })), true)
            }
            other @ (Self::New
            | Self::Identified(_)
            | Self::Admitted(_)
            | Self::Chosen(_)
            | Self::Routed(_)) => (other, false),
        })
    }

    /// Identified → Admitted, or Chosen → Routed.
    ///
    /// # Errors
    /// The request is in another stage, and stays there.
    pub(crate) fn admit(&mut self, leg: Leg, open: GaugeGuard) -> Result<()> {
        self.advance(|stage| match stage {
            Self::Identified(who) => (Self::Admitted(Admitted { who, leg, open }), true),
            Self::Chosen(chosen) => (Self::Routed(Routed::new(chosen.who, leg, open, chosen.route)), true),
            other @ (Self::New | Self::Received(_) | Self::Admitted(_) | Self::Routed(_)) => (other, false),
        })
    }

    /// Admitted → Routed, or Identified → Chosen.
    ///
    /// # Errors
    /// The request is in another stage, and stays there.
    pub(crate) fn choose(&mut self, route: Route) -> Result<()> {
        self.advance(|stage| match stage {
            Self::Admitted(Admitted { who, leg, open }) => {
                (Self::Routed(Routed::new(who, leg, open, route)), true)
            }
            Self::Identified(who) => (Self::Chosen(Box::new(Chosen { who, route })), true),
            other @ (Self::New | Self::Received(_) | Self::Chosen(_) | Self::Routed(_)) => (other, false),
        })
    }

    /// Replaces the stage by what `step` returns, and whether that is the next one.
    fn advance(&mut self, step: impl FnOnce(Self) -> (Self, bool)) -> Result<()> {
        let (stage, was_reached) = step(mem::take(self));
        *self = stage;
        reached(was_reached.then_some(()))
    }
}

impl Routed {
    fn new(who: Box<Identified>, leg: Leg, open: GaugeGuard, route: Route) -> Box<Self> {
        let tap = match is_asked(&who.received.handle.settings.rules, route.dialect) {
            true => SocketTap::listening,
            false => SocketTap::new,
        };
        let socket = who.received.socket.then(|| Box::new(tap(route.dialect)));
        Box::new(Self {
            who,
            leg,
            route,
            rewritten: None,
            socket,
            digests: Box::default(),
            passing: None,
            messages: None,
            steps: None,
            cached: None,
            _open: open,
        })
    }
}
