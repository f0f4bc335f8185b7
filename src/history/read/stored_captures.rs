//! Reads all captures of a time, oldest first: for `elida policy replay`.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

/// Calls `on` for each capture of this time or later, with the record of its session if that has ended; both are JSON.
///
/// # Errors
/// The file cannot be read.
pub fn stored_captures(
    file: &Path,
    from: Timestamp,
    on: &mut dyn FnMut(&str, Option<&str>),
) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(file, flags)?;
    let mut statement = database.prepare(include_str!("../sql/stored_captures.sql"))?;
    let mut rows = statement.query([from.as_millisecond()])?;
    while let Some(row) = rows.next()? {
        let capture: String = row.get(0)?;
        let record: Option<String> = row.get(1)?;
        on(&capture, record.as_deref());
    }
    Ok(())
}
