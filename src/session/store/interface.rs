//! The interface of a session store.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::Filter;
use crate::ids::{SessionKey, Uid};
use crate::session::views::session_view::SessionView;

/// The store did not answer, or not as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session store: {0}")]
pub struct StoreError(pub String);

/// A search result, newest first.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// The views.
    pub sessions: Vec<Arc<SessionView>>,
    /// The uid at which the search stopped at its bound: everything from it on was searched, nothing below it.
    /// `None` if there is nothing below, or if more than a page was found.
    pub searched_to: Option<Uid>,
}

/// A store of session views.
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Stores a view in place of an older one of the same incarnation.
    async fn put(&self, session: Arc<SessionView>) -> Result<(), StoreError>;

    /// The view of one incarnation.
    async fn get(&self, uid: Uid) -> Result<Option<Arc<SessionView>>, StoreError>;

    /// All incarnations of an id in all scopes, newest first.
    async fn by_id(&self, id: &str) -> Result<Vec<Arc<SessionView>>, StoreError>;

    /// The newest incarnation of a session.
    async fn latest(&self, key: &SessionKey) -> Result<Option<Arc<SessionView>>, StoreError> {
        let all = self.by_id(key.id.as_str()).await?;
        Ok(all.into_iter().find(|session| session.key() == key))
    }

    /// Deletes one incarnation; true if it existed.
    async fn delete(&self, uid: Uid) -> Result<bool, StoreError>;

    /// The views that the filter asks for, newest first, from its cursor on: one more than a page, if there are
    /// that many and the search finds them within its bound.
    async fn list(&self, filter: &Filter) -> Result<Listed, StoreError>;

    /// Number of views that the filter asks for, whatever its cursor.
    async fn count(&self, filter: &Filter) -> Result<usize, StoreError>;

    /// Deletes sessions that ended before this time, and returns how many.
    async fn purge(&self, ended_before: Timestamp) -> Result<usize, StoreError>;
}
