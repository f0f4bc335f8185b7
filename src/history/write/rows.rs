//! Turns events into rows.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{CachedStatement, Transaction, params};
use serde_json::{Value, json};

use super::capture_queue::CaptureRow;
use crate::history::proof::hash_chain::{self, Tip};
use crate::history::proof::signature::Signer;
use crate::history::read::record_schema::StoredRequest;
use crate::ids::{AgentId, SessionId, Uid};
use crate::policy::approval::Approval;
use crate::protocol::facts::usage::{Cost, Usage};
use crate::session::{Event, KillOrder, Record, RequestLine, ServedLeg};
use crate::telemetry::metrics::Item;

/// An event to write.
#[derive(Debug)]
pub(in crate::history) enum Entry {
    /// A session incarnation started.
    Started { at: Timestamp, id: SessionId, uid: Uid },
    /// A session incarnation ended.
    Ended(Arc<Record>),
    /// A kill order was given.
    Killed(Arc<KillOrder>),
    /// A kill order was lifted.
    Resumed { at: Timestamp, order: Arc<KillOrder>, by: String },
    /// A kill order was lifted on another instance.
    LiftedElsewhere { at: Timestamp, order: Arc<KillOrder> },
    /// A kill order, given on another instance, replaced a known one.
    ReplacedElsewhere(Arc<KillOrder>),
    /// A held call asked for an approval.
    ApprovalRequested(Arc<Approval>),
    /// An operator answered.
    ApprovalDecided(Arc<Approval>),
    /// The bodies of a request were captured.
    Captured(Box<CaptureRow>),
}

impl Entry {
    /// Returns what the history stores of an event; `None` if nothing.
    pub(in crate::history) fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Started(session) => {
                Self::Started { at: session.started_at, id: session.id.clone(), uid: session.uid }
            }
            Event::Ended(record) => Self::Ended(Arc::clone(record)),
            Event::Killed { order, .. } => Self::Killed(Arc::clone(order)),
            Event::Resumed { order, by } => {
                Self::Resumed { at: Timestamp::now(), order: Arc::clone(order), by: by.clone() }
            }
            Event::ApprovalRequested(approval) => Self::ApprovalRequested(Arc::clone(approval)),
            Event::ApprovalDecided(approval) => Self::ApprovalDecided(Arc::clone(approval)),
            Event::Finding(_) | Event::SoftLimit { .. } | Event::StoreLost { .. } | Event::StoreBack => {
                return None;
            }
        })
    }

    /// Returns true for a capture: captures are dropped first when the file is full.
    pub(in crate::history) fn is_capture(&self) -> bool {
        matches!(self, Self::Captured(_))
    }

    /// Returns true if the entry may wait some milliseconds for others. Orders do not wait, because an operator expects them to be on record at once.
    pub(in crate::history) fn can_wait(&self) -> bool {
        match self {
            Self::Started { .. } | Self::Ended(_) | Self::Captured(_) => true,
            Self::Killed(_)
            | Self::Resumed { .. }
            | Self::LiftedElsewhere { .. }
            | Self::ApprovalRequested(_)
            | Self::ApprovalDecided(_)
            | Self::ReplacedElsewhere(_) => false,
        }
    }

    /// Its approximate size in the file, in bytes.
    pub(in crate::history) fn weight(&self) -> usize {
        match self {
            Self::Captured(row) => row.weight(),
            Self::Started { .. }
            | Self::Ended(_)
            | Self::Killed(_)
            | Self::Resumed { .. }
            | Self::LiftedElsewhere { .. }
            | Self::ApprovalRequested(_)
            | Self::ApprovalDecided(_)
            | Self::ReplacedElsewhere(_) => 1 << 10,
        }
    }

    /// What it counts as in `elida_history_dropped_total`. Captures have a metric of their own.
    pub(in crate::history) fn item(&self) -> Item {
        if matches!(self, Self::Ended(_)) { Item::Record } else { Item::Event }
    }

    /// Writes the entry. A record becomes the new tip of the chain, is sealed by `signer`, and is written with its last
    /// legs if `with_legs`.
    pub(in crate::history) fn write(
        &self,
        rows: &Transaction<'_>,
        tip: &mut Tip,
        signer: &Signer,
        with_legs: bool,
    ) -> rusqlite::Result<()> {
        match self {
            Self::Captured(row) => row.write(rows),
            Self::Started { at, id, uid } => event(rows, *at, "session_started", id, *uid, &json!({})),
            Self::Ended(record) => {
                event(rows, record.ended_at, "session_ended", &record.session_id, record.uid, &json!({}))?;
                record_rows(rows, record, tip, signer, with_legs)
            }
            Self::Killed(order) => {
                let kind = if order.agent.is_some() { "agent_killed" } else { "session_killed" };
                event(rows, order.at, kind, &order.session_id, order.uid, &json!(order))?;
                kill_row(rows, order)
            }
            Self::Resumed { at, order, by } => {
                let kind = if order.agent.is_some() { "agent_resumed" } else { "session_resumed" };
                let body = json!({"by": by, "agent": order.agent});
                event(rows, *at, kind, &order.session_id, order.uid, &body)?;
                lift_kill(rows, order, *at, Some(by))
            }
            Self::ApprovalRequested(asked) => {
                let Some((session, uid)) = asked.call.session_id().zip(asked.uid) else { return Ok(()) };
                let body = json!({"approval_id": asked.id, "rule": asked.call.rule, "tool": asked.call.tool,
                    "args_sha256": asked.call.args_sha256, "agent": asked.call.agent});
                event(rows, asked.asked, "approval_requested", session, uid, &body)
            }
            Self::ApprovalDecided(decided) => {
                let Some(last) = decided.decisions.last() else { return Ok(()) };
                let Some((session, uid)) = decided.call.session_id().zip(decided.uid) else { return Ok(()) };
                let body = json!({"approval_id": decided.id, "decision": last.decision, "by": last.by,
                    "reason": last.reason});
                event(rows, last.at, "approval_decided", session, uid, &body)
            }
            Self::LiftedElsewhere { at, order } => lift_kill(rows, order, *at, None),
            Self::ReplacedElsewhere(order) if has_kill(rows, order)? => Ok(()),
            Self::ReplacedElsewhere(order) => kill_row(rows, order),
        }
    }
}

