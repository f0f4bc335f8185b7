//! Heartbeats of instances, idle sessions, and messages between instances.

use std::time::Duration;

use fred::types::Value;

use super::documents;
use super::member;
use crate::clock::millis;
use crate::ids::{SessionKey, Uid};
use crate::redis::{Call, LinkError};
use crate::session::store::RedisStore;
use crate::session::store::share_document::ShareDocument;
use crate::session::views::instance_view::InstanceView;

/// An instance without a heartbeat for this long is dead.
const ALIVE: Duration = Duration::from_secs(5);
/// The name of an instance without a heartbeat for this long is forgotten.
const GONE: Duration = Duration::from_secs(3600);
/// How long one instance looks after dead ones before another takes its turn.
const TURN: Duration = Duration::from_secs(2);
/// Documents extended in one round trip.
const EXTENDED: usize = 256;

impl RedisStore {
    /// Refreshes the heartbeat of this instance. Returns whether the previous one was still there: if not, although
    /// it was refreshed a moment ago, the store was wiped.
    pub(in crate::session) async fn refresh_heartbeat(
        &self,
        here: &InstanceView,
        now_ms: u64,
    ) -> Result<bool, LinkError> {
        let (key, told) =
            (self.keys.instance(&self.instance), serde_json::to_string(here).unwrap_or_default());
        let life = [key, told, "PX".to_owned(), millis(ALIVE).to_string(), "GET".to_owned()];
        let was_seen = !self.link.call(Call::new("SET", life)).await?.is_null();
        let names = self.keys.instances();
        if !was_seen {
            let gone = [names.clone(), "-inf".to_owned(), now_ms.saturating_sub(millis(GONE)).to_string()];
            let gone = self.link.call(Call::new("ZRANGEBYSCORE", gone)).await?;
            for name in gone.convert::<Vec<String>>().unwrap_or_default() {
                self.link.call(Call::new("ZREM", [names.clone(), name])).await?;
            }
        }
        self.link.call(Call::new("ZADD", [names, now_ms.to_string(), self.instance.clone()])).await?;
        Ok(was_seen)
    }

    /// Returns what the instances that live say of themselves, this one too.
    pub(in crate::session) async fn instances(&self) -> Result<Vec<InstanceView>, LinkError> {
        let all = [self.keys.instances(), "-inf".to_owned(), "+inf".to_owned()];
        let names: Vec<String> =
            self.link.call(Call::new("ZRANGEBYSCORE", all)).await?.convert().unwrap_or_default();
        let mut living = Vec::new();
        for name in names {
            let told = self.link.call(Call::new("GET", [self.keys.instance(&name)])).await?;
            // One of an earlier version says nothing of itself.
            let told =
                told.as_str().map(|told| serde_json::from_str::<InstanceView>(&told).unwrap_or_default());
            living.extend(told.map(|told| InstanceView { name, ..told }));
        }
        Ok(living)
    }

    /// Deletes the heartbeat: the others need not wait for this instance.
    pub(in crate::session) async fn delete_heartbeat(&self) -> Result<(), LinkError> {
        self.link.call(Call::new("DEL", [self.keys.instance(&self.instance)])).await?;
        let name = [self.keys.instances(), self.instance.clone()];
        self.link.call(Call::new("ZREM", name)).await.map(drop)
    }

    pub(in crate::session) async fn is_alive(&self, instance: &str) -> Result<bool, LinkError> {
        let found = self.link.call(Call::new("EXISTS", [self.keys.instance(instance)])).await?;
        Ok(found.as_u64() == Some(1))
    }

    /// True if it is this instance's turn to look after dead ones.
    pub(in crate::session) async fn take_orphan_turn(&self) -> Result<bool, LinkError> {
        let mine =
            [self.keys.sweeper(), self.instance.clone(), "NX".into(), "PX".into(), millis(TURN).to_string()];
        Ok(!self.link.call(Call::new("SET", mine)).await?.is_null())
    }

    /// Active incarnations without activity since this time, in milliseconds since 1970.
    pub(in crate::session) async fn idle_since(
        &self,
        since_ms: u64,
        most: usize,
    ) -> Result<Vec<(SessionKey, Uid)>, LinkError> {
        let range = ["-inf".to_owned(), since_ms.to_string(), "LIMIT".into(), "0".into(), most.to_string()];
        let call = Call::new("ZRANGEBYSCORE", [self.keys.activity()].into_iter().chain(range));
        Ok(documents::incarnations(self.link.call(call).await?))
    }

