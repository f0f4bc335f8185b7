//! The steps of a request, one after another, without a Pingora session.

use std::io::sink;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Method;
use pingora_core::ErrorType;
use pingora_core::connectors::http::Connector;
use tokio::sync::watch;

use super::*;
use crate::app::components::runtime_settings;
use crate::clock::Clock;
use crate::config::{Flags, Sources};
use crate::error::ErrorKind;
use crate::identity::Key;
use crate::policy::suppressions::Suppressions;
use crate::proxy::awaited::AwaitedAnswers;
use crate::proxy::downstream::RequestHandle;
use crate::proxy::downstream::handle::Peer;
use crate::proxy::load::Load;
use crate::proxy::runtime_settings::RuntimeSettings;
use crate::proxy::state::{ForwardState, ProxyState};
use crate::proxy::verdict;
use crate::session::store::MemoryStore;
use crate::session::{CutReason, Event, Manager};
use crate::telemetry::log::Log;
use crate::telemetry::metrics::Metrics;

const FILE: &str = "\
backends:
  a: { url: 'http://127.0.0.1:1', type: openai, default: true }
  b: { url: 'http://127.0.0.1:2', type: mcp }
  responses: { url: 'http://127.0.0.1:3', type: openai }
";

/// A proxy without listeners.
struct Proxy {
    app: Arc<ProxyState>,
    settings: Arc<RuntimeSettings>,
    metrics: Arc<Metrics>,
}

impl Proxy {
    fn new() -> Self {
        let config = Sources::of_text(FILE.to_owned(), Flags::default()).load().unwrap();
        let metrics = Metrics::new().unwrap();
        let (log, _) = Log::to(sink(), &config.logging);
        let (clock, store) = (Clock::system(), Arc::<MemoryStore>::default());
        let sessions = Manager::new(config.session.clone(), clock.clone(), store, Arc::new(|_: &Event| {}));
        let shared = (&Arc::default(), &Arc::default(), None);
        let settings = runtime_settings(&config, &metrics, None, &Arc::default(), shared);
        let settings = Arc::new(settings.unwrap());
        let app = Arc::new(ProxyState {
            judged: std::sync::OnceLock::new(),
            sessions,
            principals: Key::ephemeral(),
            unrouted: metrics.unrouted(),
            open_legs: metrics.open_legs("request"),
            open_sockets: metrics.open_legs("socket"),
            metrics: Arc::clone(&metrics),
            log,
            clock,
            readiness: Arc::default(),
            exporter: None,
            history: None,
            endpoints: Arc::default(),
            suppressions: Arc::new(Suppressions::none()),
            ledger: Arc::default(),
            fleet_budgets: None,
            fleet_rates: None,
            approvals: Arc::default(),
            live: Arc::new(ArcSwap::new(Arc::clone(&settings))),
            load: Load::new(metrics.admission_waiting()),
            awaited: AwaitedAnswers::default(),
            forward: ForwardState::new(&metrics, Default::default()),
            connector: Connector::new(None),
        });
        Self { app, settings, metrics }
    }

