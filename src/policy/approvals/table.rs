//! The approvals of a process by their ids and by their calls.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;

use super::MAX_APPROVALS;
use crate::ids::{ClientNetwork, PrincipalId};
use crate::policy::approval::{Approval, ApprovalState, HeldCall};

/// Approvals that leave at once when there is no room for another one.
const ROOM: usize = MAX_APPROVALS / 16;

#[derive(Default)]
pub(super) struct Table {
    pub(super) by_id: BTreeMap<String, Approval>,
    by_call: HashMap<HeldCall, Vec<String>>,
    /// Those that a released call is about to use.
    pub(super) in_use: HashSet<String>,
    /// Where the calls came from, of those that were asked for here.
    pub(super) asked_from: HashMap<String, ClientNetwork>,
    /// Those that were forgotten here, and are to be removed from the storage.
    pub(super) gone: Vec<String>,
}

impl Table {
    /// Returns the approval of a call that is open, approved ones first.
    pub(super) fn open(&self, call: &HeldCall, now: Timestamp) -> Option<&Approval> {
        let found = self.by_call.get(call)?.iter().filter_map(|id| self.by_id.get(id));
        let rank = |one: &Approval| match one.state(now) {
            ApprovalState::Denied if now < one.expires => Some(2),
            ApprovalState::Approved if !self.in_use.contains(&one.id) => Some(1),
            ApprovalState::Pending => Some(0),
            _ => None,
        };
        let ranked = found.filter_map(|one| Some((rank(one)?, one)));
        ranked.max_by_key(|(rank, one)| (*rank, one.asked)).map(|(_, one)| one)
    }

    /// Returns how many of those that fit wait for an answer.
    pub(super) fn pending(&self, now: Timestamp, fit: impl Fn(&Approval) -> bool) -> usize {
        let all = self.by_id.values();
        all.filter(|one| fit(one) && one.state(now) == ApprovalState::Pending).count()
    }

    pub(super) fn pending_of(&self, principal: &PrincipalId, now: Timestamp) -> usize {
        self.pending(now, |one| one.call.principal == *principal)
    }

    pub(super) fn pending_from(&self, network: ClientNetwork, now: Timestamp) -> usize {
        self.pending(now, |one| self.asked_from.get(&one.id) == Some(&network))
    }

    pub(super) fn insert(&mut self, approval: Approval) {
        let ids = self.by_call.entry(approval.call.clone()).or_default();
        if !ids.contains(&approval.id) {
            ids.push(approval.id.clone());
        }
        self.by_id.insert(approval.id.clone(), approval);
    }

    /// Forgets what nobody needs any more. Returns the ids of all that were forgotten since the last call.
    pub(super) fn sweep(&mut self, now: Timestamp) -> Vec<String> {
        let over = self.by_id.values().filter(|one| one.is_over(now));
        let over: Vec<String> = over.map(|one| one.id.clone()).collect();
        self.forget(&over);
        std::mem::take(&mut self.gone)
    }

    /// Forgets the oldest of those that have expired, which are kept for the list only. Returns false if there are none.
    pub(super) fn make_room(&mut self, now: Timestamp) -> bool {
        let expired = self.by_id.values().filter(|one| one.expires <= now && !self.in_use.contains(&one.id));
        let expired: Vec<String> = expired.take(ROOM).map(|one| one.id.clone()).collect();
        self.forget(&expired);
        !expired.is_empty()
    }

    fn forget(&mut self, which: &[String]) {
        for id in which {
            let Some(gone) = self.by_id.remove(id) else { continue };
            self.asked_from.remove(id);
            if let Some(ids) = self.by_call.get_mut(&gone.call) {
                ids.retain(|known| known != id);
                if ids.is_empty() {
                    self.by_call.remove(&gone.call);
                }
            }
            self.gone.push(gone.id);
        }
    }
}
