//! The entry point of the history: queues events without blocking, and opens readers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::proof::integrity::Integrity;
use super::proof::signature::Signer;
use super::read::reader::Reader;
use super::settings::Settings;
use super::write::capture_queue::{self, Budget, Job};
use super::write::leg_queue::{LegSender, leg_queue};
use super::write::rows::Entry;
use super::write::writer::{Message, Writer};
use crate::capture::Capture;
use crate::session::{Event, KillOrder, ServedLeg};
use crate::settings::private;
use crate::telemetry::metrics::HistoryMetrics;
use crate::telemetry::readiness::Readiness;

/// The largest number of queued entries, not counting captures. An entry takes about 3 KB, so this bounds the memory
/// that a stalled disk costs.
const QUEUE: usize = 4 << 10;
/// Session starts are dropped above this queue length: the record repeats them later, and records need the room.
const MAX_STARTS: usize = QUEUE / 2;
/// Above this queue length, sessions that need not end now should wait.
const BEHIND_AT: usize = QUEUE / 4;
/// How long the writer may take to write everything queued before a flush.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long shutdown waits for the last records.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long shutdown waits for the last captures, before the records.
const CAPTURES_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a full queue or an ending thread is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The history of this instance.
pub struct Archive {
    queue: SyncSender<Message>,
    /// The number of entries in the queue, not counting captures.
    waiting: Arc<AtomicUsize>,
    /// `None` unless every leg is kept (`history.legs: all`).
    legs: Option<LegSender>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Is unparked for what cannot wait until a batch is full or old.
    writer: Thread,
    captures: SyncSender<Job>,
    capturing: Mutex<Option<JoinHandle<()>>>,
    budget: Arc<Budget>,
    closing: Arc<AtomicBool>,
    file: PathBuf,
    integrity: Arc<Integrity>,
    settings: Arc<ArcSwap<Settings>>,
    metrics: HistoryMetrics,
}

impl Archive {
    /// Opens the file and starts the writer thread. `data_dir` holds the signing key and the last signature;
    /// `readiness` gets a warning if the file does not continue from that signature.
    ///
    /// # Errors
    /// The file, its folder or the key cannot be used.
    pub fn open(
        file: &Path,
        data_dir: &Path,
        settings: Settings,
        metrics: HistoryMetrics,
        readiness: Arc<Readiness>,
    ) -> anyhow::Result<Arc<Self>> {
        if let Some(folder) = file.parent() {
            private::make_folder(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let signer = Arc::new(Signer::load_or_create(data_dir).context("cannot have a key for the records")?);
        keep_private(file).with_context(|| format!("cannot use {}", file.display()))?;
        let integrity = Arc::new(Integrity::new(data_dir, file, signer, metrics.clone(), readiness));
        let (sender, legs) = leg_queue(metrics.clone());
        let sender = settings.keeps_all_legs().then_some(sender);
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let closing = Arc::new(AtomicBool::new(false));
        let waiting = Arc::<AtomicUsize>::default();
        let writer = Writer::open(
            file,
            Arc::clone(&integrity),
            Arc::clone(&settings),
            metrics.clone(),
            Arc::clone(&closing),
            Arc::clone(&waiting),
            legs,
        )
        .with_context(|| format!("cannot use {}", file.display()))?;
        // Captures have slots of their own, so that they never displace a record.
        let (queue, messages) = mpsc::sync_channel(QUEUE + capture_queue::QUEUE);
        let thread =
            std::thread::Builder::new().name("history".into()).spawn(move || writer.run(&messages))?;
        // One slot more, for `Job::End`.
        let (orders, taken) = mpsc::sync_channel(capture_queue::QUEUE + 1);
        let (rows, numbers) = (queue.clone(), metrics.clone());
        let capturing = std::thread::Builder::new()
            .name("captures".into())
            .spawn(move || capture_queue::run(&taken, &rows, &numbers))?;
        Ok(Arc::new(Self {
            queue,
            waiting,
            legs: sender,
            writer: thread.thread().clone(),
            thread: Mutex::new(Some(thread)),
            captures: orders,
            capturing: Mutex::new(Some(capturing)),
            budget: Arc::default(),
            closing,
            file: file.to_owned(),
            integrity,
            settings,
            metrics,
        }))
    }

    /// Queues an event. Never blocks: when the queue is full, the event is dropped and counted.
    pub fn record(&self, event: &Event) {
        if let Some(entry) = Entry::of(event) {
            self.enqueue(entry);
        }
    }

    /// Queues that an order was lifted on another instance. Never blocks, and drops like [`Archive::record`].
    pub fn record_lift(&self, order: &Arc<KillOrder>) {
        self.enqueue(Entry::LiftedElsewhere { at: Timestamp::now(), order: Arc::clone(order) });
    }

    /// Queues that this order, given on another instance, replaced the known one against the same session or agent. Never
    /// blocks, and drops like [`Archive::record`].
    pub fn record_replacement(&self, order: &Arc<KillOrder>) {
        self.enqueue(Entry::ReplacedElsewhere(Arc::clone(order)));
    }

    fn enqueue(&self, entry: Entry) {
        let limit = if matches!(entry, Entry::Started { .. }) { MAX_STARTS } else { QUEUE };
        let (item, can_wait) = (entry.item(), entry.can_wait());
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= limit
            || self.queue.try_send(Message::Entry(entry)).is_err()
        {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.metrics.dropped(item, 1);
        } else if !can_wait {
            self.writer.unpark();
        }
    }

    /// Returns true if every leg is recorded (`history.legs: all`), not only the last ones with the record.
    pub fn wants_legs(&self) -> bool {
        self.legs.is_some()
    }

    /// Queues a leg that has ended. Never blocks, and drops like [`Archive::record`].
    pub fn record_leg(&self, leg: ServedLeg) {
        if let Some(legs) = &self.legs {
            legs.send(leg);
        }
    }

    /// Queues the captured bodies of a request. Never blocks: what exceeds the memory budget is dropped and counted.
    pub fn capture(&self, capture: Capture) {
        let taken = self
            .budget
            .take(capture.weight())
            .is_some_and(|budget| self.captures.try_send(Job::Keep(Box::new(capture), budget)).is_ok());
        if !taken {
            self.metrics.captures_dropped(1);
        }
    }

    /// Returns true while the queue is long although the file can be written to.
    pub fn is_behind(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= BEHIND_AT && self.metrics.is_up()
    }

    /// Applies new settings for retention and size. The file and `history.legs` need a restart.
    pub fn reconfigure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Blocks until everything queued so far is written and signed. Returns false on failure or timeout.
    pub fn sign(&self) -> bool {
        let (reply, mut answer) = oneshot::channel();
        if !self.send(Message::Sign(reply), FLUSH_TIMEOUT) {
            return false;
        }
        let until = Instant::now() + FLUSH_TIMEOUT;
        loop {
            match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) if Instant::now() < until => {
                    std::thread::sleep(POLL_INTERVAL)
                }
                answered => return answered.unwrap_or(false),
            }
        }
    }

