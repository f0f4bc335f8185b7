//! What this instance told the store last. A store that fails over to a copy lacks what was not copied
//! yet, though it was acknowledged; what is live here is written again anyway, this is the rest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::ids::Uid;
use crate::session::doc::EndNote;
use crate::session::live::Live;
use crate::session::snapshot::Snapshot;

/// No copy that is made the main one is further behind.
const BEHIND: Duration = Duration::from_secs(60);
/// So many of each kind at most, some 5 KB each.
const MOST: usize = 4096;

/// A record that this instance wrote.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) session: Arc<Snapshot>,
    pub(super) end: Option<EndNote>,
}

/// Shares that were closed and records that were written, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    closed: VecDeque<(Moment, Arc<Live>)>,
    recorded: VecDeque<(Moment, Recorded)>,
}

impl Recent {
    /// A share was closed, and its session's record is still to be written.
    pub(super) fn closed(&mut self, live: Arc<Live>, now: Moment) {
        self.closed.retain(|(_, other)| !Arc::ptr_eq(other, &live));
        keep(&mut self.closed, live, now);
    }

    /// This instance wrote a record.
    pub(super) fn recorded(&mut self, recorded: Recorded, now: Moment) {
        self.is_recorded(recorded.session.uid);
        keep(&mut self.recorded, recorded, now);
    }

    /// True when this instance wrote the record of this incarnation.
    pub(super) fn has_recorded(&self, uid: Uid) -> bool {
        self.recorded.iter().any(|(_, recorded)| recorded.session.uid == uid)
    }

    /// The record of this incarnation is written, whoever wrote it.
    pub(super) fn is_recorded(&mut self, uid: Uid) {
        self.closed.retain(|(_, live)| live.uid() != uid);
    }

    /// What a copy may lack.
    pub(super) fn all(&mut self, now: Moment) -> (Vec<Arc<Live>>, Vec<Recorded>) {
        forget(&mut self.closed, now);
        forget(&mut self.recorded, now);
        let closed = self.closed.iter().map(|(_, live)| live.clone()).collect();
        (closed, self.recorded.iter().map(|(_, recorded)| recorded.clone()).collect())
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
    while list.front().is_some_and(|(at, _)| now.since(*at) > BEHIND) {
        list.pop_front();
    }
}
