//! Kill orders in Redis: a hash for each session with a field for each order, and a set of sessions whose orders
//! changed.

use std::time::Duration;

use fred::types::{InfoKind, Value};
use serde::{Deserialize, Serialize};

use super::{pairs, text};
use crate::clock::millis;
use crate::ids::{AgentId, SessionKey, Uid};
use crate::redis::principals::{self, Claim, Claimed, Means};
use crate::redis::signals::Hint;
use crate::redis::{Call, LinkError, rights};
use crate::session::store::RedisStore;
use crate::session::views::kill_order::KillOrder;

/// The field of the order against the whole session; orders against agents use the name of the agent.
const WHOLE: &str = "*";
/// How long a lifting outlives its order, so that an instance that was disconnected does not write the order again.
const LIFTED: Duration = Duration::from_secs(3600);
/// How long the lifting of an order without an expiry is kept.
const LIFTED_FOR_GOOD: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long an expired entry stays in the set of changes; by then every instance has seen it.
const TRIMMED: Duration = Duration::from_secs(600);

/// An entry in Redis about a session or an agent.
#[derive(Clone, Debug)]
pub(in crate::session) enum OrderEntry {
    /// A kill order.
    Order(KillOrder),
    /// The order with revision `of`, and all before it, were lifted. The lifting has a revision of its own, which a
    /// later order must exceed.
    Lifted { agent: Option<AgentId>, of: u64, rev: u64 },
    /// A value that cannot be read.
    Unreadable { agent: Option<AgentId> },
}

impl OrderEntry {
    /// Returns the order if it is against the whole session.
    pub(in crate::session) fn against_whole(&self) -> Option<&KillOrder> {
        match self {
            Self::Order(order) if order.agent.is_none() => Some(order),
            Self::Order(_) | Self::Lifted { .. } | Self::Unreadable { .. } => None,
        }
    }
}

/// The JSON of an entry, without its version and revision.
#[derive(Serialize, Deserialize)]
struct OrderDocument {
    #[serde(default)]
    lifted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
    /// The revision of the order that was lifted; older versions wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
    /// When the lifting can be forgotten, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<KillOrder>,
}

/// A position in the set of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::session) struct Cursor {
    /// The time of the change by the clock of Redis, in milliseconds.
    pub(in crate::session) at_ms: u64,
    /// Entries with this time that were read.
    pub(in crate::session) passed: usize,
}

/// A session whose orders changed.
#[derive(Clone, Debug)]
pub(in crate::session) struct ChangedSession {
    /// `None` if the entry cannot be read.
    pub(in crate::session) key: Option<SessionKey>,
    pub(super) at_ms: u64,
    member: String,
}

impl Cursor {
    /// The position after a page; `trimmed` entries were removed meanwhile.
    pub(in crate::session) fn after(self, page: &[ChangedSession], trimmed: &[ChangedSession]) -> Self {
        let Some(last) = page.last() else { return self };
        let at_last = |page: &[ChangedSession]| page.iter().filter(|noted| noted.at_ms == last.at_ms).count();
        let before = if last.at_ms == self.at_ms { self.passed } else { 0 };
        Self { at_ms: last.at_ms, passed: (before + at_last(page)).saturating_sub(at_last(trimmed)) }
    }
}

impl RedisStore {
    /// Writes an order and returns the revision that is stored. With `wins` it replaces whatever is stored.
    pub(in crate::session) async fn put_order(
        &self,
        order: &KillOrder,
        wins: bool,
    ) -> Result<u64, LinkError> {
        self.write_order(order, document_of(order), order.rev, wins).await
    }

    /// Writes that an order was lifted.
    pub(in crate::session) async fn put_lift(
        &self,
        order: &KillOrder,
        now_ms: u64,
    ) -> Result<u64, LinkError> {
        let forget_ms = until_ms(order)
            .map_or(now_ms + millis(LIFTED_FOR_GOOD), |until| until.max(now_ms) + millis(LIFTED));
        let written = OrderDocument {
            lifted: true,
            until_ms: None,
            of: Some(order.rev),
            forget_ms: Some(forget_ms),
            order: None,
        };
        self.write_order(order, written, (order.rev + 1).max(now_ms), true).await
    }

