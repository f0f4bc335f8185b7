//! Kill orders in Redis: a hash for each session, a field for each order, and a set of what changed.

use std::time::Duration;

use fred::types::Value;
use serde::{Deserialize, Serialize};

use super::{RedisStore, pairs, text};
use crate::clock::millis;
use crate::ids::{AgentId, SessionKey, Uid};
use crate::redis::signals::Hint;
use crate::redis::{Call, LinkError};
use crate::session::book::KillOrder;

/// The field of the order against a whole session; agents have a field of their own name.
const WHOLE: &str = "*";
/// The lifting of an order outlives it by this: an instance that was away must not write it again.
const LIFTED: Duration = Duration::from_secs(3600);
/// The lifting of an order that no clock ends is remembered so long.
const LIFTED_FOR_GOOD: Duration = Duration::from_secs(30 * 24 * 3600);

/// What stands in Redis against a session or an agent of it.
#[derive(Clone, Debug)]
pub(in crate::session) enum Stood {
    /// An order.
    Order(KillOrder),
    /// The order with this revision, and all before it, were lifted.
    Lifted { agent: Option<AgentId>, rev: u64 },
    /// Something that nobody can read.
    Unreadable { agent: Option<AgentId> },
}

/// An order as it is written, behind its version and revision.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default)]
    lifted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<KillOrder>,
}

impl RedisStore {
    /// Writes an order. With `wins` it counts more than whatever stands there; gives its revision then.
    pub(in crate::session) async fn order(
        &self,
        order: &KillOrder,
        now_ms: u64,
        wins: bool,
    ) -> Result<u64, LinkError> {
        let until_ms = order.until.and_then(|until| u64::try_from(until.as_millisecond()).ok());
        let ttl = until_ms.map_or(0, |until| until.saturating_sub(now_ms).max(1));
        let written = Written { lifted: false, until_ms, order: Some(order.clone()) };
        self.write_order(order, written, order.rev, wins, ttl).await
    }

    /// Writes that an order was lifted.
    pub(in crate::session) async fn lift(&self, order: &KillOrder, now_ms: u64) -> Result<u64, LinkError> {
        let until = order.until.and_then(|until| u64::try_from(until.as_millisecond()).ok());
        let ttl =
            until.map_or(millis(LIFTED_FOR_GOOD), |until| until.saturating_sub(now_ms) + millis(LIFTED));
        let written = Written { lifted: true, until_ms: None, order: None };
        self.write_order(order, written, (order.rev + 1).max(now_ms), true, ttl).await
    }

    async fn write_order(
        &self,
        order: &KillOrder,
        written: Written,
        rev: u64,
        wins: bool,
        ttl_ms: u64,
    ) -> Result<u64, LinkError> {
        let key = order.key();
        let text = serde_json::to_string(&written).unwrap_or_default();
        let arguments = vec![
            order.agent.as_ref().map_or(WHOLE, AgentId::as_str).to_owned(),
            rev.to_string(),
            u8::from(wins).to_string(),
            // Its version and revision come first.
            text[1..].to_owned(),
            ttl_ms.to_string(),
        ];
        let rev: String = self.link.run(&self.scripts.order, vec![self.keys.killed(&key)], arguments).await?;
        Ok(rev.parse().unwrap_or(0))
    }

    /// Tells all instances that the orders against a session changed. Gives how many heard it.
    pub(in crate::session) async fn tell_kill(&self, key: &SessionKey) -> Result<u64, LinkError> {
        let hint = text(&Hint::new(key, None));
        self.link.run::<Value>(&self.scripts.note, vec![self.keys.kills()], vec![hint.clone()]).await?;
        self.link.publish(self.keys.kill_channel(), hint, &self.keys.end_channel()).await
    }

    /// Tells all instances that an incarnation ended.
    pub(in crate::session) async fn tell_end(&self, key: &SessionKey, uid: Uid) -> Result<(), LinkError> {
        let hint = text(&Hint::new(key, Some(uid)));
        self.link.call(Call::new("PUBLISH", [self.keys.end_channel(), hint])).await.map(drop)
    }

    /// What stands against these sessions.
    pub(in crate::session) async fn stood(
        &self,
        sessions: &[SessionKey],
    ) -> Result<Vec<Vec<Stood>>, LinkError> {
        let calls = sessions.iter().map(|key| Call::new("HGETALL", [self.keys.killed(key)])).collect();
        let answers = self.link.calls(calls).await?;
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.push(match answer {
                Ok(fields) => stood(Some(fields)),
                Err(LinkError::Refused(_)) => vec![Stood::Unreadable { agent: None }],
                Err(away) => return Err(away),
            });
        }
        Ok(all)
    }

    /// The sessions whose orders changed since this time of Redis' own clock, and that time now.
    pub(in crate::session) async fn changed(
        &self,
        since_ms: u64,
    ) -> Result<(u64, Vec<SessionKey>), LinkError> {
        let answer: Vec<Value> =
            self.link.run(&self.scripts.changed, vec![self.keys.kills()], vec![since_ms.to_string()]).await?;
        let mut answer = answer.into_iter();
        let now = answer.next().and_then(|now| now.as_string()).and_then(|now| now.parse().ok()).unwrap_or(0);
        let hints = answer.next().map(Value::into_array).unwrap_or_default();
        let key = |hint: Value| Some(serde_json::from_str::<Hint>(&hint.as_str()?).ok()?.key());
        Ok((now, hints.into_iter().filter_map(key).collect()))
    }
}

pub(super) fn stood(fields: Option<Value>) -> Vec<Stood> {
    pairs(fields).into_iter().map(|(field, text)| stands(&field, &text)).collect()
}

/// What one field of the kill key says.
fn stands(field: &str, text: &str) -> Stood {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
        rev: u64,
    }
    let agent = (field != WHOLE).then(|| AgentId::new(field));
    let read = || {
        let Version { v: 1, rev } = serde_json::from_str(text).ok()? else { return None };
        let written: Written = serde_json::from_str(text).ok()?;
        match written {
            Written { lifted: true, .. } => Some(Stood::Lifted { agent: agent.clone(), rev }),
            Written { order: Some(order), .. } if order.agent == agent => {
                Some(Stood::Order(KillOrder { rev, ..order }))
            }
            _ => None,
        }
    };
    read().unwrap_or(Stood::Unreadable { agent: agent.clone() })
}
