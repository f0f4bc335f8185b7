//! The one thread that writes. It takes what has come in one transaction; when the file cannot be written to,
//! it keeps what it has and tries again, while the queue before it fills and then drops, counted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use tracing::{error, info, warn};

use super::chain::Tip;
use super::entries::{self, Entry};
use super::schema::{self, SchemaError};
use super::seal::Signer;
use super::settings::Settings;
use crate::telemetry::history::HistoryMetrics;

/// Entries of one transaction at most.
const BATCH: usize = 512;
/// Bytes of one transaction beside its last entry, roughly.
const BATCH_BYTES: usize = 2 << 20;
/// Pages that one transaction needs at most, roughly.
const BATCH_PAGES: i64 = 2048;
/// How long a file that cannot be written to is left alone.
const PATIENCE: Duration = Duration::from_secs(1);
/// A head is signed after so many records, or so much time.
const SEAL_RECORDS: u64 = 1000;
const SEAL_TIME: Duration = Duration::from_secs(60);
/// How often what is too old is looked for.
const PRUNE_TIME: Duration = Duration::from_secs(60);
/// Records forgotten in one transaction.
const PRUNE_RECORDS: i64 = 2000;
/// How long a lock of another process is waited for: of the one that takes over (SIGQUIT).
const LOCK: Duration = Duration::from_secs(5);

/// What the thread is told.
pub(super) enum Message {
    /// Write this.
    Entry(Entry),
    /// Write all that came before, and say so.
    Written(SyncSender<bool>),
    /// Write all that came before, sign where the chain stands, and say so.
    Seal(SyncSender<bool>),
    /// Write all that came before, sign, and end.
    End,
}

/// Who waits for the batch, and for what.
#[derive(Default)]
struct Asked {
    replies: Vec<SyncSender<bool>>,
    /// A head is to be signed.
    seal: bool,
}

