//! `history.legs: all`: how many legs may be queued, what they may displace, and when they are deleted.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, params};

use super::archive::Archive;
use super::settings::{HistoryConfig, Legs};
use super::tamper_tests::age;
use crate::clock::Clock;
use crate::ids::Uid;
use crate::session::store::MemoryStore;
use crate::session::testing::{arrival, leg_start, settings};
use crate::session::{Event, Listener, Manager, ServedLeg};
use crate::settings::fault::Faults;
use crate::settings::units::ByteSize;
use crate::summary::RequestSummary;
use crate::telemetry::metrics::Metrics;

/// A history that keeps every leg, with its metrics.
struct Fixture {
    folder: tempfile::TempDir,
    metrics: Arc<Metrics>,
    archive: Arc<Archive>,
    manager: Arc<Manager>,
}

impl Fixture {
    fn new(written: HistoryConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::new().unwrap();
        let archive = open(folder.path(), &metrics, written);
        let listener = Arc::new(Listening(Arc::clone(&archive)));
        let settings = settings("max_active_per_principal: 1000000");
        let store = Arc::new(MemoryStore::default());
        let manager = Manager::new(settings, Clock::system(), store, listener);
        Self { folder, metrics, archive, manager }
    }

    async fn serve(&self, session: &str, legs: usize) {
        for _ in 0..legs {
            let mut leg = self.manager.admit(arrival(session), leg_start()).await.unwrap();
            leg.settle(&RequestSummary { status: Some(200), ..RequestSummary::default() });
        }
    }

    fn database(&self) -> Connection {
        Connection::open(self.folder.path().join("history.db")).unwrap()
    }

    fn count(&self, of: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {of}");
        self.database().query_row(&sql, [], |row| row.get(0)).unwrap()
    }

    fn dropped(&self, kind: &str) -> i64 {
        let series = format!("elida_history_dropped_total{{kind=\"{kind}\"}} ");
        let text = self.metrics.encode();
        text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }
}

fn all() -> HistoryConfig {
    HistoryConfig { legs: Legs::All, ..HistoryConfig::default() }
}

fn open(folder: &Path, metrics: &Metrics, written: HistoryConfig) -> Arc<Archive> {
    let settings = written.compile(&mut Faults::default()).unwrap();
    let file = settings.file(folder).unwrap();
    Archive::open(&file, folder, settings, metrics.history(), Arc::default()).unwrap()
}

struct Listening(Arc<Archive>);

impl Listener for Listening {
    fn on_event(&self, event: &Event) {
        self.0.record(event);
    }

    fn wants_legs(&self) -> bool {
        self.0.wants_legs()
    }

    fn on_leg(&self, leg: ServedLeg) {
        self.0.record_leg(leg);
    }
}

/// Stores the last leg.
struct Hearing(Mutex<Option<ServedLeg>>);

impl Listener for Hearing {
    fn on_event(&self, _: &Event) {}

    fn wants_legs(&self) -> bool {
        true
    }

    fn on_leg(&self, leg: ServedLeg) {
        *self.0.lock() = Some(leg);
    }
}

/// A leg that can be recorded repeatedly.
async fn some_leg() -> ServedLeg {
    let heard = Arc::new(Hearing(Mutex::default()));
    let listener = Arc::clone(&heard);
    let manager = Manager::new(settings("{}"), Clock::system(), Arc::new(MemoryStore::default()), listener);
    let mut leg = manager.admit(arrival("some"), leg_start()).await.unwrap();
    leg.settle(&RequestSummary::default());
    heard.0.lock().take().unwrap()
}

#[tokio::test]
async fn more_legs_than_may_wait_are_counted_and_displace_no_record() {
    let fixture = Fixture::new(all());
    let leg = some_leg().await;
    let lock = fixture.database();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..40_000 {
        fixture.archive.record_leg(leg.clone());
    }
    assert_eq!(fixture.dropped("legs"), 40_000 - 32_768);
    for session in 0..1000 {
        fixture.serve(&format!("session-{session}"), 1).await;
    }
    assert_eq!(fixture.dropped("legs"), 40_000 - 32_768 + 1000);
    fixture.manager.shutdown().await;
    lock.execute_batch("COMMIT").unwrap();
    assert!(fixture.archive.sign());
    assert_eq!((fixture.count("records"), fixture.count("requests")), (1000, 32_768));
    assert_eq!((fixture.dropped("records"), fixture.dropped("events")), (0, 0));
    // There is room again.
    fixture.archive.record_leg(leg);
    fixture.archive.close();
    assert_eq!(fixture.count("requests"), 32_769);
}

