//! Appends lines to the audit log, and reads them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::line::AuditEntry;
use super::verify::{Breach, Verified, Verifier, seal};
use crate::history::proof::hash_chain::{Tip, to_text};
use crate::history::proof::signature::Signer;
use crate::history::read::reader::one_page;
use crate::history::state::{AUDIT_HEAD, State};
use crate::settings::key_file;
use crate::telemetry::metrics::{HistoryMetrics, Item};

/// The table in `state.db`.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    operator TEXT NOT NULL,
    action TEXT NOT NULL,
    hash TEXT NOT NULL,
    body TEXT NOT NULL,
    seal TEXT NOT NULL
) STRICT";

/// Lines read at once by [`AuditLog::verify`].
const VERIFIED_AT_ONCE: i64 = 500;
/// Lines that may wait for a slow disk.
const WAITING: usize = 1024;
/// Lines that are looked at before others may use the file: a search through all of them does not hold up a change.
const PART: i64 = 4096;

/// The audit log of this instance.
pub struct AuditLog {
    file: Arc<AuditFile>,
    /// Where lines wait for the thread that writes them, which is started with the first one.
    waiting: OnceLock<Option<SyncSender<Waiting>>>,
}

/// A line that waits, and who is told when it is written.
type Waiting = (AuditEntry, oneshot::Sender<()>);

struct AuditFile {
    state: Arc<State>,
    folder: PathBuf,
    metrics: HistoryMetrics,
    /// Held while a line is appended; the key is read with the first one.
    signer: Mutex<Option<Signer>>,
}

/// Selects lines. A `None` member selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Lines of this time or later.
    pub from: Option<Timestamp>,
    /// Lines before this time.
    pub to: Option<Timestamp>,
    /// Lines of this operator.
    pub operator: Option<String>,
    /// Lines of this action.
    pub action: Option<String>,
}

/// Lines, newest first.
#[derive(Debug)]
pub struct AuditPage {
    /// Each as JSON, with its link and its seal.
    pub lines: Vec<Box<RawValue>>,
    /// The cursor of the next page; `None` if there are no older lines.
    pub next_cursor: Option<String>,
}

impl AuditLog {
    /// Returns the log in the `state.db` of `data_dir`; opens nothing yet.
    pub fn new(state: Arc<State>, data_dir: &Path, metrics: HistoryMetrics) -> Self {
        let file = AuditFile { state, folder: data_dir.to_owned(), metrics, signer: Mutex::default() };
        Self { file: Arc::new(file), waiting: OnceLock::new() }
    }

    /// Appends a line. One that cannot be written is logged whole and counted: a kill does not wait for a full disk. Blocks.
    pub fn record(&self, entry: &AuditEntry) {
        self.file.record(entry);
    }

    /// Has a thread of its own append a line, and tells when it is done. Never blocks: a line for which there is no room, because
    /// the disk does not answer, counts as one that cannot be written.
    pub fn submit(&self, entry: AuditEntry) -> oneshot::Receiver<()> {
        let (done, written) = oneshot::channel();
        let waiting = self.waiting.get_or_init(|| {
            let (sender, lines) = sync_channel::<Waiting>(WAITING);
            let file = Arc::clone(&self.file);
            let write = move || {
                for (entry, done) in lines {
                    file.record(&entry);
                    // An error means that nobody waits any more.
                    let _ = done.send(());
                }
            };
            std::thread::Builder::new().name("audit".into()).spawn(write).ok().map(|_| sender)
        });
        let unwritten = match waiting {
            None => Some(entry),
            Some(waiting) => match waiting.try_send((entry, done)) {
                Ok(()) => None,
                Err(TrySendError::Full((entry, _)) | TrySendError::Disconnected((entry, _))) => Some(entry),
            },
        };
        if let Some(entry) = unwritten {
            self.file.give_up(&entry, "too many lines wait for the disk");
        }
        written
    }

    /// Reads a page of lines, newest first; `before` is the cursor of the page before. Blocks.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn page(&self, filter: &AuditFilter, before: Option<u64>, limit: usize) -> anyhow::Result<AuditPage> {
        self.file.page(filter, before, limit)
    }

    /// Verifies all lines with the keys in the data directory, up to the line that `audit-head.json` names. Blocks; appending
    /// waits for a page of lines at most.
    ///
    /// # Errors
    /// The file or a key cannot be read.
    pub fn verify(&self) -> anyhow::Result<Result<Verified, Breach>> {
        self.file.verify()
    }
}

