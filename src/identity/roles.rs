//! Roles on the control API: who may do what there, and for which tenant.
//!
//! An endpoint needs one [`Right`]; a [`Role`] grants some. The section `auth.roles` binds roles to principals and groups.
//! Nothing else gives a role: no claim of a token and no member of a request names one.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::group_binding::GroupBinding;
use super::principal_fields::{OWN_NAME, name};
use crate::ids::{Membership, PrincipalId};
use crate::settings::fault::Faults;

/// A role on the control API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Sees sessions; kills and resumes them.
    Operator,
    /// Sees sessions, the history with captured bodies, and the audit log.
    Auditor,
    /// Sees sessions, usage and budgets; changes budgets.
    Finops,
    /// Sees sessions and totals.
    Viewer,
}

/// What an endpoint of the control API lets its caller do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// See sessions, kill orders, backends, totals and metrics.
    Read,
    /// Kill and resume sessions.
    Operate,
    /// Read and export the history, captured bodies included.
    History,
    /// Read usage.
    Usage,
    /// Change budgets.
    Budgets,
    /// Read the audit log.
    Audit,
    /// Make, list and revoke keys.
    Keys,
    /// Make, list and change the accounts of people.
    Users,
    /// Read and reload the configuration.
    Config,
}

impl Right {
    /// All rights.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Operate,
        Self::History,
        Self::Usage,
        Self::Budgets,
        Self::Audit,
        Self::Keys,
        Self::Users,
        Self::Config,
    ];

    /// Returns the name as the control API shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::History => "history",
            Self::Usage => "usage",
            Self::Budgets => "budgets",
            Self::Audit => "audit",
            Self::Keys => "keys",
            Self::Users => "users",
            Self::Config => "config",
        }
    }

    /// Returns the roles that grant it, the mightiest first.
    pub fn roles(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| role.grants(self))
    }
}

impl Role {
    /// All roles, the mightiest first.
    pub const ALL: [Self; 5] = [Self::Admin, Self::Operator, Self::Auditor, Self::Finops, Self::Viewer];

    /// Returns the name as it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Finops => "finops",
            Self::Viewer => "viewer",
        }
    }

    /// Returns whether the role grants this right.
    pub fn grants(self, right: Right) -> bool {
        match self {
            Self::Admin => true,
            Self::Operator => matches!(right, Right::Read | Right::Operate),
            Self::Auditor => matches!(right, Right::Read | Right::History | Right::Usage | Right::Audit),
            Self::Finops => matches!(right, Right::Read | Right::Usage | Right::Budgets),
            Self::Viewer => right == Right::Read,
        }
    }
}

/// Gives principals or groups a role on the control API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// `admin`, `operator`, `auditor`, `finops` or `viewer`.
    pub role: Role,
    /// Ids of principals, such as `key:grafana`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<String>,
    /// Groups of principals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Names of the issuers whose tokens may claim these groups, such as `idp.example`, and `elida` for people who log in; then no
    /// other caller has the role by its groups. If the list is empty, any caller, but with several issuers no token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<String>,
    /// The only tenant whose sessions and records the role covers; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// Who has which role.
#[derive(Debug, Default)]
pub struct Roles(Vec<Binding>);

#[derive(Debug)]
struct Binding {
    role: Role,
    principals: Vec<PrincipalId>,
    groups: GroupBinding,
    tenant: Option<Arc<str>>,
}

/// The roles of one caller of the control API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<(Role, Option<Arc<str>>)>);

/// The sessions and records for which a right holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All.
    All,
    /// Those of principals of these tenants.
    Tenants(Vec<Arc<str>>),
}

impl Reach {
    /// Returns whether an object of this tenant is within reach; `None` is an object without a tenant.
    pub fn covers(&self, tenant: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Tenants(tenants) => tenant.is_some_and(|tenant| tenants.iter().any(|own| **own == *tenant)),
        }
    }

    /// Returns the tenants within reach; empty means all.
    pub fn tenants(&self) -> Vec<String> {
        match self {
            Self::All => Vec::new(),
            Self::Tenants(tenants) => tenants.iter().map(|tenant| tenant.to_string()).collect(),
        }
    }
}

impl Grants {
    /// Returns the grants of the control token: everything.
    pub fn admin() -> Self {
        Self(vec![(Role::Admin, None)])
    }

