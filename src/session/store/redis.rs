//! The session store in Redis: the instances' shares of active sessions, kill orders, and ended sessions.
//! Sets of incarnations hold `UID {"session_id":…,"scope":…}`, which sort by uid, newest last, and name the
//! keys of the incarnation.

mod documents;
mod life;
mod listing;
mod order_scripts;
mod orders;
mod scripts;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::types::Value;
use serde::Serialize;

use orders::stood;
pub(in crate::session) use orders::{Cursor, Noted, Stood, told};
use scripts::Scripts;

use super::StoreError;
use crate::clock::millis;
use crate::ids::{SessionKey, Uid};
use crate::redis::signals::Hint;
use crate::redis::{Call, Keys, Link, LinkError};
use crate::session::doc::{Doc, EndNote, Whole};
use crate::session::snapshot::Snapshot;

/// Nothing we write is larger; what is, is not ours.
const MOST_BYTES: usize = 1 << 20;
impl From<LinkError> for StoreError {
    fn from(error: LinkError) -> Self {
        Self(error.to_string())
    }
}

/// How an admission went.
#[derive(Debug)]
pub(in crate::session) enum Admitted {
    /// There was none: this incarnation has been opened, with what the store gave it.
    New(Box<Snapshot>, Vec<Stood>),
    /// It is active already; something moved in it last at this time.
    Join(Box<Snapshot>, u64, Vec<Stood>),
    /// An order stands against it.
    Killed(Vec<Stood>),
    /// A key holds what cannot be read.
    Unreadable(String),
}

/// How closing shares went.
#[derive(Debug)]
pub(in crate::session) enum Closed {
    /// The incarnation goes on elsewhere.
    Active,
    /// It has ended, and others have to close their shares.
    Waiting,
    /// Records tell of all its shares.
    Recorded,
    /// Another instance is about to write its record.
    Claimed(String),
    /// A record is ours to write.
    Record {
        /// What it is to tell of.
        shares: Shares,
        /// Whether another record tells of other shares.
        is_rest: bool,
    },
}

/// How ending went.
#[derive(Debug)]
pub(in crate::session) enum Ended {
    /// It has ended so; perhaps in another way than asked for, before.
    So(Option<EndNote>),
    /// Something moved in it at this time.
    Busy(u64),
}

/// Closed shares of an incarnation that no record tells of, and its end: names of fields and their texts.
#[derive(Clone, Debug)]
pub(in crate::session) struct Shares(Vec<(String, String)>);

impl From<Vec<(String, String)>> for Shares {
    fn from(fields: Vec<(String, String)>) -> Self {
        Self(fields)
    }
}

impl Shares {
    /// The names of the shares.
    pub(in crate::session) fn names(&self) -> Vec<String> {
        self.0.iter().filter_map(|(field, _)| Some(field.strip_prefix("c:")?.to_owned())).collect()
    }

    /// The shares but for these.
    pub(in crate::session) fn without(mut self, told: &[String]) -> Self {
        self.0.retain(|(field, _)| {
            !field.strip_prefix("c:").is_some_and(|name| told.iter().any(|told| told == name))
        });
        self
    }

    /// The sum of the shares; `None` when none of them can be read.
    pub(in crate::session) fn whole(self) -> Option<Whole> {
        Whole::of(self.0)
    }
}

/// One share to be flushed.
#[derive(Debug)]
pub(in crate::session) struct Flush {
    pub(in crate::session) share: String,
    pub(in crate::session) number: u64,
    pub(in crate::session) last_ms: u64,
    pub(in crate::session) doc: Doc,
    pub(in crate::session) session: Doc,
}

/// How long keys live that nobody touches.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct Lifetimes {
    pub(in crate::session) active: Duration,
    pub(in crate::session) ended: Duration,
}

/// The shared store.
#[derive(Debug)]
pub struct RedisStore {
    link: Arc<Link>,
    keys: Keys,
    scripts: Scripts,
    instance: String,
    /// Milliseconds that keys of active and of ended sessions live.
    active_ms: AtomicU64,
    ended_ms: AtomicU64,
}

impl RedisStore {
    /// The store behind this link; `instance` names this process to the others.
    pub fn new(link: Arc<Link>, keys: Keys, instance: String) -> Self {
        let (active_ms, ended_ms) = (AtomicU64::new(DAY_MS), AtomicU64::new(DAY_MS));
        Self { link, keys, scripts: Scripts::new(), instance, active_ms, ended_ms }
    }

    /// Takes how long keys live from now on. Returns true when ended sessions live longer than before.
    pub(in crate::session) fn live_for(&self, Lifetimes { active, ended }: Lifetimes) -> bool {
        self.active_ms.store(millis(active), Ordering::Relaxed);
        let ended = millis(ended).max(1);
        self.ended_ms.swap(ended, Ordering::Relaxed) < ended
    }

