//! The incarnations of an id, which may be used in any number of scopes: their names are read in pages.

use std::cmp::Reverse;

use fred::types::Value;

use super::documents::incarnations;
use crate::ids::{SessionKey, Uid};
use crate::redis::{Call, LinkError};
use crate::session::store::RedisStore;

/// Names read in one round trip.
const NAMES: usize = 4096;
/// Pages of names that a look-up reads at most.
const PAGES: usize = 16;
/// Names read at once in a search for active sessions, about.
const NAMESAKES: usize = 64;

/// A position in the set of incarnations of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::session) struct NameCursor(String);

impl Default for NameCursor {
    fn default() -> Self {
        Self("0".to_owned())
    }
}

/// An active session with a given id.
#[derive(Clone, Debug)]
pub(in crate::session) struct Namesake {
    pub(in crate::session) key: SessionKey,
    pub(in crate::session) uid: Uid,
    /// When it was opened by the clock of Redis, in milliseconds since 1970; `None` if nobody knows.
    pub(in crate::session) opened_ms: Option<u64>,
}

/// A page of the active sessions with a given id.
#[derive(Clone, Debug)]
pub(in crate::session) struct Namesakes {
    /// The time of the clock of Redis, in milliseconds since 1970.
    pub(in crate::session) now_ms: u64,
    /// `None` after the last page.
    pub(in crate::session) next: Option<NameCursor>,
    pub(in crate::session) sessions: Vec<Namesake>,
}

impl RedisStore {
    /// The incarnations of an id, newest first, and whether these are all. No script: a store that takes no writes
    /// for the moment answers, too.
    pub(super) async fn names_of(&self, id: &str) -> Result<(Vec<(SessionKey, Uid)>, bool), LinkError> {
        let (mut next, mut all) = (Some(NameCursor::default()), Vec::new());
        for _ in 0..PAGES {
            let Some(NameCursor(from)) = next else { break };
            let arguments = [self.keys.by_id(id), from, "COUNT".to_owned(), NAMES.to_string()];
            let answer = self.link.call(Call::new("SSCAN", arguments)).await?;
            let page = page_of(&mut answer.into_array().into_iter());
            all.extend(page.1);
            next = page.0;
        }
        all.sort_by_key(|(_, uid)| Reverse(*uid));
        all.dedup_by_key(|(_, uid)| *uid);
        Ok((all, next.is_none()))
    }

    /// A page of the active sessions with this id.
    pub(in crate::session) async fn namesakes(
        &self,
        id: &str,
        from: &NameCursor,
    ) -> Result<Namesakes, LinkError> {
        let arguments = vec![from.0.clone(), NAMESAKES.to_string()];
        let answer: Vec<Value> =
            self.link.run(&self.scripts.names, vec![self.keys.by_id(id)], arguments).await?;
        let mut answer = answer.into_iter();
        let now_ms = text(&mut answer).parse().unwrap_or(0);
        let (next, names) = page_of(&mut answer);
        let hash = |(key, uid): &(SessionKey, Uid)| self.keys.incarnation(key, *uid);
        let calls = names.iter().flat_map(|name| {
            [Call::new("HKEYS", [hash(name)]), Call::new("HGET", [hash(name), "opened".to_owned()])]
        });
        let mut answers = self.link.calls(calls.collect()).await?.into_iter();
        let mut sessions = Vec::new();
        for (key, uid) in names {
            let (Some(fields), Some(opened)) = (answers.next(), answers.next()) else { break };
            // An error means that the value is not a hash: it is no session.
            let fields = fields.map(Value::into_array).unwrap_or_default();
            let has_ended = fields.iter().any(|field| field.as_str().is_some_and(|field| field == "end"));
            if fields.is_empty() || has_ended {
                continue;
            }
            let opened_ms = opened.ok().and_then(|opened| opened.as_u64());
            sessions.push(Namesake { key, uid, opened_ms });
        }
        Ok(Namesakes { now_ms, next, sessions })
    }
}

fn text(answer: &mut impl Iterator<Item = Value>) -> String {
    answer.next().and_then(Value::into_string).unwrap_or_default()
}

/// The position after a page of names, `None` after the last one, and the names. A name that is in the set all the
/// time is on at least one page.
fn page_of(answer: &mut impl Iterator<Item = Value>) -> (Option<NameCursor>, Vec<(SessionKey, Uid)>) {
    let next = NameCursor(text(answer));
    (
        Some(next).filter(|next| *next != NameCursor::default()),
        answer.next().map(incarnations).unwrap_or_default(),
    )
}
