//! The queue between those who have something to tell and the one thread that tells it.
//!
//! A caller copies its facts and leaves; a full queue, a collector that is away, and the end of the program each
//! cost a number in `elida_otlp_dropped_total` and nothing else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prometheus::{IntCounter, IntCounterVec, Registry};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::{error, info, warn};

use super::facts::{Request, Session};
use super::histograms::Histograms;
use super::settings::{Ratio, Settings};
use super::spans::{self, Attributes, SCHEMA_URL};
use super::transport::{Failure, Message, Transport};
use crate::ids::{RequestId, Uid};
use crate::telemetry::log::Log;
use crate::telemetry::metrics::{add, options};
use crate::telemetry::table;
use crate::telemetry::trace::{Context, Parent};

/// Requests and sessions that wait; some 10 MB at most.
const QUEUE: usize = 8192;

/// As many are sent together.
const BATCH: usize = 512;

/// As many records are sent together: a collector takes 4 MiB at once (the default of gRPC), and a record of a session
/// with many agents has tens of KiB.
const RECORDS: usize = 64;

/// How long the first of a batch waits for others.
const GATHER: Duration = Duration::from_millis(250);

/// Pauses before a batch is sent again: this, and doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// How often histograms are pushed, as OpenTelemetry's own libraries do.
const PUSH: Duration = Duration::from_secs(60);

/// The end of the program waits no longer for a collector.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What could not be delivered.
#[derive(Clone)]
pub struct Dropped {
    spans: IntCounter,
    logs: IntCounter,
    metrics: IntCounter,
}

impl Dropped {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let spec = &table::OTLP_DROPPED;
        let counters = add(registry, IntCounterVec::new(options(spec), spec.labels)?)?;
        let of = |signal| counters.with_label_values(&[signal]);
        Ok(Self { spans: of("spans"), logs: of("logs"), metrics: of("metrics") })
    }
}

enum Item {
    Request(Box<Request>),
    Session(Box<Session>, Context),
}

/// Takes what is to be told.
pub struct Exporter {
    queue: mpsc::Sender<Item>,
    ratio: Ratio,
    /// Requests are measured also when they are not traced.
    measures: bool,
    dropped: Dropped,
    closing: watch::Sender<bool>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Exporter {
    /// Starts the thread; `None` when nobody is to be told.
    pub fn start(settings: &Settings, dropped: Dropped, log: &Log) -> Option<Arc<Self>> {
        if !settings.enabled() {
            return None;
        }
        let (queue, items) = mpsc::channel(QUEUE);
        let (closing, closed) = watch::channel(false);
        let (end, ended) = oneshot::channel();
        let (settings, stdout, lost) = (settings.clone(), log.sink(), dropped.clone());
        let exporter = Self {
            queue,
            ratio: settings.ratio,
            measures: settings.metrics,
            dropped,
            closing,
            ended: Mutex::new(Some(ended)),
        };
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let told = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
                runtime.block_on(async {
                    let transport = Transport::new(&settings.target, stdout)?;
                    Worker::new(&settings, transport, items, closed, lost).work().await;
                    Ok(())
                })
            });
            if let Err(error) = told {
                error!(%error, "no telemetry can be sent (telemetry)");
            }
            let _ = end.send(());
        };
        if let Err(error) = std::thread::Builder::new().name("elida-otlp".to_owned()).spawn(run) {
            // The queue is closed then, and all that comes is counted as dropped.
            error!(%error, "no thread can be had to send telemetry");
        }
        Some(Arc::new(exporter))
    }

    /// The place of a request among all spans.
    pub fn place(&self, parent: Option<Parent>, session: Option<Uid>) -> Context {
        Context::of_request(parent, session, |trace| self.ratio.takes(trace))
    }

    /// Whether anybody wants to hear of a request in this place.
    pub fn wants(&self, context: &Context) -> bool {
        context.sampled || self.measures
    }

    /// A request ended.
    pub fn request(&self, request: Request) {
        let sampled = request.context.sampled;
        if self.queue.try_send(Item::Request(Box::new(request))).is_err() {
            self.dropped.spans.inc_by(sampled.into());
        }
    }

    /// A session ended. Its record is told whether or not it is traced.
    pub fn session(&self, session: Session) {
        let context = Context::of_session(session.uid, |trace| self.ratio.takes(trace));
        if self.queue.try_send(Item::Session(Box::new(session), context)).is_err() {
            self.dropped.spans.inc_by(context.sampled.into());
            self.dropped.logs.inc();
        }
    }

    /// Tells what is still queued, and waits for that a short while.
    pub async fn close(&self) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(ended) = ended else { return };
        self.closing.send_replace(true);
        if timeout(LAST_WORDS, ended).await.is_err() {
            let queued = self.queue.max_capacity() - self.queue.capacity();
            warn!(queued, "the collector did not take the last telemetry in time (telemetry.endpoint)");
        }
    }
}

/// The other side of the queue.
struct Worker {
    transport: Transport,
    items: mpsc::Receiver<Item>,
    closing: watch::Receiver<bool>,
    histograms: Option<Histograms>,
    resource: Resource,
    dropped: Dropped,
    /// The last message was not delivered, and the log says so.
    is_down: bool,
}

