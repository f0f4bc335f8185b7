//! The only thread that writes. It lets starts and records of sessions accumulate for some milliseconds, since a transaction
//! costs more than ten of them, and writes what is queued in one transaction. When the file cannot be written, it keeps
//! its batch and retries, while the queue fills up and then drops and counts.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::oneshot::Sender;
use tracing::{error, info};

use super::leg_queue::{GATHER_TIME, LegReceiver};
use super::rows::{Entry, leg_rows};
use super::schema::{self, SchemaError};
use crate::history::proof::chain_walk::ChainWalk;
use crate::history::proof::integrity::Integrity;
use crate::history::proof::signature::Head;
use crate::history::settings::Settings;
use crate::settings::private;
use crate::telemetry::metrics::{HistoryMetrics, Item};

/// The largest number of entries in one transaction.
const BATCH: usize = 512;
/// The approximate size of one transaction in bytes; the last entry may exceed it.
const BATCH_BYTES: usize = 2 << 20;
/// How long the first entry of a batch waits for others, unless one comes that cannot wait. Its sender then wakes the writer
/// ([`std::thread::Thread::unpark`]); others do not.
const BATCH_TIME: Duration = Duration::from_millis(15);
/// How long the writer waits before it retries a failed write, and for the next message.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The head of the chain is signed after this many records or this much time.
const SIGN_RECORDS: u64 = 1000;
const SIGN_INTERVAL: Duration = Duration::from_secs(60);
/// How often expired entries are deleted.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// How long to wait for the lock of another process: during an upgrade (SIGQUIT) two of them write.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A message to the writer thread.
pub(in crate::history) enum Message {
    /// Write this.
    Entry(Entry),
    /// Write everything before it, then reply.
    Written(Sender<bool>),
    /// Write everything before it, sign the head of the chain, then reply.
    Sign(Sender<bool>),
    /// Write everything before it, sign, and stop.
    End,
}

/// Replies owed once the batch is written.
#[derive(Default)]
struct Replies {
    replies: Vec<Sender<bool>>,
    /// The head must be signed first.
    sign: bool,
}

/// The state of the writer thread.
pub(in crate::history) struct Writer {
    pub(in crate::history) database: Connection,
    path: PathBuf,
    /// Device and inode of the open file; `None` if none is open.
    opened: Option<(u64, u64)>,
    pub(in crate::history) integrity: Arc<Integrity>,
    /// The position of the audit of older records.
    pub(in crate::history) audit: ChainWalk,
    pub(in crate::history) settings: Arc<ArcSwap<Settings>>,
    metrics: HistoryMetrics,
    /// True once the process is shutting down: then failed writes are not retried.
    closing: Arc<AtomicBool>,
    /// The number of queued entries, not counting captures.
    waiting: Arc<AtomicUsize>,
    batch: Vec<Entry>,
    batch_bytes: usize,
    /// Always empty with `history.legs: last`, where the last legs come with the record.
    legs: LegReceiver,
    keeps_all: bool,
    /// In bytes; fixed when the file is created.
    page_size: u64,
    signed_at: Instant,
    /// The number of the last record in the file, or 0 if its chain does not continue from the last signature.
    last: u64,
    pruned_at: Option<Instant>,
    is_failing: bool,
}

impl Writer {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// The file cannot be opened, is not a database, or was written by a newer version.
    pub(in crate::history) fn open(
        file: &Path,
        integrity: Arc<Integrity>,
        settings: Arc<ArcSwap<Settings>>,
        metrics: HistoryMetrics,
        closing: Arc<AtomicBool>,
        waiting: Arc<AtomicUsize>,
        legs: LegReceiver,
    ) -> Result<Self, SchemaError> {
        let mut database = connect(file)?;
        let rows = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        integrity.begin(&rows)?;
        drop(rows);
        let page_size = database.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?;
        metrics.up(true);
        Ok(Self {
            page_size: page_size.unsigned_abs(),
            database,
            path: file.to_owned(),
            opened: inode(file),
            audit: ChainWalk::after(integrity.base()),
            last: integrity.head_seq(),
            integrity,
            keeps_all: settings.load().keeps_all_legs(),
            settings,
            metrics,
            closing,
            waiting,
            batch: Vec::with_capacity(BATCH),
            batch_bytes: 0,
            legs,
            signed_at: Instant::now(),
            pruned_at: None,
            is_failing: false,
        })
    }

