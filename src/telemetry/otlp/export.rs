//! The queue between those who have something to tell and the one thread that tells it.
//!
//! A caller copies its facts and leaves; a full queue, a collector that is away, and the end of the program each
//! cost a number in `elida_otlp_dropped_total` and nothing else.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::logs::{Logger, LoggerProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::trace::SpanData;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, Registry};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{error, info, warn};

use super::facts::{Request, Session};
use super::histograms::Histograms;
use super::settings::{Ratio, Settings};
use super::spans::{self, SCHEMA_URL};
use super::transport::Transport;
use crate::ids::{RequestId, Uid};
use crate::telemetry::log::Log;
use crate::telemetry::metrics::{add, options};
use crate::telemetry::sink::Sink;
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

/// How often histograms are pushed, as OpenTelemetry's own libraries do.
const PUSH: Duration = Duration::from_secs(60);

/// The end of the program waits no longer for a collector.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What could not be delivered.
#[derive(Clone)]
pub struct Dropped {
    pub(super) spans: IntCounter,
    pub(super) logs: IntCounter,
    pub(super) metrics: IntCounter,
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
                    Worker::new(&settings, stdout, items, closed, lost)?.work().await;
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
        let ended = self.ended.lock().take();
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
    /// Makes blank log records, which nobody else can.
    logger: SdkLogger,
    dropped: Dropped,
    /// The last message was not delivered, and the log says so.
    is_down: bool,
}

impl Worker {
    fn new(
        settings: &Settings,
        stdout: Sink,
        items: mpsc::Receiver<Item>,
        closing: watch::Receiver<bool>,
        dropped: Dropped,
    ) -> anyhow::Result<Self> {
        let resource = resource(settings);
        let transport =
            Transport::new(&settings.target, &resource, stdout, dropped.clone(), closing.clone())?;
        let histograms = settings.metrics.then(|| Histograms::new(&resource));
        let logger = SdkLoggerProvider::builder().build().logger_with_scope(spans::scope());
        Ok(Self { transport, items, closing, histograms, logger, dropped, is_down: false })
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
                    if let Some(histograms) = &self.histograms {
                        histograms.add(&request);
                    }
                    spans.extend(request.context.sampled.then(|| spans::of_request(&request)));
                }
                Item::Session(session, context) => {
                    spans.extend(context.sampled.then(|| spans::of_session(&session, &context)));
                    let mut record = self.logger.create_log_record();
                    spans::record(&session, &context, &mut record);
                    logs.push(record);
                }
            }
        }
        self.send_spans(spans).await;
        for records in logs.chunks(RECORDS) {
            self.send_logs(records).await;
        }
    }

    async fn send_spans(&mut self, spans: Vec<SpanData>) {
        if !spans.is_empty() {
            let count = spans.len();
            let sent = self.transport.spans(spans).await;
            self.settle(sent, count, |dropped| &dropped.spans);
        }
    }

    async fn send_logs(&mut self, records: &[SdkLogRecord]) {
        let sent = self.transport.logs(records, &spans::scope()).await;
        self.settle(sent, records.len(), |dropped| &dropped.logs);
    }

    /// Pushes the histograms, if there are any.
    async fn push(&mut self) {
        let metrics = self.histograms.as_ref().and_then(Histograms::collect);
        if let Some((metrics, count)) = metrics {
            let sent = self.transport.metrics(&metrics).await;
            self.settle(sent, count, |dropped| &dropped.metrics);
        }
    }

    /// Counts what was not taken, and says once that nothing is taken, and once that it is again.
    fn settle(&mut self, sent: Result<(), String>, count: usize, counter: fn(&Dropped) -> &IntCounter) {
        let was_down = std::mem::replace(&mut self.is_down, sent.is_err());
        match sent {
            Ok(()) if was_down => info!("the collector takes telemetry again"),
            Ok(()) => {}
            Err(why) => {
                counter(&self.dropped).inc_by(count as u64);
                if !was_down {
                    warn!(why, "the collector does not take telemetry (telemetry.endpoint)");
                }
            }
        }
    }
}

/// What describes this instance.
fn resource(settings: &Settings) -> Resource {
    let written = settings.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let own = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", RequestId::fresh().as_str().to_owned()),
    ];
    Resource::builder_empty().with_schema_url(written.chain(own), SCHEMA_URL).build()
}
