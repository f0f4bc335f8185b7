//! The front of the history: takes what happens without ever waiting, and opens readers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::captures::{self, Order, Waiting};
use super::entries::Entry;
use super::leg_queue::{LegSender, leg_queue};
use super::reader::Reader;
use super::seal::Signer;
use super::settings::Settings;
use super::trust::Trust;
use super::writer::{Message, Writer};
use crate::capture::Capture;
use crate::session::{Event, ServedLeg};
use crate::settings::private;
use crate::telemetry::history::HistoryMetrics;
use crate::telemetry::readiness::Readiness;

/// Entries that wait at most beside captures, some 3 KB each: what a stall of the disk may cost in memory.
const QUEUE: usize = 4 << 10;
/// Beginnings of sessions that wait at most: their records tell the same later, and must find room.
const BEGINNINGS: usize = QUEUE / 2;
/// With so many entries waiting, sessions that need not end at once had better wait.
const BEHIND: usize = QUEUE / 4;
/// How long the writer may take for all that came before a question.
const SEAL_LIMIT: Duration = Duration::from_secs(10);
/// How long the end of the process waits for the last records.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How long it waits for the last bodies before.
const CAPTURES_LIMIT: Duration = Duration::from_secs(1);
/// How often a full queue, or a thread that ends, is looked at again.
const STEP: Duration = Duration::from_millis(2);

/// The history of this instance.
pub struct Archive {
    queue: SyncSender<Message>,
    /// How many entries are in it beside captures.
    waiting: Arc<AtomicUsize>,
    /// Only where all of them are kept.
    legs: Option<LegSender>,
    thread: Mutex<Option<JoinHandle<()>>>,
    captures: SyncSender<Order>,
    capturing: Mutex<Option<JoinHandle<()>>>,
    room: Arc<Waiting>,
    closing: Arc<AtomicBool>,
    file: PathBuf,
    trust: Arc<Trust>,
    settings: Arc<ArcSwap<Settings>>,
    metrics: HistoryMetrics,
}

