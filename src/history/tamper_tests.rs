//! Tampering with the history by SQL, or with its file: the gateway signs none of it, and signs again what follows once an
//! operator has accepted it.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use serde_json::Value;

use super::archive::Archive;
use super::proof::accept::accept;
use super::proof::hash_chain::{LINK, Tip, canonical};
use super::proof::head_file::{HeadFile, SignedState};
use super::proof::signature::{Head, Signer};
use super::proof::verify::{Report, Requirements, TrustedHead, VerifyError, verify};
use super::read::export::Format;
use super::read::time_range::TimeRange;
use super::settings::{HistoryConfig, Settings};
use super::tests::{checked, exported, open, sessions};
use crate::settings::fault::Faults;
use crate::settings::private;
use crate::settings::units::DurationText;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

const HEAD_FILE: &str = "cdr-head-history.db.json";

pub(super) fn database(folder: &Path) -> Connection {
    let file = Connection::open(folder.join("history.db")).unwrap();
    file.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    file
}

/// Rewrites the chain after `tip`, with each record changed by `change`. Returns the new tip.
pub(super) fn relink(file: &Connection, mut tip: Tip, change: impl Fn(u64, &mut Value)) -> Tip {
    let mut find = file.prepare("SELECT seq, body FROM records WHERE seq > ?1 ORDER BY seq").unwrap();
    let rows = find
        .query_map([tip.seq.cast_signed()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .unwrap()
        .collect::<rusqlite::Result<Vec<_>>>()
        .unwrap();
    for (seq, body) in rows {
        let mut record: Value = serde_json::from_str(&body).unwrap();
        record.as_object_mut().unwrap().remove(LINK);
        change(seq.unsigned_abs(), &mut record);
        let ended: Timestamp = record["ended_at"].as_str().unwrap().parse().unwrap();
        let (body, next) = tip.link(std::str::from_utf8(&canonical(&record)).unwrap()).unwrap();
        let update = "UPDATE records SET seq = ?2, prev = ?3, hash = ?4, body = ?5, ended_ms = ?6, principal = ?7 \
             WHERE seq = ?1";
        let principal = record["principal"].as_str().unwrap();
        let values = params![
            seq,
            next.seq.cast_signed(),
            tip.hash,
            next.hash,
            body,
            ended.as_millisecond(),
            principal
        ];
        file.execute(update, values).unwrap();
        tip = next;
    }
    tip
}

/// Changes the end time of the records up to `last`, and signs the result as if they had been written like that.
pub(super) fn age(folder: &Path, last: u64, ended_ms: i64) {
    let head_file = HeadFile::new(folder, &folder.join("history.db"));
    let kept = head_file.load().unwrap().unwrap();
    let file = database(folder);
    file.execute_batch("DELETE FROM heads").unwrap();
    let ended = Timestamp::from_millisecond(ended_ms).unwrap().to_string();
    let tip = relink(&file, kept.base(), |seq, record| {
        if seq <= last {
            record["ended_at"] = ended.clone().into();
        }
    });
    let head = Signer::load(folder).unwrap().sign_head(&tip, Timestamp::now());
    head_file.store(&SignedState { serial: kept.serial + 1, head: Some(head), ..kept }).unwrap();
}

/// An archive with its metrics and readiness.
pub(super) struct Watched {
    pub(super) archive: Arc<Archive>,
    pub(super) readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
}

impl Watched {
    pub(super) fn open(folder: &Path) -> Self {
        Self::with(folder, HistoryConfig::default())
    }

    fn with(folder: &Path, written: HistoryConfig) -> Self {
        let settings: Settings = written.compile(&mut Faults::default()).unwrap();
        let (readiness, metrics) = (Arc::<Readiness>::default(), Metrics::new().unwrap());
        let file = folder.join("history.db");
        let archive =
            Archive::open(&file, folder, settings, metrics.history(), Arc::clone(&readiness)).unwrap();
        Self { archive, readiness, metrics }
    }

    fn is_intact(&self) -> bool {
        let text = self.metrics.encode();
        text.lines().any(|line| line == "elida_history_intact 1")
    }

    fn export(&self) -> Result<Report, VerifyError> {
        checked(&exported(&self.archive))
    }

    /// Asserts that the export is not signed, and that the breach is reported.
    pub(super) fn refuses(&self, what: &str) {
        let fault = self.export().unwrap_err().to_string();
        assert!(!self.is_intact() && self.readiness.warning().is_some(), "{what}: {fault}");
        assert!(self.readiness.warning().unwrap().contains("elida cdr accept"), "{what}");
    }

    pub(super) fn serves(&self) -> Report {
        let report = self.export().unwrap();
        assert!(self.is_intact() && self.readiness.warning().is_none(), "{report:?}");
        report
    }
}

/// A folder with a closed history of twelve records and heads at 4, 8 and 12.
pub(super) async fn twelve() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    for part in 0..3 {
        sessions(&archive, part * 4..part * 4 + 4).await;
        assert!(archive.sign());
    }
    archive.close();
    folder
}

/// All files of a closed history.
pub(super) fn copy(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

const COLUMNS: [&str; 17] = [
    "seq",
    "uid",
    "session_id",
    "state",
    "kind",
    "principal",
    "client",
    "backend",
    "started_ms",
    "ended_ms",
    "requests",
    "errors",
    "bytes_in",
    "bytes_out",
    "prev",
    "hash",
    "body",
];

#[derive(Clone, Debug)]
enum Tampering {
    /// Changes one column of one record.
    Column(i64, &'static str, usize),
    Removal(i64),
    Swap(i64, i64),
    /// Removes one record, changes another, and rebuilds the chain and the heads: everything possible without the key.
    Rebuilt(i64, u64),
    /// Removes the oldest records, up to a stored head.
    Front(i64),
    /// Removes the newest records, back to a stored head.
    Back(i64),
    /// Appends a record that does not follow from the one before it.
    Added,
    /// Adds a record at this number, renumbers the following ones, and rebuilds the links from there on.
    Inserted(i64),
}

fn tampering() -> impl Strategy<Value = Tampering> {
    let seq = || 1_i64..=12;
    prop_oneof![
        8 => (seq(), proptest::sample::select(&COLUMNS[..]), 0_usize..1000)
            .prop_map(|(seq, column, salt)| Tampering::Column(seq, column, salt)),
        1 => seq().prop_map(Tampering::Removal),
        1 => (seq(), 1_i64..12).prop_map(|(one, by)| Tampering::Swap(one, (one + by - 1) % 12 + 1)),
        2 => (seq(), 1_u64..=11).prop_map(|(gone, changed)| Tampering::Rebuilt(gone, changed)),
        1 => proptest::sample::select(vec![1_i64, 4, 8]).prop_map(Tampering::Front),
        1 => proptest::sample::select(vec![4_i64, 8, 11]).prop_map(Tampering::Back),
        1 => Just(Tampering::Added),
        2 => (1_i64..=13).prop_map(Tampering::Inserted),
    ]
}

fn tamper(file: &Connection, how: &Tampering) {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| file.execute(sql, values).unwrap();
    match how {
        Tampering::Column(seq, column, salt) => change(file, *seq, column, *salt),
        Tampering::Removal(seq) => drop(run("DELETE FROM records WHERE seq = ?1", &[seq])),
        Tampering::Swap(one, other) => {
            for (from, to) in [(*one, -1), (*other, *one), (-1, *other)] {
                run("UPDATE records SET seq = ?2 WHERE seq = ?1", &[&from, &to]);
            }
        }
        Tampering::Rebuilt(gone, changed) => {
            run("DELETE FROM records WHERE seq = ?1", &[gone]);
            run("DELETE FROM heads", &[]);
            relink(file, Tip::default(), |seq, record| {
                if seq == *changed {
                    record["principal"] = "another".into();
                }
            });
        }
        Tampering::Front(last) => drop(run("DELETE FROM records WHERE seq <= ?1", &[last])),
        Tampering::Back(last) => {
            run("DELETE FROM records WHERE seq > ?1", &[last]);
            run("DELETE FROM heads WHERE seq > ?1", &[last]);
        }
        Tampering::Added => {
            run(
                "INSERT INTO records SELECT 13, 's_added', session_id, state, kind, principal, client, backend, \
                 started_ms, ended_ms, requests, errors, bytes_in, bytes_out, prev, hash, body, seal FROM records WHERE seq = 12",
                &[],
            );
        }
        Tampering::Inserted(seq) => insert(file, *seq),
    }
}

/// Adds a copy of record 2, or of record 1 if `seq` is 2, as record `seq`, and links it and the following ones. A running
/// gateway sees all of it at once.
pub(super) fn insert(file: &Connection, seq: i64) {
    let whole = Transaction::new_unchecked(file, TransactionBehavior::Immediate).unwrap();
    let before = file.query_row("SELECT hash FROM records WHERE seq = ?1", [seq - 1], |row| row.get(0));
    let tip = Tip { seq: (seq - 1).unsigned_abs(), hash: before.unwrap_or_else(|_| Tip::default().hash) };
    file.execute("UPDATE records SET seq = -seq - 1 WHERE seq >= ?1", [seq]).unwrap();
    file.execute("UPDATE records SET seq = -seq WHERE seq < 0", []).unwrap();
    let copied = "INSERT INTO records SELECT ?1, 's_added' || ?1, session_id, state, kind, principal, client, backend, \
         started_ms, ended_ms, requests, errors, bytes_in, bytes_out, prev, hash, \
         json_set(body, '$.uid', 's_added' || ?1), seal FROM records WHERE seq = CASE WHEN ?1 = 2 THEN 1 ELSE 2 END";
    assert_eq!(file.execute(copied, [seq]).unwrap(), 1);
    relink(file, tip, |_, _| {});
    whole.commit().unwrap();
}

/// Changes the value of one column of one record.
fn change(file: &Connection, seq: i64, column: &str, salt: usize) {
    let read = format!("SELECT {column} FROM records WHERE seq = ?1");
    let found: rusqlite::types::Value = file.query_row(&read, [seq], |row| row.get(0)).unwrap();
    let changed: rusqlite::types::Value = match found {
        rusqlite::types::Value::Null => "x".to_owned().into(),
        // Far enough that a changed record number does not collide with another one.
        rusqlite::types::Value::Integer(number) => (number + 20 + i64::try_from(salt).unwrap()).into(),
        rusqlite::types::Value::Text(text) => {
            let mut bytes = text.into_bytes();
            let at = salt * 7 % bytes.len();
            bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
            String::from_utf8(bytes).unwrap().into()
        }
        other => panic!("{other:?}"),
    };
    let write = format!("UPDATE records SET {column} = ?2 WHERE seq = ?1");
    file.execute(&write, params![seq, changed]).unwrap();
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn every_column_of_a_record_is_held_against_it() {
    let original = block(twelve());
    for (index, column) in COLUMNS.into_iter().enumerate() {
        let folder = copy(original.path());
        let seq = 1 + i64::try_from(index % 12).unwrap();
        change(&database(folder.path()), seq, column, 3 * index);
        let watched = Watched::open(folder.path());
        watched.refuses(column);
        // Further records are written and exported, but none of it is signed.
        block(sessions(&watched.archive, 50..52));
        watched.refuses(column);
        watched.archive.close();
    }
    let watched = Watched::open(original.path());
    assert_eq!(watched.serves().records, 12);
}

#[test]
fn whatever_is_done_with_sql_is_not_signed() {
    let original = block(twelve());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    });
    let cases = (tampering(), any::<bool>(), any::<bool>());
    runner
        .run(&cases, |(how, is_running, is_more)| {
            let folder = copy(original.path());
            let before = is_running.then(|| Watched::open(folder.path()));
            tamper(&database(folder.path()), &how);
            let watched = before.unwrap_or_else(|| Watched::open(folder.path()));
            if is_more {
                block(sessions(&watched.archive, 50..53));
            }
            watched.refuses(&format!("{how:?}"));
            watched.archive.close();
            // Not after a restart either.
            let again = Watched::open(folder.path());
            again.refuses(&format!("{how:?} after a restart"));
            again.archive.close();
            Ok(())
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_before_the_first_head_is_found_while_running() {
    let folder = tempfile::tempdir().unwrap();
    let watched = Watched::open(folder.path());
    sessions(&watched.archive, 0..5).await;
    assert!(watched.archive.flush(std::time::Duration::from_secs(10)).await);
    let file = database(folder.path());
    file.execute("DELETE FROM records WHERE seq = 2", []).unwrap();
    relink(&file, Tip::default(), |_, _| {});
    watched.refuses("a rebuilt tail");
    sessions(&watched.archive, 5..8).await;
    watched.archive.close();
    Watched::open(folder.path()).refuses("after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_put_back_is_signed_again() {
    let original = twelve().await;
    let folder = copy(original.path());
    let watched = Watched::open(folder.path());
    let file = database(folder.path());
    for seq in [3, 12] {
        let body = "SELECT body FROM records WHERE seq = ?1";
        let body: String = file.query_row(body, [seq], |row| row.get(0)).unwrap();
        for (there, back) in [
            ("body = replace(body, '\"request_count\":1', '\"request_count\":2')", "body = ?2"),
            ("requests = requests + 1", "requests = requests - 1"),
        ] {
            let set = |what| format!("UPDATE records SET {what} WHERE seq = ?1");
            assert_eq!(file.execute(&set(there), [seq]).unwrap(), 1);
            watched.refuses(there);
            let values: &[&dyn rusqlite::ToSql] = if back.contains("?2") { &[&seq, &body] } else { &[&seq] };
            file.execute(&set(back), values).unwrap();
            watched.serves();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_deleted_or_replaced_while_running_is_told_and_used() {
    for is_replaced in [false, true] {
        let original = twelve().await;
        let folder = copy(original.path());
        let watched = Watched::open(folder.path());
        sessions(&watched.archive, 12..20).await;
        assert_eq!(watched.serves().records, 20);
        for name in ["history.db", "history.db-wal", "history.db-shm"] {
            let _ = fs::remove_file(folder.path().join(name));
        }
        if is_replaced {
            fs::copy(original.path().join("history.db"), folder.path().join("history.db")).unwrap();
        }
        sessions(&watched.archive, 20..22).await;
        watched.refuses("another file");
        if !is_replaced {
            let made = folder.path().join("history.db");
            assert!(!private::is_wide(&made), "the file that was made again is for its owner only");
        }
        watched.archive.close();
        let again = Watched::open(folder.path());
        again.refuses("after a restart");
        // Numbers continue, even in an empty file.
        let first = if is_replaced { 13 } else { 21 };
        let seqs: (i64, i64) = database(folder.path())
            .query_row("SELECT min(seq), max(seq) FROM records", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(seqs, (if is_replaced { 1 } else { first }, first + 1));

        let file = folder.path().join("history.db");
        accept(&file, folder.path(), Some("restored")).unwrap();
        sessions(&again.archive, 22..24).await;
        let report = again.serves();
        assert_eq!(report.accepted.len(), 1, "{report:?}");
        assert_eq!(report.last, u64::try_from(first).unwrap() + 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_accepts_is_told_by_each_export() {
    let folder = twelve().await;
    let file = folder.path().join("history.db");
    let fault = accept(&file, folder.path(), None).unwrap_err().to_string();
    assert!(fault.contains("nothing to accept"), "{fault}");
    tamper(&database(folder.path()), &Tampering::Rebuilt(5, 7));
    let watched = Watched::open(folder.path());
    watched.refuses("rebuilt");
    let looked = accept(&file, folder.path(), None).unwrap();
    assert!(looked.what.contains("record 12") && looked.seq == 11, "{looked:?}");
    watched.refuses("a look accepts nothing");
    assert_eq!(accept(&file, folder.path(), Some("a disk was restored")).unwrap(), looked);
    // The running gateway picks up the acceptance, and signs what follows.
    sessions(&watched.archive, 12..15).await;
    let report = watched.serves();
    assert_eq!((report.records, report.last, report.accepted.len()), (14, 14, 1), "{report:?}");
    assert_eq!((report.accepted[0].seq, &*report.accepted[0].reason), (11, "a disk was restored"));
    watched.archive.close();
    let again = Watched::open(folder.path());
    assert_eq!(again.serves().accepted, report.accepted);
    // Later records are protected as before.
    database(folder.path()).execute("DELETE FROM records WHERE seq = 13", []).unwrap();
    again.refuses("changed again");
    again.archive.close();

    // The line with the acceptance cannot be removed.
    let text = {
        accept(&file, folder.path(), Some("again")).unwrap();
        let watched = Watched::open(folder.path());
        sessions(&watched.archive, 15..16).await;
        exported(&watched.archive)
    };
    assert_eq!(checked(&text).unwrap().accepted.len(), 2);
    let without: String = text
        .lines()
        .filter(|line| !line.contains("\"kind\":\"accepted\""))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(checked(&without).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_file_is_private_and_its_loss_is_no_way_around() {
    let folder = twelve().await;
    let head_file = folder.path().join(HEAD_FILE);
    assert_eq!(fs::metadata(&head_file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = fs::read(&head_file).unwrap();
    for junk in [None, Some("junk")] {
        match junk {
            None => fs::remove_file(&head_file).unwrap(),
            Some(junk) => fs::write(&head_file, junk).unwrap(),
        }
        let watched = Watched::open(folder.path());
        watched.refuses("no head file");
        watched.refuses("still none");
        watched.archive.close();
        Watched::open(folder.path()).refuses("after a restart");
    }
    fs::write(&head_file, kept).unwrap();
    let watched = Watched::open(folder.path());
    watched.serves();
    // While it runs, the gateway remembers the last record itself.
    fs::remove_file(&head_file).unwrap();
    sessions(&watched.archive, 12..13).await;
    watched.serves();
    watched.archive.close();
    assert_eq!(Watched::open(folder.path()).serves().records, 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_is_told_from_what_was_removed() {
    let folder = twelve().await;
    let old = Timestamp::now().as_millisecond() - 40 * 24 * 3_600_000;
    age(folder.path(), 6, old);
    let watched = Watched::open(folder.path());
    let report = watched.serves();
    assert_eq!((report.first, report.records), (7, 6), "{report:?}");
    // Another process that runs beside it knows, too.
    let other = Watched::with(
        folder.path(),
        HistoryConfig {
            retention: DurationText(std::time::Duration::from_millis(1)),
            ..HistoryConfig::default()
        },
    );
    other.serves();
    sessions(&watched.archive, 12..14).await;
    watched.serves();
    database(folder.path()).execute("DELETE FROM records WHERE seq <= 13", []).unwrap();
    watched.refuses("removed");
    other.refuses("removed");

    // A record that was changed to look old is not deleted: the gateway does not sign for that.
    let folder = twelve().await;
    database(folder.path()).execute("UPDATE records SET ended_ms = ?1 WHERE seq <= 2", [old]).unwrap();
    let watched = Watched::open(folder.path());
    watched.refuses("made old");
    let count = |sql| database(folder.path()).query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM records"), 12);
}

fn demand(keys: &[&str]) -> Requirements {
    Requirements { keys: keys.iter().map(|key| (*key).to_owned()).collect(), ..Requirements::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_spans_a_change_of_the_key() {
    for is_announced in [true, false] {
        let folder = twelve().await;
        let key = folder.path().join("cdr-key.p8");
        let old = fs::read_to_string(folder.path().join("cdr-key.pub")).unwrap().trim().to_owned();
        if is_announced {
            fs::rename(&key, folder.path().join("cdr-key.old.p8")).unwrap();
        } else {
            fs::remove_file(&key).unwrap();
        }
        let watched = Watched::open(folder.path());
        sessions(&watched.archive, 12..15).await;
        let new = fs::read_to_string(folder.path().join("cdr-key.pub")).unwrap().trim().to_owned();
        watched.serves();
        watched.archive.close();
        let again = Watched::open(folder.path());
        let text = exported(&again.archive);
        let under = |keys: &[&str]| verify(Cursor::new(&text), &demand(keys));
        let report = under(&[&old, &new]).unwrap();
        assert_eq!((report.records, &report.keys), (15, &vec![old.clone(), new.clone()]));
        assert!(under(&[&new]).is_ok(), "the new key has signed over all before it");
        assert!(under(&[]).is_ok(), "held against itself");
        assert_eq!(under(&[&old]).is_ok(), is_announced, "only what the old key announces");
        if let Err(fault) = under(&[&old]) {
            assert!(fault.to_string().contains(&new) && fault.to_string().contains("--key"), "{fault}");
        }
        assert!(under(&[&"0".repeat(64)]).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_cut_off_says_how_far_it_is_signed() {
    let folder = twelve().await;
    let watched = Watched::open(folder.path());
    let text = exported(&watched.archive);
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.contains("cdr-head/1\",\"seq\":8,")).unwrap();
    let cut: String = lines[..=at].iter().map(|line| format!("{line}\n")).collect();
    let head: Head = serde_json::from_str(lines[at]).unwrap();
    let fault = checked(&cut).unwrap_err().to_string();
    assert!(fault.contains("cut off") && fault.contains("--until"), "{fault}");

    let until = |text: &str, until| {
        verify(Cursor::new(text), &Requirements { until: Some(until), ..Requirements::default() })
    };
    let report = until(&cut, head.at).unwrap();
    assert_eq!((report.last, report.signed_at), (8, head.at));
    let fault = until(&cut, Timestamp::now()).unwrap_err().to_string();
    assert!(fault.contains(&head.at.to_string()), "{fault}");
    let whole = checked(&text).unwrap();
    assert!(whole.signed_at > head.at && until(&text, whole.signed_at).is_ok());
    assert!(until(&text, Timestamp::MAX).is_err());

    // An earlier export, a line of it, or the gateway's head file: the export must contain the record.
    let led = |text: &str, head: &str| {
        let head = Some(TrustedHead::read(head).expect("a head"));
        verify(Cursor::new(text), &Requirements { head, ..Requirements::default() })
    };
    let own = fs::read_to_string(folder.path().join(HEAD_FILE)).unwrap();
    for head in [&text, lines[at], &own, &cut] {
        assert!(led(&text, head).is_ok(), "{head}");
    }
    assert!(led(&cut, lines[at]).is_ok());
    for head in [&text, &own] {
        let fault = led(&cut, head).unwrap_err().to_string();
        assert!(fault.contains("record 8") && fault.contains("record 12"), "{fault}");
    }
    assert_eq!(TrustedHead::read("junk"), None);
    assert_eq!(TrustedHead::read(&lines[at].replacen("\"seq\":8", "\"seq\":9", 1)), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_begin_and_end_at_signed_heads_and_an_empty_one_verifies() {
    let folder = twelve().await;
    let watched = Watched::open(folder.path());
    let ended = |seq: i64| {
        let sql = "SELECT ended_ms FROM records WHERE seq = ?1";
        let ms = database(folder.path()).query_row(sql, [seq], |row| row.get(0)).unwrap();
        Timestamp::from_millisecond(ms).unwrap()
    };
    let export = |window| {
        let mut text = Vec::new();
        let mut export = watched.archive.reader().unwrap().export(Format::Ndjson, window).unwrap();
        while export.next_page(&mut text).unwrap() {}
        String::from_utf8(text).unwrap()
    };
    let report = checked(&export(TimeRange { from: Some(ended(5)), to: None })).unwrap();
    assert_eq!((report.last, report.from), (12, Some(ended(5))));
    assert!(report.first == 5 || report.first == 1, "{report:?}");
    let future = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let report = checked(&export(TimeRange { from: Some(future), to: None })).unwrap();
    assert_eq!((report.records, report.first, report.last), (0, 0, 0));
    let report = checked(&export(TimeRange { from: None, to: Some(Timestamp::UNIX_EPOCH) })).unwrap();
    assert_eq!((report.records, report.signed_at), (0, Timestamp::UNIX_EPOCH));
    // An export that was truncated to nothing is not an empty export.
    assert!(checked("").is_err());

    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Watched::open(folder.path()).serves().records, 0);
}

/// The history of an older version, with its key.
fn older(with_key: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    database(folder.path()).execute_batch(include_str!("../../tests/older/history.sql")).unwrap();
    if with_key {
        fs::write(folder.path().join("cdr-key.p8"), include_bytes!("../../tests/older/cdr-key.p8")).unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_an_older_version_goes_on_and_verifies() {
    let key = include_str!("../../tests/older/cdr-key.pub").trim();
    for with_key in [true, false] {
        let folder = older(with_key);
        let watched = Watched::open(folder.path());
        assert_eq!(watched.serves().records, 3);
        sessions(&watched.archive, 0..3).await;
        let text = exported(&watched.archive);
        let report = verify(Cursor::new(&text), &demand(&[key, &watched.serves().key])).unwrap();
        assert_eq!((report.records, report.first, report.last), (6, 1, 6));
        for schema in ["elida.cdr/1", "elida.cdr/3"] {
            assert_eq!(text.matches(&format!("\"{schema}\"")).count(), 3, "{text}");
        }
        watched.archive.close();
        Watched::open(folder.path()).serves();
    }
    let folder = older(true);
    tamper(&database(folder.path()), &Tampering::Removal(2));
    Watched::open(folder.path()).refuses("an older file that was changed");

    let export = include_str!("../../tests/older/records.ndjson");
    let until: Timestamp = "2026-11-29T17:55:00Z".parse().unwrap();
    let told = verify(Cursor::new(export), &Requirements { until: Some(until), ..demand(&[key]) }).unwrap();
    assert_eq!((told.records, told.key.as_str()), (3, key));
    let fault = verify(Cursor::new(export), &demand(&[key])).unwrap_err().to_string();
    assert!(fault.contains("an older gateway wrote it"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_not_utf8_is_told_and_stops_nothing() {
    for change in ["client = CAST(x'ff' AS TEXT)", "body = CAST(x'ff' AS TEXT)"] {
        let folder = twelve().await;
        let changed =
            database(folder.path()).execute(&format!("UPDATE records SET {change} WHERE seq = 3"), []);
        assert_eq!(changed.unwrap(), 1, "{change}");
        let watched = Watched::open(folder.path());
        watched.refuses(change);
        sessions(&watched.archive, 12..14).await;
        watched.archive.close();
        let count: i64 =
            database(folder.path()).query_row("SELECT count(*) FROM records", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 14, "{change}");
    }
}