    /// A chat request whose head has been read.
    fn received(&self, headers: &[(&'static str, &str)]) -> (RequestCtx, RequestHeader) {
        self.received_at("/v1/chat/completions", headers)
    }

    fn received_at(&self, path: &str, headers: &[(&'static str, &str)]) -> (RequestCtx, RequestHeader) {
        let mut head = RequestHeader::build(Method::POST, path.as_bytes(), None).unwrap();
        for (name, value) in headers {
            head.insert_header(*name, *value).unwrap();
        }
        let peer = Peer {
            address: "127.0.0.1:9".parse().unwrap(),
            is_secure: false,
            names: Arc::default(),
            within: None,
            last_caller: Arc::default(),
        };
        let (_, draining) = watch::channel(false);
        head.extensions_mut().insert(RequestHandle::new(peer, Arc::clone(&self.settings), draining));
        let mut ctx = RequestCtx::new(Arc::clone(&self.app));
        ctx.stage = Stage::Received(received(&head).unwrap());
        (ctx, head)
    }

    fn counts(&self, line: &str) -> bool {
        self.metrics.encode().lines().any(|found| found == line)
    }
}

fn received(head: &RequestHeader) -> Option<Received> {
    Received::of(head, &HeadFields::of(&head.headers, framing::is_single), None)
}

fn kind(reject: Reject) -> ErrorKind {
    match reject {
        Reject::Refused(refusal) => refusal.kind,
        Reject::Io(error) => panic!("{error}"),
    }
}

#[test]
fn a_head_that_did_not_come_through_a_listener_is_no_request() {
    let head = RequestHeader::build(Method::GET, b"/", None).unwrap();
    assert!(received(&head).is_none());
}

#[tokio::test]
async fn a_session_in_the_head_is_admitted_before_routing_and_accounted_for_once() {
    let proxy = Proxy::new();
    let (mut ctx, head) = proxy.received(&[("x-session-id", "s-1")]);
    let SessionHint::Known(found) = ctx.identify(&head.headers).unwrap() else { panic!("the head names it") };
    ctx.admit(&head.headers, found).await.unwrap();
    assert!(matches!(ctx.stage, Stage::Admitted(_)) && ctx.stage.route().is_none());
    ctx.route(&head).await.unwrap();
    let routed = ctx.stage.routed_mut().unwrap();
    assert_eq!(routed.route.backend.settings().name().as_str(), "a");
    let session = Arc::clone(routed.leg.session());
    assert_eq!((session.key().id.as_str(), session.open_legs()), ("s-1", 1));
    drop(ctx);
    assert_eq!((session.requests(), session.open_legs()), (1, 0));
    assert!(proxy.counts(r#"elida_open_legs{kind="request"} 0"#));
}

#[tokio::test]
async fn a_session_that_the_head_does_not_name_is_admitted_after_routing() {
    let proxy = Proxy::new();
    let (mut ctx, head) = proxy.received(&[]);
    assert!(matches!(ctx.identify(&head.headers).unwrap(), SessionHint::InBody));
    ctx.route(&head).await.unwrap();
    let routed = ctx.stage.routed_mut().unwrap();
    assert_eq!(Some(&routed.leg.session().key().id), ctx.outcome.named.as_ref());
}

#[tokio::test]
async fn a_rejected_request_keeps_its_stage() {
    let proxy = Proxy::new();
    let (mut ctx, head) = proxy.received(&[("x-backend", "nowhere")]);
    ctx.identify(&head.headers).unwrap();
    assert_eq!(kind(ctx.route(&head).await.unwrap_err()), ErrorKind::UnknownBackend);
    assert!(matches!(ctx.stage, Stage::Identified(_)));

    // A page of a foreign origin: the backend is known, so the answer is in its dialect; no leg is opened.
    let (mut ctx, head) =
        proxy.received_at("/mcp", &[("x-backend", "b"), ("origin", "https://evil.example")]);
    ctx.identify(&head.headers).unwrap();
    assert_eq!(kind(ctx.route(&head).await.unwrap_err()), ErrorKind::OriginRefused);
    assert!(matches!(ctx.stage, Stage::Chosen(_)) && ctx.stage.leg().is_none());
    assert_eq!(ctx.stage.dialect(), Dialect::MCP);
}

#[tokio::test]
async fn a_phase_that_runs_too_early_fails_closed() {
    let proxy = Proxy::new();
    let (mut ctx, head) = proxy.received(&[]);
    let error = ctx.stage.routed_mut().err().unwrap();
    assert_eq!(error.etype(), &ErrorType::InternalError);
    let mut chunk = Some(bytes::Bytes::from_static(b"secret"));
    assert!(super::super::body_filters::upload(&mut ctx, &head.headers, &mut chunk, false).is_err());
    assert!(super::super::body_filters::download(&mut ctx, &head.headers, &mut chunk, false).is_err());
    assert!(ctx.route(&head).await.is_err(), "nobody is identified");
    assert!(matches!(ctx.stage, Stage::Received(_)));
}

#[tokio::test]
async fn only_a_path_below_an_answer_is_that_of_a_stored_one() {
    let proxy = Proxy::new();
    for (path, makes_answer) in [
        ("/v1/responses", true),
        ("/v1/responses/", true),
        ("/v1/responses/compact", true),
        ("/v1/responses/resp_1/cancel", false),
        ("/responses/v1/responses", true),
        ("/responses/v1/responses/resp_1/cancel", false),
        ("/responses/v1/chat/completions", true),
        ("/v1/chat/completions/", true),
        ("/v1/chat/completions/chatcmpl-1", false),
        ("/v1/messages/", true),
        ("/v1/messages/batches", false),
    ] {
        let (mut ctx, head) = proxy.received_at(path, &[]);
        ctx.identify(&head.headers).unwrap();
        ctx.route(&head).await.unwrap();
        let routed = ctx.stage.routed_mut().unwrap();
        assert_eq!(verdict::makes_answer(&routed.who.received, &routed.route), makes_answer, "{path}");
    }
}

#[tokio::test]
async fn a_models_path_has_no_dot_segments() {
    let proxy = Proxy::new();
    for path in ["/v1/x/../chat/completions", "/v1/%2e%2E/v1/responses", "/x/.;y/v1/messages"] {
        let (mut ctx, head) = proxy.received_at(path, &[]);
        ctx.identify(&head.headers).unwrap();
        assert_eq!(kind(ctx.route(&head).await.unwrap_err()), ErrorKind::BadRequest, "{path}");
    }
    let (mut ctx, head) = proxy.received_at("/files/./x", &[]);
    ctx.identify(&head.headers).unwrap();
    ctx.route(&head).await.unwrap();
}

#[tokio::test]
async fn a_cut_leg_passes_no_byte() {
    let proxy = Proxy::new();
    let (mut ctx, head) = proxy.received(&[("x-session-id", "s-2")]);
    let SessionHint::Known(found) = ctx.identify(&head.headers).unwrap() else { panic!("the head names it") };
    ctx.admit(&head.headers, found).await.unwrap();
    ctx.route(&head).await.unwrap();
    let mut chunk = Some(bytes::Bytes::from_static(b"answer"));
    super::super::body_filters::download(&mut ctx, &head.headers, &mut chunk, false).unwrap();
    ctx.stage.received().unwrap().handle.cut.cut(CutReason::Killed);
    assert!(super::super::body_filters::download(&mut ctx, &head.headers, &mut chunk, false).is_err());
    assert_eq!(ctx.outcome.answer.sent, 6);
}
