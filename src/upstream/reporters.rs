//! Who reports a failure of a backend, and whether another, independent caller has reported the same.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ids::ClientNetwork;

/// Who sends a request, as far as the health of backends depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Hash of the principal.
    pub principal: u64,
    /// The network of the client.
    pub network: ClientNetwork,
}

/// The callers that reported the same, for instance failed requests. Two reports are independent when both the principals
/// and the networks differ.
#[derive(Debug, Default)]
pub(super) struct Reporters(AtomicU64);

/// Independent callers have reported.
const SEVERAL: u64 = u64::MAX;

impl Reporters {
    /// Adds a caller. Returns true when there are independent reports.
    pub(super) fn add(&self, caller: Caller) -> bool {
        // Both in one number, so that no thread sees one without the other.
        let report = u64::from(folded(caller.principal)) << 32 | u64::from(folded(caller.network.as_u64()));
        let report = report.clamp(1, SEVERAL - 1);
        match self.0.compare_exchange(0, report, Relaxed, Relaxed) {
            Ok(_) => false,
            Err(SEVERAL) => true,
            Err(first) => {
                let is_other = first >> 32 != report >> 32 && first as u32 != report as u32;
                if is_other {
                    self.0.store(SEVERAL, Relaxed);
                }
                is_other
            }
        }
    }

    /// Records what needs no second report.
    pub(super) fn add_several(&self) {
        self.0.store(SEVERAL, Relaxed);
    }

    /// Returns true when nobody has reported.
    pub(super) fn is_empty(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    pub(super) fn clear(&self) {
        self.0.store(0, Relaxed);
    }
}

/// Halves a hash. Equal halves of different callers only delay an ejection.
fn folded(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}
