//! `state.db`: documents that operators make through the API and that must outlive a restart. Apart from the history, which is
//! pruned and may be deleted. One [`State`] serves all kinds of documents; other tables of the file belong in files of
//! this folder that use `State::with`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, params};

use crate::settings::private;

/// The table. A document is JSON; a deleted one stays as a tombstone, so that no older copy revives it.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT";

/// How long a write waits for another process, during an upgrade.
const BUSY: Duration = Duration::from_secs(5);
/// The file in `data_dir` that names the last line of the audit log.
pub(in crate::history) const AUDIT_HEAD: &str = "audit-head.json";
/// The file name in `data_dir`.
const FILE: &str = "state.db";

/// The file, which is made when the first document is stored. Writes are rare and made by operators, so one connection
/// behind a lock serves all.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl State {
    /// Returns the file in `data_dir`; opens nothing yet, and makes it readable for its owner only.
    pub fn new(data_dir: &Path) -> Self {
        for name in [FILE, AUDIT_HEAD] {
            private::narrow(&data_dir.join(name));
        }
        Self { folder: data_dir.to_owned(), connection: Mutex::default() }
    }

    /// Returns whether the file exists.
    pub fn exists(&self) -> bool {
        self.folder.join(FILE).exists()
    }

    /// Returns the documents of a kind, in the order of their ids.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn documents(&self, kind: &str) -> anyhow::Result<Vec<String>> {
        if !self.exists() {
            return Ok(Vec::new());
        }
        self.with(|connection| {
            let mut rows = connection.prepare("SELECT body FROM documents WHERE kind = ?1 ORDER BY id")?;
            rows.query_map([kind], |row| row.get(0))?.collect()
        })
    }

    /// Stores a document, unless a newer revision of it is stored; of equal ones the greater text counts. Returns after it is on disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&self, kind: &str, id: &str, revision: u64, body: &str) -> anyhow::Result<()> {
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        let sql = "INSERT INTO documents (kind, id, revision, body) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (kind, id) DO UPDATE SET revision = excluded.revision, body = excluded.body
            WHERE (excluded.revision, excluded.body) > (documents.revision, documents.body)";
        self.with(|connection| connection.execute(sql, params![kind, id, revision, body]).map(drop))
    }

    /// Stores a document, unless this or a newer revision of it is stored. Returns, after it is on disk, whether it was stored: of
    /// several processes with the same file one is the first.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_first(&self, kind: &str, id: &str, revision: u64, body: &str) -> anyhow::Result<bool> {
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        let sql = "INSERT INTO documents (kind, id, revision, body) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (kind, id) DO UPDATE SET revision = excluded.revision, body = excluded.body
            WHERE excluded.revision > documents.revision";
        self.with(|connection| {
            connection.execute(sql, params![kind, id, revision, body]).map(|rows| rows == 1)
        })
    }

    /// Removes documents of a kind.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remove(&self, kind: &str, ids: &[String]) -> anyhow::Result<()> {
        let sql = "DELETE FROM documents WHERE kind = ?1 AND id = ?2";
        self.with(|connection| {
            ids.iter().try_for_each(|id| connection.execute(sql, params![kind, id]).map(drop))
        })
    }

    /// Runs work on the file, which is opened or created first, readable by its owner only.
    pub(in crate::history) fn with<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> anyhow::Result<T> {
        let mut connection = self.connection.lock();
        let connection = match &mut *connection {
            Some(connection) => connection,
            none => none.insert(open(&self.folder)?),
        };
        Ok(work(connection)?)
    }
}

fn open(folder: &Path) -> anyhow::Result<Connection> {
    private::make_folder(folder)?;
    let path = folder.join(FILE);
    private::make_file(&path)?;
    private::narrow(&path);
    let connection = Connection::open(&path)?;
    connection.busy_timeout(BUSY)?;
    // A key that was answered must survive a power loss.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(TABLE)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_revision_is_kept_over_a_restart_and_the_file_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path());
        assert!(state.documents("key").unwrap().is_empty() && !folder.path().join(FILE).exists());
        for (id, revision, body) in [("b", 1, "one"), ("a", 2, "two"), ("a", 1, "old"), ("b", 3, "three")] {
            state.put("key", id, revision, body).unwrap();
        }
        state.put("other", "a", 9, "x").unwrap();
        assert!(state.put_first("other", "a", 10, "y").unwrap());
        assert!(
            !state.put_first("other", "a", 10, "z").unwrap()
                && !state.put_first("other", "a", 9, "z").unwrap()
        );
        assert_eq!(state.documents("other").unwrap(), ["y"]);
        drop(state);
        let again = State::new(folder.path());
        assert_eq!(again.documents("key").unwrap(), ["two", "three"]);
        let mode = std::fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
