//! The section `auth:`: whether callers need a key of this gateway, and the keys that the file declares.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::{Auth, KeyHolder, Others};
use super::connections::{CertificateConfig, Connections, NetworkConfig};
use super::jwt::JwtConfig;
use super::jwt::local::LocalConfig;
use super::key_text::{KeyDigest, PREFIX};
use super::people::PeopleConfig;
use super::principal_fields::{WrittenLists, membership, name};
use super::roles::{RoleConfig, Roles};
use crate::ids::{PrincipalId, Validity};
use crate::settings::acl::AclConfig;
use crate::settings::fault::Faults;

/// Longest prefix of keys, in bytes.
const MAX_PREFIX: usize = 32;

/// Whether callers of the proxy show a key of this gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// Keys are not read: a caller is its credential, or its address.
    #[default]
    Off,
    /// A key is checked if there is one; a caller without one is its credential, or its address.
    Optional,
    /// A request without a key is refused.
    Required,
}

/// Who may call, and with which key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Whether callers of the proxy show a key of this gateway or a token.
    pub proxy: Demand,
    /// The form of keys.
    pub keys: KeysConfig,
    /// The callers and the digests of their keys.
    pub principals: Vec<PrincipalConfig>,
    /// Who may use the control API, and for what.
    pub roles: Vec<RoleConfig>,
    /// Whose tokens are accepted (JWT, RFC 7519).
    #[serde(skip_serializing_if = "JwtConfig::is_empty")]
    pub jwt: JwtConfig,
    /// Whether people log in with a name and a password.
    #[serde(skip_serializing_if = "PeopleConfig::is_default")]
    pub people: PeopleConfig,
    /// Callers that are known by their client certificate (`server.tls.client_ca`); of several entries that fit, the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mtls: Vec<CertificateConfig>,
    /// Callers that are known by their address; of several entries that fit, the smallest network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkConfig>,
    /// Whose connections are accepted.
    #[serde(skip_serializing_if = "AclConfig::is_empty")]
    pub acl: AclConfig,
}

/// The form of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeysConfig {
    /// How keys begin; what begins like this and is not known is refused and goes to no backend.
    pub prefix: String,
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self { prefix: PREFIX.to_owned() }
    }
}

/// A caller with a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrincipalConfig {
    /// The name; records and metrics show it as `key:ID`.
    pub id: String,
    /// SHA-256 of the key in hex, as `elida key digest` prints it.
    pub key_sha256: String,
    /// The tenant; records show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The groups; records show them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Labels, which expressions read as `principal.labels.NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Patterns of the models that it may use; all if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Patterns of the backends that it may use; all if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Patterns of the tools that it may call on MCP servers and offer to models; all if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// From when on the key is refused: a day (its first moment, UTC) or a time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl AuthConfig {
    /// Returns whether it says who may use the control API.
    pub fn knows_operators(&self) -> bool {
        !self.roles.is_empty() || self.people.login
    }

    /// Compiles the section. `backends` are the names of the configured ones. Reports every fault; `None` after any.
    pub fn compile(self, backends: &[String], faults: &mut Faults) -> Option<Arc<Auth>> {
        let mut is_valid = check_prefix(&self.keys.prefix, faults);
        self.warn(faults);
        let written = self.principals.clone();
        let roles = Roles::compile(self.roles, &self.jwt.names(), faults);
        let mut holders = HashMap::new();
        let mut ids: HashMap<String, usize> = HashMap::new();
        for (at, principal) in self.principals.into_iter().enumerate() {
            let path = format!("auth.principals[{at}]");
            if let Some(first) = ids.insert(principal.id.clone(), at) {
                let message = format!("'{}' is also the id of auth.principals[{first}]", principal.id);
                faults.add(format!("{path}.id"), message, "give each key an id of its own");
                is_valid = false;
            }
            let Some((digest, holder)) = principal.compile(&path, &self.keys.prefix, backends, faults) else {
                is_valid = false;
                continue;
            };
            match holders.entry(digest) {
                Entry::Vacant(free) => drop(free.insert(Arc::new(holder))),
                Entry::Occupied(taken) => {
                    let message = format!("it is also the key of {}", taken.get().id());
                    faults.add(format!("{path}.key_sha256"), message, "give each principal a key of its own");
                    is_valid = false;
                }
            }
        }
        let local = self.jwt.local.as_ref();
        let ttl = local.map_or(Duration::from_secs(3600), |local| local.ttl.0);
        let people = self.people.compile(local.and_then(LocalConfig::secret), ttl, faults);
        if let Some(roles) = &roles {
            people.warn(roles.people(), faults);
        }
        let jwt = self.jwt.compile(backends, faults);
        let connections = Connections::compile(self.mtls, self.networks, faults);
        let acl = self.acl.compile("auth.acl", faults);
        let others = Others { jwt: jwt?, connections: connections?, acl: acl?, roles: roles?, people };
        is_valid.then(|| Arc::new(Auth::new(self.proxy, self.keys.prefix, written, holders, others)))
    }

    fn warn(&self, faults: &mut Faults) {
        let others = [
            ("auth.jwt", self.jwt.is_empty()),
            ("auth.mtls", self.mtls.is_empty()),
            ("auth.networks", self.networks.is_empty()),
        ];
        let mut written = others.iter().filter(|(_, is_empty)| !is_empty).peekable();
        let has_others = written.peek().is_some();
        if self.proxy == Demand::Off {
            for (path, _) in written {
                faults.warn(
                    *path,
                    "it has no effect, because auth.proxy is off",
                    "write auth.proxy: required, or optional",
                );
            }
        }
        match (self.proxy, self.principals.is_empty()) {
            (Demand::Off, false) if self.roles.is_empty() => {
                let message = "the keys are not read, because auth.proxy is off";
                faults.warn("auth.principals", message, "write auth.proxy: required, or optional");
            }
            (Demand::Required, true) if !has_others => {
                let message = "required, and auth.principals is empty: only keys that elida key create made are accepted";
                faults.warn("auth.proxy", message, "make one with elida key create, or add principals");
            }
            (_, true | false) => {}
        }
    }
}

