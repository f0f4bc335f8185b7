//! The history as its users see it: events are found, exports verify, and entries expire.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Connection;

use super::archive::Archive;
use super::proof::verify::{Report, Requirements, VerifyError, verify};
use super::read::export::Format;
use super::read::filter::{GroupBy, Interval, RecordFilter};
use super::read::sums::MAX_POINTS;
use super::read::time_range::TimeRange;
use super::settings::{HistoryConfig, Settings};
use super::tamper_tests::age;
use crate::capture::{Body, Capture};
use crate::clock::Clock;
use crate::ids::{RequestId, SessionId, Uid};
use crate::protocol::facts::usage::Usage;
use crate::session::store::MemoryStore;
use crate::session::testing::{arrival, leg_start, settings};
use crate::session::{Event, Listener, Manager};
use crate::settings::fault::Faults;
use crate::settings::units::{ByteSize, DurationText};
use crate::summary::RequestSummary;
use crate::telemetry::metrics::Metrics;

pub(super) fn open(folder: &Path, written: HistoryConfig) -> Arc<Archive> {
    let settings: Settings = written.compile(&mut Faults::default()).unwrap();
    let file = settings.file(folder).unwrap();
    Archive::open(&file, folder, settings, Metrics::new().unwrap().history(), Arc::default()).unwrap()
}

struct Listening(Arc<Archive>);

impl Listener for Listening {
    fn on_event(&self, event: &Event) {
        self.0.record(event);
    }

    fn is_behind(&self) -> bool {
        self.0.is_behind()
    }
}

/// Runs sessions to their end. Each has one request; every third request names no model.
pub(super) async fn sessions(archive: &Arc<Archive>, ids: impl Iterator<Item = usize>) {
    let listener = Arc::new(Listening(Arc::clone(archive)));
    let store = Arc::new(MemoryStore::default());
    let manager =
        Manager::new(settings("max_active_per_principal: 1000000"), Clock::system(), store, listener);
    for id in ids {
        let mut leg = manager.admit(arrival(&format!("session-{id}")), leg_start()).await.unwrap();
        leg.settle(&RequestSummary {
            model: (id % 3 > 0).then(|| format!("model-{}", id % 3)),
            usage: Some(Usage { input_tokens: 10, output_tokens: 2, ..Usage::default() }),
            status: Some(200),
            ..RequestSummary::default()
        });
    }
    manager.shutdown().await;
}

pub(super) fn exported(archive: &Archive) -> String {
    assert!(archive.sign());
    let mut text = Vec::new();
    let mut export = archive.reader().unwrap().export(Format::Ndjson, TimeRange::default()).unwrap();
    while export.next_page(&mut text).unwrap() {}
    String::from_utf8(text).unwrap()
}

pub(super) fn checked(text: &str) -> Result<Report, VerifyError> {
    verify(Cursor::new(text), &Requirements::default())
}

fn count(archive: &Archive, table: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM {table}");
    archive.reader().unwrap().database.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
}

#[tokio::test]
async fn what_is_exported_verifies_and_any_change_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    sessions(&archive, 0..20).await;
    let text = exported(&archive);
    let report = checked(&text).unwrap();
    assert_eq!((report.records, report.first, report.last), (20, 1, 20));
    let key = std::fs::read_to_string(folder.path().join("cdr-key.pub")).unwrap();
    assert_eq!(report.key, key.trim());
    let other = Requirements { keys: vec!["0".repeat(64)], ..Requirements::default() };
    assert!(verify(Cursor::new(&text), &other).is_err());

    // Flip one bit in every 37th byte.
    for at in (0..text.len()).step_by(37) {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        assert!(
            verify(Cursor::new(bytes), &Requirements::default()).is_err(),
            "byte {at} was changed unseen"
        );
    }
    let lines: Vec<&str> = text.lines().collect();
    for at in 0..lines.len() {
        let mut without = lines.clone();
        without.remove(at);
        assert!(checked(&(without.join("\n") + "\n")).is_err(), "line {at} was taken out unseen");
        if at > 0 {
            let mut swapped = lines.clone();
            swapped.swap(at - 1, at);
            assert!(checked(&(swapped.join("\n") + "\n")).is_err(), "lines {at} were swapped unseen");
        }
    }
    assert!(checked("").is_err());
    assert!(checked(text.trim_end()).is_err(), "a last line that is cut short");
}