impl AuditFile {
    fn record(&self, entry: &AuditEntry) {
        if let Err(fault) = self.append(entry) {
            self.give_up(entry, &format!("{fault:#}"));
        }
    }

    fn give_up(&self, entry: &AuditEntry, fault: &str) {
        let line = to_text(entry).unwrap_or_default();
        tracing::error!(fault, line, "a line of the audit log cannot be written");
        self.metrics.dropped(Item::Audit, 1);
    }

    /// Appends a line. Returns after it is on disk.
    fn append(&self, entry: &AuditEntry) -> anyhow::Result<()> {
        let mut signer = self.signer.lock();
        let signer = match &mut *signer {
            Some(signer) => signer,
            none => none.insert(Signer::load_or_create(&self.folder)?),
        };
        let text = to_text(entry)?;
        let tip = self.state.with(|connection| {
            connection.execute_batch(TABLE)?;
            // Holds the write lock: during an upgrade two processes append.
            let rows = rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            let before = self.last(&rows)?;
            // The entry is a struct, so its text is an object and has a link.
            let (body, tip) = before.link(&text).ok_or(rusqlite::Error::InvalidQuery)?;
            let seq = i64::try_from(tip.seq).unwrap_or(i64::MAX);
            rows.execute(
                "INSERT INTO audit (seq, at_ms, operator, action, hash, body, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    seq,
                    entry.at.as_millisecond(),
                    entry.operator.id,
                    entry.action,
                    tip.hash,
                    body,
                    seal(signer, &tip)
                ],
            )?;
            rows.commit()?;
            Ok(tip)
        })?;
        key_file::replace(&self.folder, AUDIT_HEAD, &serde_json::to_vec(&tip)?)?;
        Ok(())
    }

    /// Returns the end of the chain. Where the head file names a line that is not there, the chain goes on from that line,
    /// so that its verification reports the gap.
    fn last(&self, rows: &Connection) -> rusqlite::Result<Tip> {
        let tip = |row: &rusqlite::Row<'_>| {
            let seq: i64 = row.get(0)?;
            Ok(Tip { seq: u64::try_from(seq).unwrap_or_default(), hash: row.get(1)? })
        };
        let found = rows
            .query_row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", [], tip)
            .optional()?
            .unwrap_or_default();
        match self.read_head() {
            Some(head) if head.seq > found.seq => {
                let (expected, found) = (head.seq, found.seq);
                tracing::error!(
                    expected,
                    found,
                    "the audit log ends too early: lines were removed from state.db"
                );
                Ok(head)
            }
            _ => Ok(found),
        }
    }

    fn read_head(&self) -> Option<Tip> {
        serde_json::from_slice(&std::fs::read(self.folder.join(AUDIT_HEAD)).ok()?).ok()
    }

    /// Reads a page, a part of the log at a time.
    fn page(&self, filter: &AuditFilter, before: Option<u64>, limit: usize) -> anyhow::Result<AuditPage> {
        if !self.state.exists() {
            return Ok(AuditPage { lines: Vec::new(), next_cursor: None });
        }
        let newest: Option<i64> = self.state.with(|connection| {
            connection.execute_batch(TABLE)?;
            connection.query_row("SELECT max(seq) FROM audit", [], |row| row.get(0))
        })?;
        let newest = newest.map_or(0, |newest| newest.saturating_add(1));
        let mut end = before.and_then(|seq| i64::try_from(seq).ok()).map_or(newest, |seq| seq.min(newest));
        let mut found = Vec::new();
        while end > 0 && found.len() <= limit {
            let begin = end.saturating_sub(PART).max(0);
            found.append(&mut self.part(filter, begin..end, limit + 1 - found.len())?);
            end = begin;
        }
        let (found, next_cursor) = one_page(found, limit);
        let lines = found.iter().map(|(body, seal)| sealed(body, seal));
        Ok(AuditPage { lines: lines.collect::<serde_json::Result<_>>()?, next_cursor })
    }

    /// Reads at most `limit` lines with these numbers, newest first.
    fn part(
        &self,
        filter: &AuditFilter,
        numbers: Range<i64>,
        limit: usize,
    ) -> anyhow::Result<Vec<(i64, (String, String))>> {
        let AuditFilter { from, to, operator, action } = filter;
        let bound = |at: &Option<Timestamp>, open: i64| at.map_or(open, |at| at.as_millisecond());
        self.state.with(|connection| {
            let mut rows = connection.prepare_cached(
                "SELECT seq, body, seal FROM audit WHERE seq >= ?1 AND seq < ?2 AND at_ms >= ?3 AND at_ms < ?4
                    AND (?5 IS NULL OR operator = ?5) AND (?6 IS NULL OR action = ?6) ORDER BY seq DESC LIMIT ?7",
            )?;
            let values = params![
                numbers.start,
                numbers.end,
                bound(from, i64::MIN),
                bound(to, i64::MAX),
                operator,
                action,
                i64::try_from(limit).unwrap_or(i64::MAX)
            ];
            rows.query_map(values, |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?.collect()
        })
    }

    /// Verifies all lines, a part of the log at a time.
    fn verify(&self) -> anyhow::Result<Result<Verified, Breach>> {
        let mut keys = vec![Signer::load_or_create(&self.folder)?.public_key()];
        keys.extend(Signer::former(&self.folder)?.map(|former| former.public_key()));
        // Read first: lines that are appended meanwhile come after it.
        let mut verifier = Verifier::new(keys, self.read_head());
        if !self.state.exists() {
            return Ok(verifier.finish());
        }
        let mut last = 0;
        loop {
            let found: Vec<(i64, String, String)> = self.state.with(|connection| {
                connection.execute_batch(TABLE)?;
                let sql = "SELECT seq, body, seal FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2";
                let mut rows = connection.prepare(sql)?;
                rows.query_map([last, VERIFIED_AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                    .collect()
            })?;
            for (_, body, seal) in &found {
                if let Err(breach) = verifier.add(sealed(body, seal)?.get()) {
                    return Ok(Err(breach));
                }
            }
            match found.last() {
                Some((seq, ..)) => last = *seq,
                None => break,
            }
        }
        Ok(verifier.finish_whole())
    }
}

/// Returns a line with its seal as the last member.
fn sealed(body: &str, seal: &str) -> serde_json::Result<Box<RawValue>> {
    let open = body.strip_suffix('}').unwrap_or(body);
    RawValue::from_string(format!("{open},\"seal\":\"{seal}\"}}"))
}

#[cfg(test)]
mod tests {
    use super::super::line::{OperatorLine, SCHEMA};
    use super::super::verify;
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn entry(action: &str, operator: &str) -> AuditEntry {
        AuditEntry {
            schema: SCHEMA.into(),
            at: Timestamp::UNIX_EPOCH,
            operator: OperatorLine { id: operator.into(), roles: Vec::new(), address: None },
            action: action.into(),
            target: "/control/x".into(),
            status: 200,
            code: None,
            request_id: None,
            reason: Some("\"quoted\"\n}".into()),
            before: None,
            after: None,
        }
    }

    fn open(folder: &Path) -> AuditLog {
        AuditLog::new(Arc::new(State::new(folder)), folder, Metrics::new().unwrap().history())
    }

    fn lines(log: &AuditLog) -> Vec<String> {
        let page = log.page(&AuditFilter::default(), None, 100).unwrap();
        page.lines.iter().rev().map(|line| line.get().to_owned()).collect()
    }

    fn verify(lines: &[String], folder: &Path) -> Result<Verified, Breach> {
        let keys = vec![Signer::load_or_create(folder).unwrap().public_key()];
        verify::verify(lines.iter().map(String::as_str), keys, None)
    }

    #[test]
    fn lines_are_chained_over_a_restart_and_are_found_by_operator_and_action() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path());
        assert!(log.page(&AuditFilter::default(), None, 10).unwrap().lines.is_empty());
        log.file.append(&entry("killSession", "token")).unwrap();
        drop(log);
        let log = open(folder.path());
        log.file.append(&entry("createKey", "key:ada")).unwrap();
        log.file.append(&entry("killSession", "key:ada")).unwrap();
        let all = lines(&log);
        assert_eq!(verify(&all, folder.path()).unwrap().to, 3);
        assert_eq!(log.verify().unwrap().unwrap().to, 3);
        let filter = AuditFilter {
            operator: Some("key:ada".into()),
            action: Some("killSession".into()),
            ..AuditFilter::default()
        };
        let page = log.page(&filter, None, 10).unwrap();
        assert_eq!((page.lines.len(), page.next_cursor), (1, None));
        let first = log.page(&AuditFilter::default(), None, 2).unwrap();
        assert_eq!((first.lines.len(), first.next_cursor.as_deref()), (2, Some("2")));
        assert_eq!(log.page(&AuditFilter::default(), Some(2), 2).unwrap().lines.len(), 1);
    }

    #[test]
    fn a_change_a_gap_and_a_cut_end_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path());
        for action in ["a", "b", "c"] {
            log.file.append(&entry(action, "token")).unwrap();
        }
        let all = lines(&log);
        let fault = |lines: &[String]| verify(lines, folder.path()).unwrap_err().to_string();
        let changed: Vec<String> =
            all.iter().map(|line| line.replace("\"action\":\"b\"", "\"action\":\"x\"")).collect();
        assert_eq!(fault(&changed), "line 2 is not the one that was written");
        assert_eq!(fault(&[all[0].clone(), all[2].clone()]), "after line 1 comes line 3: lines are missing");
        let other = verify::verify(all.iter().map(String::as_str), vec!["00".repeat(32)], None);
        let other = other.unwrap_err().to_string();
        assert_eq!(other, "line 1 was not sealed with a known key");
        let own = || log.verify().unwrap().unwrap_err().to_string();
        log.file.state.with(|connection| connection.execute("DELETE FROM audit WHERE seq > 1", [])).unwrap();
        assert_eq!(own(), "line 3, which the head names, is missing");
        log.file.append(&entry("d", "token")).unwrap();
        assert_eq!(fault(&lines(&log)), "after line 1 comes line 4: lines are missing");
        assert_eq!(own(), "after line 1 comes line 4: lines are missing");
        log.file.state.with(|connection| connection.execute("DELETE FROM audit WHERE seq = 1", [])).unwrap();
        assert_eq!(own(), "the first line is 4: lines are missing");
        let other = tempfile::tempdir().unwrap();
        let log = open(other.path());
        log.file.append(&entry("a", "token")).unwrap();
        std::fs::remove_file(other.path().join(AUDIT_HEAD)).unwrap();
        let headless = log.verify().unwrap().unwrap_err().to_string();
        assert_eq!(headless, "there are lines, but no audit-head.json that names the last one");
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_holds_up_nobody_and_lines_are_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path());
        log.record(&entry("first", "token"));
        let (begin, begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let state = Arc::clone(&log.file.state);
        let disk = std::thread::spawn(move || {
            state.with(|_| {
                begin.send(()).unwrap();
                let _ = ended.recv();
                Ok(())
            })
        });
        begun.recv().unwrap();
        let mut written: Vec<_> = (0..10).map(|_| log.submit(entry("later", "token"))).collect();
        assert!(written.iter_mut().all(|line| line.try_recv().is_err()));
        drop(end);
        disk.join().unwrap().unwrap();
        for line in written {
            line.await.unwrap();
        }
        assert_eq!(lines(&log).len(), 11);
    }

    #[test]
    fn a_search_through_very_many_lines_lets_others_use_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path());
        log.record(&entry("killSession", "key:ada"));
        let many = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
            INSERT INTO audit SELECT i, 0, 'token', 'createKey', '', '{\"at\":0}', '' FROM n";
        log.file.state.with(|connection| connection.execute(many, [])).unwrap();
        let filter = AuditFilter { operator: Some("key:ada".into()), ..AuditFilter::default() };
        let page = log.page(&filter, None, 10).unwrap();
        assert_eq!((page.lines.len(), page.next_cursor), (1, None), "across parts");
        let all = log.page(&AuditFilter::default(), Some(5000), 4999).unwrap();
        assert_eq!((all.lines.len(), all.next_cursor), (4999, None));
        let part = log.file.part(&AuditFilter::default(), 1..20_001, 3).unwrap();
        assert_eq!(part.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [20_000, 19_999, 19_998]);
    }

    #[test]
    fn two_processes_append_to_one_chain() {
        let folder = tempfile::tempdir().unwrap();
        // The key is made once, not by both.
        Signer::load_or_create(folder.path()).unwrap();
        std::thread::scope(|scope| {
            for operator in ["one", "two"] {
                let log = open(folder.path());
                scope.spawn(move || (0..20).for_each(|_| log.file.append(&entry("a", operator)).unwrap()));
            }
        });
        assert_eq!(open(folder.path()).verify().unwrap().unwrap().to, 40);
    }
}
