//! What every store gives to the manager.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::Filter;
use crate::ids::{SessionKey, Uid};
use crate::session::views::session_view::SessionView;

/// The store does not answer as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session store: {0}")]
pub struct StoreError(pub String);

/// Snapshots that were found, newest first.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// The snapshots.
    pub sessions: Vec<Arc<SessionView>>,
    /// Where the search stopped at its bound: everything from this uid on was looked at, nothing below it. `None`
    /// when there is nothing below, or when more than a page was found.
    pub searched_to: Option<Uid>,
}

/// What every store gives.
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Keeps a snapshot in place of an older one of the same incarnation.
    async fn put(&self, session: Arc<SessionView>) -> Result<(), StoreError>;

    /// The snapshot of one incarnation.
    async fn get(&self, uid: Uid) -> Result<Option<Arc<SessionView>>, StoreError>;

    /// All incarnations of an external id in all scopes, newest first.
    async fn by_id(&self, id: &str) -> Result<Vec<Arc<SessionView>>, StoreError>;

    /// The newest incarnation of a session.
    async fn latest(&self, key: &SessionKey) -> Result<Option<Arc<SessionView>>, StoreError> {
        let all = self.by_id(key.id.as_str()).await?;
        Ok(all.into_iter().find(|session| session.key() == key))
    }

    /// Forgets one incarnation; true when it was there.
    async fn delete(&self, uid: Uid) -> Result<bool, StoreError>;

    /// The snapshots the filter asks for, newest first, from its cursor on: one more than make a page,
    /// when there are so many and the search finds them within its bound.
    async fn list(&self, filter: &Filter) -> Result<Listed, StoreError>;

    /// How many snapshots the filter asks for, wherever its page begins.
    async fn count(&self, filter: &Filter) -> Result<usize, StoreError>;

    /// Forgets sessions that ended before this time; gives how many.
    async fn purge(&self, ended_before: Timestamp) -> Result<usize, StoreError>;
}
