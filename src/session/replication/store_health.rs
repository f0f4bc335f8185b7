//! Problems of a store that answers: it takes no writes, evicts keys, was wiped, or has another principals' key.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use parking_lot::Mutex;
use tracing::warn;

use crate::redis::LinkError;
use crate::redis::principals::Claim;

/// The principals' key of an instance.
#[derive(Clone, Debug)]
pub struct OwnKey {
    /// The key.
    pub claim: Claim,
    /// True if the store has it, or had it while this instance was running.
    pub is_agreed: bool,
}

/// Problems of the store.
#[derive(Debug)]
pub(super) struct StoreHealth {
    pub(super) key: Option<Mutex<OwnKey>>,
    pub(super) keyless: Mutex<u32>,
    /// True while the store has another principals' key.
    pub(super) is_other: AtomicBool,
    /// Principals' keys that the store had lost.
    pub(super) lost_keys: AtomicU64,
    pub(super) refused: Mutex<Option<String>>,
    /// Why the link was taken down last.
    lost_because: Mutex<Option<String>>,
    pub(super) evicts: Mutex<Option<String>>,
    pub(super) lost: Mutex<Option<(Instant, &'static str)>>,
}

pub(super) fn set<T>(place: &Mutex<T>, value: T) -> T {
    std::mem::replace(&mut place.lock(), value)
}

pub(super) fn get<T: Clone>(place: &Mutex<T>) -> T {
    place.lock().clone()
}

impl StoreHealth {
    pub(super) fn new(key: Option<OwnKey>) -> Self {
        Self {
            key: key.map(Mutex::new),
            keyless: Mutex::default(),
            is_other: AtomicBool::new(false),
            lost_keys: AtomicU64::new(0),
            refused: Mutex::default(),
            lost_because: Mutex::default(),
            evicts: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Why the store cannot be used although it answers.
    pub(super) fn refused(&self) -> Option<String> {
        get(&self.refused)
    }

    /// Sets why the store cannot be used although it answers; true if that is new.
    pub(super) fn refuse(&self, why: Option<String>) -> bool {
        why.is_some() && set(&self.refused, why.clone()) != why
    }

    /// Records why the link is taken down.
    pub(super) fn lost_link(&self, why: &LinkError) {
        let (LinkError::Away(why) | LinkError::Refused(why)) = why;
        set(&self.lost_because, Some(why.clone()));
    }

    /// The error of a command that is not sent because the link is down.
    pub(super) fn link_is_down(&self) -> LinkError {
        LinkError::Away(get(&self.lost_because).unwrap_or_else(|| "not connected".to_owned()))
    }

    /// The store can be used, or does not answer at all.
    pub(super) fn not_refused(&self) {
        set(&self.refused, None);
    }

    /// Records that the store had lost something, which was written again.
    pub(super) fn lost(&self, what: &'static str) {
        set(&self.lost, Some((Instant::now(), what)));
    }

    /// Sets the eviction policy and the number of evicted keys.
    pub(super) fn evicts(&self, found: Option<&(String, u64)>) {
        let told = found.map(|(policy, evicted)| {
            format!(
                "redis evicts keys when its memory is full (maxmemory-policy {policy}; {evicted} so far), kill orders \
                 among them: set maxmemory-policy noeviction"
            )
        });
        let before = set(&self.evicts, told.clone());
        if let (None, Some(told)) = (before, told) {
            warn!("{told}");
        }
    }
}