#[tokio::test]
async fn a_full_file_loses_legs_before_records() {
    let fixture = Fixture::new(HistoryConfig { max_size: ByteSize::mib(16), ..all() });
    for session in 0..100 {
        fixture.serve(&format!("session-{session}"), 1).await;
    }
    fixture.manager.shutdown().await;
    assert!(fixture.archive.sign());
    let leg = some_leg().await;
    for _ in 0..60 {
        (0..1000).for_each(|_| fixture.archive.record_leg(leg.clone()));
        assert!(fixture.archive.sign());
    }
    assert_eq!(fixture.count("records"), 100, "no record went");
    let (first, last): (i64, i64) = fixture
        .database()
        .query_row("SELECT min(number), max(number) FROM requests", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert!(first > 1 && last == 60_100, "{first} to {last}: the oldest have gone, the newest are there");
    fixture.archive.close();
    let size = std::fs::metadata(fixture.folder.path().join("history.db")).unwrap().len();
    assert!(size <= 16 << 20, "{size}");
}

#[tokio::test]
async fn legs_go_with_their_record_and_without_one_in_their_time() {
    let fixture = Fixture::new(all());
    for session in ["old", "young", "long"] {
        fixture.serve(session, 3).await;
    }
    fixture.manager.shutdown().await;
    assert!(fixture.archive.sign());
    fixture.archive.close();
    let file = fixture.database();
    let past = Timestamp::now().as_millisecond() - 40 * 24 * 3_600_000;
    let uid = |session: &str| -> String {
        let sql = "SELECT uid FROM records WHERE session_id = ?1";
        file.query_row(sql, [session], |row| row.get(0)).unwrap()
    };
    // A session that started long ago keeps its first legs as long as its record.
    file.execute("UPDATE requests SET at_ms = ?1 WHERE uid = ?2", params![past, uid("long")]).unwrap();
    let first: i64 = file.query_row("SELECT min(seq) FROM records", [], |row| row.get(0)).unwrap();
    age(fixture.folder.path(), u64::try_from(first).unwrap(), past);
    // 45,000 legs, more than one step deletes, and some whose session has no record.
    let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?3) \
         INSERT INTO requests (number, uid, at_ms, body) SELECT ?4 - i, ?1, ?2, '{}' FROM n";
    let of_first: String =
        file.query_row("SELECT uid FROM records WHERE seq = ?1", [first], |row| row.get(0)).unwrap();
    file.execute(fill, params![of_first, past, 45_000, 0]).unwrap();
    let now = Timestamp::now().as_millisecond();
    let (stray, fresh) = (Uid::fresh().to_string(), Uid::fresh().to_string());
    file.execute(fill, params![stray, past, 25_000, -100_000]).unwrap();
    file.execute("INSERT INTO requests (uid, at_ms, body) VALUES (?1, ?2, '{}')", params![fresh, now])
        .unwrap();

    let again = open(fixture.folder.path(), &fixture.metrics, all());
    let left = || -> Vec<(String, i64)> {
        let mut find = file.prepare("SELECT uid, count(*) FROM requests GROUP BY uid ORDER BY uid").unwrap();
        let rows = find.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    };
    let begun = std::time::Instant::now();
    while left().len() > 3 && begun.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    again.close();
    let mut expected: Vec<(String, i64)> = ["old", "young", "long"]
        .iter()
        .filter(|session| fixture.count(&format!("records WHERE session_id = '{session}'")) > 0)
        .map(|session| (uid(session), 3))
        .chain([(fresh, 1)])
        .collect();
    expected.sort();
    assert_eq!((left(), fixture.count("records")), (expected, 2));
}
