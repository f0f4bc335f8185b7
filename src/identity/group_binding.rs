//! Whom a rule about groups is for. Groups of a token are what its issuer says: one issuer must not give what a rule means for
//! the callers of another.

use std::sync::Arc;

use super::principal_fields::{OWN_NAME, name};
use crate::ids::{Membership, PrincipalId};
use crate::settings::fault::Faults;

/// Groups, and the issuers whose word on them counts.
#[derive(Debug, Default)]
pub(super) struct GroupBinding {
    groups: Vec<Arc<str>>,
    /// Names of issuers; none means any, as long as there is only one.
    issuers: Vec<Arc<str>>,
    has_several: bool,
}

impl GroupBinding {
    /// Compiles groups and issuers at this path of the configuration. `known` are the names of the issuers of tokens.
    pub(super) fn compile(
        groups: &[String],
        issuers: &[String],
        path: &str,
        known: &[String],
        faults: &mut Faults,
    ) -> Option<Self> {
        let groups = groups.iter().enumerate();
        let groups: Vec<_> =
            groups.map(|(at, group)| name(group, &format!("{path}.groups[{at}]"), faults)).collect();
        let mut is_valid = true;
        for (at, issuer) in issuers.iter().enumerate() {
            if issuer != OWN_NAME && !known.contains(issuer) {
                let message = format!("no issuer has the name '{issuer}'");
                let hint = "write what the ids of its callers end with (auth.jwt.issuers[].name), or elida for people who log in";
                faults.add(format!("{path}.issuers[{at}]"), message, hint);
                is_valid = false;
            }
        }
        let binding = Self {
            groups: groups.into_iter().collect::<Option<_>>()?,
            issuers: issuers.iter().map(|issuer| issuer.as_str().into()).collect(),
            has_several: known.len() > 1,
        };
        if binding.has_several && binding.issuers.is_empty() && !binding.groups.is_empty() {
            let message = "its groups do not count for tokens, because several issuers could claim them";
            faults.warn(path, message, "name the issuers whose groups count: issuers: [NAME]");
        }
        is_valid.then_some(binding)
    }

    /// Returns whether there are no groups.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Returns whether a principal is in one of the groups by somebody's word that counts: of the configuration, an admin, or one
    /// of the issuers.
    pub(super) fn covers(&self, principal: &PrincipalId, membership: Option<&Membership>) -> bool {
        let is_in = |group: &Arc<str>| membership.is_some_and(|member| member.groups.contains(group));
        self.groups.iter().any(is_in) && self.trusts(principal)
    }

    /// Returns whether a principal is known by one of the issuers; by any if none is named.
    pub(super) fn is_from(&self, principal: &PrincipalId) -> bool {
        self.issuers.is_empty() || self.trusts(principal)
    }

    /// Returns whether the word on a principal counts.
    fn trusts(&self, principal: &PrincipalId) -> bool {
        let issuer = principal.as_str().strip_prefix("user:").and_then(|id| id.rsplit_once('@'));
        match issuer.map(|(_, issuer)| issuer) {
            _ if self.issuers.is_empty() && !self.has_several => true,
            Some(issuer) if !self.issuers.is_empty() => self.issuers.iter().any(|known| **known == *issuer),
            None if !self.issuers.is_empty() => false,
            // Several issuers and none is named: only what the configuration or an admin says.
            issuer => issuer.is_none_or(|issuer| issuer == OWN_NAME),
        }
    }
}
