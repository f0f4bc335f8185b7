//! The tables, and how an older file becomes a newer one: `PRAGMA user_version` counts the steps done.

use rusqlite::{Connection, TransactionBehavior};

/// One step each; a step that was ever released is never changed.
const STEPS: [&str; 4] = [FIRST, ORDERS_BY_END, REQUESTS_BY_UID, CAPTURES];

const FIRST: &str = "
    CREATE TABLE records (
        seq INTEGER PRIMARY KEY,
        uid TEXT NOT NULL UNIQUE,
        session_id TEXT NOT NULL,
        state TEXT NOT NULL,
        kind TEXT NOT NULL,
        principal TEXT NOT NULL,
        client TEXT,
        backend TEXT,
        started_ms INTEGER NOT NULL,
        ended_ms INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        prev TEXT NOT NULL,
        hash TEXT NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX records_by_end ON records (ended_ms);
    CREATE INDEX records_by_id ON records (session_id);
    CREATE TABLE usage (
        seq INTEGER NOT NULL REFERENCES records (seq) ON DELETE CASCADE,
        model TEXT,
        requests INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cache_read_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        cost_usd REAL NOT NULL
    ) STRICT;
    CREATE INDEX usage_by_record ON usage (seq);
    CREATE TABLE legs (
        seq INTEGER NOT NULL REFERENCES records (seq) ON DELETE CASCADE,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX legs_by_record ON legs (seq);
    CREATE TABLE events (
        number INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        type TEXT NOT NULL,
        session_id TEXT NOT NULL,
        uid TEXT NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_time ON events (at_ms);
    CREATE INDEX events_by_uid ON events (uid);
    CREATE TABLE kills (
        uid TEXT NOT NULL,
        session_id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        lifted_ms INTEGER,
        lifted_by TEXT,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX kills_by_uid ON kills (uid);
    CREATE TABLE heads (
        seq INTEGER PRIMARY KEY,
        body TEXT NOT NULL
    ) STRICT;
";

/// When an order ceases to stand: its block ends, another takes its place, or it is lifted.
const ORDERS_BY_END: &str = "
    ALTER TABLE kills ADD COLUMN ends_ms INTEGER NOT NULL DEFAULT 9223372036854775807;
    UPDATE kills SET ends_ms = coalesce(lifted_ms,
        CASE WHEN json_valid(body) THEN unixepoch(body ->> '$.until') * 1000 END, ends_ms);
    CREATE INDEX kills_by_end ON kills (ends_ms);
    CREATE INDEX kills_by_id ON kills (session_id);
";

/// Requests no longer need a record. What an older program still writes while it hands over (SIGQUIT) goes through
/// the view.
const REQUESTS_BY_UID: &str = "
    CREATE TABLE requests (
        number INTEGER PRIMARY KEY,
        uid TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    INSERT INTO requests (uid, at_ms, body) SELECT uid, coalesce(CAST(1000 * unixepoch(legs.body ->> '$.started_at', \
        'subsec') AS INTEGER) + (legs.body ->> '$.duration_ms'), ended_ms), legs.body \
        FROM legs JOIN records ON records.seq = legs.seq ORDER BY legs.rowid;
    CREATE INDEX requests_by_uid ON requests (uid);
    DROP TABLE legs;
    CREATE VIEW legs AS SELECT seq, requests.body FROM requests JOIN records ON records.uid = requests.uid;
    CREATE TRIGGER legs_of_an_older_program INSTEAD OF INSERT ON legs BEGIN
        INSERT INTO requests (uid, at_ms, body) SELECT uid, ended_ms, NEW.body FROM records WHERE seq = NEW.seq;
    END;
";

/// Bodies that are kept beside the records.
const CAPTURES: &str = "
    CREATE TABLE captures (
        number INTEGER PRIMARY KEY,
        uid TEXT NOT NULL,
        session_id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX captures_by_time ON captures (at_ms);
    CREATE INDEX captures_by_uid ON captures (uid);
    CREATE INDEX captures_by_id ON captures (session_id);
";

/// The version that this program writes.
const KNOWN: u32 = STEPS.len() as u32;

/// Brings the file to the form that this program knows.
///
/// # Errors
/// The database's, and a sentence when the file is of a later program.
pub(in crate::history) fn migrate(database: &mut Connection) -> Result<(), SchemaError> {
    let step = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done: u32 = step.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(steps) = STEPS.get(done as usize..) else {
        return Err(SchemaError::Later { found: done, known: KNOWN });
    };
    for sql in steps {
        step.execute_batch(sql)?;
    }
    step.pragma_update(None, "user_version", KNOWN)?;
    step.commit()?;
    Ok(())
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::history) enum SchemaError {
    /// The database's own fault.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    /// A later program has written it.
    #[error(
        "it has version {found} and this program knows {known}: use the newer program, or name another file in history.file"
    )]
    Later {
        /// The file's version.
        found: u32,
        /// The latest version that is known here.
        known: u32,
    },
}
