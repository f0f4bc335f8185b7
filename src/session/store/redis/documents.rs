//! Views of sessions as documents: look-ups, lists (`listing.rs`) and retention.

use std::sync::Arc;

use async_trait::async_trait;
use fred::types::Value;
use jiff::Timestamp;

use super::listing::labelled;
use super::{incarnation, member, pairs};
use crate::ids::{SessionKey, Uid};
use crate::redis::{Call, LinkError};
use crate::session::store::interface::select_newest;
use crate::session::store::share_document::{MergedShares, ShareDocument};
use crate::session::store::{Filter, Listed, NamedSessions, RedisStore, SessionStore, StoreError};
use crate::session::views::session_view::SessionView;

/// Documents read in one round trip.
pub(super) const CHUNK: usize = 256;

/// A set of incarnations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    Active,
    Ended,
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn put(&self, session: Arc<SessionView>) -> Result<(), StoreError> {
        self.ready()?;
        Ok(self.put_ended(&session).await?)
    }

    async fn get(&self, uid: Uid) -> Result<Option<Arc<SessionView>>, StoreError> {
        self.ready()?;
        let Some((key, uid)) = self.find(uid).await? else { return Ok(None) };
        Ok(self.load(&[(key, uid)], None).await?.pop())
    }

    async fn by_id(&self, id: &str) -> Result<NamedSessions, StoreError> {
        self.ready()?;
        let (mut names, is_whole) = self.names_of(id).await?;
        let is_cut = select_newest(&mut names, |(key, _)| key.scope.clone()) || !is_whole;
        let mut sessions = Vec::new();
        for chunk in names.chunks(CHUNK) {
            sessions.extend(self.load(chunk, None).await?);
        }
        Ok(NamedSessions { sessions, is_cut })
    }

    async fn latest(&self, key: &SessionKey) -> Result<Option<Arc<SessionView>>, StoreError> {
        let all = self.by_id(key.id.as_str()).await?.sessions;
        Ok(all.into_iter().find(|session| session.key() == key))
    }

    async fn delete(&self, uid: Uid) -> Result<bool, StoreError> {
        self.ready()?;
        let Some((key, uid)) = self.find(uid).await? else { return Ok(false) };
        Ok(self.forget(&[(key, uid)]).await? > 0)
    }

    async fn list(&self, filter: &Filter) -> Result<Listed, StoreError> {
        self.ready()?;
        Ok(self.page(filter).await?)
    }

    async fn count(&self, filter: &Filter) -> Result<usize, StoreError> {
        let mut page = Filter { limit: usize::MAX, cursor: None, ..filter.clone() };
        let mut count = 0;
        loop {
            let Listed { mut sessions, searched_to } = self.list(&page).await?;
            let is_full = sessions.len() > page.page_len();
            sessions.truncate(page.page_len());
            count += sessions.len();
            let next = if is_full { sessions.last().map(|last| last.uid) } else { searched_to };
            let Some(next) = next else { return Ok(count) };
            page.cursor = Some(next.to_string());
        }
    }

    async fn purge(&self, ended_before: Timestamp) -> Result<usize, StoreError> {
        self.ready()?;
        let before = format!("({}", ended_before.as_millisecond());
        let mut gone = 0;
        loop {
            let range = ["-inf", &before, "LIMIT", "0", &CHUNK.to_string()].map(str::to_owned);
            let call = Call::new("ZRANGEBYSCORE", [self.keys.gone()].into_iter().chain(range));
            let members = incarnations(self.link.call(call).await?);
            if members.is_empty() {
                return Ok(gone);
            }
            self.forget(&members).await?;
            gone += members.len();
        }
    }
}

impl RedisStore {
    /// Stores an ended session, even while the link is down.
    pub(in crate::session) async fn put_ended(&self, session: &SessionView) -> Result<(), LinkError> {
        let (key, uid) = (session.key().clone(), session.uid);
        let (member, gone) = (member(&key, uid), session.gone_at().as_millisecond().to_string());
        let by_id = self.keys.by_id(key.id.as_str());
        let doc = ShareDocument::new(session.clone(), None).write();
        let document = self.keys.ended(key.id.as_str(), uid);
        let mut calls = vec![
            Call::new("SET", [document, doc, "PX".to_owned(), self.ended_ttl()]),
            Call::new("SADD", [by_id.clone(), member.clone()]),
            Call::new("PEXPIRE", [by_id, self.ids_ttl()]),
            Call::new("ZADD", [self.keys.gone(), gone, member.clone()]),
        ];
        if session.state.is_final() {
            let labelled = labelled(&key, uid, session);
            calls.extend([
                Call::new("ZADD", [self.keys.all_ended(), "0".to_owned(), labelled]),
                Call::new("ZREM", [self.keys.sessions(), member.clone()]),
                Call::new("ZREM", [self.keys.activity(), member]),
            ]);
        } else {
            calls.push(Call::new("ZADD", [self.keys.sessions(), "0".to_owned(), member]));
        }
        self.all(calls).await?;
        Ok(())
    }

