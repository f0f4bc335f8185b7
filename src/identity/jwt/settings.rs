//! `auth.jwt`: the issuers of tokens.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::claims::ClaimNames;
use super::issuer_keys::{IssuerKeys, Source};
use super::key_set::KeySet;
use super::local::{LOCAL, LocalConfig};
use super::permissions::{PermissionConfig, Permissions};
use super::tokens::{Issuer, Jwt, Keys};
use crate::identity::principal_fields::OWN_NAME;
use crate::settings::fault::Faults;
use crate::settings::units::DurationText;

/// The largest skew: more would make `exp` mean little.
const MAX_SKEW: Duration = Duration::from_secs(600);
const REFRESH: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(12 * 3600)];

/// Whose tokens are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JwtConfig {
    /// Identity providers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerConfig>,
    /// Tokens that are signed with a secret which this gateway shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalConfig>,
    /// What callers with a token may use, by their groups: the first entry that fits counts. Without entries, all of them may use
    /// everything; with entries, a caller that none fits may use nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<PermissionConfig>,
}

/// An identity provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The claim `iss` of its tokens, exactly.
    pub issuer: String,
    /// What the ids of its callers end with, as in `user:ada@idp.example`; the host of the issuer if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The claim `aud` must have one of these: a token for another service is refused.
    pub audience: Vec<String>,
    /// Its public keys.
    pub jwks: JwksConfig,
    /// The algorithms that are accepted; if the list is empty, those that its keys are for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// How far its clock may differ from this machine's.
    #[serde(default = "default_skew")]
    pub skew: DurationText,
    /// The claims that say who calls.
    #[serde(default)]
    pub claims: ClaimsConfig,
}

/// Where the keys of an issuer are (JWKS, RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JwksConfig {
    /// Their URL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// A file, instead of a URL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// PEM file of the certificate authorities to trust for the URL, instead of the system's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca_file: String,
    /// How often they are fetched again.
    pub refresh: DurationText,
}

impl Default for JwksConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            file: String::new(),
            ca_file: String::new(),
            refresh: DurationText::secs(600),
        }
    }
}

/// The claims of an issuer's tokens: a name, or a path with dots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimsConfig {
    /// Who calls.
    pub id: String,
    /// The tenant. When set, a token without it is refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// The groups: a list, or a text with spaces.
    pub groups: String,
    /// Claims that become labels of the caller, which expressions read as `principal.labels.NAME`.
    pub labels: Vec<String>,
}

impl Default for ClaimsConfig {
    fn default() -> Self {
        Self { id: "sub".into(), tenant: String::new(), groups: "groups".into(), labels: Vec::new() }
    }
}

/// An algorithm with a public key (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names of the RFC")]
pub enum SignatureAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

pub(super) fn default_skew() -> DurationText {
    DurationText::secs(60)
}

impl From<SignatureAlgorithm> for Algorithm {
    fn from(written: SignatureAlgorithm) -> Self {
        match written {
            SignatureAlgorithm::RS256 => Self::RS256,
            SignatureAlgorithm::RS384 => Self::RS384,
            SignatureAlgorithm::RS512 => Self::RS512,
            SignatureAlgorithm::PS256 => Self::PS256,
            SignatureAlgorithm::PS384 => Self::PS384,
            SignatureAlgorithm::PS512 => Self::PS512,
            SignatureAlgorithm::ES256 => Self::ES256,
            SignatureAlgorithm::ES384 => Self::ES384,
            SignatureAlgorithm::EdDSA => Self::EdDSA,
        }
    }
}

impl JwtConfig {
    /// Returns whether no token is accepted.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty() && self.local.as_ref().is_none_or(LocalConfig::is_off)
    }

    /// Returns the names of the issuers, which the ids of their callers end with.
    pub(in crate::identity) fn names(&self) -> Vec<String> {
        let local = self.local.as_ref().filter(|local| !local.is_off()).map(|_| LOCAL.to_owned());
        self.issuers.iter().map(IssuerConfig::shown_name).chain(local).collect()
    }

    /// Compiles the section; reads the files. `Some(None)` without issuers, `None` after a fault.
    pub(in crate::identity) fn compile(
        self,
        backends: &[String],
        faults: &mut Faults,
    ) -> Option<Option<Arc<Jwt>>> {
        if self.is_empty() {
            if !self.permissions.is_empty() {
                faults.warn(
                    "auth.jwt.permissions",
                    "they have no effect, because there is no issuer",
                    "add one, or remove them",
                );
            }
            return Some(None);
        }
        let permissions = Permissions::compile(&self.permissions, &self.names(), backends, faults);
        let mut issuers = Vec::new();
        let mut is_valid = true;
        for (at, issuer) in self.issuers.into_iter().enumerate() {
            let path = format!("auth.jwt.issuers[{at}]");
            match issuer.compile(&path, faults) {
                Some(issuer) => issuers.push((path, issuer)),
                None => is_valid = false,
            }
        }
        match self.local.filter(|local| !local.is_off()).map(|local| local.compile(faults)) {
            Some(Some(local)) => issuers.push(("auth.jwt.local".to_owned(), local)),
            Some(None) => is_valid = false,
            None => {}
        }
        is_valid &= are_distinct(&issuers, faults);
        let (issuers, permissions) = (issuers.into_iter().map(|(_, issuer)| issuer).collect(), permissions?);
        is_valid.then(|| Some(Arc::new(Jwt::new(issuers, permissions))))
    }
}

