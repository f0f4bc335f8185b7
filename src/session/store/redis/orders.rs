//! Kill orders in Redis: a hash for each session, a field for each order, and a set of what changed.

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

/// The field of the order against a whole session; agents have a field of their own name.
const WHOLE: &str = "*";
/// The lifting of an order outlives it by this: an instance that was away must not write it again.
const LIFTED: Duration = Duration::from_secs(3600);
/// The lifting of an order that no clock ends is remembered so long.
const LIFTED_FOR_GOOD: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is over leaves the set of changes so long after it was noted: by then everybody has seen it.
const TRIMMED: Duration = Duration::from_secs(600);

/// What stands in Redis against a session or an agent of it.
#[derive(Clone, Debug)]
pub(in crate::session) enum OrderEntry {
    /// An order.
    Order(KillOrder),
    /// The order with the revision `of`, and all before it, were lifted. The lifting has a revision of its own, which
    /// an order that is written after it has to beat.
    Lifted { agent: Option<AgentId>, of: u64, rev: u64 },
    /// Something that nobody can read.
    Unreadable { agent: Option<AgentId> },
}

/// An order as it is written, behind its version and revision.
#[derive(Serialize, Deserialize)]
struct OrderDocument {
    #[serde(default)]
    lifted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
    /// The revision of the order that was lifted; an older version wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
    /// When nobody needs to know any more that it was lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<KillOrder>,
}

/// How far the set of changes was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::session) struct Cursor {
    /// Up to this time of Redis' own clock, in milliseconds.
    pub(in crate::session) at_ms: u64,
    /// And this many of those that were noted at it.
    pub(in crate::session) passed: usize,
}

/// A session whose orders changed.
#[derive(Clone, Debug)]
pub(in crate::session) struct ChangedSession {
    /// `None` when the entry cannot be read.
    pub(in crate::session) key: Option<SessionKey>,
    pub(super) at_ms: u64,
    member: String,
}

impl Cursor {
    /// Behind what was read; `trimmed` was taken out meanwhile.
    pub(in crate::session) fn after(self, page: &[ChangedSession], trimmed: &[ChangedSession]) -> Self {
        let Some(last) = page.last() else { return self };
        let at_last = |page: &[ChangedSession]| page.iter().filter(|noted| noted.at_ms == last.at_ms).count();
        let before = if last.at_ms == self.at_ms { self.passed } else { 0 };
        Self { at_ms: last.at_ms, passed: (before + at_last(page)).saturating_sub(at_last(trimmed)) }
    }
}

impl RedisStore {
    /// Writes an order. With `wins` it counts more than whatever stands there; gives its revision then.
    pub(in crate::session) async fn order(&self, order: &KillOrder, wins: bool) -> Result<u64, LinkError> {
        self.write_order(order, standing(order), order.rev, wins).await
    }

