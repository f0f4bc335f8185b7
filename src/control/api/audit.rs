//! Who calls the control API, and the audit log.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::params::{Cursor, Limit, Time};
use crate::history::audit::{AuditFilter, AuditLine};

/// Lines on a page: 100, at most 1000.
pub type AuditLimit = Limit<100, 1000>;

/// Query of `GET /control/audit`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditQuery {
    /// Lines of this time or later: a time, or an age such as `24h`.
    pub from: Option<Time>,
    /// Lines before this time.
    pub to: Option<Time>,
    /// Lines of this operator, such as `key:ada` or `token`.
    pub operator: Option<String>,
    /// Lines of this action, such as `killSession`.
    pub action: Option<String>,
    /// Lines on this page.
    pub limit: AuditLimit,
    /// `next_cursor` of the page before.
    pub cursor: Option<Cursor>,
}

impl AuditQuery {
    /// Returns the filter of the audit log.
    pub fn filter(&self) -> AuditFilter {
        AuditFilter {
            from: self.from.map(|time| time.0),
            to: self.to.map(|time| time.0),
            operator: self.operator.clone(),
            action: self.action.clone(),
        }
    }
}

/// Answer of `GET /control/audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditList<Line = AuditLine> {
    /// The lines, newest first.
    pub lines: Vec<Line>,
    /// The cursor of the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// Answer of `GET /control/audit/verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditVerification {
    /// Whether every line is as it was written, none is missing, and each is sealed with the key of the gateway.
    pub verified: bool,
    /// The first thing that is wrong; null if nothing is.
    pub fault: Option<String>,
    /// Lines of the log that were verified; 0 if something is wrong.
    pub lines: u64,
    /// The digest of the last line; null without lines.
    pub hash: Option<String>,
}

/// Answer of `GET /control/whoami`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Whoami {
    /// The principal, such as `key:ada`; `token` for the control token, `local` where none is required.
    pub id: String,
    /// The roles.
    pub roles: Vec<GrantedRole>,
    /// What the roles permit, and whether for everything or for the objects of tenants.
    pub permissions: BTreeMap<Cow<'static, str>, PermissionReach>,
    /// What is on, so that a page shows nothing that is not.
    pub features: Features,
    /// The version of this program.
    pub version: Cow<'static, str>,
}

/// How far a permission goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PermissionReach {
    /// Everything.
    All,
    /// What belongs to the tenants of the roles.
    Tenant,
}

/// What is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Features {
    /// Whether a credential is needed, so that a page can log out.
    pub login: bool,
    /// Whether people log in by name and password.
    pub people: bool,
    /// Whether ended sessions are kept.
    pub history: bool,
    /// Whether there are rules.
    pub policy: bool,
}

/// A role of the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GrantedRole {
    /// `admin`, `operator`, `auditor`, `finops` or `viewer`.
    pub role: crate::identity::roles::Role,
    /// The only tenant that it covers; null for all.
    pub tenant: Option<String>,
}