impl PrincipalConfig {
    /// Compiles a principal at this path of the configuration; `backends` are the names of the configured ones.
    pub(super) fn compile(
        self,
        path: &str,
        prefix: &str,
        backends: &[String],
        faults: &mut Faults,
    ) -> Option<(KeyDigest, KeyHolder)> {
        let id = name(&self.id, &format!("{path}.id"), faults);
        let digest = digest(&self.key_sha256, &format!("{path}.key_sha256"), prefix, faults);
        let membership = membership(self.tenant.as_deref(), &self.groups, &self.labels, path, faults);
        let expires = match &self.expires {
            None => Some(None),
            Some(text) => expiry(text, &format!("{path}.expires"), faults).map(Some),
        };
        let lists = WrittenLists { models: &self.models, backends: &self.backends, tools: &self.tools };
        let permitted = lists.compile(path, backends, faults);
        let holder = KeyHolder {
            id: PrincipalId::new(format!("key:{}", id?)),
            membership: membership?,
            permitted: Arc::new(permitted?),
            expires: expires?,
            validity: Validity::until(expires?),
            last_used: Arc::default(),
        };
        Some((digest?, holder))
    }
}

fn check_prefix(prefix: &str, faults: &mut Faults) -> bool {
    let is_valid = (3..=MAX_PREFIX).contains(&prefix.len())
        && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if !is_valid {
        let message = format!("'{prefix}' cannot begin a key");
        faults.add("auth.keys.prefix", message, "write 3 to 32 letters, digits, _ and -, such as elida_");
    }
    is_valid
}

/// Returns the digest. What is not one is never repeated, because it may be the key itself.
fn digest(text: &str, path: &str, prefix: &str, faults: &mut Faults) -> Option<KeyDigest> {
    let digest = KeyDigest::parse(text);
    if digest.is_some() && text.bytes().all(|digit| text.as_bytes().first() == Some(&digit)) {
        let message = "it is the placeholder of an example: nobody has this key";
        faults.warn(path, message, "write the digest that elida key generate prints");
    }
    if digest.is_none() {
        let (message, hint) = match text.starts_with(prefix) {
            true => {
                ("it is the key itself", "replace it with its digest (elida key digest), and make a new key")
            }
            false => {
                ("it is not a SHA-256 in hex (64 digits)", "write what elida key digest prints for the key")
            }
        };
        faults.add(path, message, hint);
    }
    digest
}