    /// Writes that an order was lifted.
    pub(in crate::session) async fn lift(&self, order: &KillOrder, now_ms: u64) -> Result<u64, LinkError> {
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
            // Its version and revision come first.
            text[1..].to_owned(),
        ];
        let keys = vec![self.keys.killed(&order.key())];
        let rev: String = self.link.run(&self.scripts.put_order, keys, arguments).await?;
        Ok(rev.parse().unwrap_or(0))
    }

    /// Notes that the orders against sessions changed, for those who look up what they were not told.
    pub(in crate::session) async fn record_changes(&self, keys: &[SessionKey]) -> Result<(), LinkError> {
        let noted = keys.iter().map(|key| text(&Hint::new(key, None))).collect();
        self.link.run::<Value>(&self.scripts.record_changes, vec![self.keys.kills()], noted).await.map(drop)
    }

    /// Tells all instances that the orders against a session changed. An order goes with the message, so that it
    /// holds also where it cannot be read. Gives how many heard it.
    pub(in crate::session) async fn publish_orders_changed(
        &self,
        key: &SessionKey,
        order: Option<&KillOrder>,
    ) -> Result<u64, LinkError> {
        let mut hint = Hint::new(key, None);
        hint.order = order.map(|order| {
            let mut written = serde_json::to_value(standing(order)).unwrap_or_default();
            written["v"] = 1.into();
            written["rev"] = order.rev.into();
            written
        });
        self.link.publish(self.keys.kill_channel(), text(&hint), &self.keys.end_channel()).await
    }

    /// Tells all instances that an incarnation ended.
    pub(in crate::session) async fn publish_end(&self, key: &SessionKey, uid: Uid) -> Result<(), LinkError> {
        let hint = text(&Hint::new(key, Some(uid)));
        self.link.call(Call::new("PUBLISH", [self.keys.end_channel(), hint])).await.map(drop)
    }

    /// What stands against these sessions.
    pub(in crate::session) async fn stood(
        &self,
        sessions: &[SessionKey],
    ) -> Result<Vec<Vec<OrderEntry>>, LinkError> {
        let calls = sessions.iter().map(|key| Call::new("HGETALL", [self.keys.killed(key)])).collect();
        let answers = self.link.calls(calls).await?;
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.push(match answer {
                Ok(fields) => stood(Some(fields)),
                Err(LinkError::Refused(_)) => vec![OrderEntry::Unreadable { agent: None }],
                Err(away) => return Err(away),
            });
        }
        Ok(all)
    }

    /// A page of the sessions whose orders changed, from there on, and the time of Redis' own clock.
    pub(in crate::session) async fn changed(
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
            // A float has room for milliseconds; what was noted by somebody else may be anything.
            let at_ms = at.as_f64().unwrap_or(0.0) as u64;
            page.push(ChangedSession { key, at_ms, member });
        }
        Ok((now, page))
    }

    /// Takes sessions out of the set of changes, unless they were noted again or lately. Gives how many.
    pub(in crate::session) async fn trim(&self, noted: &[ChangedSession]) -> Result<u64, LinkError> {
        let mut arguments = vec![millis(TRIMMED).to_string()];
        for ChangedSession { member, at_ms, .. } in noted {
            arguments.extend([member.clone(), at_ms.to_string()]);
        }
        self.link.run(&self.scripts.trim_changes, vec![self.keys.kills()], arguments).await
    }

    /// Whether the set of changes is there.
    pub(in crate::session) async fn has_change_set(&self) -> Result<bool, LinkError> {
        Ok(self.link.call(Call::new("EXISTS", [self.keys.kills()])).await?.as_u64() == Some(1))
    }

    /// Compares the principals' key of this instance with the one in Redis.
    pub(in crate::session) async fn claim(&self, own: &Claim, means: Means) -> Result<Claimed, LinkError> {
        principals::claim(&self.link, &self.keys, own, means).await
    }

    /// Makes sure that this user has every right it needs.
    pub(in crate::session) async fn check_rights(&self) -> Result<(), LinkError> {
        rights::check(&self.link, &self.keys).await
    }

    /// How many keys the servers have evicted that do, and by which policy; `None` when none evicts, or says so.
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

fn standing(order: &KillOrder) -> OrderDocument {
    OrderDocument {
        lifted: false,
        until_ms: until_ms(order),
        of: None,
        forget_ms: None,
        order: Some(order.clone()),
    }
}

/// The order that a message holds.
pub(in crate::session) fn told(order: &serde_json::Value) -> Option<KillOrder> {
    let agent = order["order"]["agent"].as_str().unwrap_or(WHOLE);
    match stands(agent, &order.to_string()) {
        OrderEntry::Order(order) => Some(order),
        _ => None,
    }
}

pub(super) fn stood(fields: Option<Value>) -> Vec<OrderEntry> {
    pairs(fields).into_iter().map(|(field, text)| stands(&field, &text)).collect()
}

/// What one field of the kill key says.
fn stands(field: &str, text: &str) -> OrderEntry {
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