    /// Queries of operators do not wait for a store that is known to be unavailable.
    fn ready(&self) -> Result<(), StoreError> {
        if self.link.is_up() { Ok(()) } else { Err(StoreError("redis is unavailable".to_owned())) }
    }

    pub(super) async fn all(&self, calls: Vec<Call>) -> Result<Vec<Value>, LinkError> {
        self.link.calls(calls).await?.into_iter().collect()
    }

    /// The session of an incarnation.
    async fn find(&self, uid: Uid) -> Result<Option<(SessionKey, Uid)>, LinkError> {
        let range = || ["[".to_owned() + &uid.to_string(), format!("({uid}~")];
        let call = |set: String| Call::new("ZRANGEBYLEX", [set].into_iter().chain(range()));
        let found = self.all(vec![call(self.keys.sessions()), call(self.keys.all_ended())]).await?;
        Ok(found.into_iter().flat_map(incarnations).next())
    }

    /// Deletes ended incarnations, and returns for how many there was a document.
    async fn forget(&self, which: &[(SessionKey, Uid)]) -> Result<usize, LinkError> {
        let mut calls = Vec::new();
        for (key, uid) in which {
            let (id, member) = (key.id.as_str(), member(key, *uid));
            calls.extend([
                Call::new("DEL", [self.keys.ended(id, *uid)]),
                Call::new("SREM", [self.keys.by_id(id), member.clone()]),
                Call::new("ZREM", [self.keys.sessions(), member]),
            ]);
        }
        let answers = self.all(calls).await?;
        self.remove_ended(which).await?;
        Ok(answers.iter().step_by(3).filter(|deleted| deleted.as_u64() == Some(1)).count())
    }

    /// Reads incarnations: the document of ended ones, the sum of all shares of active ones. Incarnations that are
    /// gone or unreadable are skipped and removed from the set they were found in.
    pub(super) async fn load(
        &self,
        which: &[(SessionKey, Uid)],
        shelf: Option<Shelf>,
    ) -> Result<Vec<Arc<SessionView>>, LinkError> {
        let mut calls = Vec::with_capacity(2 * which.len());
        for (key, uid) in which {
            calls.push(Call::new("GET", [self.keys.ended(key.id.as_str(), *uid)]));
            calls.push(Call::new("HGETALL", [self.keys.incarnation(key, *uid)]));
        }
        let mut answers = self.link.calls(calls).await?.into_iter();
        let (mut found, mut gone) = (Vec::new(), Vec::new());
        for (key, uid) in which {
            let (document, shares) = (answers.next(), answers.next());
            let document = document.and_then(Result::ok);
            let ended = document
                .as_ref()
                .and_then(|text| ShareDocument::read(&text.as_str()?))
                .map(ShareDocument::session);
            let nothing = document.is_none_or(|text| text.is_null());
            let fields = pairs(shares.and_then(Result::ok));
            let empty = nothing && fields.is_empty();
            match ended.or_else(|| MergedShares::of(fields).map(|whole| whole.session)) {
                Some(session) => found.push(Arc::new(session)),
                None if empty => gone.push((key.clone(), *uid)),
                None => {}
            }
        }
        match shelf {
            Some(Shelf::Active) if !gone.is_empty() => {
                let members: Vec<String> = gone.iter().map(|(key, uid)| member(key, *uid)).collect();
                let sets = [self.keys.sessions(), self.keys.activity()];
                let call = |set| Call::new("ZREM", [set].into_iter().chain(members.iter().cloned()));
                self.all(sets.into_iter().map(call).collect()).await?;
            }
            Some(Shelf::Ended) if !gone.is_empty() => self.remove_ended(&gone).await?,
            _ => {}
        }
        Ok(found)
    }
}

pub(super) fn incarnations(members: Value) -> Vec<(SessionKey, Uid)> {
    members.into_array().into_iter().filter_map(|text| incarnation(&text.as_str()?)).collect()
}