    /// Returns these grants and one of a role, for this tenant only if there is one.
    pub(super) fn and(mut self, role: Option<Role>, tenant: Option<&str>) -> Self {
        self.0.extend(role.map(|role| (role, tenant.map(Arc::from))));
        self
    }

    /// Returns whether there is no role.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the roles, each with its only tenant, if it has one.
    pub fn iter(&self) -> impl Iterator<Item = (Role, Option<&Arc<str>>)> {
        self.0.iter().map(|(role, tenant)| (*role, tenant.as_ref()))
    }

    /// Returns for what a right holds; `None` if no role grants it.
    pub fn reach(&self, right: Right) -> Option<Reach> {
        let granting = self.0.iter().filter(|(role, _)| role.grants(right));
        let mut tenants = Vec::new();
        for (_, tenant) in granting {
            match tenant {
                None => return Some(Reach::All),
                Some(tenant) if tenants.contains(tenant) => {}
                Some(tenant) => tenants.push(Arc::clone(tenant)),
            }
        }
        (!tenants.is_empty()).then_some(Reach::Tenants(tenants))
    }
}

impl Roles {
    /// Compiles `auth.roles`. `issuers` are the names of the issuers of tokens. Reports every fault; `None` after any.
    pub(super) fn compile(written: Vec<RoleConfig>, issuers: &[String], faults: &mut Faults) -> Option<Self> {
        let compiled = written.into_iter().enumerate().map(|(at, role)| role.compile(at, issuers, faults));
        // Every entry is compiled, so that all faults are reported.
        let compiled: Vec<_> = compiled.collect();
        compiled.into_iter().collect::<Option<_>>().map(Self)
    }

    /// Returns whether nobody has a role.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether somebody has this role for all tenants.
    pub fn grant(&self, role: Role) -> bool {
        self.0.iter().any(|binding| binding.role == role && binding.tenant.is_none())
    }

    /// Returns the principals that an account could be, by its name alone.
    pub(super) fn people(&self) -> impl Iterator<Item = &PrincipalId> {
        let own = format!("@{OWN_NAME}");
        let principals = self.0.iter().flat_map(|binding| &binding.principals);
        principals.filter(move |id| id.as_str().starts_with("user:") && id.as_str().ends_with(&own))
    }

    /// Returns the roles of a principal.
    pub fn of(&self, principal: &PrincipalId, membership: Option<&Membership>) -> Grants {
        let has = |binding: &&Binding| {
            binding.principals.contains(principal) || binding.groups.covers(principal, membership)
        };
        Grants(self.0.iter().filter(has).map(|binding| (binding.role, binding.tenant.clone())).collect())
    }
}