    /// Milliseconds that keys of active sessions live.
    pub(in crate::session) fn active_ms(&self) -> u64 {
        self.active_ms.load(Ordering::Relaxed)
    }

    fn active_ttl(&self) -> String {
        self.active_ms.load(Ordering::Relaxed).to_string()
    }

    fn ended_ttl(&self) -> String {
        self.ended_ms.load(Ordering::Relaxed).to_string()
    }

    /// The set of an id's incarnations outlives all of them.
    fn ids_ttl(&self) -> String {
        (self.active_ms.load(Ordering::Relaxed) + self.ended_ms.load(Ordering::Relaxed)).to_string()
    }

    /// The connection.
    pub(in crate::session) fn link(&self) -> &Link {
        &self.link
    }

    /// The names of keys.
    pub(in crate::session) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// This process.
    pub(in crate::session) fn instance(&self) -> &str {
        &self.instance
    }

    /// Looks at the orders, joins the active incarnation or opens this one: one round trip.
    pub(in crate::session) async fn admit(
        &self,
        proposed: Snapshot,
        share: &str,
        now_ms: u64,
    ) -> Result<Admitted, LinkError> {
        let (key, uid) = (proposed.key().clone(), proposed.uid);
        let keys = vec![
            self.keys.session(&key),
            self.keys.killed(&key),
            self.keys.by_id(key.id.as_str()),
            // The script makes this name itself; a cluster has to know that it needs it.
            self.keys.incarnation(&key, uid),
        ];
        let arguments = vec![
            now_ms.to_string(),
            MOST_BYTES.to_string(),
            self.active_ttl(),
            self.ids_ttl(),
            self.keys.incarnations(&key),
            share.to_owned(),
            uid.to_string(),
            member(&key, uid),
            Doc::new(proposed, None).open_text(),
        ];
        let answer: Vec<Value> = self.link.run(&self.scripts.admit, keys, arguments).await?;
        let text = |at: usize| answer.get(at).and_then(Value::as_string).unwrap_or_default();
        let stood = || stood(answer.get(3).cloned());
        let unreadable = || Admitted::Unreadable(self.keys.session(&key));
        let session = || Doc::read(&text(1)).map(|doc| Box::new(doc.session()));
        Ok(match text(0).as_str() {
            "killed" => Admitted::Killed(stood()),
            "unreadable" => Admitted::Unreadable(text(1)),
            "join" => match (session(), text(2).parse()) {
                (Some(session), Ok(last)) if *session.key() == key => Admitted::Join(session, last, stood()),
                _ => unreadable(),
            },
            _ => session().map_or_else(unreadable, |session| Admitted::New(session, stood())),
        })
    }

    /// Takes back a share that nothing joined, and the incarnation with it when it is the only one.
    pub(in crate::session) async fn abandon(
        &self,
        key: &SessionKey,
        uid: Uid,
        share: &str,
    ) -> Result<(), LinkError> {
        let keys =
            vec![self.keys.session(key), self.keys.incarnation(key, uid), self.keys.by_id(key.id.as_str())];
        let arguments = vec![share.to_owned(), uid.to_string(), member(key, uid)];
        self.link.run::<Value>(&self.scripts.abandon, keys, arguments).await.map(drop)
    }

    /// Writes shares, all in one round trip. Gives the end of each whose incarnation has ended.
    pub(in crate::session) async fn flush(
        &self,
        shares: &[Flush],
    ) -> Result<Vec<Option<EndNote>>, LinkError> {
        let call = |flush: &Flush| {
            Call::script(&self.scripts.flush, self.flush_keys(flush), self.flush_arguments(flush))
        };
        let mut calls: Vec<Call> = shares.iter().map(call).collect();
        let (mut sessions, mut activity) = (vec![self.keys.sessions()], vec![self.keys.activity()]);
        for flush in shares {
            let member = member(flush.doc.key(), flush.doc.uid());
            activity.extend([flush.last_ms.to_string(), member.clone()]);
            sessions.extend(["0".to_owned(), member]);
        }
        calls.extend([Call::new("ZADD", sessions), Call::new("ZADD", activity)]);
        let answers = self.link.calls(calls).await?;
        let mut ends = Vec::with_capacity(shares.len());
        for (flush, answer) in shares.iter().zip(answers) {
            match answer {
                Ok(end) => ends.push(end.as_str().and_then(|text| EndNote::read(&text))),
                // Junk under our keys concerns this session only.
                Err(LinkError::Refused(why)) => {
                    tracing::warn!(session_id = %flush.doc.key().id, why, "a session cannot be shared");
                    ends.push(None);
                }
                Err(away) => return Err(away),
            }
        }
        Ok(ends)
    }