    /// Runs until [`Message::End`] or until all senders are gone.
    pub(in crate::history) fn run(mut self, queue: &Receiver<Message>) {
        let patience = if self.keeps_all { GATHER_TIME } else { RETRY_INTERVAL };
        let (mut is_last, mut is_behind) = (false, false);
        while !is_last {
            if self.pruned_at.is_none_or(|at| at.elapsed() >= PRUNE_INTERVAL) {
                let is_more = self.prune();
                self.audit_older_records();
                self.pruned_at = (!is_more).then(Instant::now);
                is_behind |= is_more;
            }
            let mut replies = Replies::default();
            match queue.recv_timeout(if is_behind { Duration::ZERO } else { patience }) {
                Ok(message) => is_last = self.sort(message, &mut replies),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => is_last = true,
            }
            is_last = is_last || self.drain(queue, &mut replies);
            if !is_last && replies.replies.is_empty() && self.can_wait() {
                std::thread::park_timeout(BATCH_TIME);
                is_last = self.drain(queue, &mut replies);
            }
            is_behind = self.legs.take();
            // Sign only after all queued legs are written.
            while is_behind && replies.sign && self.write_all(true) {
                is_behind = self.legs.take();
            }
            let written = self.write_all(replies.sign);
            for reply in replies.replies {
                // The receiver may have given up.
                let _ = reply.send(written);
            }
        }
        while self.legs.take() && self.write_all(true) {}
        self.write_all(true);
    }

    /// Takes what is queued, as far as it fits into one transaction. Returns true for [`Message::End`].
    fn drain(&mut self, queue: &Receiver<Message>, replies: &mut Replies) -> bool {
        while self.has_room()
            && let Ok(message) = queue.try_recv()
        {
            if self.sort(message, replies) {
                return true;
            }
        }
        false
    }

    fn has_room(&self) -> bool {
        self.batch.len() < BATCH && self.batch_bytes < BATCH_BYTES
    }

    /// Returns true if the batch has entries, all of which can wait for more.
    fn can_wait(&self) -> bool {
        !self.batch.is_empty() && self.has_room() && self.batch.iter().all(Entry::can_wait)
    }