#[tokio::test]
async fn when_all_sessions_end_at_once_no_record_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    // Several times the capacity of the queue.
    sessions(&archive, 0..15_000).await;
    assert!(archive.sign());
    assert_eq!(count(&archive, "records"), 15_000);
}

#[tokio::test]
async fn other_spellings_of_the_same_value_are_changes() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    sessions(&archive, 0..1).await;
    let text = exported(&archive);
    for (from, to) in [
        ("\"request_count\":1,", "\"request_count\":1 ,"),
        ("\"session_id\":\"session-0\"", "\"session_id\":\"\\u0073ession-0\""),
        ("\"request_count\":1,", "\"request_count\":9,\"request_count\":1,"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        assert!(checked(&changed).is_err(), "{to}");
    }
}

#[tokio::test]
async fn a_record_changed_in_the_file_is_not_signed_over() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    sessions(&archive, 0..5).await;
    assert!(archive.sign());
    let other = Connection::open(folder.path().join("history.db")).unwrap();
    other.execute("UPDATE records SET body = replace(body, 'session-2', 'session-7')", []).unwrap();
    assert!(checked(&exported(&archive)).is_err());
    other.execute("UPDATE records SET body = replace(body, 'session-7', 'session-2')", []).unwrap();
    assert!(checked(&exported(&archive)).is_ok());
    other.execute("DELETE FROM records WHERE seq = 3", []).unwrap();
    assert!(checked(&exported(&archive)).is_err());
}

#[tokio::test]
async fn the_chain_goes_on_after_a_restart_and_under_two_writers() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), HistoryConfig::default());
    sessions(&first, 0..10).await;
    first.close();
    let (second, third) =
        (open(folder.path(), HistoryConfig::default()), open(folder.path(), HistoryConfig::default()));
    tokio::join!(sessions(&second, 10..60), sessions(&third, 60..110));
    assert!(second.sign() && third.sign());
    let report = checked(&exported(&second)).unwrap();
    assert_eq!((report.records, report.last), (110, 110));
}

#[tokio::test]
async fn sums_agree_with_what_was_counted() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    sessions(&archive, 0..30).await;
    assert!(archive.sign());
    let reader = archive.reader().unwrap();
    let all = RecordFilter::default();
    let models = reader.usage(&all, GroupBy::Model).unwrap();
    let of = |name: Option<&str>| {
        let line = models.iter().find(|line| line.name.as_deref() == name).unwrap();
        (line.requests, line.tokens.input_tokens, line.tokens.output_tokens)
    };
    assert_eq!([of(Some("unknown")), of(Some("model-1")), of(Some("model-2"))], [(10, 100, 20); 3]);
    let callers = reader.usage(&all, GroupBy::Principal).unwrap();
    assert_eq!((callers.len(), callers[0].requests, callers[0].tokens.input_tokens), (1, 30, 300));
    let (points, _) = reader.series(&all, Interval::Day).unwrap();
    assert_eq!(points.iter().map(|point| point.sums.sessions).sum::<u64>(), 30);
    assert_eq!(points.iter().map(|point| point.sums.tokens.input_tokens).sum::<u64>(), 300);
    let wanted = RecordFilter { model: Some("model-1".to_owned()), ..RecordFilter::default() };
    assert_eq!(reader.page(&wanted, None, 100).unwrap().records.len(), 10);
    assert_eq!(reader.usage(&wanted, GroupBy::Session).unwrap().len(), 10);
}

#[test]
fn a_series_keeps_its_newest_points_and_says_that_older_ones_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    let file = Connection::open(folder.path().join("history.db")).unwrap();
    // As many records as there is room for points, one for each minute of 1970, then one more.
    let add = "WITH RECURSIVE n(x) AS (SELECT ?1 UNION ALL SELECT x + 1 FROM n WHERE x < ?2) \
        INSERT INTO records (seq, uid, session_id, state, kind, principal, started_ms, ended_ms, requests, errors, \
        bytes_in, bytes_out, prev, hash, body) \
        SELECT x, 'u' || x, 's', 'completed', 'traffic', 'p', 0, x * 60000, 1, 0, 0, 0, '', '', '{}' FROM n";
    let reader = archive.reader().unwrap();
    for (first, last, oldest, is_truncated) in
        [(1, MAX_POINTS, 1, false), (MAX_POINTS + 1, MAX_POINTS + 1, 2, true)]
    {
        file.execute(add, [first, last].map(|number| number as i64)).unwrap();
        let (points, truncated) = reader.series(&RecordFilter::default(), Interval::Minute).unwrap();
        let minute = |at: usize| points[at].at.as_second() / 60;
        let expected = (MAX_POINTS, oldest, last as i64, is_truncated);
        assert_eq!((points.len(), minute(0), minute(MAX_POINTS - 1), truncated), expected);
    }
}

