//! What this instance has written last. A store that was wiped or failed over to a replica lacks the latest writes.
//! Active sessions are written again anyway; this log has the rest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::ids::{SessionKey, Uid};
use crate::session::core::session::Session;
use crate::session::store::redis::Shares;
use crate::session::store::share_document::{EndNote, MergedShares};
use crate::session::views::session_view::SessionView;

/// The longest lag of a replica that is promoted.
const REPLICA_LAG: Duration = Duration::from_secs(60);
/// The most entries of each kind, about 5 KB each.
const MOST: usize = 4096;

/// A record that this instance published.
#[derive(Clone, Debug)]
pub(super) struct PublishedRecord {
    /// The uid of the incarnation.
    pub(super) uid: Uid,
    /// The shares that the record covers.
    pub(super) shares: Vec<String>,
    pub(super) end: Option<EndNote>,
    /// The view of the session, with a uid of its own if another record covers other shares.
    pub(super) session: Arc<SessionView>,
}

/// Closed shares and published records, the oldest first.
#[derive(Debug, Default)]
pub(super) struct ReplayLog {
    closed: VecDeque<(Moment, Arc<Session>)>,
    /// Published records that are not marked in the store yet.
    unmarked: Vec<Arc<PublishedRecord>>,
    recorded: VecDeque<(Moment, Arc<PublishedRecord>)>,
}

impl ReplayLog {
    /// Adds a closed share whose session's record is still to be written.
    pub(super) fn closed(&mut self, session: Arc<Session>, now: Moment) {
        self.closed.retain(|(_, other)| !Arc::ptr_eq(other, &session));
        keep(&mut self.closed, session, now);
    }

    /// The share of this incarnation that was closed here.
    pub(super) fn closed_of(&self, key: &SessionKey, uid: Uid) -> Option<Arc<Session>> {
        self.closed
            .iter()
            .map(|(_, session)| session)
            .find(|session| session.uid() == uid && session.key() == key)
            .cloned()
    }

    /// The end of an incarnation whose record was published here.
    pub(super) fn end_of(&self, uid: Uid) -> Option<EndNote> {
        self.published(uid).find_map(|recorded| recorded.end.clone())
    }

    /// Registers a record of these shares, except those that a record of this instance already covers; `None` if
    /// none is left. The caller publishes it. With `is_rest` another record covers other shares: this one then has
    /// its own uid and names the incarnation as its predecessor.
    pub(super) fn record(&mut self, uid: Uid, shares: Shares, is_rest: bool) -> Option<MergedShares> {
        let told: Vec<String> = self.published(uid).flat_map(|recorded| recorded.shares.clone()).collect();
        let shares = shares.without(&told);
        let names = shares.names();
        let mut whole = shares.whole()?;
        if is_rest || !told.is_empty() {
            whole.make_separate();
        }
        let session = Arc::new(whole.session.clone());
        self.unmarked.push(Arc::new(PublishedRecord { uid, shares: names, end: whole.end(), session }));
        Some(whole)
    }

    /// The matching records that are not marked in the store yet.
    pub(super) fn unmarked(&self, which: impl Fn(&PublishedRecord) -> bool) -> Vec<Arc<PublishedRecord>> {
        self.unmarked.iter().filter(|recorded| which(recorded)).cloned().collect()
    }

    /// The record is marked in the store.
    pub(super) fn marked(&mut self, recorded: &Arc<PublishedRecord>, now: Moment) {
        let unmarked = self.unmarked.len();
        self.unmarked.retain(|other| !Arc::ptr_eq(other, recorded));
        self.forget_closed(recorded.uid);
        if self.unmarked.len() < unmarked {
            keep(&mut self.recorded, recorded.clone(), now);
        }
    }

    /// True if this instance has published a record that covers this share.
    pub(super) fn has_published(&self, uid: Uid, share: &str) -> bool {
        self.published(uid).any(|recorded| recorded.shares.iter().any(|told| told == share))
    }

    /// The record of this incarnation is written, by any instance.
    pub(super) fn forget_closed(&mut self, uid: Uid) {
        self.closed.retain(|(_, session)| session.uid() != uid);
    }

    /// Closed shares that the store may lack.
    pub(super) fn all_closed(&mut self, now: Moment) -> Vec<Arc<Session>> {
        forget(&mut self.closed, now);
        self.closed.iter().map(|(_, session)| session.clone()).collect()
    }

    /// Records that the store may not know.
    pub(super) fn all_published(&mut self, now: Moment) -> Vec<Arc<PublishedRecord>> {
        forget(&mut self.recorded, now);
        let marked = self.recorded.iter().map(|(_, recorded)| recorded);
        self.unmarked.iter().chain(marked).cloned().collect()
    }

    fn published(&self, uid: Uid) -> impl Iterator<Item = &Arc<PublishedRecord>> {
        let marked = self.recorded.iter().map(|(_, recorded)| recorded);
        self.unmarked.iter().chain(marked).filter(move |recorded| recorded.uid == uid)
    }
}

fn keep<T>(list: &mut VecDeque<(Moment, T)>, what: T, now: Moment) {
    forget(list, now);
    if list.len() >= MOST {
        list.pop_front();
    }
    list.push_back((now, what));
}

fn forget<T>(list: &mut VecDeque<(Moment, T)>, now: Moment) {
    while list.front().is_some_and(|(at, _)| now.since(*at) > REPLICA_LAG) {
        list.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::session::replication::shares::share_document;
    use crate::session::testing::arrival_of;

    fn shares(session: &Session, clock: &Clock, names: &[&str]) -> Shares {
        let end = EndNote::new(crate::session::views::state::EndReason::Killed, jiff::Timestamp::now(), None);
        let shares = names.iter().map(|name| (format!("c:{name}"), share_document(session, clock).write()));
        Shares::from(shares.chain([("end".to_owned(), end.write())]).collect::<Vec<_>>())
    }

    #[test]
    fn each_share_is_in_one_record() {
        let (clock, mut recent) = (Clock::manual(), ReplayLog::default());
        let session = Session::new(arrival_of("cred:ada", "s"), None, clock.now());
        let uid = session.uid();
        let first = recent.record(uid, shares(&session, &clock, &["a:1", "b:1"]), false).unwrap();
        assert_eq!(first.session.uid, uid);
        assert!(recent.record(uid, shares(&session, &clock, &["a:1", "b:1"]), false).is_none(), "published");
        let rest = recent.record(uid, shares(&session, &clock, &["a:1", "c:1"]), false).unwrap();
        assert_ne!(rest.session.uid, uid, "a record of its own");
        assert_eq!(rest.session.previous_id, Some(uid));
        let unmarked = recent.unmarked(|recorded| recorded.uid == uid);
        assert_eq!(unmarked.iter().map(|recorded| recorded.shares.len()).collect::<Vec<_>>(), [2, 1]);
        for recorded in unmarked {
            recent.marked(&recorded, clock.now());
        }
        assert!(recent.unmarked(|_| true).is_empty());
        assert!(recent.has_published(uid, "c:1") && !recent.has_published(uid, "d:1"));
        assert!(
            recent.record(uid, shares(&session, &clock, &["b:1", "c:1"]), false).is_none(),
            "still known"
        );
        assert!(recent.end_of(uid).is_some());
    }
}