    /// Adds a message to the batch or to the replies. Returns true for [`Message::End`].
    fn sort(&mut self, message: Message, replies: &mut Replies) -> bool {
        match message {
            Message::Entry(entry) => {
                self.batch_bytes += entry.weight();
                if !entry.is_capture() {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                self.batch.push(entry);
            }
            Message::Written(reply) => replies.replies.push(reply),
            Message::Sign(reply) => {
                replies.replies.push(reply);
                replies.sign = true;
            }
            Message::End => return true,
        }
        false
    }

    /// Writes the batch, and signs if `sign` or if it is time. Retries until it succeeds or the process shuts down.
    fn write_all(&mut self, sign: bool) -> bool {
        loop {
            let due = sign || self.signed_at.elapsed() >= SIGN_INTERVAL;
            if self.batch.is_empty() && self.legs.batch().is_empty() && !due {
                return true;
            }
            match self.write().and_then(|()| self.sign(due)) {
                Ok(()) => {
                    if std::mem::take(&mut self.is_failing) {
                        info!("the history can be written again");
                        self.metrics.up(true);
                    }
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
                    if sign {
                        return false;
                    }
                    std::thread::sleep(RETRY_INTERVAL);
                }
            }
        }
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.batch_bytes = 0;
    }

    /// Drops the captures of the batch and returns their number.
    pub(in crate::history) fn drop_captures(&mut self) -> usize {
        let before = self.batch.len();
        self.batch.retain(|entry| !entry.is_capture());
        let gone = before - self.batch.len();
        self.metrics.captures_dropped(gone as u64);
        gone
    }

    /// Drops and counts everything that is not written.
    fn give_up(&mut self) {
        self.drop_captures();
        for entry in &self.batch {
            self.metrics.dropped(entry.item(), 1);
        }
        self.clear();
        self.metrics.dropped(Item::Leg, self.legs.give_up() as u64);
    }

    /// Writes the batch in one transaction.
    fn write(&mut self) -> rusqlite::Result<()> {
        self.reopen_if_replaced()?;
        let pages = self.settings.load().max_size / self.page_size;
        self.database.pragma_update(None, "max_page_count", i64::try_from(pages).unwrap_or(i64::MAX))?;
        if self.batch.is_empty() && self.legs.batch().is_empty() {
            return Ok(());
        }
        // Read the tip under the lock: during an upgrade two processes write.
        let rows = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let lead = self.integrity.check(&rows, false)?;
        let is_led = lead.is_some();
        let mut tip = match lead {
            Some(lead) => lead.tip,
            None => self.integrity.last_tip(&rows)?,
        };
        for entry in &self.batch {
            entry.write(&rows, &mut tip, &self.integrity.signer, !self.keeps_all)?;
        }
        leg_rows(&rows, self.legs.batch())?;
        rows.commit()?;
        if is_led {
            self.integrity.set_known(&tip);
        }
        self.last = if is_led { tip.seq } else { 0 };
        self.clear();
        self.legs.written();
        Ok(())
    }

    /// Signs the head of the chain if `is_time` or after [`SIGN_RECORDS`] records, provided that the chain is intact.
    fn sign(&mut self, is_time: bool) -> rusqlite::Result<()> {
        if !is_time && self.last < self.integrity.head_seq().saturating_add(SIGN_RECORDS) {
            return Ok(());
        }
        // After a power failure the head file must not be ahead of the records it was signed for.
        self.database.pragma_update(None, "synchronous", "FULL")?;
        let signed = self.sign_tip();
        self.database.pragma_update(None, "synchronous", "NORMAL")?;
        signed?;
        self.signed_at = Instant::now();
        Ok(())
    }

    fn sign_tip(&mut self) -> rusqlite::Result<()> {
        let rows = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Some(lead) = self.integrity.check(&rows, true)? else {
            // Checked again with the next batch.
            self.last = 0;
            return Ok(());
        };
        self.last = lead.tip.seq;
        if lead.tip.seq <= self.integrity.head_seq() {
            return Ok(());
        }
        let head = self.integrity.signer.sign_head(&lead.tip, Timestamp::now());
        store_head(&rows, &head)?;
        rows.commit()?;
        self.integrity.set_known(&lead.tip);
        let _lock = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.integrity.set_head(head, &lead.base);
        Ok(())
    }

    /// Reopens the file if it was replaced or deleted.
    fn reopen_if_replaced(&mut self) -> rusqlite::Result<()> {
        // `None` after a failed attempt: then open, or create, the file in any case.
        if self.opened.is_some() {
            if inode(&self.path) == self.opened {
                return Ok(());
            }
            error!(file = %self.path.display(), "the history's file was replaced or deleted; what lies there now is used");
        }
        // Close the old one first: both use the same names for their `-wal` and `-shm` files.
        drop(std::mem::replace(&mut self.database, Connection::open_in_memory()?));
        self.opened = None;
        // SQLite would create it with the umask's permissions.
        private::make_file(&self.path)
            .map_err(|fault| rusqlite::Error::ToSqlConversionFailure(Box::new(fault)))?;
        self.database = connect(&self.path).map_err(|fault| match fault {
            SchemaError::Database(fault) => fault,
            later => rusqlite::Error::ToSqlConversionFailure(Box::new(later)),
        })?;
        self.opened = inode(&self.path);
        Ok(())
    }
}

/// Opens or creates the database and applies missing migrations.
fn connect(file: &Path) -> Result<Connection, SchemaError> {
    let mut database = Connection::open(file)?;
    database.busy_timeout(LOCK_TIMEOUT)?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    // With a write-ahead log the file stays consistent; a power failure loses the last commits at worst.
    database.pragma_update(None, "synchronous", "NORMAL")?;
    database.pragma_update(None, "foreign_keys", true)?;
    schema::migrate(&mut database)?;
    Ok(database)
}

/// Returns device and inode of a file, or `None` if it does not exist.
fn inode(file: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(file).ok().map(|found| (found.dev(), found.ino()))
}

/// Stores a signed head in the database.
pub(in crate::history) fn store_head(rows: &Transaction<'_>, head: &Head) -> rusqlite::Result<()> {
    let body = serde_json::to_string(head)
        .map_err(|fault| rusqlite::Error::ToSqlConversionFailure(Box::new(fault)))?;
    // A row with the same number was not written by this program: overwrite it.
    let insert = "INSERT INTO heads (seq, body) VALUES (?1, ?2) ON CONFLICT (seq) DO UPDATE SET body = ?2";
    rows.execute(insert, params![i64::try_from(head.seq).unwrap_or(i64::MAX), body])?;
    Ok(())
}