#[tokio::test]
async fn sums_do_not_fail_over_counts_that_an_older_program_believed() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    sessions(&archive, 0..30).await;
    assert!(archive.sign());
    let file = rusqlite::Connection::open(folder.path().join("history.db")).unwrap();
    let most = "UPDATE usage SET input_tokens = 9223372036854775807, reasoning_tokens = 9223372036854775000";
    assert_eq!(file.execute(most, []).unwrap(), 30);
    file.execute("UPDATE records SET bytes_in = 9223372036854775807", []).unwrap();
    let reader = archive.reader().unwrap();
    let most = i64::MAX.unsigned_abs();
    for by in [GroupBy::Principal, GroupBy::Model, GroupBy::Client, GroupBy::Backend, GroupBy::Session] {
        let lines = reader.usage(&RecordFilter::default(), by).unwrap();
        assert!(
            lines
                .iter()
                .all(|line| line.tokens.input_tokens == most && line.tokens.reasoning_tokens > most - 4096),
            "{lines:?}"
        );
        assert_eq!(lines.iter().map(|line| line.requests).sum::<u64>(), 30);
    }
    let (points, _) = reader.usage_series(&RecordFilter::default(), GroupBy::Model, Interval::Day).unwrap();
    let whole = reader.usage(&RecordFilter::default(), GroupBy::Model).unwrap();
    assert_eq!(points.iter().map(|point| point.line.requests).sum::<u64>(), 30);
    assert!(
        whole.iter().all(|line| points.iter().any(|point| point.line == *line)),
        "of one day: {points:?}"
    );
    let (points, _) = reader.series(&RecordFilter::default(), Interval::Day).unwrap();
    assert!(points.iter().all(|point| point.sums.tokens.input_tokens == most && point.sums.bytes_in == most));
    assert_eq!(points.iter().map(|point| point.sums.sessions).sum::<u64>(), 30);
}

#[tokio::test]
async fn of_lines_with_the_same_cost_those_with_most_tokens_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    for from in (0..1100).step_by(100) {
        sessions(&archive, from..from + 100).await;
        assert!(archive.sign());
    }
    let file = rusqlite::Connection::open(folder.path().join("history.db")).unwrap();
    // The later, the more; most of them out of the cache, which only then differs.
    file.execute("UPDATE usage SET cost_usd = 0, output_tokens = 1, cache_read_tokens = seq", []).unwrap();
    let lines = archive.reader().unwrap().usage(&RecordFilter::default(), GroupBy::Session).unwrap();
    let read: Vec<u64> = lines.iter().map(|line| line.tokens.cache_read_tokens).collect();
    assert_eq!(read, (101..=1100).rev().collect::<Vec<u64>>());
    // Cost goes first.
    file.execute("UPDATE usage SET cost_usd = 0.5 WHERE seq = 7", []).unwrap();
    let lines = archive.reader().unwrap().usage(&RecordFilter::default(), GroupBy::Session).unwrap();
    assert_eq!(lines[0].tokens.cache_read_tokens, 7);
}

#[tokio::test]
async fn pages_lead_through_all_records_once() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    sessions(&archive, 0..25).await;
    assert!(archive.sign());
    let reader = archive.reader().unwrap();
    let (mut before, mut seen) = (None, Vec::new());
    loop {
        let page = reader.page(&RecordFilter::default(), before, 10).unwrap();
        seen.extend(page.records.iter().map(|record| {
            let record: serde_json::Value = serde_json::from_str(record.get()).unwrap();
            record["chain"]["seq"].as_u64().unwrap()
        }));
        let Some(cursor) = page.next_cursor else { break };
        before = cursor.parse().ok();
    }
    assert_eq!(seen, (1..=25).rev().collect::<Vec<u64>>());
    let detail = reader.detail("session-7", &[]).unwrap().unwrap();
    assert_eq!(detail.requests.len(), 1);
    assert_eq!(
        detail.events.iter().map(|event| &*event.r#type).collect::<Vec<_>>(),
        ["session_started", "session_ended"]
    );
    assert!(reader.detail("session-99", &[]).unwrap().is_none());
}