/// Two issuers with one `iss` could not be told apart; with one name, their callers could not.
fn are_distinct(issuers: &[(String, Issuer)], faults: &mut Faults) -> bool {
    // Of people who log in here.
    let own: Arc<str> = OWN_NAME.into();
    let (mut urls, mut names) = (HashSet::new(), HashSet::from([&own]));
    let mut is_valid = true;
    for (path, issuer) in issuers {
        if !urls.insert(&issuer.url) {
            faults.add(format!("{path}.issuer"), format!("'{}' is there twice", issuer.url), "remove one");
            is_valid = false;
        } else if !names.insert(&issuer.name) {
            let message = format!("another issuer has the name '{}', too", issuer.name);
            faults.add(format!("{path}.name"), message, "give it a name of its own: callers show it");
            is_valid = false;
        }
    }
    is_valid
}

impl IssuerConfig {
    fn compile(self, path: &str, faults: &mut Faults) -> Option<Issuer> {
        let name = self.compile_name(path, faults);
        let mut is_valid = true;
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            let hint = "write what its tokens for this gateway have in the claim aud";
            faults.add(format!("{path}.audience"), "a token for any service would be accepted", hint);
            is_valid = false;
        }
        if self.skew.0 > MAX_SKEW {
            let message = format!("{} is more than 10m", self.skew);
            faults.add(format!("{path}.skew"), message, "set the clocks (NTP), and write 60s");
            is_valid = false;
        }
        for (key, claim) in [("id", &self.claims.id)] {
            if claim.is_empty() {
                faults.add(format!("{path}.claims.{key}"), "no claim is named", "write sub");
                is_valid = false;
            }
        }
        let accepted: Vec<Algorithm> = self.algorithms.into_iter().map(Algorithm::from).collect();
        let url: Arc<str> = self.issuer.into();
        let keys = self.jwks.compile(&format!("{path}.jwks"), &url, accepted, faults);
        let (name, keys) = (name?, keys?);
        is_valid.then_some(Issuer {
            url,
            name,
            keys: Keys::Published(keys),
            audience: self.audience,
            skew: self.skew.0,
            claims: ClaimNames {
                id: self.claims.id,
                tenant: Some(self.claims.tenant).filter(|claim| !claim.is_empty()),
                groups: Some(self.claims.groups).filter(|claim| !claim.is_empty()),
                labels: self.claims.labels.iter().map(|claim| claim.as_str().into()).collect(),
            },
            longest: None,
        })
    }

    fn shown_name(&self) -> String {
        let host = || Url::parse(&self.issuer).ok()?.host_str().map(str::to_owned);
        self.name.clone().or_else(host).unwrap_or_else(|| self.issuer.clone())
    }

    fn compile_name(&self, path: &str, faults: &mut Faults) -> Option<Arc<str>> {
        if self.issuer.is_empty() {
            faults.add(format!("{path}.issuer"), "it is empty", "write the claim iss of its tokens");
            return None;
        }
        let name = self.shown_name();
        let is_good = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:[]".contains(&byte));
        if !is_good {
            let hint = "write 1 to 64 letters, digits, and . _ - :";
            faults.add(format!("{path}.name"), format!("'{name}' is not a name"), hint);
        }
        is_good.then(|| name.into())
    }
}

impl JwksConfig {
    fn compile(
        self,
        path: &str,
        issuer: &Arc<str>,
        accepted: Vec<Algorithm>,
        faults: &mut Faults,
    ) -> Option<Arc<IssuerKeys>> {
        let [least, most] = REFRESH;
        if !(least..=most).contains(&self.refresh.0) {
            let message = format!("{} is not from 10s to 12h", self.refresh);
            faults.add(format!("{path}.refresh"), message, "write 10m");
            return None;
        }
        let source = match (self.url.as_str(), self.file.as_str()) {
            ("", "") => {
                faults.add(path, "there are no keys", "write url: the jwks_uri of the issuer, or file:");
                return None;
            }
            (_, "") => {
                let authorities = match self.ca_file.as_str() {
                    "" => None,
                    file => Some(authorities(&format!("{path}.ca_file"), file, faults)?),
                };
                check_url(&format!("{path}.url"), &self.url, faults)?;
                Source::Url(self.url, authorities)
            }
            ("", _) => {
                let source = Source::File(self.file.clone());
                if let Err(why) = source.read().and_then(|text| KeySet::parse(&text, &accepted)) {
                    let message = format!("'{}' cannot be used: {why}", self.file);
                    faults.add(format!("{path}.file"), message, "give the JWK set of the issuer");
                    return None;
                }
                source
            }
            (_, _) => {
                faults.add(path, "there is a url and a file", "remove one of them");
                return None;
            }
        };
        Some(Arc::new(IssuerKeys::new(Arc::clone(issuer), source, self.refresh.0, accepted)))
    }
}

