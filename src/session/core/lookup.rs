//! How operators name sessions, and which sessions a name matches: one rule for queries and orders.
//!
//! A name is a uid, a session id, or both at once: clients choose their ids, and nothing prevents one from choosing
//! the uid of another session. Such a name is ambiguous and never guessed; the operator selects one reading
//! ([`NamedBy`]).

use std::cmp::Reverse;
use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{Scope, SessionKey, Uid};
use crate::session::views::agent_view::AgentView;
use crate::session::views::session_view::SessionView;
use crate::session::views::state::SessionState;

/// How a name is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NamedBy {
    /// The uid of an incarnation.
    Uid,
    /// The session id, as the client sends it.
    Id,
}

/// The name of a session as an operator writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRef<'a> {
    text: &'a str,
    by: Option<NamedBy>,
}

impl<'a> SessionRef<'a> {
    /// A name; `None` allows both readings.
    pub fn new(text: &'a str, by: Option<NamedBy>) -> Self {
        Self { text, by }
    }

    /// The name as it was written.
    pub fn text(self) -> &'a str {
        self.text
    }

    /// The reading that the operator selected.
    pub fn by(self) -> Option<NamedBy> {
        self.by
    }

    /// The name as a uid, if it can be one.
    pub fn uid(self) -> Option<Uid> {
        (self.by != Some(NamedBy::Id)).then(|| Uid::parse(self.text)).flatten()
    }

    /// The name as a session id, if it can be one.
    pub fn id(self) -> Option<&'a str> {
        (self.by != Some(NamedBy::Uid)).then_some(self.text)
    }
}

impl<'a> From<&'a str> for SessionRef<'a> {
    fn from(text: &'a str) -> Self {
        Self::new(text, None)
    }
}

impl<'a> From<&'a String> for SessionRef<'a> {
    fn from(text: &'a String) -> Self {
        Self::new(text, None)
    }
}

/// All incarnations that a name matches, in this process and elsewhere.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct NameMatches {
    by_uid: Vec<SessionView>,
    by_id: Vec<SessionView>,
    /// True if the store did not answer: there may be more.
    pub(in crate::session) is_partial: bool,
    /// True if the id is used in more scopes than were searched.
    pub(in crate::session) is_cut: bool,
}

impl NameMatches {
    /// Adds the incarnation with the uid; entries added earlier win.
    pub(super) fn add_by_uid(&mut self, sessions: impl IntoIterator<Item = SessionView>) {
        add(&mut self.by_uid, sessions);
    }

    /// Adds incarnations with the id; entries added earlier win.
    pub(super) fn add_by_id(&mut self, sessions: impl IntoIterator<Item = SessionView>) {
        add(&mut self.by_id, sessions);
    }

    /// True if an incarnation with the uid was found.
    pub(super) fn has_uid(&self) -> bool {
        !self.by_uid.is_empty()
    }

    pub(in crate::session) fn is_empty(&self) -> bool {
        self.by_uid.is_empty() && self.by_id.is_empty()
    }

    /// Keeps only the sessions of this scope.
    pub(super) fn keep_scope(&mut self, scope: &Scope) {
        self.by_uid.retain(|session| session.key().scope == *scope);
        self.by_id.retain(|session| session.key().scope == *scope);
    }

    /// All incarnations, those matched by uid first.
    pub(in crate::session) fn all(&self) -> impl Iterator<Item = &SessionView> {
        self.by_uid.iter().chain(&self.by_id)
    }

    /// The incarnations matched by uid, and those matched by id.
    pub(super) fn into_parts(self) -> (Vec<SessionView>, Vec<SessionView>) {
        (self.by_uid, self.by_id)
    }

    /// The agents of each incarnation of this session.
    pub(in crate::session) fn agents(&self, key: &SessionKey) -> Vec<Vec<AgentView>> {
        let theirs = self.all().filter(|session| session.key() == key);
        theirs.filter_map(|session| session.agents.clone()).collect()
    }

    /// The sessions that the name means, newest first; more than one is ambiguous. An id means one incarnation in
    /// each scope (the active one, else the newest), and active sessions take precedence over ended ones. A name
    /// that is the uid of one session and the id of another means both, whatever their states.
    pub(in crate::session) fn sessions(&self) -> Vec<&SessionView> {
        let mut by_id: HashMap<&Scope, &SessionView> = HashMap::new();
        for session in &self.by_id {
            let best = by_id.entry(&session.key().scope).or_insert(session);
            if rank(session) > rank(best) {
                *best = session;
            }
        }
        let mut meant: Vec<&SessionView> = match self.by_uid.first() {
            Some(one) => {
                let others = by_id.into_values().filter(|other| other.key() != one.key());
                others.chain([one]).collect()
            }
            None => by_id.into_values().collect(),
        };
        let is_active = |session: &&SessionView| session.state == SessionState::Active;
        let active = meant.iter().filter(|session| is_active(session)).count();
        // After a search that was cut, another active one may exist: a single one is no proof.
        if !self.has_uid() && active > usize::from(self.is_cut) {
            meant.retain(is_active);
        }
        meant.sort_by_key(|session| Reverse(session.uid));
        meant
    }
}

fn add(list: &mut Vec<SessionView>, sessions: impl IntoIterator<Item = SessionView>) {
    for session in sessions {
        if !list.iter().any(|known| known.uid == session.uid) {
            list.push(session);
        }
    }
}

fn rank(session: &SessionView) -> (bool, Uid) {
    (session.state == SessionState::Active, session.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_the_operator_says() {
        let uid = Uid::fresh();
        let text = uid.to_string();
        let name = |by| SessionRef::new(&text, by);
        assert_eq!((name(None).uid(), name(None).id()), (Some(uid), Some(text.as_str())));
        assert_eq!((name(Some(NamedBy::Uid)).uid(), name(Some(NamedBy::Uid)).id()), (Some(uid), None));
        let by_id = name(Some(NamedBy::Id));
        assert_eq!((by_id.uid(), by_id.id()), (None, Some(text.as_str())));
        assert_eq!(SessionRef::from("run-7").uid(), None);
    }
}