#[tokio::test]
async fn what_is_past_its_time_goes_and_the_rest_still_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    sessions(&archive, 0..10).await;
    assert!(archive.sign());
    let old = Timestamp::now().as_millisecond() - 40 * 24 * 3_600_000;
    archive.close();
    age(folder.path(), 4, old);
    // A writer starts by deleting what has expired.
    let again = open(folder.path(), HistoryConfig::default());
    sessions(&again, 10..12).await;
    let report = checked(&exported(&again)).unwrap();
    assert_eq!((report.records, report.first, report.last), (8, 5, 12));
    assert_eq!(count(&again, "requests"), 8);

    again.close();
    age(folder.path(), 12, old);
    let empty = open(folder.path(), HistoryConfig::default());
    assert!(empty.sign());
    sessions(&empty, 12..13).await;
    let report = checked(&exported(&empty)).unwrap();
    assert_eq!((report.records, report.first), (1, 13), "numbers are not used again");
}

#[tokio::test]
async fn a_file_at_its_largest_size_loses_its_oldest_records() {
    let folder = tempfile::tempdir().unwrap();
    let archive =
        open(folder.path(), HistoryConfig { max_size: ByteSize::mib(16), ..HistoryConfig::default() });
    for batch in 0..5 {
        sessions(&archive, batch * 2000..(batch + 1) * 2000).await;
        assert!(archive.sign());
    }
    let report = checked(&exported(&archive)).unwrap();
    assert_eq!(report.last, 10_000, "the newest are there");
    assert!(report.first > 1, "the oldest have gone");
    archive.close();
    let size = std::fs::metadata(folder.path().join("history.db")).unwrap().len();
    assert!(size <= 16 << 20, "{size}");
}

fn capture(uid: Uid, number: usize, at: Timestamp) -> Capture {
    let mut answer = Body::of((Some("text/plain".into()), None));
    answer.feed("word ".repeat(40_000).as_bytes(), 200_000);
    Capture {
        at,
        request_id: RequestId::new(format!("r-{number}")),
        session_id: SessionId::new("session-0"),
        uid,
        method: "POST".into(),
        path: "/".into(),
        backend: None,
        model: None,
        status: Some(200),
        outcome: "ok",
        queue: None,
        redact: false,
        max_body: 200_000,
        request: Body::default(),
        answer,
    }
}

/// Waits until `done` returns true for the numbers of the first and the last capture in the file.
fn captures_until(archive: &Archive, done: impl Fn(i64, i64) -> bool) {
    let sql = "SELECT coalesce(min(number), 0), coalesce(max(number), 0) FROM captures";
    let begun = std::time::Instant::now();
    loop {
        let reader = archive.reader().unwrap();
        let (first, last) = reader.database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        if done(first, last) {
            return;
        }
        assert!(begun.elapsed().as_secs() < 30, "in vain: {first} to {last}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[tokio::test]
async fn bodies_go_before_records_when_the_file_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let archive =
        open(folder.path(), HistoryConfig { max_size: ByteSize::mib(16), ..HistoryConfig::default() });
    sessions(&archive, 0..100).await;
    assert!(archive.sign());
    for number in 1..=120 {
        archive.capture(capture(Uid::fresh(), number, Timestamp::now()));
        captures_until(&archive, |_, last| last >= i64::try_from(number).unwrap());
    }
    captures_until(&archive, |first, last| first > 1 && last == 120);
    let report = checked(&exported(&archive)).unwrap();
    assert_eq!((report.records, report.first), (100, 1), "no record gave way");
}

#[tokio::test]
async fn bodies_go_with_their_record_and_never_stay_longer() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    sessions(&archive, 0..2).await;
    assert!(archive.sign());
    let page = archive.reader().unwrap().page(&RecordFilter::default(), None, 9).unwrap();
    let uids: Vec<Uid> = page
        .records
        .iter()
        .map(|record| serde_json::from_str::<serde_json::Value>(record.get()).unwrap())
        .map(|record| Uid::parse(record["uid"].as_str().unwrap()).unwrap())
        .collect();
    let old = Timestamp::from_millisecond(Timestamp::now().as_millisecond() - 40 * 24 * 3_600_000).unwrap();
    // Of a record that stays, of a record that expires, and of an active session; the last capture is older than
    // the retention.
    for (number, (uid, at)) in [
        (uids[0], Timestamp::now()),
        (uids[1], Timestamp::now()),
        (Uid::fresh(), Timestamp::now()),
        (Uid::fresh(), old),
    ]
    .into_iter()
    .enumerate()
    {
        archive.capture(capture(uid, number, at));
    }
    captures_until(&archive, |_, last| last == 4);
    archive.close();
    age(folder.path(), 1, old.as_millisecond());
    let again = open(folder.path(), HistoryConfig::default());
    assert!(again.sign());
    assert_eq!((count(&again, "captures"), count(&again, "records")), (2, 1));
    let reader = again.reader().unwrap();
    assert_eq!(reader.captures(&uids[0].to_string(), None, 9).unwrap().0.len(), 1);
    assert!(reader.captures(&uids[1].to_string(), None, 9).unwrap().0.is_empty());
}

#[test]
fn a_file_of_a_later_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.db");
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let settings = HistoryConfig::default().compile(&mut Faults::default()).unwrap();
    let metrics = Metrics::new().unwrap().history();
    let fault =
        Archive::open(&file, folder.path(), settings.clone(), metrics.clone(), Arc::default()).err().unwrap();
    assert!(format!("{fault:#}").contains("version 99"), "{fault:#}");
    std::fs::write(&file, "this is no database, and nothing that may be overwritten".repeat(100)).unwrap();
    assert!(Archive::open(&file, folder.path(), settings, metrics, Arc::default()).is_err());
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("this is no database"));
}

