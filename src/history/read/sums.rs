//! Sums over ended sessions: time series, and usage by principal, model and the like.

use jiff::Timestamp;
use rusqlite::types::Value as Sql;
use rusqlite::{Row, params_from_iter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::{GroupBy, Interval, RecordFilter};
use super::reader::{Reader, time};

/// The largest number of points of a series.
pub(in crate::history) const MAX_POINTS: usize = 10_000;
/// The largest number of lines of a usage report.
const MAX_USAGE_LINES: usize = 1000;

/// The columns with token counts, in the order of [`TokenSums`].
const TOKENS: [&str; 7] = [
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "unpriced_answers",
    "estimated_answers",
];

/// Sums of tokens and cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenSums {
    /// Tokens of prompts, without those read from caches or written to them.
    pub input_tokens: u64,
    /// Output tokens, including those of reasoning.
    pub output_tokens: u64,
    /// Tokens read from prompt caches.
    pub cache_read_tokens: u64,
    /// Tokens written to prompt caches.
    pub cache_write_tokens: u64,
    /// Reasoning tokens, which are included in `output_tokens`.
    pub reasoning_tokens: u64,
    /// Answers without a price: what they cost is not in `cost_usd`.
    pub unpriced_answers: u64,
    /// Answers some of whose tokens are an estimate of the gateway.
    #[serde(default)]
    pub estimated_answers: u64,
    /// Cost in US dollars; null when nothing of it has a price.
    pub cost_usd: Option<f64>,
}

/// Sums over the sessions that ended in an interval.
#[derive(Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Sums {
    /// Sessions that ended.
    pub sessions: u64,
    /// How many of them were killed.
    pub killed: u64,
    /// How many of them timed out.
    pub timed_out: u64,
    /// Their requests.
    pub requests: u64,
    /// How many of the requests failed.
    pub errors: u64,
    /// Body bytes from clients.
    pub bytes_in: u64,
    /// Body bytes to clients.
    pub bytes_out: u64,
    /// Their tokens and cost.
    #[serde(flatten)]
    pub tokens: TokenSums,
}

/// One point of a time series.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Point {
    /// The start of the interval.
    pub at: Timestamp,
    /// The sums over the sessions that ended in it.
    #[serde(flatten)]
    pub sums: Sums,
}

/// One line of a usage report.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageLine {
    /// The principal, tenant, group, model, client, backend or session; `None` for requests without one.
    pub name: Option<String>,
    /// Requests.
    pub requests: u64,
    /// Their tokens and cost.
    #[serde(flatten)]
    pub tokens: TokenSums,
}

/// One line of a usage report in an interval.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct UsagePoint {
    /// The start of the interval.
    pub at: Timestamp,
    /// The name, and the sums over the sessions that ended in it.
    #[serde(flatten)]
    pub line: UsageLine,
}

impl Reader {
    /// Returns the sums for each interval, oldest first, and whether older ones did not fit: the newest 10,000 are returned.
    /// Intervals in which no session ended are left out.
    pub fn series(&self, filter: &RecordFilter, step: Interval) -> rusqlite::Result<(Vec<Point>, bool)> {
        let (condition, values) = filter.condition();
        let length = step.millis();
        let [i, o, r, w, t, u, e] = TOKENS.map(|column| format!("total({column})"));
        let sql = format!(
            "WITH tokens AS (SELECT seq AS of, {i} AS i, {o} AS o, {r} AS r, {w} AS w, {t} AS t, {u} AS u, {e} AS e, \
             total(cost_usd) AS c FROM usage GROUP BY seq) \
             SELECT ended_ms / {length} * {length}, count(*), sum(state = 'killed'), sum(state = 'timed_out'), \
             {}, {}, total(c) \
             FROM records LEFT JOIN tokens ON of = seq WHERE {condition} GROUP BY 1 ORDER BY 1 DESC LIMIT {MAX_POINTS} + 1",
            sums_of(["requests", "errors", "bytes_in", "bytes_out"]),
            sums_of(["i", "o", "r", "w", "t", "u", "e"]),
        );
        let mut statement = self.database.prepare(&sql)?;
        let point = |row: &Row<'_>| Ok(Point { at: time(row.get(0)?), sums: sums(row)? });
        let points = statement.query_map(params_from_iter(values), point)?;
        Ok(newest(points.collect::<rusqlite::Result<_>>()?))
    }

