//! Records after the last signed head: those that this gateway wrote are signed, those that somebody added with SQL are not.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::proof::hash_chain::Tip;
use super::tamper_tests::{Watched, copy, database, insert, relink, twelve};
use super::tests::sessions;

/// Seven records of which only the first four are signed, as a gateway leaves them that is killed.
async fn killed() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let watched = Watched::open(folder.path());
    sessions(&watched.archive, 0..4).await;
    watched.serves();
    sessions(&watched.archive, 4..7).await;
    assert!(watched.archive.flush(Duration::from_secs(10)).await);
    copy(folder.path())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_appended_with_the_right_link_is_not_signed() {
    let original = twelve().await;
    for is_running in [true, false] {
        let folder = copy(original.path());
        let before = is_running.then(|| Watched::open(folder.path()));
        insert(&database(folder.path()), 13);
        let watched = before.unwrap_or_else(|| Watched::open(folder.path()));
        watched.refuses("appended");
        let warning = watched.readiness.warning().unwrap();
        assert!(warning.contains("record 13 was not written by this gateway"), "{warning}");
        sessions(&watched.archive, 12..14).await;
        watched.refuses("appended, and more written after it");
        watched.archive.close();
        Watched::open(folder.path()).refuses("after a restart");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appended_record_that_is_taken_away_leaves_the_history_in_order() {
    let folder = copy(twelve().await.path());
    let watched = Watched::open(folder.path());
    insert(&database(folder.path()), 13);
    watched.refuses("appended");
    database(folder.path()).execute("DELETE FROM records WHERE seq = 13", []).unwrap();
    watched.serves();
    sessions(&watched.archive, 12..14).await;
    assert_eq!(watched.serves().records, 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_had_not_signed_is_signed_at_the_next_start_unless_it_was_changed() {
    let original = killed().await;
    assert_eq!(Watched::open(copy(original.path()).path()).serves().records, 7);
    let tip = |folder: &Path, seq: i64| {
        let sql = "SELECT hash FROM records WHERE seq = ?1";
        let hash = database(folder).query_row(sql, [seq], |row| row.get(0)).unwrap();
        Tip { seq: seq.unsigned_abs(), hash }
    };
    for what in ["changed", "inserted", "appended", "removed", "unsealed"] {
        let folder = copy(original.path());
        let file = database(folder.path());
        match what {
            "changed" => drop(relink(&file, tip(folder.path(), 5), |seq, record| {
                if seq == 6 {
                    record["principal"] = "another".into();
                }
            })),
            "inserted" => insert(&file, 6),
            "appended" => insert(&file, 8),
            "removed" => {
                file.execute("DELETE FROM records WHERE seq = 6", []).unwrap();
                relink(&file, tip(folder.path(), 5), |_, _| {});
            }
            _ => drop(file.execute("UPDATE records SET seal = NULL WHERE seq = 7", []).unwrap()),
        }
        Watched::open(folder.path()).refuses(what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_processes_of_an_upgrade_sign_what_the_other_wrote_and_nothing_else() {
    let folder = twelve().await;
    let (old, new) = (Watched::open(folder.path()), Watched::open(folder.path()));
    sessions(&old.archive, 12..14).await;
    assert!(old.archive.flush(Duration::from_secs(10)).await);
    sessions(&new.archive, 14..16).await;
    assert_eq!((new.serves().records, old.serves().records), (16, 16));
    sessions(&old.archive, 16..17).await;
    assert!(old.archive.flush(Duration::from_secs(10)).await);
    insert(&database(folder.path()), 18);
    new.refuses("appended beside both");
    old.refuses("appended beside both");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_version_without_seals_are_taken_over_once() {
    let folder = twelve().await;
    // As that version leaves a history: no seals, and a head file that does not know of them.
    database(folder.path()).execute("UPDATE records SET seal = NULL", []).unwrap();
    let head_file = folder.path().join("cdr-head-history.db.json");
    let kept = fs::read_to_string(&head_file).unwrap();
    fs::write(&head_file, kept.replace("\"is_sealed\": true", "\"is_sealed\": false")).unwrap();
    let watched = Watched::open(folder.path());
    // Its process still writes.
    insert(&database(folder.path()), 13);
    assert_eq!(watched.serves().records, 13);
    watched.archive.close();
    let kept = fs::read_to_string(&head_file).unwrap();
    assert!(kept.contains("\"is_sealed\": true") && !kept.contains("\"older_until\": null"), "{kept}");
    // An hour later.
    let until = kept.lines().find(|line| line.contains("older_until")).unwrap();
    fs::write(&head_file, kept.replace(until, "  \"older_until\": \"2026-01-01T00:00:00Z\",")).unwrap();
    insert(&database(folder.path()), 14);
    Watched::open(folder.path()).refuses("appended later");
}