    async fn write_order(
        &self,
        order: &KillOrder,
        written: OrderDocument,
        rev: u64,
        wins: bool,
    ) -> Result<u64, LinkError> {
        let text = serde_json::to_string(&written).unwrap_or_default();
        let arguments = vec![
            order.agent.as_ref().map_or(WHOLE, AgentId::as_str).to_owned(),
            rev.to_string(),
            u8::from(wins).to_string(),
            // The script adds version and revision in front.
            text[1..].to_owned(),
        ];
        let keys = vec![self.keys.killed(&order.key())];
        let rev: String = self.link.run(&self.scripts.put_order, keys, arguments).await?;
        Ok(rev.parse().unwrap_or(0))
    }

    /// Records that the orders of these sessions changed, for instances that miss the message.
    pub(in crate::session) async fn record_changes(&self, keys: &[SessionKey]) -> Result<(), LinkError> {
        let noted = keys.iter().map(|key| text(&Hint::new(key, None))).collect();
        self.link.run::<Value>(&self.scripts.record_changes, vec![self.keys.kills()], noted).await.map(drop)
    }

    /// Publishes that the orders of a session changed. The message contains the order, so that it applies even if
    /// the key cannot be read. Returns how many instances received it.
    pub(in crate::session) async fn publish_orders_changed(
        &self,
        key: &SessionKey,
        order: Option<&KillOrder>,
    ) -> Result<u64, LinkError> {
        let mut hint = Hint::new(key, None);
        hint.order = order.map(|order| {
            let mut written = serde_json::to_value(document_of(order)).unwrap_or_default();
            written["v"] = 1.into();
            written["rev"] = order.rev.into();
            written
        });
        self.link.publish(self.keys.kill_channel(), text(&hint), &self.keys.end_channel()).await
    }

    /// Publishes that an incarnation ended.
    pub(in crate::session) async fn publish_end(&self, key: &SessionKey, uid: Uid) -> Result<(), LinkError> {
        let hint = text(&Hint::new(key, Some(uid)));
        self.link.call(Call::new("PUBLISH", [self.keys.end_channel(), hint])).await.map(drop)
    }