    /// Waits until everything queued so far is written. Returns false if that takes longer than `limit`. Does not block
    /// a thread: the response to a kill waits for this.
    pub async fn flush(&self, limit: Duration) -> bool {
        let written = async {
            let (reply, answer) = oneshot::channel();
            let mut message = Message::Written(reply);
            while let Err(refused) = self.queue.try_send(message) {
                let TrySendError::Full(again) = refused else { return false };
                message = again;
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            self.writer.unpark();
            answer.await.unwrap_or(false)
        };
        tokio::time::timeout(limit, written).await.unwrap_or(false)
    }

    /// Opens a reader.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn reader(&self) -> rusqlite::Result<Reader> {
        Reader::open(&self.file, Arc::clone(&self.integrity))
    }

    /// Writes what is queued and stops the threads; later events are dropped. Blocks for a bounded time only, so that
    /// a full disk does not delay shutdown.
    pub fn close(&self) {
        if self.captures.try_send(Job::End).is_ok() {
            join(&self.capturing, Instant::now() + CAPTURES_SHUTDOWN_TIMEOUT);
        }
        self.closing.store(true, Ordering::Release);
        let until = Instant::now() + SHUTDOWN_TIMEOUT;
        self.send(Message::End, SHUTDOWN_TIMEOUT);
        join(&self.thread, until);
    }

    fn send(&self, message: Message, limit: Duration) -> bool {
        let begun = Instant::now();
        let mut message = message;
        loop {
            match self.queue.try_send(message) {
                Ok(()) => {
                    self.writer.unpark();
                    return true;
                }
                Err(TrySendError::Full(again)) if begun.elapsed() < limit => message = again,
                Err(_) => return false,
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Creates the file with access for its owner only, before SQLite creates it with the umask's. SQLite gives the files
/// beside it the same permissions.
fn keep_private(file: &Path) -> std::io::Result<()> {
    private::make_file(file)?;
    for beside in ["", "-wal", "-shm", "-journal"] {
        let mut name = file.as_os_str().to_owned();
        name.push(beside);
        private::narrow(Path::new(&name));
    }
    Ok(())
}

/// Waits until `until` for a thread that was asked to stop. A second call does nothing.
fn join(thread: &Mutex<Option<JoinHandle<()>>>, until: Instant) {
    let Some(thread) = thread.lock().take() else { return };
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(POLL_INTERVAL);
    }
    if thread.is_finished() && thread.join().is_err() {
        tracing::error!("a thread of the history panicked");
    }
}