    fn flush_keys(&self, flush: &Flush) -> Vec<String> {
        let key = flush.doc.key();
        vec![
            self.keys.incarnation(key, flush.doc.uid()),
            self.keys.session(key),
            self.keys.by_id(key.id.as_str()),
        ]
    }

    fn flush_arguments(&self, flush: &Flush) -> Vec<String> {
        vec![
            flush.share.clone(),
            flush.number.to_string(),
            flush.last_ms.to_string(),
            flush.doc.write(),
            self.active_ttl(),
            self.ids_ttl(),
            member(flush.doc.key(), flush.doc.uid()),
            flush.session.write(),
        ]
    }

    /// Ends an incarnation, unless something moved in it after `since`.
    pub(in crate::session) async fn end(
        &self,
        key: &SessionKey,
        uid: Uid,
        note: &EndNote,
        since: Option<u64>,
    ) -> Result<Ended, LinkError> {
        let keys = vec![self.keys.incarnation(key, uid), self.keys.session(key)];
        let since = since.map(|since| since.to_string()).unwrap_or_default();
        let state = note.reason.state().name().to_owned();
        let arguments = vec![uid.to_string(), note.write(), state, self.active_ttl(), since];
        let answer: Vec<String> = self.link.run(&self.scripts.end, keys, arguments).await?;
        let told = answer.get(1).map_or("", String::as_str);
        Ok(match answer.first().map(String::as_str) {
            Some("busy") => Ended::Busy(told.parse().unwrap_or(u64::MAX)),
            _ => Ended::So(EndNote::read(told)),
        })
    }

    /// The end of an incarnation, if it has ended.
    pub(in crate::session) async fn ended(
        &self,
        key: &SessionKey,
        uid: Uid,
    ) -> Result<Option<EndNote>, LinkError> {
        let call = Call::new("HGET", [self.keys.incarnation(key, uid), "end".to_owned()]);
        Ok(self.link.call(call).await?.as_str().and_then(|text| EndNote::read(&text)))
    }

    /// Closes shares for good, each with its last document or (without one) with what was flushed last.
    pub(in crate::session) async fn close(
        &self,
        key: &SessionKey,
        uid: Uid,
        shares: &[(String, Option<&Doc>)],
    ) -> Result<Closed, LinkError> {
        let mut arguments = vec![self.instance.clone(), self.active_ttl(), TRUST.as_secs().to_string()];
        for (share, doc) in shares {
            arguments.extend([share.clone(), doc.map(Doc::write).unwrap_or_default()]);
        }
        let keys = vec![self.keys.incarnation(key, uid)];
        let answer: Vec<Value> = self.link.run(&self.scripts.close, keys, arguments).await?;
        let mut answer = answer.into_iter();
        Ok(match answer.next().and_then(|word| word.as_string()).as_deref() {
            Some("active") => Closed::Active,
            Some("waiting") => Closed::Waiting,
            Some("record") => {
                let fields = answer.next().and_then(|fields| fields.convert::<Vec<String>>().ok());
                let mut fields = fields.unwrap_or_default().into_iter();
                let pairs = std::iter::from_fn(|| Some((fields.next()?, fields.next()?)));
                let is_rest = answer.next().is_some_and(|rest| rest.as_u64() == Some(1));
                Closed::Record { shares: Shares(pairs.collect()), is_rest }
            }
            Some("claimed") => {
                Closed::Claimed(answer.next().and_then(|by| by.as_string()).unwrap_or_default())
            }
            _ => Closed::Recorded,
        })
    }

    /// Closes a share that was closed already; claims nothing.
    pub(in crate::session) async fn close_again(
        &self,
        key: &SessionKey,
        uid: Uid,
        share: &str,
        doc: &Doc,
    ) -> Result<(), LinkError> {
        let arguments = vec![self.active_ttl(), share.to_owned(), doc.write()];
        let keys = vec![self.keys.incarnation(key, uid)];
        self.link.run::<Value>(&self.scripts.again, keys, arguments).await.map(drop)
    }
}

/// After a loss the store must have been there so long before it is taken for whole, and an instance that it does not
/// show for dead: by then each has written what it knows.
pub(in crate::session) const TRUST: Duration = Duration::from_secs(8);
const DAY_MS: u64 = 24 * 3600 * 1000;

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// An incarnation in a set.
fn member(key: &SessionKey, uid: Uid) -> String {
    format!("{uid} {}", text(&Hint::new(key, None)))
}

fn incarnation(member: &str) -> Option<(SessionKey, Uid)> {
    let (uid, hint) = member.split_once(' ')?;
    Some((serde_json::from_str::<Hint>(hint).ok()?.key(), Uid::parse(uid)?))
}

/// Fields and their texts.
fn pairs(value: Option<Value>) -> Vec<(String, String)> {
    let Some(value) = value else { return Vec::new() };
    value
        .convert::<std::collections::HashMap<String, String>>()
        .map(|map| map.into_iter().collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
