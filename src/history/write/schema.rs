//! The tables and their migrations. `PRAGMA user_version` is the number of migrations applied.

use rusqlite::{Connection, TransactionBehavior};

/// One migration per version. A released migration is never changed.
const MIGRATIONS: [&str; 7] = [
    include_str!("../sql/migrations/1_records.sql"),
    include_str!("../sql/migrations/2_kills_by_end.sql"),
    include_str!("../sql/migrations/3_requests_by_uid.sql"),
    include_str!("../sql/migrations/4_captures.sql"),
    include_str!("../sql/migrations/5_seals.sql"),
    include_str!("../sql/migrations/6_unpriced.sql"),
    include_str!("../sql/migrations/7_callers.sql"),
];

/// The schema version that this program writes.
const KNOWN: u32 = MIGRATIONS.len() as u32;

/// Applies the migrations that are missing.
///
/// # Errors
/// A database error, or [`SchemaError::Later`].
pub(in crate::history) fn migrate(database: &mut Connection) -> Result<(), SchemaError> {
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(missing) = MIGRATIONS.get(done as usize..) else {
        return Err(SchemaError::Later { found: done, known: KNOWN });
    };
    for sql in missing {
        transaction.execute_batch(sql)?;
    }
    transaction.pragma_update(None, "user_version", KNOWN)?;
    transaction.commit()?;
    Ok(())
}

/// Why a database file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::history) enum SchemaError {
    /// A database error.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    /// A newer version of the program wrote the file.
    #[error(
        "it has version {found} and this program knows {known}: use the newer program, or name another file in history.file"
    )]
    Later {
        /// The file's schema version.
        found: u32,
        /// The newest schema version that this program knows.
        known: u32,
    },
}
