//! Who holds a key or a token, and what its holder may do.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

use super::principal_fields::Permitted;
use crate::ids::{Membership, PrincipalId, Validity};

/// A caller with a key or a token, and what it may do.
#[derive(Clone, Debug)]
pub struct KeyHolder {
    pub(super) id: PrincipalId,
    pub(super) membership: Option<Arc<Membership>>,
    pub(super) permitted: Arc<Permitted>,
    pub(super) expires: Option<Timestamp>,
    /// Shared by all that the key has opened, also before the last reload or rotation.
    pub(super) validity: Arc<Validity>,
    /// The minute of its last use since 1970; 0 before one.
    pub(super) last_used: Arc<AtomicI64>,
}

impl KeyHolder {
    /// Returns a caller that may use all models and backends.
    pub(super) fn unlimited(
        id: PrincipalId,
        membership: Option<Arc<Membership>>,
        expires: Option<Timestamp>,
    ) -> Self {
        Self {
            id,
            membership,
            permitted: Arc::default(),
            expires,
            validity: Validity::until(expires),
            last_used: Arc::default(),
        }
    }

    pub(super) fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Returns the holder as the one in place of `old`, which has the same key. Its new expiry applies to what the old one
    /// has opened once that is set ([`KeyHolder::settle`]).
    pub(super) fn continuing(&self, old: &Self) -> Self {
        let (validity, last_used) = (Arc::clone(&old.validity), Arc::clone(&old.last_used));
        Self { validity, last_used, ..self.clone() }
    }

    /// Applies its expiry to what it has opened.
    pub(super) fn settle(&self) {
        self.validity.set_expiry(self.expires);
    }

    /// Returns whether it may do less than another one, or is somebody else.
    pub(super) fn is_narrower_than(&self, other: &Self) -> bool {
        self.id != other.id || self.permitted.is_narrower_than(&other.permitted)
    }

    /// Returns for how long it is accepted.
    pub fn validity(&self) -> &Arc<Validity> {
        &self.validity
    }

    /// Revokes the key wherever it was shown.
    pub(super) fn revoke(&self) {
        self.validity.revoke();
    }

    /// Records that it is used now.
    pub(super) fn is_used(&self, now: Timestamp) {
        let minute = now.as_second() / 60;
        if self.last_used.load(Ordering::Relaxed) != minute {
            self.last_used.store(minute, Ordering::Relaxed);
        }
    }

    /// Returns the minute of its last use; `None` before one.
    pub(super) fn last_used(&self) -> Option<Timestamp> {
        let minute = Some(self.last_used.load(Ordering::Relaxed)).filter(|minute| *minute != 0);
        Timestamp::from_second(minute? * 60).ok()
    }

    /// Returns its principal: `key:ID`, `user:SUBJECT@ISSUER`, `cert:NAME` or `network:ID`.
    pub fn id(&self) -> &PrincipalId {
        &self.id
    }

    /// Returns its tenant and groups; `None` if it has neither.
    pub fn membership(&self) -> Option<&Arc<Membership>> {
        self.membership.as_ref()
    }

    /// Returns whether it may use some models only.
    pub fn limits_models(&self) -> bool {
        self.permitted.models.is_some()
    }

    /// Returns whether it may use this model.
    pub fn may_use_model(&self, model: &str) -> bool {
        self.permitted.models.as_ref().is_none_or(|models| models.matches(model))
    }

    /// Returns whether it may use this backend.
    pub fn may_use_backend(&self, backend: &str) -> bool {
        self.permitted.backends.as_ref().is_none_or(|backends| backends.matches(backend))
    }

    /// Returns whether it may use some tools only.
    pub fn limits_tools(&self) -> bool {
        self.permitted.tools.is_some()
    }

    /// Returns whether it may use this tool.
    pub fn may_use_tool(&self, tool: &str) -> bool {
        self.permitted.tools.as_ref().is_none_or(|tools| tools.matches(tool))
    }
}