fn event(
    rows: &Transaction<'_>,
    at: Timestamp,
    kind: &str,
    id: &SessionId,
    uid: Uid,
    body: &Value,
) -> rusqlite::Result<()> {
    let insert = "INSERT INTO events (at_ms, type, session_id, uid, body) VALUES (?1, ?2, ?3, ?4, ?5)";
    let values = params![at.as_millisecond(), kind, id.as_str(), uid.to_string(), body.to_string()];
    rows.prepare_cached(insert)?.execute(values)?;
    Ok(())
}

/// Inserts a kill order. It replaces an earlier order against the same session or agent.
fn kill_row(rows: &Transaction<'_>, order: &KillOrder) -> rusqlite::Result<()> {
    let replaced = include_str!("../sql/replace_kill.sql");
    rows.prepare_cached(replaced)?.execute(params![
        order.at.as_millisecond(),
        order.session_id.as_str(),
        order.scope.as_str(),
        order.agent.as_ref().map(AgentId::as_str)
    ])?;
    let kill = "INSERT INTO kills (uid, session_id, at_ms, ends_ms, body) VALUES (?1, ?2, ?3, ?4, ?5)";
    rows.prepare_cached(kill)?.execute(params![
        order.uid.to_string(),
        order.session_id.as_str(),
        order.at.as_millisecond(),
        order.until.map_or(i64::MAX, Timestamp::as_millisecond),
        json!(order).to_string()
    ])?;
    Ok(())
}

/// Marks an order as lifted; `by` is `None` if another instance lifted it.
fn lift_kill(
    rows: &Transaction<'_>,
    order: &KillOrder,
    at: Timestamp,
    by: Option<&str>,
) -> rusqlite::Result<()> {
    let lift = include_str!("../sql/lift_kill.sql");
    rows.prepare_cached(lift)?.execute(params![
        at.as_millisecond(),
        by,
        order.uid.to_string(),
        order.at.as_millisecond(),
        order.agent.as_ref().map(AgentId::as_str)
    ])?;
    Ok(())
}

fn has_kill(rows: &Transaction<'_>, order: &KillOrder) -> rusqlite::Result<bool> {
    rows.prepare_cached(include_str!("../sql/find_kill.sql"))?.exists(params![
        order.uid.to_string(),
        order.at.as_millisecond(),
        order.agent.as_ref().map(AgentId::as_str)
    ])
}

