//! The one thread that writes. It takes what has come in one transaction; when the file cannot be written to,
//! it keeps what it has and tries again, while the queue before it fills and then drops, counted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::oneshot::Sender;
use tracing::{error, info};

use super::chain::Tip;
use super::entries::{self, Entry};
use super::leg_queue::{GATHER, LegReceiver};
use super::schema::{self, SchemaError};
use super::seal::Signer;
use super::settings::Settings;
use crate::telemetry::history::{HistoryMetrics, Kept};

/// Entries of one transaction at most.
const BATCH: usize = 512;
/// Bytes of one transaction beside its last entry, roughly.
const BATCH_BYTES: usize = 2 << 20;
/// How long a file that cannot be written to is left alone.
const PATIENCE: Duration = Duration::from_secs(1);
/// A head is signed after so many records, or so much time.
const SEAL_RECORDS: u64 = 1000;
const SEAL_TIME: Duration = Duration::from_secs(60);
/// How often what is too old is looked for.
const PRUNE_TIME: Duration = Duration::from_secs(60);
/// How long a lock of another process is waited for: of the one that takes over (SIGQUIT).
const LOCK: Duration = Duration::from_secs(5);

/// What the thread is told.
pub(super) enum Message {
    /// Write this.
    Entry(Entry),
    /// Write all that came before, and say so.
    Written(Sender<bool>),
    /// Write all that came before, sign where the chain stands, and say so.
    Seal(Sender<bool>),
    /// Write all that came before, sign, and end.
    End,
}

/// Who waits for the batch, and for what.
#[derive(Default)]
struct Asked {
    replies: Vec<Sender<bool>>,
    /// A head is to be signed.
    seal: bool,
}

/// What the thread works with.
pub(super) struct Writer {
    pub(super) database: Connection,
    pub(super) signer: Arc<Signer>,
    pub(super) settings: Arc<ArcSwap<Settings>>,
    metrics: HistoryMetrics,
    /// True when the process ends: nothing is tried for long any more.
    closing: Arc<AtomicBool>,
    /// How many entries are in the queue beside captures.
    waiting: Arc<AtomicUsize>,
    batch: Vec<Entry>,
    batch_bytes: usize,
    /// Empty for ever with `history.legs: last`: the last ones come with their record then.
    legs: LegReceiver,
    keeps_all: bool,
    /// In bytes; a file keeps it for ever.
    page_size: u64,
    sealed: u64,
    sealed_at: Instant,
    pruned_at: Option<Instant>,
    is_failing: bool,
}

impl Writer {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It cannot be opened, is no database, or is of a later program.
    pub(super) fn open(
        file: &Path,
        signer: Arc<Signer>,
        settings: Arc<ArcSwap<Settings>>,
        metrics: HistoryMetrics,
        closing: Arc<AtomicBool>,
        waiting: Arc<AtomicUsize>,
        legs: LegReceiver,
    ) -> Result<Self, SchemaError> {
        let mut database = Connection::open(file)?;
        database.busy_timeout(LOCK)?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        // With a write-ahead log this loses no consistency, at worst the last moments when the power fails.
        database.pragma_update(None, "synchronous", "NORMAL")?;
        database.pragma_update(None, "foreign_keys", true)?;
        schema::migrate(&mut database)?;
        let sealed = database.query_row("SELECT coalesce(max(seq), 0) FROM heads", [], |row| row.get(0));
        let page_size = database.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?;
        metrics.up(true);
        Ok(Self {
            page_size: page_size.unsigned_abs(),
            sealed: i64::unsigned_abs(sealed?),
            database,
            signer,
            keeps_all: settings.load().keeps_all_legs(),
            settings,
            metrics,
            closing,
            waiting,
            batch: Vec::with_capacity(BATCH),
            batch_bytes: 0,
            legs,
            sealed_at: Instant::now(),
            pruned_at: None,
            is_failing: false,
        })
    }

