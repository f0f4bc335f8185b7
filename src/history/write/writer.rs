//! The one thread that writes. It takes what has come in one transaction; when the file cannot be written to,
//! it keeps what it has and tries again, while the queue before it fills and then drops, counted.

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

/// Entries of one transaction at most.
const BATCH: usize = 512;
/// Bytes of one transaction beside its last entry, roughly.
const BATCH_BYTES: usize = 2 << 20;
/// How long a file that cannot be written to is left alone.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A head is signed after so many records, or so much time.
const SIGN_RECORDS: u64 = 1000;
const SIGN_INTERVAL: Duration = Duration::from_secs(60);
/// How often what is too old is looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// How long a lock of another process is waited for: of the one that takes over (SIGQUIT).
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// What the thread is told.
pub(in crate::history) enum Message {
    /// Write this.
    Entry(Entry),
    /// Write all that came before, and say so.
    Written(Sender<bool>),
    /// Write all that came before, sign where the chain stands, and say so.
    Sign(Sender<bool>),
    /// Write all that came before, sign, and end.
    End,
}

/// Who waits for the batch, and for what.
#[derive(Default)]
struct Replies {
    replies: Vec<Sender<bool>>,
    /// A head is to be signed.
    sign: bool,
}

/// What the thread works with.
pub(in crate::history) struct Writer {
    pub(in crate::history) database: Connection,
    path: PathBuf,
    /// Device and inode of the file that is open.
    opened: Option<(u64, u64)>,
    pub(in crate::history) integrity: Arc<Integrity>,
    /// Where the rounds over older records have come to.
    pub(in crate::history) audit: ChainWalk,
    pub(in crate::history) settings: Arc<ArcSwap<Settings>>,
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
    signed_at: Instant,
    /// The number of the last record in the file.
    last: u64,
    pruned_at: Option<Instant>,
    is_failing: bool,
}

impl Writer {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It cannot be opened, is no database, or is of a later program.
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

    /// Works until it is told to end, or nobody is left who could.
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
            while !is_last
                && self.batch.len() < BATCH
                && self.batch_bytes < BATCH_BYTES
                && let Ok(message) = queue.try_recv()
            {
                is_last = self.sort(message, &mut replies);
            }
            is_behind = self.legs.take();
            // A seal comes after all that was noted before it.
            while is_behind && replies.sign && self.write_all(true) {
                is_behind = self.legs.take();
            }
            let written = self.write_all(replies.sign);
            for reply in replies.replies {
                // Whoever waited may have gone.
                let _ = reply.send(written);
            }
        }
        while self.legs.take() && self.write_all(true) {}
        self.write_all(true);
    }

    /// True when this was the last message.
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

    /// Writes the batch, however long it takes; gives up only when the process ends.
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

    /// Gives up the bodies of the batch; the number of them.
    pub(in crate::history) fn drop_captures(&mut self) -> usize {
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
            self.metrics.dropped(entry.item(), 1);
        }
        self.clear();
        self.metrics.dropped(Item::Leg, self.legs.give_up() as u64);
    }

    /// One transaction: what has come.
    fn write(&mut self) -> rusqlite::Result<()> {
        self.reopen_if_replaced()?;
        let pages = self.settings.load().max_size / self.page_size;
        self.database.pragma_update(None, "max_page_count", i64::try_from(pages).unwrap_or(i64::MAX))?;
        if self.batch.is_empty() && self.legs.batch().is_empty() {
            return Ok(());
        }
        // The tip is read under the lock: after a hand-over two processes write for a while.
        let rows = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let lead = self.integrity.check(&rows, false)?;
        let is_led = lead.is_some();
        let mut tip = match lead {
            Some(lead) => lead.tip,
            None => self.integrity.last_tip(&rows)?,
        };
        for entry in &self.batch {
            entry.write(&rows, &mut tip, !self.keeps_all)?;
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

    /// Signs where the chain stands, when it is time or many records have come since, and if it leads there.
    fn sign(&mut self, is_time: bool) -> rusqlite::Result<()> {
        if !is_time && self.last < self.integrity.head_seq().saturating_add(SIGN_RECORDS) {
            return Ok(());
        }
        // A head must not outlive, in its own file, the records it was signed for: the power may fail.
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
            // Looked for again when more has come, or in a while.
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

    /// Opens the file anew when another one lies in its place, or none.
    fn reopen_if_replaced(&mut self) -> rusqlite::Result<()> {
        // After a failure no file is open, and one that is missing has to be made.
        if self.opened.is_some() {
            if inode(&self.path) == self.opened {
                return Ok(());
            }
            error!(file = %self.path.display(), "the history's file was replaced or deleted; what lies there now is used");
        }
        // The old one is closed first: both have the same names for what lies beside them.
        drop(std::mem::replace(&mut self.database, Connection::open_in_memory()?));
        self.opened = None;
        // SQLite would make it with the rights that the umask leaves.
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

/// Opens the file, or makes it, in the form that this program knows.
fn connect(file: &Path) -> Result<Connection, SchemaError> {
    let mut database = Connection::open(file)?;
    database.busy_timeout(LOCK_TIMEOUT)?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    // With a write-ahead log this loses no consistency, at worst the last moments when the power fails.
    database.pragma_update(None, "synchronous", "NORMAL")?;
    database.pragma_update(None, "foreign_keys", true)?;
    schema::migrate(&mut database)?;
    Ok(database)
}

/// Device and inode of what lies there; `None` when nothing does.
fn inode(file: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(file).ok().map(|found| (found.dev(), found.ino()))
}

/// Puts a head beside the records.
pub(in crate::history) fn store_head(rows: &Transaction<'_>, head: &Head) -> rusqlite::Result<()> {
    let body = serde_json::to_string(head)
        .map_err(|fault| rusqlite::Error::ToSqlConversionFailure(Box::new(fault)))?;
    // What else may stand there was not signed by this program.
    let insert = "INSERT INTO heads (seq, body) VALUES (?1, ?2) ON CONFLICT (seq) DO UPDATE SET body = ?2";
    rows.execute(insert, params![i64::try_from(head.seq).unwrap_or(i64::MAX), body])?;
    Ok(())
}
