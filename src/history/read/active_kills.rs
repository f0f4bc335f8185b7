//! The kill orders that still stand: what a gateway without a shared store reads when it starts, and while two
//! of its processes stand side by side.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::reader::Reader;
use crate::session::{BlockMode, KillOrder};

/// What stands.
#[derive(Debug, Default)]
pub struct ActiveKills {
    /// The orders, newest first.
    pub orders: Vec<KillOrder>,
    /// The number of the newest row; the next question may begin behind it.
    pub last: i64,
    /// True when there are more than were asked for.
    pub more: bool,
}

impl Reader {
    /// The orders behind row `after` that are neither lifted nor replaced nor over, the newest `limit` of
    /// them. A row that cannot be read is left out and logged.
    pub fn active_kills(&self, after: i64, now: Timestamp, limit: usize) -> rusqlite::Result<ActiveKills> {
        let last = "SELECT coalesce(max(rowid), 0) FROM kills";
        let last = self.database.query_row(last, [], |row| row.get(0))?;
        // By the index: a file may hold any number of orders that are over.
        let sql = "SELECT rowid, body FROM kills INDEXED BY kills_by_end WHERE ends_ms > ?1 \
             AND rowid > ?2 AND lifted_ms IS NULL ORDER BY at_ms DESC LIMIT ?3";
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
        (BlockMode::Duration, None) => Err("it names no end of its block".to_owned()),
        _ => Ok(order),
    }))
}