    /// Returns tokens and cost by what `by` names, the most expensive first, at equal cost the one with most tokens.
    pub fn usage(&self, filter: &RecordFilter, by: GroupBy) -> rusqlite::Result<Vec<UsageLine>> {
        let (condition, values): (_, Vec<Sql>) = filter.condition();
        let [input, output, read, written, ..] = TOKENS.map(|column| format!("total({column})"));
        let condition = condition.replace("seq IN", "records.seq IN");
        let sql = format!(
            "SELECT {}, {}, {}, total(cost_usd) AS cost FROM usage \
             JOIN records ON records.seq = usage.seq{} WHERE {condition} GROUP BY 1 \
             ORDER BY cost DESC, {input} + {output} + {read} + {written} DESC, 1 LIMIT {MAX_USAGE_LINES}",
            by.column(),
            sums_of(["usage.requests"]),
            sums_of(TOKENS),
            by.joined(),
        );
        let mut statement = self.database.prepare(&sql)?;
        let lines = statement.query_map(params_from_iter(values), usage_line)?;
        lines.collect()
    }

    /// Returns tokens and cost by what `by` names, for each interval, oldest first, and whether older ones did not fit: the newest
    /// 10,000 are returned.
    pub fn usage_series(
        &self,
        filter: &RecordFilter,
        by: GroupBy,
        step: Interval,
    ) -> rusqlite::Result<(Vec<UsagePoint>, bool)> {
        let (condition, values): (_, Vec<Sql>) = filter.condition();
        let length = step.millis();
        let sql = format!(
            "SELECT {}, {}, {}, total(cost_usd), ended_ms / {length} * {length} AS step_ms FROM usage \
             JOIN records ON records.seq = usage.seq{} WHERE {} GROUP BY step_ms, 1 ORDER BY step_ms DESC, 1 LIMIT {MAX_POINTS} + 1",
            by.column(),
            sums_of(["usage.requests"]),
            sums_of(TOKENS),
            by.joined(),
            condition.replace("seq IN", "records.seq IN"),
        );
        let mut statement = self.database.prepare(&sql)?;
        let points = statement.query_map(params_from_iter(values), |row| {
            Ok(UsagePoint { at: time(row.get(10)?), line: usage_line(row)? })
        })?;
        Ok(newest(points.collect::<rusqlite::Result<_>>()?))
    }
}

/// Returns the newest points, oldest first, and whether older ones did not fit.
fn newest<T>(mut points: Vec<T>) -> (Vec<T>, bool) {
    let is_truncated = points.len() > MAX_POINTS;
    points.truncate(MAX_POINTS);
    points.reverse();
    (points, is_truncated)
}

/// SQL sums of these columns. They saturate, where SQLite's `sum` of integers fails on overflow, and are exact up to 2^53.
fn sums_of<const N: usize>(columns: [&str; N]) -> String {
    columns.map(|column| format!("CAST(total({column}) AS INTEGER)")).join(", ")
}

/// Reads the columns after the first.
fn sums(row: &Row<'_>) -> rusqlite::Result<Sums> {
    Ok(Sums {
        sessions: number(row, 1)?,
        killed: number(row, 2)?,
        timed_out: number(row, 3)?,
        requests: number(row, 4)?,
        errors: number(row, 5)?,
        bytes_in: number(row, 6)?,
        bytes_out: number(row, 7)?,
        tokens: token_sums(row, 8)?,
    })
}

/// Reads a name, the requests, tokens and cost.
fn usage_line(row: &Row<'_>) -> rusqlite::Result<UsageLine> {
    Ok(UsageLine { name: row.get(0)?, requests: number(row, 1)?, tokens: token_sums(row, 2)? })
}

/// Reads eight columns, the first of which is `column`.
fn token_sums(row: &Row<'_>, column: usize) -> rusqlite::Result<TokenSums> {
    let unpriced_answers = number(row, column + 5)?;
    let cost: f64 = row.get(column + 7)?;
    Ok(TokenSums {
        input_tokens: number(row, column)?,
        output_tokens: number(row, column + 1)?,
        cache_read_tokens: number(row, column + 2)?,
        cache_write_tokens: number(row, column + 3)?,
        reasoning_tokens: number(row, column + 4)?,
        unpriced_answers,
        estimated_answers: number(row, column + 6)?,
        cost_usd: (cost > 0.0 || unpriced_answers == 0).then_some(cost),
    })
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}
