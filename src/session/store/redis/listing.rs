//! Lists: pages of sessions, newest first, found within a bound.
//!
//! The set of ended incarnations holds `UID {"session_id":…,"scope":…,"labels":{…}}`: the labels that filters need
//! are next to the name, so that a document is read only if it is part of the result. Members written by older
//! versions have no labels; their documents are read. For active sessions documents are always read, because their
//! labels change.

use std::collections::BTreeMap;
use std::sync::Arc;

use fred::types::Value;
use serde::{Deserialize, Serialize};

use super::documents::{CHUNK, Shelf};
use super::{member, text};
use crate::ids::{SessionKey, Uid};
use crate::redis::signals::Hint;
use crate::redis::{Call, LinkError};
use crate::session::store::{Filter, ListLabels, Listed, RedisStore};
use crate::session::views::session_view::SessionView;
use crate::session::views::state::SessionState;

/// Names read in one round trip.
const NAMES: usize = 1024;
/// Names searched in one set.
const MOST_NAMES: usize = 64 * NAMES;
/// Documents read from one set, beyond a full page.
const MOST_DOCUMENTS: usize = 8 * CHUNK;
/// Longest labels, in bytes; longer ones are left out.
const MOST_LABELS: usize = 1024;

/// A member of the set of ended incarnations, after its uid.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    hint: Hint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    labels: Option<ListLabels>,
}

/// The member of an ended incarnation, with labels.
pub(super) fn labelled(key: &SessionKey, uid: Uid, session: &SessionView) -> String {
    let entry = Entry { hint: Hint::new(key, None), labels: Some(ListLabels::of(session)) };
    let written = format!("{uid} {}", text(&entry));
    if written.len() > member(key, uid).len() + MOST_LABELS { member(key, uid) } else { written }
}

fn read(member: &str) -> Option<(SessionKey, Uid, Option<ListLabels>)> {
    let (uid, entry) = member.split_once(' ')?;
    let Entry { hint, labels } = serde_json::from_str(entry).ok()?;
    Some((hint.key(), Uid::parse(uid)?, labels))
}

/// What was found in one set, and the uid at which the search stopped at its bound.
type Gathered = (Vec<Arc<SessionView>>, Option<Uid>);

impl RedisStore {
    /// The sessions that the filter asks for: one more than a page, if there are that many.
    pub(super) async fn page(&self, filter: &Filter) -> Result<Listed, LinkError> {
        // Ended sessions stay among the active ones until their record is written.
        let shelves: &[Shelf] = match filter.state {
            Some(SessionState::Active) => &[Shelf::Active],
            _ => &[Shelf::Active, Shelf::Ended],
        };
        let most = filter.page_len() + 1;
        let (mut found, mut searched_to) = (BTreeMap::new(), None);
        for shelf in shelves {
            let (sessions, to) = self.gather(*shelf, filter, most).await?;
            found.extend(sessions.into_iter().map(|session| (session.uid, session)));
            searched_to = searched_to.max(to);
        }
        let seen = found.into_values().rev().filter(|session| searched_to.is_none_or(|to| session.uid >= to));
        let sessions: Vec<_> = seen.take(most).collect();
        Ok(Listed { searched_to: searched_to.filter(|_| sessions.len() < most), sessions })
    }

    /// Up to `most` sessions of one set that the filter asks for, newest first.
    async fn gather(&self, shelf: Shelf, filter: &Filter, most: usize) -> Result<Gathered, LinkError> {
        let set = match shelf {
            Shelf::Active => self.keys.sessions(),
            Shelf::Ended => self.keys.all_ended(),
        };
        let (mut found, mut names, mut documents) = (Vec::new(), 0, 0);
        let mut below = filter.before().map_or("+".to_owned(), |uid| format!("({uid}"));
        loop {
            let range = [set.clone(), below, "-".into(), "LIMIT".into(), "0".into(), NAMES.to_string()];
            let members: Vec<String> = texts(self.link.call(Call::new("ZREVRANGEBYLEX", range)).await?);
            let Some(last) = members.last() else { return Ok((found, None)) };
            below = format!("({last}");
            names += members.len();
            let entries: Vec<_> = members.iter().filter_map(|member| read(member)).collect();
            let lowest = entries.last().map(|(_, uid, _)| *uid);
            let asked = entries.into_iter().filter_map(|(key, uid, labels)| {
                let is_asked = filter.matches_scope(&key)
                    && labels.is_none_or(|labels| filter.matches_listed(&key, uid, &labels));
                is_asked.then_some((key, uid))
            });
            let asked = self.in_state(shelf, filter.state, asked.collect()).await?;
            for chunk in asked.chunks(CHUNK) {
                let sessions = self.load(chunk, Some(shelf)).await?;
                found.extend(sessions.into_iter().filter(|session| filter.matches(session)));
                if found.len() >= most {
                    found.truncate(most);
                    return Ok((found, None));
                }
                documents += chunk.len();
                if documents >= MOST_DOCUMENTS + most {
                    return Ok((found, chunk.last().map(|(_, uid)| *uid)));
                }
            }
            if names >= MOST_NAMES && lowest.is_some() {
                return Ok((found, lowest));
            }
        }
    }

    /// Those of the active incarnations that have ended and wait for their record, if the filter asks for ended
    /// ones.
    async fn in_state(
        &self,
        shelf: Shelf,
        state: Option<SessionState>,
        names: Vec<(SessionKey, Uid)>,
    ) -> Result<Vec<(SessionKey, Uid)>, LinkError> {
        if shelf == Shelf::Ended || !state.is_some_and(SessionState::is_final) {
            return Ok(names);
        }
        let ended = |(key, uid): &(SessionKey, Uid)| {
            Call::new("HEXISTS", [self.keys.incarnation(key, *uid), "end".to_owned()])
        };
        let answers = self.link.calls(names.iter().map(ended).collect()).await?;
        // An error means that the value is not a hash, so it is a document.
        let is_asked = |answer: &Result<Value, LinkError>| {
            answer.as_ref().map_or(true, |found| found.as_u64() != Some(0))
        };
        let both = names.into_iter().zip(answers);
        Ok(both.filter_map(|(name, answer)| is_asked(&answer).then_some(name)).collect())
    }

    /// Removes incarnations from the sets of ended ones, whatever their labels.
    pub(super) async fn remove_ended(&self, which: &[(SessionKey, Uid)]) -> Result<(), LinkError> {
        let look = |(_, uid): &(SessionKey, Uid)| {
            Call::new("ZRANGEBYLEX", [self.keys.all_ended(), format!("[{uid}"), format!("({uid}~")])
        };
        let labelled = self.all(which.iter().map(look).collect()).await?;
        let labelled: Vec<String> = labelled.into_iter().flat_map(texts).collect();
        let plain: Vec<String> = which.iter().map(|(key, uid)| member(key, *uid)).collect();
        let sets = [(self.keys.all_ended(), labelled), (self.keys.gone(), plain)];
        let calls = sets.into_iter().filter(|(_, members)| !members.is_empty());
        self.all(calls.map(|(set, members)| Call::new("ZREM", [set].into_iter().chain(members))).collect())
            .await
            .map(drop)
    }
}

fn texts(members: Value) -> Vec<String> {
    members.into_array().into_iter().filter_map(Value::into_string).collect()
}