    /// Those of a page of the active incarnations, after this one, that have ended. Also returns the end of the page,
    /// `None` if it was the last one.
    pub(in crate::session) async fn ended_among_active(
        &self,
        after: Option<Uid>,
        most: usize,
    ) -> Result<(Option<Uid>, Vec<(SessionKey, Uid)>), LinkError> {
        let low = after.map_or_else(|| "-".to_owned(), |uid| format!("({uid}~"));
        let range = [self.keys.sessions(), low, "+".into(), "LIMIT".into(), "0".into(), most.to_string()];
        let page = documents::incarnations(self.link.call(Call::new("ZRANGEBYLEX", range)).await?);
        let next = page.last().filter(|_| page.len() == most).map(|(_, uid)| *uid);
        let call = |(key, uid): &(SessionKey, Uid)| {
            Call::new("HEXISTS", [self.keys.incarnation(key, *uid), "end".to_owned()])
        };
        let answers = self.link.calls(page.iter().map(call).collect()).await?;
        let has_ended =
            |answer: &Result<Value, LinkError>| answer.as_ref().is_ok_and(|found| found.as_u64() == Some(1));
        let ended = page.into_iter().zip(answers).filter(|(_, answer)| has_ended(answer));
        Ok((next, ended.map(|(name, _)| name).collect()))
    }

    /// Sets the last activity of an incarnation; 0 has it checked soon.
    pub(in crate::session) async fn set_activity(
        &self,
        key: &SessionKey,
        uid: Uid,
        at_ms: u64,
    ) -> Result<(), LinkError> {
        let arguments = [self.keys.activity(), at_ms.to_string(), member(key, uid)];
        self.link.call(Call::new("ZADD", arguments)).await.map(drop)
    }

    /// Adds incarnations that this instance has just opened to the sets of active ones, with their last activity in
    /// milliseconds since 1970. Their shares are there since their admission.
    pub(in crate::session) async fn add_active<'a>(
        &self,
        opened: impl IntoIterator<Item = (&'a SessionKey, Uid, u64)>,
    ) -> Result<(), LinkError> {
        self.link.calls(self.active_calls(opened).into()).await.map(drop)
    }

    /// The calls that list incarnations as active.
    pub(super) fn active_calls<'a>(
        &self,
        active: impl IntoIterator<Item = (&'a SessionKey, Uid, u64)>,
    ) -> [Call; 2] {
        let (mut sessions, mut activity) = (vec![self.keys.sessions()], vec![self.keys.activity()]);
        for (key, uid, last_ms) in active {
            let member = member(key, uid);
            activity.extend([last_ms.to_string(), member.clone()]);
            sessions.extend(["0".to_owned(), member]);
        }
        [Call::new("ZADD", sessions), Call::new("ZADD", activity)]
    }

    /// The open shares of an incarnation, or one empty name if it has no open share; empty if the incarnation is
    /// gone.
    pub(in crate::session) async fn open_shares(
        &self,
        key: &SessionKey,
        uid: Uid,
    ) -> Result<Vec<String>, LinkError> {
        let fields =
            self.link.call(Call::new("HKEYS", [self.keys.incarnation(key, uid)])).await?.into_array();
        let open = |field: &Value| Some(field.as_str()?.strip_prefix("o:")?.to_owned());
        let mut shares: Vec<String> = fields.iter().filter_map(open).collect();
        if shares.is_empty() && !fields.is_empty() {
            shares.push(String::new());
        }
        Ok(shares)
    }

    /// Removes an incarnation from the sets of active ones.
    pub(in crate::session) async fn remove_active(
        &self,
        key: &SessionKey,
        uid: Uid,
    ) -> Result<(), LinkError> {
        let member = member(key, uid);
        let calls =
            [self.keys.sessions(), self.keys.activity()].map(|set| Call::new("ZREM", [set, member.clone()]));
        self.link.calls(calls.into_iter().collect()).await.map(drop)
    }

