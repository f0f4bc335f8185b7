//! `auth.jwt.local`: tokens that are signed with a secret which this gateway shares.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use jsonwebtoken::DecodingKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::claims::ClaimNames;
use super::settings::default_skew;
use super::tokens::{Issuer, Keys};
use crate::settings::fault::Faults;
use crate::settings::secret::Secret;
use crate::settings::units::DurationText;

/// The claim `iss` of this gateway's own tokens, and their audience.
pub const OWN: &str = "elida";
/// What the ids of callers with such a token end with.
pub(super) const LOCAL: &str = "local";
/// Fewest bytes of a secret: as many as the digest has (RFC 7518, 3.2).
const MIN_SECRET: usize = 32;

/// Tokens that are signed with a shared secret (HS256): `iss` and `aud` are `elida`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalConfig {
    /// File of the secret, at least 32 bytes; a line break at its end does not count. Empty for no such tokens.
    pub secret_file: String,
    /// How long a token may be valid at most.
    #[serde(default = "default_ttl")]
    pub ttl: DurationText,
}

fn default_ttl() -> DurationText {
    DurationText::secs(3600)
}

impl LocalConfig {
    pub(super) fn is_off(&self) -> bool {
        self.secret_file.is_empty()
    }

    /// Returns the secret; `None` if there is none, or it cannot be used, which [`LocalConfig::compile`] reports.
    pub(in crate::identity) fn secret(&self) -> Option<Secret> {
        let text = fs::read_to_string(&self.secret_file).ok()?;
        let secret = text.trim_end();
        (secret.len() >= MIN_SECRET).then(|| Secret::new(secret))
    }

    pub(super) fn compile(self, faults: &mut Faults) -> Option<Issuer> {
        let path = "auth.jwt.local.secret_file";
        let file = &self.secret_file;
        let text = fs::read(file).map_err(|error| faults.unreadable(path, file, &error)).ok()?;
        let secret = text.trim_ascii_end();
        if secret.len() < MIN_SECRET {
            let message =
                format!("the secret in '{file}' has {} bytes of at least {MIN_SECRET}", secret.len());
            faults.add(path, message, "make one with: openssl rand -hex 32");
            return None;
        }
        if fs::metadata(file).is_ok_and(|meta| meta.permissions().mode() & 0o007 != 0) {
            faults.warn(
                path,
                format!("every user of this machine may read '{file}'"),
                format!("chmod o= {file}"),
            );
        }
        if self.ttl.limit().is_none() {
            faults.add("auth.jwt.local.ttl", "no token would be accepted", "write 60m");
            return None;
        }
        let secret = DecodingKey::from_secret(secret).ok()?;
        Some(Issuer {
            url: OWN.into(),
            name: LOCAL.into(),
            keys: Keys::Shared(secret),
            audience: vec![OWN.to_owned()],
            skew: default_skew().0,
            claims: ClaimNames {
                id: "sub".into(),
                tenant: None,
                groups: Some("groups".into()),
                labels: Vec::new(),
            },
            longest: Some(self.ttl.0),
        })
    }
}