fn record_rows(
    rows: &Transaction<'_>,
    record: &Record,
    tip: &mut Tip,
    signer: &Signer,
    with_legs: bool,
) -> rusqlite::Result<()> {
    let text = hash_chain::to_text(record).map_err(|fault| odd(Box::new(fault)))?;
    let (body, next) = tip.link(&text).ok_or_else(|| odd("the record is not a JSON object".into()))?;
    let insert = include_str!("../sql/insert_record.sql");
    let inserted = rows.prepare_cached(insert)?.execute(params![
        signed(next.seq),
        record.uid.to_string(),
        record.session_id.as_str(),
        record.state.name(),
        record.kind.name(),
        record.principal.as_str(),
        record.client,
        record.backends.first().map(|used| used.name.as_str()),
        record.started_at.as_millisecond(),
        record.ended_at.as_millisecond(),
        signed(record.request_count),
        signed(record.error_count),
        signed(record.bytes_in),
        signed(record.bytes_out),
        tip.hash,
        next.hash,
        body,
        signer.seal(&next)
    ])?;
    // A batch that is retried after an error may contain a record that was already written.
    if inserted == 0 {
        return Ok(());
    }
    *tip = next;
    usage_rows(rows, record, tip.seq)?;
    let mut insert = insert_leg(rows)?;
    for line in record.requests.iter().rev().filter(|_| with_legs) {
        leg_row(&mut insert, record.uid, line, None)?;
    }
    Ok(())
}

/// Writes legs as they end (`history.legs: all`), whether or not their session has a record yet.
pub(in crate::history) fn leg_rows(rows: &Transaction<'_>, legs: &[ServedLeg]) -> rusqlite::Result<()> {
    let mut insert = insert_leg(rows)?;
    for leg in legs {
        leg_row(&mut insert, leg.uid, &leg.line(), leg.usage())?;
    }
    Ok(())
}

fn insert_leg<'a>(rows: &'a Transaction<'_>) -> rusqlite::Result<CachedStatement<'a>> {
    rows.prepare_cached("INSERT INTO requests (uid, at_ms, body) VALUES (?1, ?2, ?3)")
}

fn leg_row(
    insert: &mut CachedStatement<'_>,
    uid: Uid,
    line: &RequestLine,
    usage: Option<Usage>,
) -> rusqlite::Result<()> {
    let ended = line.started_at.as_millisecond().saturating_add_unsigned(line.duration_ms);
    let body = serde_json::to_string(&StoredRequest { line, usage }).map_err(|fault| odd(Box::new(fault)))?;
    insert.execute(params![uid.to_string(), ended, body])?;
    Ok(())
}

/// Writes token counts by model. Requests without a model get a row with model `NULL`, so that the sums agree with the
/// record's totals.
fn usage_rows(rows: &Transaction<'_>, record: &Record, seq: u64) -> rusqlite::Result<()> {
    let insert = include_str!("../sql/insert_usage.sql");
    let mut insert = rows.prepare_cached(insert)?;
    let mut add = |model: Option<&str>, requests: u64, counts: [u64; 7], cost: u64| {
        let [input, output, read, written, reasoning, unpriced, estimated] = counts.map(signed);
        let cost = Cost::of(cost).as_usd();
        insert.execute(params![
            signed(seq),
            model,
            signed(requests),
            input,
            output,
            read,
            written,
            reasoning,
            unpriced,
            estimated,
            cost
        ])
    };
    let (mut requests, mut rest) = (record.request_count, counts(&record.usage.total));
    let mut cost = record.usage.total.cost.picodollars();
    for used in &record.usage.models {
        let own = counts(&used.usage);
        add(Some(&used.model), used.requests, own, used.usage.cost.picodollars())?;
        rest.iter_mut().zip(own).for_each(|(rest, own)| *rest = rest.saturating_sub(own));
        requests = requests.saturating_sub(used.requests);
        cost = cost.saturating_sub(used.usage.cost.picodollars());
    }
    if requests > 0 || rest.iter().any(|count| *count > 0) {
        add(None, requests, rest, cost)?;
    }
    Ok(())
}

fn counts(usage: &Usage) -> [u64; 7] {
    [
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.unpriced_answers,
        usage.estimated_answers,
    ]
}

/// Converts to SQLite's integer type. Clamped to 2^53 - 1 as in the record's JSON.
fn signed(number: u64) -> i64 {
    number.min(hash_chain::MAX_INTEGER).cast_signed()
}

fn odd(fault: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(fault)
}