    /// Works until it is told to end, or nobody is left who could.
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        let patience = if self.keeps_all { GATHER } else { PATIENCE };
        let (mut is_last, mut is_behind) = (false, false);
        while !is_last {
            if self.pruned_at.is_none_or(|at| at.elapsed() >= PRUNE_TIME) {
                let is_more = self.prune();
                self.pruned_at = (!is_more).then(Instant::now);
                is_behind |= is_more;
            }
            let mut asked = Asked::default();
            match queue.recv_timeout(if is_behind { Duration::ZERO } else { patience }) {
                Ok(message) => is_last = self.sort(message, &mut asked),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => is_last = true,
            }
            while !is_last
                && self.batch.len() < BATCH
                && self.batch_bytes < BATCH_BYTES
                && let Ok(message) = queue.try_recv()
            {
                is_last = self.sort(message, &mut asked);
            }
            is_behind = self.legs.take();
            // A seal comes after all that was noted before it.
            while is_behind && asked.seal && self.write_all(true) {
                is_behind = self.legs.take();
            }
            let written = self.write_all(asked.seal);
            for reply in asked.replies {
                // Whoever waited may have gone.
                let _ = reply.send(written);
            }
        }
        while self.legs.take() && self.write_all(true) {}
        self.write_all(true);
    }

    /// True when this was the last message.
    fn sort(&mut self, message: Message, asked: &mut Asked) -> bool {
        match message {
            Message::Entry(entry) => {
                self.batch_bytes += entry.weight();
                if !entry.is_capture() {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                self.batch.push(entry);
            }
            Message::Written(reply) => asked.replies.push(reply),
            Message::Seal(reply) => {
                asked.replies.push(reply);
                asked.seal = true;
            }
            Message::End => return true,
        }
        false
    }

    /// Writes the batch, however long it takes; gives up only when the process ends.
    fn write_all(&mut self, seal: bool) -> bool {
        loop {
            let due = seal || self.sealed_at.elapsed() >= SEAL_TIME;
            if self.batch.is_empty() && self.legs.batch().is_empty() && !due {
                return true;
            }
            match self.write(due) {
                Ok(()) => {
                    if std::mem::take(&mut self.is_failing) {
                        info!("the history can be written again");
                        self.metrics.up(true);
                    }
                    self.clear();
                    self.legs.written();
                    return true;
                }
                Err(fault) if self.make_room(&fault) => {}
                Err(fault) => {
                    if !std::mem::replace(&mut self.is_failing, true) {
                        error!(%fault, "the history cannot be written; it is tried again each second");
                        self.metrics.up(false);
                    }
                    if self.closing.load(Ordering::Acquire) {
                        self.give_up();
                        return false;
                    }
                    if seal {
                        return false;
                    }
                    std::thread::sleep(PATIENCE);
                }
            }
        }
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.batch_bytes = 0;
    }

    /// Gives up the bodies of the batch; the number of them.
    pub(super) fn drop_captures(&mut self) -> usize {
        let before = self.batch.len();
        self.batch.retain(|entry| !entry.is_capture());
        let gone = before - self.batch.len();
        self.metrics.captures_dropped(gone as u64);
        gone
    }

    /// Counts what is not written and never will be.
    fn give_up(&mut self) {
        self.drop_captures();
        for entry in &self.batch {
            self.metrics.dropped(entry.kept(), 1);
        }
        self.clear();
        self.metrics.dropped(Kept::Leg, self.legs.give_up() as u64);
    }

    /// One transaction: what has come, and the head when it is time.
    fn write(&mut self, is_time: bool) -> rusqlite::Result<()> {
        let pages = self.settings.load().max_size / self.page_size;
        self.database.pragma_update(None, "max_page_count", i64::try_from(pages).unwrap_or(i64::MAX))?;
        // The tip is read under the lock: after a hand-over two processes write for a while.
        let rows = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut tip = entries::tip(&rows)?;
        for entry in &self.batch {
            entry.write(&rows, &mut tip, !self.keeps_all)?;
        }
        entries::leg_rows(&rows, self.legs.batch())?;
        let seal = tip.seq > self.sealed && (is_time || tip.seq - self.sealed >= SEAL_RECORDS);
        if seal {
            sign(&rows, &self.signer, &tip)?;
        }
        rows.commit()?;
        if seal || is_time {
            (self.sealed, self.sealed_at) = (tip.seq, Instant::now());
        }
        Ok(())
    }
}

/// Signs where the chain stands.
pub(super) fn sign(rows: &Transaction<'_>, signer: &Signer, tip: &Tip) -> rusqlite::Result<()> {
    let head = signer.sign(tip, Timestamp::now());
    let body = serde_json::to_string(&head)
        .map_err(|fault| rusqlite::Error::ToSqlConversionFailure(Box::new(fault)))?;
    let insert = "INSERT INTO heads (seq, body) VALUES (?1, ?2) ON CONFLICT (seq) DO NOTHING";
    rows.execute(insert, params![i64::try_from(tip.seq).unwrap_or(i64::MAX), body])?;
    Ok(())
}