/// What the thread works with.
pub(super) struct Writer {
    database: Connection,
    signer: Arc<Signer>,
    settings: Arc<ArcSwap<Settings>>,
    metrics: HistoryMetrics,
    /// True when the process ends: nothing is tried for long any more.
    closing: Arc<AtomicBool>,
    /// How many entries are in the queue beside captures.
    waiting: Arc<AtomicUsize>,
    batch: Vec<Entry>,
    batch_bytes: usize,
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
            settings,
            metrics,
            closing,
            waiting,
            batch: Vec::with_capacity(BATCH),
            batch_bytes: 0,
            sealed_at: Instant::now(),
            pruned_at: None,
            is_failing: false,
        })
    }

    /// Works until it is told to end, or nobody is left who could.
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        let mut is_last = false;
        while !is_last {
            if self.pruned_at.is_none_or(|at| at.elapsed() >= PRUNE_TIME) {
                self.pruned_at = Some(Instant::now());
                self.report("forgot what is past history.retention", Self::prune_old);
            }
            let mut asked = Asked::default();
            match queue.recv_timeout(PATIENCE) {
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
            let written = self.write_all(asked.seal);
            for reply in asked.replies {
                // Whoever waited may have gone.
                let _ = reply.try_send(written);
            }
        }
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
            if self.batch.is_empty() && !due {
                return true;
            }
            match self.write(due) {
                Ok(()) => {
                    if std::mem::take(&mut self.is_failing) {
                        info!("the history can be written again");
                        self.metrics.up(true);
                    }
                    self.clear();
                    return true;
                }
                Err(fault) if self.make_room(&fault) => {}
                Err(fault) => {
                    if !std::mem::replace(&mut self.is_failing, true) {
                        error!(%fault, "the history cannot be written; it is tried again each second");
                        self.metrics.up(false);
                    }
                    if self.closing.load(Ordering::Acquire) {
                        self.drop_captures();
                        self.metrics.dropped(self.batch.len() as u64);
                        self.clear();
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
    fn drop_captures(&mut self) -> usize {
        let before = self.batch.len();
        self.batch.retain(|entry| !entry.is_capture());
        let gone = before - self.batch.len();
        self.metrics.captures_dropped(gone as u64);
        gone
    }

    /// One transaction: the batch, and the head when it is time.
    fn write(&mut self, is_time: bool) -> rusqlite::Result<()> {
        let pages = self.settings.load().max_size / self.page_size;
        self.database.pragma_update(None, "max_page_count", i64::try_from(pages).unwrap_or(i64::MAX))?;
        // The tip is read under the lock: after a hand-over two processes write for a while.
        let rows = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut tip = entries::tip(&rows)?;
        for entry in &self.batch {
            entry.write(&rows, &mut tip)?;
        }
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

    /// At its largest size the file loses its oldest bodies; when there are none, the batch loses its own; then the
    /// oldest records go. A disk that is full is another matter: there nothing is taken away.
    fn make_room(&mut self, fault: &rusqlite::Error) -> bool {
        if fault.sqlite_error_code() != Some(ErrorCode::DiskFull) {
            return false;
        }
        let count = |name| self.database.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        // The pages of the batch that did not fit have been given back already.
        let near = |is: i64, max: i64| max - is < BATCH_PAGES;
        let at_limit =
            matches!((count("page_count"), count("max_page_count")), (Ok(is), Ok(max)) if near(is, max));
        at_limit
            && (self.report("forgot the oldest bodies to make room (history.max_size)", Self::prune_captures)
                || self.drop_captures() > 0
                || self
                    .report("forgot the oldest records to make room (history.max_size)", Self::prune_oldest))
    }

    /// A tenth of the bodies, so that this is seldom.
    fn prune_captures(&mut self) -> rusqlite::Result<usize> {
        let count: i64 = self.database.query_row("SELECT count(*) FROM captures", [], |row| row.get(0))?;
        let oldest =
            "DELETE FROM captures WHERE number IN (SELECT number FROM captures ORDER BY number LIMIT ?1)";
        self.database.execute(oldest, [(count / 10).clamp(1, PRUNE_RECORDS)])
    }

    /// Does it; a fault is told. True when something was done.
    fn report(&mut self, what: &str, work: impl FnOnce(&mut Self) -> rusqlite::Result<usize>) -> bool {
        match work(self) {
            Ok(0) => false,
            Ok(gone) => {
                info!(count = gone, "{what}");
                true
            }
            Err(fault) => {
                warn!(%fault, "{what} failed");
                false
            }
        }
    }

    fn prune_oldest(&mut self) -> rusqlite::Result<usize> {
        let first = "SELECT seq FROM records ORDER BY seq LIMIT 1 OFFSET ?1";
        // A tenth of them, so that this is seldom; of few all, so that it always ends.
        let count: i64 = self.database.query_row("SELECT count(*) FROM records", [], |row| row.get(0))?;
        let found = self.database.query_row(first, [(count / 10).clamp(1, PRUNE_RECORDS)], |row| row.get(0));
        match found {
            Err(rusqlite::Error::QueryReturnedNoRows) => self.forget_before(i64::MAX, i64::MIN),
            found => self.forget_before(found?, i64::MIN),
        }
    }

    /// Forgets from the oldest on, so that the chain that is left has no gap.
    fn prune_old(&mut self) -> rusqlite::Result<usize> {
        let retention = i64::try_from(self.settings.load().retention.as_millis()).unwrap_or(i64::MAX);
        let horizon = Timestamp::now().as_millisecond().saturating_sub(retention);
        let young = "SELECT coalesce(min(seq), 9223372036854775807) FROM records WHERE ended_ms >= ?1";
        let first: i64 = self.database.query_row(young, [horizon], |row| row.get(0))?;
        let mut gone = 0;
        loop {
            let bound = "SELECT coalesce(max(seq), 0) FROM \
                 (SELECT seq FROM records WHERE seq < ?1 ORDER BY seq LIMIT ?2)";
            let bound: i64 =
                self.database.query_row(bound, params![first, PRUNE_RECORDS], |row| row.get(0))?;
            if bound == 0 {
                break;
            }
            gone += self.forget_before(bound + 1, horizon)?;
        }
        self.forget_before(0, horizon)?;
        Ok(gone)
    }

    /// Forgets the records before this number and the events before that time, and signs where the rest begins.
    fn forget_before(&mut self, seq: i64, horizon: i64) -> rusqlite::Result<usize> {
        let rows = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let last = "SELECT seq, hash FROM records WHERE seq < ?1 ORDER BY seq DESC LIMIT 1";
        let anchor = rows
            .query_row(last, [seq], |row| Ok(Tip { seq: i64::unsigned_abs(row.get(0)?), hash: row.get(1)? }));
        match anchor {
            Err(rusqlite::Error::QueryReturnedNoRows) => {}
            anchor => sign(&rows, &self.signer, &anchor?)?,
        }
        let ended: Option<i64> =
            rows.query_row("SELECT max(ended_ms) FROM records WHERE seq < ?1", [seq], |row| row.get(0))?;
        rows.execute("DELETE FROM captures WHERE uid IN (SELECT uid FROM records WHERE seq < ?1)", [seq])?;
        // No body is kept for longer, also when its session goes on or its record was lost.
        rows.execute("DELETE FROM captures WHERE at_ms < ?1", [horizon])?;
        let gone = rows.execute("DELETE FROM records WHERE seq < ?1", [seq])?;
        rows.execute(
            "DELETE FROM heads WHERE seq < (SELECT coalesce(min(seq), 9223372036854775807) - 1 FROM records) \
             AND seq < (SELECT max(seq) FROM heads)",
            [],
        )?;
        let before = horizon.max(ended.unwrap_or(i64::MIN));
        rows.execute("DELETE FROM events WHERE at_ms < ?1", [before])?;
        // What still stands is needed at the next start, however old it is.
        let now = Timestamp::now().as_millisecond();
        rows.execute("DELETE FROM kills WHERE at_ms < ?1 AND ends_ms <= ?2", [before, now])?;
        rows.commit()?;
        Ok(gone)
    }
}

/// Signs where the chain stands.
fn sign(rows: &Transaction<'_>, signer: &Signer, tip: &Tip) -> rusqlite::Result<()> {
    let head = signer.sign(tip, Timestamp::now());
    let body = serde_json::to_string(&head)
        .map_err(|fault| rusqlite::Error::ToSqlConversionFailure(Box::new(fault)))?;
    let insert = "INSERT INTO heads (seq, body) VALUES (?1, ?2) ON CONFLICT (seq) DO NOTHING";
    rows.execute(insert, params![i64::try_from(tip.seq).unwrap_or(i64::MAX), body])?;
    Ok(())
}