#[test]
fn the_orders_that_stand_in_an_older_file_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), HistoryConfig::default());
    archive.close();
    let file = Connection::open(folder.path().join("history.db")).unwrap();
    file.execute_batch(
        "DROP TABLE captures; DROP VIEW legs; DROP TABLE requests;
         CREATE TABLE legs (seq INTEGER NOT NULL REFERENCES records (seq) ON DELETE CASCADE, body TEXT NOT NULL) STRICT;
         CREATE INDEX legs_by_record ON legs (seq); DROP INDEX kills_by_end; DROP INDEX kills_by_id; ALTER TABLE kills DROP COLUMN ends_ms;
         ALTER TABLE records DROP COLUMN seal; ALTER TABLE usage DROP COLUMN unpriced_answers;
         DROP INDEX records_by_tenant; ALTER TABLE records DROP COLUMN tenant; ALTER TABLE usage DROP COLUMN estimated_answers;
         PRAGMA user_version = 1;",
    )
    .unwrap();
    let now = Timestamp::now();
    let uid = crate::ids::Uid::fresh().to_string();
    let row = |id: &str, until: Option<i64>, lifted: Option<i64>| {
        let until = until.map(|seconds| now + jiff::SignedDuration::from_secs(seconds));
        let mode = if until.is_some() { "duration" } else { "until_resumed" };
        let body = serde_json::json!({"session_id": id, "scope": "", "uid": uid, "reason": "r", "by": "b",
            "at": now, "mode": mode, "until": until});
        let at = now.as_millisecond();
        let insert =
            "INSERT INTO kills (uid, session_id, at_ms, lifted_ms, body) VALUES (?1, ?2, ?3, ?4, ?5)";
        file.execute(insert, rusqlite::params![uid, id, at, lifted, body.to_string()]).unwrap();
    };
    row("stands", Some(60), None);
    row("for good", None, None);
    row("over", Some(-60), None);
    row("lifted", None, Some(now.as_millisecond()));
    let junk = "INSERT INTO kills (uid, session_id, at_ms, body) VALUES ('x', 'junk', 1, 'junk')";
    file.execute(junk, []).unwrap();
    drop(file);
    let standing = |after, limit| {
        open(folder.path(), HistoryConfig::default()).reader().unwrap().active_kills(after, now, limit)
    };
    let found = standing(0, 10).unwrap();
    let mut ids: Vec<String> = found.orders.iter().map(|order| order.session_id.to_string()).collect();
    ids.sort_unstable();
    assert_eq!((ids, found.last, found.more), (vec!["for good".to_owned(), "stands".to_owned()], 5, false));
    assert!(standing(found.last, 10).unwrap().orders.is_empty());
    assert!(standing(0, 1).unwrap().more);
}

#[test]
fn settings_that_keep_nothing_are_faults() {
    let mut faults = Faults::default();
    let written = HistoryConfig {
        retention: DurationText::secs(0),
        max_size: ByteSize::kib(1),
        ..HistoryConfig::default()
    };
    assert!(written.compile(&mut faults).is_none());
    let text = faults.to_string();
    assert!(text.contains("history.retention") && text.contains("history.max_size"), "{text}");
    let off = HistoryConfig { enabled: false, ..HistoryConfig::default() }.compile(&mut faults).unwrap();
    assert_eq!(off.file(Path::new("/data")), None);
}
