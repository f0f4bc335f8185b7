//! The session store in Redis: the instances' shares of active sessions, kill orders, and ended sessions.
//! Sets of incarnations hold `UID {"session_id":…,"scope":…}`, which sort by uid, newest last, and name its keys.

pub(in crate::session) mod client_keys;
mod documents;
mod life;
mod listing;
mod names;
mod orders;
mod scripts;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::types::Value;
use serde::Serialize;

pub(in crate::session) use names::{NameCursor, Namesake};
use orders::parse_entries;
pub(in crate::session) use orders::{ChangedSession, Cursor, OrderEntry, order_in_message};
use scripts::Scripts;

use super::StoreError;
use super::share_document::{EndNote, MergedShares, ShareDocument};
use crate::clock::millis;
use crate::ids::{SessionKey, Uid};
use crate::redis::signals::Hint;
use crate::redis::{Call, Keys, Link, LinkError};
use crate::session::views::session_view::SessionView;

/// The largest value that ELIDA writes, in bytes; a larger one is not its own.
const MOST_BYTES: usize = 1 << 20;
impl From<LinkError> for StoreError {
    fn from(error: LinkError) -> Self {
        Self(error.to_string())
    }
}

/// The outcome of an admission.
#[derive(Debug)]
pub(in crate::session) enum Admitted {
    /// A new incarnation was opened, with the number that the store assigned.
    New(Box<SessionView>, Vec<OrderEntry>),
    /// The incarnation is active; the number is its last activity in milliseconds since 1970.
    Join(Box<SessionView>, u64, Vec<OrderEntry>),
    /// The session is killed.
    Killed(Vec<OrderEntry>),
    /// This key holds a value that cannot be read.
    Unreadable(String),
}

/// The outcome of closing shares.
#[derive(Debug)]
pub(in crate::session) enum Closed {
    /// The incarnation is active on other instances.
    Active,
    /// It has ended, and other instances must close their shares.
    Waiting,
    /// Records cover all its shares.
    Recorded,
    /// This instance is about to write its record.
    Claimed(String),
    /// The caller must write a record.
    Record {
        /// The shares that the record covers.
        shares: Shares,
        /// True if another record covers other shares.
        is_rest: bool,
    },
}

/// The outcome of ending an incarnation.
#[derive(Debug)]
pub(in crate::session) enum Ended {
    /// It has ended, possibly earlier and for another reason than requested.
    Done(Option<EndNote>),
    /// It was active at this time, in milliseconds since 1970.
    Busy(u64),
}

/// Closed shares of an incarnation that no record covers, and its end: names of fields and their values.
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

    /// The shares except these.
    pub(in crate::session) fn without(mut self, told: &[String]) -> Self {
        self.0.retain(|(field, _)| {
            !field.strip_prefix("c:").is_some_and(|name| told.iter().any(|told| told == name))
        });
        self
    }

    /// The sum of the shares; `None` if none can be read.
    pub(in crate::session) fn whole(self) -> Option<MergedShares> {
        MergedShares::of(self.0)
    }
}

/// A share to be written.
#[derive(Debug)]
pub(in crate::session) struct Flush {
    pub(in crate::session) share: String,
    pub(in crate::session) number: u64,
    pub(in crate::session) last_ms: u64,
    /// How long ago this instance opened the session, in milliseconds; `None` if another one opened it.
    pub(in crate::session) age_ms: Option<u64>,
    pub(in crate::session) doc: ShareDocument,
}

/// Lifetimes of keys.
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
    /// Lifetimes of the keys of active and of ended sessions, in milliseconds.
    active_ms: AtomicU64,
    ended_ms: AtomicU64,
}

impl RedisStore {
    /// A store behind this link; `instance` names this process to the others.
    pub fn new(link: Arc<Link>, keys: Keys, instance: String) -> Self {
        let (active_ms, ended_ms) = (AtomicU64::new(DAY_MS), AtomicU64::new(DAY_MS));
        Self { link, keys, scripts: Scripts::new(), instance, active_ms, ended_ms }
    }

    /// Sets the lifetimes of keys. Returns true if ended sessions live longer than before.
    pub(in crate::session) fn set_lifetimes(&self, Lifetimes { active, ended }: Lifetimes) -> bool {
        self.active_ms.store(millis(active), Ordering::Relaxed);
        let ended = millis(ended).max(1);
        self.ended_ms.swap(ended, Ordering::Relaxed) < ended
    }

    /// Lifetime of the keys of active sessions, in milliseconds.
    pub(in crate::session) fn active_ms(&self) -> u64 {
        self.active_ms.load(Ordering::Relaxed)
    }

    fn active_ttl(&self) -> String {
        self.active_ms.load(Ordering::Relaxed).to_string()
    }

    fn ended_ttl(&self) -> String {
        self.ended_ms.load(Ordering::Relaxed).to_string()
    }

    /// The set of incarnations of an id outlives all of them.
    fn ids_ttl(&self) -> String {
        (self.active_ms.load(Ordering::Relaxed) + self.ended_ms.load(Ordering::Relaxed)).to_string()
    }

    pub(in crate::session) fn link(&self) -> &Link {
        &self.link
    }

    pub(in crate::session) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The name of this process.
    pub(in crate::session) fn instance(&self) -> &str {
        &self.instance
    }