impl Worker {
    fn new(
        settings: &Settings,
        transport: Transport,
        items: mpsc::Receiver<Item>,
        closing: watch::Receiver<bool>,
        dropped: Dropped,
    ) -> Self {
        let mut attributes = Attributes::default();
        settings.resource.iter().for_each(|(key, value)| attributes.text(key, value));
        attributes.text("service.version", env!("CARGO_PKG_VERSION"));
        attributes.text("service.instance.id", RequestId::fresh().as_str());
        let resource = Resource { attributes: attributes.0, ..Resource::default() };
        let histograms = settings.metrics.then(Histograms::new);
        Self { transport, items, closing, histograms, resource, dropped, is_down: false }
    }

    async fn work(mut self) {
        let mut push = interval_at(Instant::now() + PUSH, PUSH);
        push.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut closing = self.closing.clone();
        loop {
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => break,
                first = self.items.recv() => match first {
                    Some(first) => {
                        self.gather().await;
                        self.deliver(Some(first)).await;
                    }
                    None => break,
                },
                _ = push.tick() => self.push().await,
            }
        }
        while !self.items.is_empty() {
            self.deliver(None).await;
        }
        self.push().await;
    }

    /// Lets more come, unless there is enough or the end has come.
    async fn gather(&mut self) {
        if self.items.len() < BATCH {
            let _ = timeout(GATHER, self.closing.wait_for(|closing| *closing)).await;
        }
    }

    /// Sends a batch: this one, and those that wait.
    async fn deliver(&mut self, first: Option<Item>) {
        let (mut spans, mut logs) = (Vec::new(), Vec::new());
        let rest = std::iter::from_fn(|| self.items.try_recv().ok());
        for item in first.into_iter().chain(rest).take(BATCH) {
            match item {
                Item::Request(request) => {
                    if let Some(histograms) = &mut self.histograms {
                        histograms.add(&request);
                    }
                    spans.extend(request.context.sampled.then(|| spans::of_request(&request)));
                }
                Item::Session(session, context) => {
                    spans.extend(context.sampled.then(|| spans::of_session(&session, &context)));
                    logs.push(spans::record(&session, &context));
                }
            }
        }
        self.send_spans(spans).await;
        for records in logs.chunks(RECORDS) {
            self.send_logs(records.to_vec()).await;
        }
    }

    async fn send_spans(&mut self, spans: Vec<Span>) {
        let (count, dropped) = (spans.len(), self.dropped.spans.clone());
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, schema_url: SCHEMA_URL.to_owned() }];
        let resource = Some(self.resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, schema_url: SCHEMA_URL.to_owned() }];
        self.send(Message::Spans(ExportTraceServiceRequest { resource_spans }), count, dropped).await;
    }

    async fn send_logs(&mut self, log_records: Vec<LogRecord>) {
        let (count, dropped) = (log_records.len(), self.dropped.logs.clone());
        let schema_url = SCHEMA_URL.to_owned();
        let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, schema_url }];
        let resource = Some(self.resource.clone());
        let resource_logs = vec![ResourceLogs { resource, scope_logs, schema_url: SCHEMA_URL.to_owned() }];
        self.send(Message::Logs(ExportLogsServiceRequest { resource_logs }), count, dropped).await;
    }

    /// Pushes the histograms, if there are any.
    async fn push(&mut self) {
        let metrics = self.histograms.as_ref().map(Histograms::metrics).unwrap_or_default();
        let (count, dropped) = (metrics.len(), self.dropped.metrics.clone());
        let schema_url = SCHEMA_URL.to_owned();
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, schema_url }];
        let resource = Some(self.resource.clone());
        let schema_url = SCHEMA_URL.to_owned();
        let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, schema_url }];
        self.send(Message::Metrics(ExportMetricsServiceRequest { resource_metrics }), count, dropped).await;
    }

    /// Sends a message of `count` parts, again while that may help; what is not taken is counted.
    async fn send(&mut self, message: Message, count: usize, dropped: IntCounter) {
        if count == 0 {
            return;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            match self.transport.send(&message).await {
                Ok(refused) => {
                    dropped.inc_by(u64::try_from(refused).unwrap_or_default());
                    if std::mem::take(&mut self.is_down) {
                        info!("the collector takes telemetry again");
                    }
                    return;
                }
                Err(failure) => {
                    self.tell(&failure);
                    if !failure.passes || pause > LAST_PAUSE || *self.closing.borrow() {
                        dropped.inc_by(count as u64);
                        return;
                    }
                }
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.closing.wait_for(|closing| *closing) => {}
            }
            pause *= 2;
        }
    }

    /// Says it once, until it works again.
    fn tell(&mut self, failure: &Failure) {
        if !std::mem::replace(&mut self.is_down, true) {
            warn!(why = failure.why, "the collector does not take telemetry (telemetry.endpoint)");
        }
    }
}

fn scope() -> InstrumentationScope {
    let (name, version) = (env!("CARGO_PKG_NAME").to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    InstrumentationScope { name, version, ..InstrumentationScope::default() }
}