    /// The entries about these sessions.
    pub(in crate::session) async fn order_entries(
        &self,
        sessions: &[SessionKey],
    ) -> Result<Vec<Vec<OrderEntry>>, LinkError> {
        let calls = sessions.iter().map(|key| Call::new("HGETALL", [self.keys.killed(key)])).collect();
        let answers = self.link.calls(calls).await?;
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.push(match answer {
                Ok(fields) => parse_entries(Some(fields)),
                Err(LinkError::Refused(_)) => vec![OrderEntry::Unreadable { agent: None }],
                Err(away) => return Err(away),
            });
        }
        Ok(all)
    }

    /// A page of the sessions whose orders changed, and the time of the clock of Redis in milliseconds.
    pub(in crate::session) async fn changed_since(
        &self,
        from: Cursor,
        most: usize,
    ) -> Result<(u64, Vec<ChangedSession>), LinkError> {
        let arguments = vec![from.at_ms.to_string(), from.passed.to_string(), most.to_string()];
        let answer: Vec<Value> =
            self.link.run(&self.scripts.changed_since, vec![self.keys.kills()], arguments).await?;
        let mut answer = answer.into_iter();
        let now = answer.next().and_then(|now| now.as_string()).and_then(|now| now.parse().ok()).unwrap_or(0);
        let mut entries = answer.next().map(Value::into_array).unwrap_or_default().into_iter();
        let mut page = Vec::with_capacity(entries.len() / 2);
        while let (Some(member), Some(at)) = (entries.next(), entries.next()) {
            let member = member.as_string().unwrap_or_default();
            let key = serde_json::from_str::<Hint>(&member).ok().map(|hint| hint.key());
            // A float holds milliseconds exactly; other writers may have stored anything.
            let at_ms = at.as_f64().unwrap_or(0.0) as u64;
            page.push(ChangedSession { key, at_ms, member });
        }
        Ok((now, page))
    }

    /// Removes sessions from the set of changes, unless they changed again or recently. Returns how many.
    pub(in crate::session) async fn trim_changes(&self, noted: &[ChangedSession]) -> Result<u64, LinkError> {
        let mut arguments = vec![millis(TRIMMED).to_string()];
        for ChangedSession { member, at_ms, .. } in noted {
            arguments.extend([member.clone(), at_ms.to_string()]);
        }
        self.link.run(&self.scripts.trim_changes, vec![self.keys.kills()], arguments).await
    }

    /// True if the set of changes exists.
    pub(in crate::session) async fn has_change_set(&self) -> Result<bool, LinkError> {
        Ok(self.link.call(Call::new("EXISTS", [self.keys.kills()])).await?.as_u64() == Some(1))
    }

    /// Compares the principals' key of this instance with the one in Redis.
    pub(in crate::session) async fn claim_principals_key(
        &self,
        own: &Claim,
        means: Means,
    ) -> Result<Claimed, LinkError> {
        principals::claim(&self.link, &self.keys, own, means).await
    }

    /// Checks that the user has every right that ELIDA needs.
    pub(in crate::session) async fn check_rights(&self) -> Result<(), LinkError> {
        rights::check(&self.link, &self.keys).await
    }

    /// The eviction policy, and how many keys the servers have evicted; `None` if none evicts, or none reports it.
    pub(in crate::session) async fn evictions(&self) -> Option<(String, u64)> {
        let field = |info: &str, name: &str| -> Option<String> {
            info.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
        };
        let policy = |info: &String| {
            let is_bounded = field(info, "maxmemory").is_some_and(|most| most != "0");
            field(info, "maxmemory_policy").filter(|policy| is_bounded && policy != "noeviction")
        };
        let policy = self.link.info(InfoKind::Memory).await.ok()?.iter().find_map(policy)?;
        let stats = self.link.info(InfoKind::Stats).await.ok()?;
        let evicted = stats.iter().filter_map(|info| field(info, "evicted_keys")?.parse::<u64>().ok()).sum();
        Some((policy, evicted))
    }
}

fn until_ms(order: &KillOrder) -> Option<u64> {
    order.until.and_then(|until| u64::try_from(until.as_millisecond()).ok())
}

fn document_of(order: &KillOrder) -> OrderDocument {
    OrderDocument {
        lifted: false,
        until_ms: until_ms(order),
        of: None,
        forget_ms: None,
        order: Some(order.clone()),
    }
}

/// The order in a message; `None` if it cannot be read.
pub(in crate::session) fn order_in_message(order: &serde_json::Value) -> Option<KillOrder> {
    let agent = order["order"]["agent"].as_str().unwrap_or(WHOLE);
    match parse_entry(agent, &order.to_string()) {
        OrderEntry::Order(order) => Some(order),
        OrderEntry::Lifted { .. } | OrderEntry::Unreadable { .. } => None,
    }
}

pub(super) fn parse_entries(fields: Option<Value>) -> Vec<OrderEntry> {
    pairs(fields).into_iter().map(|(field, text)| parse_entry(&field, &text)).collect()
}

/// Parses one field of the hash of kill orders.
fn parse_entry(field: &str, text: &str) -> OrderEntry {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
        rev: u64,
    }
    let agent = (field != WHOLE).then(|| AgentId::new(field));
    let read = || {
        let Version { v: 1, rev } = serde_json::from_str(text).ok()? else { return None };
        let written: OrderDocument = serde_json::from_str(text).ok()?;
        match written {
            OrderDocument { lifted: true, of, .. } => {
                Some(OrderEntry::Lifted { agent: agent.clone(), of: of.unwrap_or(rev), rev })
            }
            OrderDocument { order: Some(order), .. } if order.agent == agent => {
                Some(OrderEntry::Order(KillOrder { rev, ..order }))
            }
            _ => None,
        }
    };
    read().unwrap_or(OrderEntry::Unreadable { agent: agent.clone() })
}
