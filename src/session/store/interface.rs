//! The interface of a session store.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::Filter;
use crate::ids::{Scope, SessionKey, Uid};
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

/// The most incarnations of one id that are read because their scopes differ.
pub(in crate::session) const MOST_SCOPES: usize = 1024;
/// The most incarnations of one id that are read in addition to the newest in each scope.
const MOST_OLDER: usize = 256;

/// Incarnations of an id.
#[derive(Clone, Debug, Default)]
pub struct NamedSessions {
    /// The views, newest first.
    pub sessions: Vec<Arc<SessionView>>,
    /// True if the search stopped at its bound: other scopes may have a session with this id.
    pub is_cut: bool,
}

/// Selects the newest incarnation in each scope, and the newest of the others, within the bounds. `all` is sorted,
/// the newest first. Returns true if a scope was left out.
pub(super) fn select_newest<T>(all: &mut Vec<T>, scope: impl Fn(&T) -> Scope) -> bool {
    let (mut scopes, mut older) = (HashSet::new(), 0);
    let mut is_cut = false;
    all.retain(|one| {
        if scopes.insert(scope(one)) {
            is_cut |= scopes.len() > MOST_SCOPES;
            return scopes.len() <= MOST_SCOPES;
        }
        older += 1;
        older <= MOST_OLDER
    });
    is_cut
}

/// A store of session views.
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Stores a view in place of an older one of the same incarnation.
    async fn put(&self, session: Arc<SessionView>) -> Result<(), StoreError>;

    /// The view of one incarnation.
    async fn get(&self, uid: Uid) -> Result<Option<Arc<SessionView>>, StoreError>;

    /// The incarnations of an id: the newest in each scope and the newest of the others, within a bound.
    async fn by_id(&self, id: &str) -> Result<NamedSessions, StoreError>;

    /// The newest incarnation of a session.
    async fn latest(&self, key: &SessionKey) -> Result<Option<Arc<SessionView>>, StoreError>;

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