impl Archive {
    /// Opens the file and starts the thread that writes. The signing key lies in `data_dir`, and what was signed
    /// last. `readiness` is told when the file does not lead to that.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file, its folder or the key.
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
        let signer = Arc::new(Signer::load_or_make(data_dir).context("cannot have a key for the records")?);
        keep_private(file).with_context(|| format!("cannot use {}", file.display()))?;
        let trust = Arc::new(Trust::new(data_dir, file, signer, metrics.clone(), readiness));
        let (sender, legs) = leg_queue(metrics.clone());
        let sender = settings.keeps_all_legs().then_some(sender);
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let closing = Arc::new(AtomicBool::new(false));
        let waiting = Arc::<AtomicUsize>::default();
        let writer = Writer::open(
            file,
            Arc::clone(&trust),
            Arc::clone(&settings),
            metrics.clone(),
            Arc::clone(&closing),
            Arc::clone(&waiting),
            legs,
        )
        .with_context(|| format!("cannot use {}", file.display()))?;
        // Captures have places of their own: they take none that a record needs.
        let (queue, messages) = mpsc::sync_channel(QUEUE + captures::QUEUE);
        let thread =
            std::thread::Builder::new().name("history".into()).spawn(move || writer.run(&messages))?;
        // One more, for the word to end.
        let (orders, taken) = mpsc::sync_channel(captures::QUEUE + 1);
        let (rows, numbers) = (queue.clone(), metrics.clone());
        let capturing = std::thread::Builder::new()
            .name("captures".into())
            .spawn(move || captures::run(&taken, &rows, &numbers))?;
        Ok(Arc::new(Self {
            queue,
            waiting,
            legs: sender,
            thread: Mutex::new(Some(thread)),
            captures: orders,
            capturing: Mutex::new(Some(capturing)),
            room: Arc::default(),
            closing,
            file: file.to_owned(),
            trust,
            settings,
            metrics,
        }))
    }

    /// Notes what happened; never waits. What finds the queue full is counted as dropped.
    pub fn note(&self, event: &Event) {
        let Some(entry) = Entry::of(event) else { return };
        let room = if matches!(entry, Entry::Started { .. }) { BEGINNINGS } else { QUEUE };
        let kept = entry.kept();
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= room
            || self.queue.try_send(Message::Entry(entry)).is_err()
        {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.metrics.dropped(kept, 1);
        }
    }

    /// Whether each leg is to be noted, not only the last ones with the record (`history.legs`).
    pub fn wants_legs(&self) -> bool {
        self.legs.is_some()
    }

    /// Notes a leg that has ended, under the same terms.
    pub fn note_leg(&self, leg: ServedLeg) {
        if let Some(legs) = &self.legs {
            legs.send(leg);
        }
    }

    /// Takes the bodies of a request; never waits. What finds no room is counted as dropped.
    pub fn keep(&self, capture: Capture) {
        let taken = self
            .room
            .take(capture.weight())
            .is_some_and(|room| self.captures.try_send(Order::Keep(Box::new(capture), room)).is_ok());
        if !taken {
            self.metrics.captures_dropped(1);
        }
    }

    /// True while the file can be written to and much is waiting for it: who can wait should.
    pub fn is_behind(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= BEHIND && self.metrics.is_up()
    }

    /// Takes new settings: retention and size. The file and which legs are kept stay those of the start.
    pub fn reconfigure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Waits until all that was noted is written and signed; false when it cannot be. Blocks.
    pub fn seal(&self) -> bool {
        let (reply, mut answer) = oneshot::channel();
        if !self.send(Message::Seal(reply), SEAL_LIMIT) {
            return false;
        }
        let until = Instant::now() + SEAL_LIMIT;
        loop {
            match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) if Instant::now() < until => {
                    std::thread::sleep(STEP)
                }
                answered => return answered.unwrap_or(false),
            }
        }
    }

    /// Waits until all that was noted is written; false when that takes longer than `limit`. Takes no thread: the
    /// answer to a kill waits for this.
    pub async fn is_written(&self, limit: Duration) -> bool {
        let written = async {
            let (reply, answer) = oneshot::channel();
            let mut message = Message::Written(reply);
            while let Err(refused) = self.queue.try_send(message) {
                let TrySendError::Full(again) = refused else { return false };
                message = again;
                tokio::time::sleep(STEP).await;
            }
            answer.await.unwrap_or(false)
        };
        tokio::time::timeout(limit, written).await.unwrap_or(false)
    }

    /// A view of what is written.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn reader(&self) -> rusqlite::Result<Reader> {
        Reader::open(&self.file, Arc::clone(&self.trust))
    }

    /// Writes what has come so far and ends the thread; what is noted later is dropped. Blocks, but not for
    /// long: a disk that is full does not hold up the end of the process.
    pub fn close(&self) {
        if self.captures.try_send(Order::End).is_ok() {
            end(&self.capturing, Instant::now() + CAPTURES_LIMIT);
        }
        self.closing.store(true, Ordering::Release);
        let until = Instant::now() + END_LIMIT;
        self.send(Message::End, END_LIMIT);
        end(&self.thread, until);
    }

    fn send(&self, message: Message, limit: Duration) -> bool {
        let begun = Instant::now();
        let mut message = message;
        loop {
            match self.queue.try_send(message) {
                Ok(()) => return true,
                Err(TrySendError::Full(again)) if begun.elapsed() < limit => message = again,
                Err(_) => return false,
            }
            std::thread::sleep(STEP);
        }
    }
}

/// Makes the file for its owner only, before SQLite makes it for all; what SQLite puts beside it has the same rights.
fn keep_private(file: &Path) -> std::io::Result<()> {
    private::make_file(file)?;
    for beside in ["", "-wal", "-shm", "-journal"] {
        let mut name = file.as_os_str().to_owned();
        name.push(beside);
        private::narrow(Path::new(&name));
    }
    Ok(())
}

/// Waits for a thread that was told to end; a second call does nothing.
fn end(thread: &Mutex<Option<JoinHandle<()>>>, until: Instant) {
    let Some(thread) = thread.lock().take() else { return };
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(STEP);
    }
    if thread.is_finished() && thread.join().is_err() {
        tracing::error!("a thread of the history panicked");
    }
}