fn expiry(text: &str, path: &str, faults: &mut Faults) -> Option<Timestamp> {
    let day = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|start| start.timestamp());
    let expires = text.parse::<Timestamp>().ok().or_else(day);
    match expires {
        None => {
            let message = format!("'{text}' is neither a day nor a time");
            faults.add(
                path,
                message,
                "write it like 2027-01-31 or 2027-01-31T18:00:00Z (elida key create takes 90d, too)",
            );
        }
        Some(expires) if expires <= Timestamp::now() => {
            faults.warn(
                path,
                format!("the key has expired ({text})"),
                "remove the principal, or give it a new key",
            );
        }
        Some(_) => {}
    }
    expires
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(yaml: &str) -> Result<Arc<Auth>, String> {
        let written: AuthConfig = serde_yaml::from_str(yaml).map_err(|error| error.to_string())?;
        let mut faults = Faults::default();
        let auth = written.compile(&["anthropic".to_owned(), "local".to_owned()], &mut faults);
        auth.ok_or_else(|| faults.to_string())
    }

    #[test]
    fn nothing_written_is_off() {
        let auth = compiled("{}").unwrap();
        assert!(auth.is_off() && !auth.is_required());
        let text = serde_yaml::to_string(&AuthConfig::default()).unwrap();
        assert_eq!(serde_yaml::from_str::<AuthConfig>(&text).unwrap(), AuthConfig::default());
    }

    #[test]
    fn every_fault_is_reported_at_once_and_no_key_is_repeated() {
        let digest = KeyDigest::of(b"one");
        let yaml = format!(
            "proxy: required\nkeys: {{ prefix: e }}\nprincipals:\n\
             - {{ id: 'a b', key_sha256: elida_secret, tenant: '', groups: [ok, 'no/'] }}\n\
             - {{ id: ci, key_sha256: e_secret, backends: [anthropc, 'loc*'], models: ['['] }}\n\
             - {{ id: ci, key_sha256: '{digest}', expires: soon }}\n\
             - {{ id: one, key_sha256: '{digest}' }}\n- {{ id: two, key_sha256: '{digest}' }}\n"
        );
        let faults = compiled(&yaml).unwrap_err();
        let paths: Vec<&str> = faults.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(
            paths,
            [
                "auth.keys.prefix",
                "auth.principals[0].id",
                "auth.principals[0].key_sha256",
                "auth.principals[0].tenant",
                "auth.principals[0].groups[1]",
                "auth.principals[1].key_sha256",
                "auth.principals[1].backends[0]",
                "auth.principals[1].models[0]",
                "auth.principals[2].id",
                "auth.principals[2].expires",
                "auth.principals[4].key_sha256",
            ]
        );
        assert!(!faults.contains("secret") && faults.contains("it is the key itself"), "{faults}");
        assert!(compiled("principals: [{ id: a }]").unwrap_err().contains("key_sha256"));
        assert!(compiled("proxies: required").is_err());
    }

    #[test]
    fn a_role_of_a_name_that_everyone_may_register_is_told() {
        let warnings = |registration: &str, principal: &str| {
            let yaml = format!(
                "people: {{ login: true, registration: {registration} }}\n\
                 roles: [{{ role: admin, principals: ['{principal}'] }}]\n"
            );
            let (written, mut faults): (AuthConfig, _) =
                (serde_yaml::from_str(&yaml).unwrap(), Faults::default());
            written.compile(&[], &mut faults).unwrap();
            faults.warnings().iter().filter(|told| told.to_string().contains("user:boss@elida")).count()
        };
        assert_eq!(warnings("open", "user:boss@elida"), 1);
        for (registration, principal) in
            [("open", "user:boss@idp"), ("invite", "user:boss@elida"), ("open", "key:boss")]
        {
            assert_eq!(warnings(registration, principal), 0, "{registration} {principal}");
        }
    }

    #[test]
    fn a_day_expires_with_its_first_moment() {
        let at = |text| expiry(text, "", &mut Faults::default()).map(|at| at.to_string());
        assert_eq!(at("2027-01-31").as_deref(), Some("2027-01-31T00:00:00Z"));
        assert_eq!(at("2027-01-31T18:00:00+01:00").as_deref(), Some("2027-01-31T17:00:00Z"));
        assert_eq!(at("90d"), None);
    }
}
