//! The queue between callers and the thread that exports.
//!
//! A caller copies its values into the queue and never waits. A full queue, an unavailable collector and shutdown only
//! increment `elida_otlp_dropped_total`.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::logs::{Logger, LoggerProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::trace::SpanData;
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{error, info, warn};

use super::facts::{Request, SessionRecord};
use super::histograms::Histograms;
use super::settings::{Ratio, Settings};
use super::spans::{self, SCHEMA_URL};
use super::transport::Transport;
use crate::ids::{RequestId, Uid};
use crate::telemetry::log::Log;
use crate::telemetry::log::sink::Sink;
use crate::telemetry::metrics::OtlpDropped;
use crate::telemetry::trace::{Context, Parent};

/// The largest number of queued requests and sessions: about 10 MB.
const QUEUE: usize = 8192;

/// The largest number of items in a batch.
const BATCH: usize = 512;

/// The largest number of records in a message. A collector accepts 4 MiB (the default of gRPC), and the record of a session
/// with many agents has tens of KiB.
const RECORDS: usize = 64;

/// How long the first item of a batch waits for others.
const GATHER: Duration = Duration::from_millis(250);

/// How often histograms are pushed: the default of OpenTelemetry's SDKs.
const PUSH: Duration = Duration::from_secs(60);

/// How long shutdown waits for the collector.
const LAST_WORDS: Duration = Duration::from_secs(3);

enum Item {
    Request(Box<Request>),
    Session(Arc<dyn SessionRecord>, Context),
}

/// Queues requests and sessions for export.
pub struct Exporter {
    queue: mpsc::Sender<Item>,
    ratio: Ratio,
    /// Histograms are on, so requests are exported even if they are not sampled.
    measures: bool,
    dropped: OtlpDropped,
    closing: watch::Sender<bool>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Exporter {
    /// Starts the worker thread; `None` if telemetry is off.
    pub fn start(settings: &Settings, dropped: OtlpDropped, log: &Log) -> Option<Arc<Self>> {
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
            // The queue is closed then, so that everything is counted as dropped.
            error!(%error, "no thread can be had to send telemetry");
        }
        Some(Arc::new(exporter))
    }

    /// Returns the span context of a request.
    pub fn place(&self, parent: Option<Parent>, session: Option<Uid>) -> Context {
        Context::of_request(parent, session, |trace| self.ratio.takes(trace))
    }

    /// Returns true if a request with this span context is exported.
    pub fn wants(&self, context: &Context) -> bool {
        context.sampled || self.measures
    }

    /// Queues a finished request.
    pub fn request(&self, request: Request) {
        let sampled = request.context.sampled;
        if self.queue.try_send(Item::Request(Box::new(request))).is_err() {
            self.dropped.spans.inc_by(sampled.into());
        }
    }

    /// Queues an ended session. Its record is exported whether or not it is sampled.
    pub fn session(&self, record: Arc<dyn SessionRecord>) {
        let context = Context::of_session(record.uid(), |trace| self.ratio.takes(trace));
        if self.queue.try_send(Item::Session(record, context)).is_err() {
            self.dropped.spans.inc_by(context.sampled.into());
            self.dropped.logs.inc();
        }
    }

    /// Exports what is still queued, and waits for a bounded time.
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

/// The worker thread's end of the queue.
struct Worker {
    transport: Transport,
    items: mpsc::Receiver<Item>,
    closing: watch::Receiver<bool>,
    histograms: Option<Histograms>,
    /// Creates log records: the API has no other way.
    logger: SdkLogger,
    dropped: OtlpDropped,
    /// The last message was not delivered, which was logged.
    is_down: bool,
}

impl Worker {
    fn new(
        settings: &Settings,
        stdout: Sink,
        items: mpsc::Receiver<Item>,
        closing: watch::Receiver<bool>,
        dropped: OtlpDropped,
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

    /// Waits for more items, unless there are enough or it is shutting down.
    async fn gather(&mut self) {
        if self.items.len() < BATCH {
            let _ = timeout(GATHER, self.closing.wait_for(|closing| *closing)).await;
        }
    }

    /// Sends a batch: `first` and what is queued.
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
                Item::Session(record, context) => {
                    let members = record.members();
                    spans.extend(context.sampled.then(|| spans::of_session(&*record, &members, &context)));
                    let mut log = self.logger.create_log_record();
                    spans::record(&*record, members, &context, &mut log);
                    logs.push(log);
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

    /// Pushes the histograms, if enabled.
    async fn push(&mut self) {
        let metrics = self.histograms.as_ref().and_then(Histograms::collect);
        if let Some((metrics, count)) = metrics {
            let sent = self.transport.metrics(&metrics).await;
            self.settle(sent, count, |dropped| &dropped.metrics);
        }
    }

    /// Counts what was not delivered, and logs when delivery starts to fail and when it works again.
    fn settle(&mut self, sent: Result<(), String>, count: usize, counter: fn(&OtlpDropped) -> &IntCounter) {
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

/// The resource that describes this instance.
fn resource(settings: &Settings) -> Resource {
    let written = settings.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let own = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", RequestId::fresh().as_str().to_owned()),
    ];
    Resource::builder_empty().with_schema_url(written.chain(own), SCHEMA_URL).build()
}
