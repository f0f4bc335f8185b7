//! The kill orders in force. A gateway reads them at start, and without a shared store repeatedly while two of its
//! processes run during an upgrade.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::reader::Reader;
use crate::session::{BlockMode, KillOrder};

/// The kill orders in force.
#[derive(Debug, Default)]
pub struct ActiveKills {
    /// The orders, newest first.
    pub orders: Vec<KillOrder>,
    /// The number of the newest row. Pass it as `after` to read only newer orders next time.
    pub last: i64,
    /// True if there are more than `limit`.
    pub more: bool,
}

impl Reader {
    /// Reads the newest `limit` orders after row `after` that are neither lifted, replaced nor expired. A row that cannot
    /// be parsed is logged and skipped.
    pub fn active_kills(&self, after: i64, now: Timestamp, limit: usize) -> rusqlite::Result<ActiveKills> {
        let last = "SELECT coalesce(max(rowid), 0) FROM kills";
        let last = self.database.query_row(last, [], |row| row.get(0))?;
        // Force the index: a file may contain any number of expired orders.
        let sql = include_str!("../sql/active_kills.sql");
        let mut found = ActiveKills { last, ..ActiveKills::default() };
        let mut statement = self.database.prepare(sql)?;
        let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![now.as_millisecond(), after, most])?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            seen += 1;
            if seen > limit {
                found.more = true;
                break;
            }
            match order(row)? {
                Ok(order) => found.orders.push(order),
                Err(why) => {
                    let row: i64 = row.get(0)?;
                    tracing::error!(row, why, "a kill order in the history cannot be read and does not hold");
                }
            }
        }
        Ok(found)
    }
}

fn order(row: &Row<'_>) -> rusqlite::Result<Result<KillOrder, String>> {
    let order = match row.get_ref(1)?.as_str() {
        Ok(body) => serde_json::from_str::<KillOrder>(body).map_err(|fault| fault.to_string()),
        Err(fault) => Err(fault.to_string()),
    };
    Ok(order.and_then(|order| match (order.mode, order.until) {
        (BlockMode::Duration, None) => Err("its block has no end".to_owned()),
        _ => Ok(order),
    }))
}