    /// Whether a record covers each of these shares.
    pub(in crate::session) async fn are_recorded(
        &self,
        shares: &[(SessionKey, Uid, String)],
    ) -> Result<Vec<bool>, LinkError> {
        let call = |(key, uid, _): &(SessionKey, Uid, String)| {
            Call::new("HGET", [self.keys.incarnation(key, *uid), "done".to_owned()])
        };
        let answers = self.link.calls(shares.iter().map(call).collect()).await?;
        let is_told = |((_, _, share), answer): (&(SessionKey, Uid, String), Result<Value, LinkError>)| {
            let done = answer.ok().and_then(|done| done.as_string()).unwrap_or_default();
            done.split(' ').any(|told| told == share)
        };
        Ok(shares.iter().zip(answers).map(is_told).collect())
    }

    /// Marks shares as covered by a record.
    pub(in crate::session) async fn mark_recorded(
        &self,
        key: &SessionKey,
        uid: Uid,
        shares: &[String],
    ) -> Result<(), LinkError> {
        let keys = vec![self.keys.incarnation(key, uid)];
        let arguments = std::iter::once(self.active_ttl()).chain(shares.iter().cloned()).collect();
        self.link.run::<Value>(&self.scripts.mark_recorded, keys, arguments).await.map(drop)
    }

    /// Closes a share again; never claims the record.
    pub(in crate::session) async fn close_again(
        &self,
        key: &SessionKey,
        uid: Uid,
        share: &str,
        doc: &ShareDocument,
    ) -> Result<(), LinkError> {
        let arguments = vec![self.active_ttl(), share.to_owned(), doc.write()];
        let keys = vec![self.keys.incarnation(key, uid)];
        self.link.run::<Value>(&self.scripts.close_again, keys, arguments).await.map(drop)
    }

    /// Takes over a record from a dead instance.
    pub(in crate::session) async fn take_over_record(
        &self,
        key: &SessionKey,
        uid: Uid,
    ) -> Result<(), LinkError> {
        let field = [self.keys.incarnation(key, uid), "record".to_owned(), self.instance.clone()];
        self.link.call(Call::new("HSET", field)).await.map(drop)
    }

    /// Publishes events of this instance in one round trip. Returns how many were not published.
    pub(in crate::session) async fn publish_events(&self, events: &[String]) -> Result<usize, LinkError> {
        self.publish(self.keys.event_channel(), events).await
    }

    /// Publishes announcements of this instance in one round trip.
    pub(in crate::session) async fn publish_announcements(&self, texts: &[String]) -> Result<(), LinkError> {
        self.publish(self.keys.announcement_channel(), texts).await.map(drop)
    }

    /// Publishes texts of this instance on a channel. Returns how many were not published.
    async fn publish(&self, channel: String, texts: &[String]) -> Result<usize, LinkError> {
        let call =
            |text: &String| Call::new("PUBLISH", [channel.clone(), format!("{} {text}", self.instance)]);
        let answers = self.link.calls(texts.iter().map(call).collect()).await?;
        Ok(answers.iter().filter(|answer| answer.is_err()).count())
    }

    /// Whether a key is missing that an active incarnation should have, for each of these.
    pub(in crate::session) async fn missing_keys(
        &self,
        incarnations: &[(SessionKey, Uid)],
    ) -> Result<Vec<bool>, LinkError> {
        let call = |(key, uid): &(SessionKey, Uid)| {
            Call::new("EXISTS", [self.keys.incarnation(key, *uid), self.keys.session(key)])
        };
        let answers = self.link.calls(incarnations.iter().map(call).collect()).await?;
        answers.into_iter().map(|answer| answer.map(|found| found.as_u64() != Some(2))).collect()
    }

    /// Extends the lifetime of documents of ended sessions to a longer `retention`; [`SessionStore::purge`] still
    /// deletes each when it is due.
    pub(in crate::session) async fn extend_ended(&self) -> Result<(), LinkError> {
        let mut from = 0;
        loop {
            let range =
                ["-inf", "+inf", "LIMIT", &from.to_string(), &EXTENDED.to_string()].map(str::to_owned);
            let call = Call::new("ZRANGEBYSCORE", [self.keys.gone()].into_iter().chain(range));
            let ended = documents::incarnations(self.link.call(call).await?);
            if ended.is_empty() {
                return Ok(());
            }
            from += EXTENDED;
            let calls = ended.iter().flat_map(|(key, uid)| {
                let id = key.id.as_str();
                [
                    Call::new("PEXPIRE", [self.keys.ended(id, *uid), self.ended_ttl()]),
                    Call::new("PEXPIRE", [self.keys.by_id(id), self.ids_ttl()]),
                ]
            });
            self.link.calls(calls.collect()).await?;
        }
    }
}