impl RoleConfig {
    fn compile(self, at: usize, issuers: &[String], faults: &mut Faults) -> Option<Binding> {
        let path = format!("auth.roles[{at}]");
        if self.principals.is_empty() && self.groups.is_empty() {
            let message = format!("nobody has the role {}", self.role.name());
            faults.add(&path, message, "name principals, such as key:grafana, or groups");
            return None;
        }
        let mut is_valid = true;
        for (index, principal) in self.principals.iter().enumerate() {
            // Credentials and addresses prove nobody's identity.
            if !principal
                .split_once(':')
                .is_some_and(|(kind, id)| matches!(kind, "key" | "user") && !id.is_empty())
            {
                let message = format!("'{principal}' is not the id of a principal that can have a role");
                faults.add(format!("{path}.principals[{index}]"), message, "write it like key:grafana");
                is_valid = false;
            }
        }
        let groups = GroupBinding::compile(&self.groups, &self.issuers, &path, issuers, faults);
        let tenant = match &self.tenant {
            None => None,
            Some(tenant) => Some(name(tenant, &format!("{path}.tenant"), faults)?),
        };
        let groups = groups.filter(|_| is_valid)?;
        let principals = self.principals.into_iter().map(PrincipalId::new).collect();
        Some(Binding { role: self.role, principals, groups, tenant })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(yaml: &str) -> Result<Roles, String> {
        let written: Vec<RoleConfig> = serde_yaml::from_str(yaml).map_err(|fault| fault.to_string())?;
        let mut faults = Faults::default();
        Roles::compile(written, &[], &mut faults).ok_or_else(|| faults.to_string())
    }

    fn member(tenant: &str, groups: &[&str]) -> Arc<Membership> {
        Membership::of(
            Some(tenant.into()),
            groups.iter().map(|group| (*group).into()).collect(),
            Default::default(),
        )
        .unwrap()
    }

    #[test]
    fn roles_add_up_and_one_without_a_tenant_covers_all() {
        let roles = roles(
            "- { role: operator, groups: [soc] }\n\
             - { role: auditor, groups: [soc], tenant: acme }\n\
             - { role: auditor, principals: ['key:eve'], tenant: other }\n\
             - { role: viewer, principals: ['key:grafana'] }\n",
        )
        .unwrap();
        let soc = roles.of(&PrincipalId::new("key:ada"), Some(&member("acme", &["soc"])));
        assert_eq!(soc.reach(Right::Operate), Some(Reach::All));
        assert_eq!(soc.reach(Right::History), Some(Reach::Tenants(vec!["acme".into()])));
        assert_eq!(soc.reach(Right::Config), None);
        let eve = roles.of(&PrincipalId::new("key:eve"), Some(&member("acme", &["soc"])));
        let reach = eve.reach(Right::History).unwrap();
        assert!(reach.covers(Some("acme")) && reach.covers(Some("other")));
        assert!(!reach.covers(Some("third")) && !reach.covers(None), "no tenant is nobody's tenant");
        assert!(roles.of(&PrincipalId::new("key:bob"), None).is_empty());
        let grafana = roles.of(&PrincipalId::new("key:grafana"), None);
        assert_eq!((grafana.reach(Right::Read), grafana.reach(Right::Usage)), (Some(Reach::All), None));
    }

    #[test]
    fn a_role_of_nobody_or_of_an_address_is_a_fault() {
        let faults = roles(
            "- { role: viewer }\n- { role: admin, principals: ['anon:10.0.0.1', 'key:', 'cred:1'] }\n\
             - { role: admin, groups: ['a b'], tenant: '' }\n",
        )
        .unwrap_err();
        let paths: Vec<&str> = faults.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(
            paths,
            [
                "auth.roles[0]",
                "auth.roles[1].principals[0]",
                "auth.roles[1].principals[1]",
                "auth.roles[1].principals[2]",
                "auth.roles[2].groups[0]",
                "auth.roles[2].tenant",
            ]
        );
        assert!(roles("- { role: root, groups: [a] }").is_err());
    }

    #[test]
    fn an_issuer_gives_no_role_that_is_meant_for_the_callers_of_another() {
        let compiled = |yaml: &str, issuers: &[&str]| {
            let written: Vec<RoleConfig> = serde_yaml::from_str(yaml).unwrap();
            let issuers: Vec<String> = issuers.iter().map(ToString::to_string).collect();
            let mut faults = Faults::default();
            let roles = Roles::compile(written, &issuers, &mut faults);
            (roles, faults.to_string(), faults.warnings().len())
        };
        let has = |roles: &Roles, id: &str| {
            !roles.of(&PrincipalId::new(id), Some(&member("acme", &["soc"]))).is_empty()
        };
        let unbound = "- { role: admin, groups: [soc] }";
        let (one, _, warnings) = compiled(unbound, &["idp"]);
        let one = one.unwrap();
        assert!(
            has(&one, "user:ada@idp") && has(&one, "key:ci") && has(&one, "user:ada@elida") && warnings == 0
        );
        let (several, _, warnings) = compiled(unbound, &["idp", "other"]);
        let several = several.unwrap();
        assert_eq!(warnings, 1);
        assert!(has(&several, "key:ci") && has(&several, "user:ada@elida"), "said by the file or an admin");
        assert!(!has(&several, "user:ada@idp") && !has(&several, "user:ada@other"));
        let (bound, _, warnings) =
            compiled("- { role: admin, groups: [soc], issuers: [idp] }", &["idp", "other"]);
        let bound = bound.unwrap();
        assert!(has(&bound, "user:ada@idp") && has(&bound, "user:x@other@idp") && warnings == 0);
        for id in ["user:ada@other", "user:ada@idp@other", "key:ci", "user:ada@elida", "user:idp"] {
            assert!(!has(&bound, id), "{id}");
        }
        let (none, faults, _) = compiled("- { role: admin, groups: [soc], issuers: [ipd] }", &["idp"]);
        assert!(none.is_none() && faults.contains("auth.roles[0].issuers[0]"), "{faults}");
    }
}