    /// Checks the kill orders, then joins the active incarnation or opens this one: one round trip.
    pub(in crate::session) async fn admit(
        &self,
        proposed: SessionView,
        share: &str,
        now_ms: u64,
    ) -> Result<Admitted, LinkError> {
        let (key, uid) = (proposed.key().clone(), proposed.uid);
        let keys = vec![
            self.keys.session(&key),
            self.keys.killed(&key),
            self.keys.by_id(key.id.as_str()),
            // The script builds this name itself; a cluster must know that it uses the key.
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
            ShareDocument::new(proposed, None).open_text(),
        ];
        let answer: Vec<Value> = self.link.run(&self.scripts.admit, keys, arguments).await?;
        let text = |at: usize| answer.get(at).and_then(Value::as_string).unwrap_or_default();
        let entries = || parse_entries(answer.get(3).cloned());
        let unreadable = || Admitted::Unreadable(self.keys.session(&key));
        let session = || ShareDocument::read(&text(1)).map(|doc| Box::new(doc.session()));
        Ok(match text(0).as_str() {
            "killed" => Admitted::Killed(entries()),
            "unreadable" => Admitted::Unreadable(text(1)),
            "join" => match (session(), text(2).parse()) {
                (Some(session), Ok(last)) if *session.key() == key => {
                    Admitted::Join(session, last, entries())
                }
                _ => unreadable(),
            },
            _ => session().map_or_else(unreadable, |session| Admitted::New(session, entries())),
        })
    }

    /// Removes a share that no request joined, and the incarnation if that was its only share.
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

    /// Writes shares in one round trip; the documents of sessions that the store has lost in another one. Returns the end
    /// of each incarnation that has ended.
    pub(in crate::session) async fn flush(
        &self,
        shares: &[Flush],
    ) -> Result<Vec<Option<EndNote>>, LinkError> {
        let call = |flush: &Flush, session: String| {
            let arguments = self.flush_arguments(flush, session);
            Call::script(&self.scripts.flush, self.flush_keys(flush), arguments)
        };
        let mut calls: Vec<Call> = shares.iter().map(|flush| call(flush, String::new())).collect();
        let active = shares.iter().map(|flush| (flush.doc.key(), flush.doc.uid(), flush.last_ms));
        calls.extend(self.active_calls(active));
        let answers = self.link.calls(calls).await?;
        let is_missing = |(_, answer): &(&Flush, &Result<Value, LinkError>)| {
            answer.as_ref().is_ok_and(|answer| answer.as_str().is_some_and(|word| word == MISSING))
        };
        let missing = shares.iter().zip(&answers).filter(is_missing);
        let again: Vec<Call> =
            missing.map(|(flush, _)| call(flush, flush.doc.of_session().write())).collect();
        if !again.is_empty() {
            self.link.calls(again).await?;
        }
        let mut ends = Vec::with_capacity(shares.len());
        for (flush, answer) in shares.iter().zip(answers) {
            match answer {
                Ok(end) => ends.push(end.as_str().and_then(|text| EndNote::read(&text))),
                // A foreign value under the keys of this session concerns no other session.
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

    fn flush_arguments(&self, flush: &Flush, session: String) -> Vec<String> {
        vec![
            flush.share.clone(),
            flush.number.to_string(),
            flush.last_ms.to_string(),
            flush.doc.write(),
            self.active_ttl(),
            self.ids_ttl(),
            member(flush.doc.key(), flush.doc.uid()),
            session,
            flush.age_ms.map(|age| age.to_string()).unwrap_or_default(),
        ]
    }

    /// Ends an incarnation, unless it was active after `since`, in milliseconds since 1970.
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
            _ => Ended::Done(EndNote::read(told)),
        })
    }

    /// The end of an incarnation; `None` while it is active.
    pub(in crate::session) async fn end_of(
        &self,
        key: &SessionKey,
        uid: Uid,
    ) -> Result<Option<EndNote>, LinkError> {
        let call = Call::new("HGET", [self.keys.incarnation(key, uid), "end".to_owned()]);
        Ok(self.link.call(call).await?.as_str().and_then(|text| EndNote::read(&text)))
    }

    /// Closes shares, each with its last document, or with the one flushed last.
    pub(in crate::session) async fn close(
        &self,
        key: &SessionKey,
        uid: Uid,
        shares: &[(String, Option<&ShareDocument>)],
    ) -> Result<Closed, LinkError> {
        let mut arguments = vec![self.instance.clone(), self.active_ttl(), TRUST.as_secs().to_string()];
        for (share, doc) in shares {
            arguments.extend([share.clone(), doc.map(ShareDocument::write).unwrap_or_default()]);
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
}

/// How long the store must have been available after a loss before it is considered complete, and an instance
/// without a heartbeat dead: by then each instance has written what it knows.
pub(in crate::session) const TRUST: Duration = Duration::from_secs(8);
/// The answer of `flush.lua` when the document of the session is missing.
const MISSING: &str = "missing";
const DAY_MS: u64 = 24 * 3600 * 1000;

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The member of an incarnation in a set.
fn member(key: &SessionKey, uid: Uid) -> String {
    format!("{uid} {}", text(&Hint::new(key, None)))
}

fn incarnation(member: &str) -> Option<(SessionKey, Uid)> {
    let (uid, hint) = member.split_once(' ')?;
    Some((serde_json::from_str::<Hint>(hint).ok()?.key(), Uid::parse(uid)?))
}

/// Fields and their values.
fn pairs(value: Option<Value>) -> Vec<(String, String)> {
    let Some(value) = value else { return Vec::new() };
    value
        .convert::<std::collections::HashMap<String, String>>()
        .map(|map| map.into_iter().collect())
        .unwrap_or_default()
}

#[cfg(test)]
pub(in crate::session) mod testing;
#[cfg(test)]
mod tests;