/// Who can change what is fetched can sign tokens: only this machine is reached without TLS.
fn check_url(path: &str, text: &str, faults: &mut Faults) -> Option<()> {
    let Ok(url) = Url::parse(text) else {
        faults.add(path, format!("'{text}' is not a URL"), "write it like https://idp.example/keys");
        return None;
    };
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if !url.username().is_empty() || url.password().is_some() {
        faults.add(path, "it contains a credential", "remove it: keys are public");
        return None;
    }
    if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
        let message = format!("'{text}' is not https: who changes what is fetched could sign tokens");
        faults.add(path, message, "write https://, or fetch the keys yourself and write file:");
        return None;
    }
    Some(())
}

fn authorities(path: &str, file: &str, faults: &mut Faults) -> Option<Vec<Vec<u8>>> {
    let text = fs::read(file).map_err(|error| faults.unreadable(path, file, &error)).ok()?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found: Vec<Vec<u8>> = found.unwrap_or_default().iter().map(|der| der.to_vec()).collect();
    if found.is_empty() {
        let hint = "give a PEM file with the authorities to trust";
        faults.add(path, format!("'{file}' holds no certificate"), hint);
        return None;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(yaml: &str) -> Result<Option<Arc<Jwt>>, String> {
        let written: JwtConfig = serde_yaml::from_str(yaml).map_err(|error| error.to_string())?;
        let mut faults = Faults::default();
        let jwt = written.compile(&[], &mut faults);
        jwt.ok_or_else(|| faults.to_string())
    }

    #[test]
    fn nothing_written_is_none() {
        assert!(compiled("{}").unwrap().is_none());
        let yaml = "issuers: [{ issuer: 'https://idp.example/realms/a', audience: [elida], \
                    jwks: { url: 'https://idp.example/keys' } }]";
        let jwt = compiled(yaml).unwrap().unwrap();
        assert_eq!((&*jwt.issuers[0].name, jwt.issuers[0].skew), ("idp.example", Duration::from_secs(60)));
        let written: JwtConfig = serde_yaml::from_str(yaml).unwrap();
        let again = serde_yaml::to_string(&written).unwrap();
        assert_eq!(serde_yaml::from_str::<JwtConfig>(&again).unwrap(), written);
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let short = folder.path().join("short");
        fs::write(&short, format!("{}\n\n", "x".repeat(31))).unwrap();
        let yaml = format!(
            "issuers:\n\
             - {{ issuer: 'https://a/1', audience: [], jwks: {{ url: 'http://a/keys' }}, skew: 1h }}\n\
             - {{ issuer: 'https://a/1', audience: [x], jwks: {{}}, claims: {{ id: '' }} }}\n\
             - {{ issuer: '', audience: [x], jwks: {{ url: 'https://u:p@a/', file: f }} }}\n\
             - {{ issuer: 'a b', audience: [x], jwks: {{ file: /nowhere, refresh: 1s }} }}\n\
             - {{ issuer: 'https://b', audience: [x], jwks: {{ file: {short:?} }} }}\n\
             - {{ issuer: 'https://c', audience: [x], jwks: {{ url: 'https://u:p@a/' }} }}\n\
             local: {{ secret_file: {short:?} }}"
        );
        let faults = compiled(&yaml).unwrap_err();
        let paths: Vec<&str> = faults.lines().filter_map(|line| line.split(": ").next()).collect();
        let expected = [
            "issuers[0].audience",
            "issuers[0].skew",
            "issuers[0].jwks.url",
            "issuers[1].claims.id",
            "issuers[1].jwks",
            "issuers[2].issuer",
            "issuers[2].jwks",
            "issuers[3].name",
            "issuers[3].jwks.refresh",
            "issuers[4].jwks.file",
            "issuers[5].jwks.url",
            "local.secret_file",
        ];
        assert_eq!(paths, expected.map(|path| format!("auth.jwt.{path}")), "{faults}");
        for algorithm in ["HS256", "none"] {
            let yaml =
                format!("issuers: [{{ issuer: a, audience: [x], algorithms: [{algorithm}], jwks: {{}} }}]");
            assert!(compiled(&yaml).unwrap_err().contains("unknown variant"), "{algorithm}");
        }
    }

    #[test]
    fn issuers_that_could_not_be_told_apart_are_a_fault() {
        let issuer = |url: &str, name: &str| {
            format!(
                "- {{ issuer: '{url}', {name} audience: [x], jwks: {{ url: 'https://keys.example' }} }}\n"
            )
        };
        let both = |a: String, b: String| compiled(&format!("issuers:\n{a}{b}")).map(drop).unwrap_err();
        assert!(both(issuer("https://a", ""), issuer("https://a", "")).contains("issuers[1].issuer"));
        let same = both(issuer("https://kc/realms/a", ""), issuer("https://kc/realms/b", ""));
        assert!(same.contains("issuers[1].name: another issuer has the name 'kc'"), "{same}");
        let named = issuer("https://kc/realms/b", "name: b,");
        assert!(compiled(&format!("issuers:\n{}{named}", issuer("https://kc/realms/a", ""))).is_ok());
    }
}
