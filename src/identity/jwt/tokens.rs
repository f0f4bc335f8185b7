//! Verifies tokens, and remembers for a minute which ones it verified.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use data_encoding::{BASE64URL_NOPAD, Encoding};
use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::claims::ClaimNames;
use super::issuer_keys::{Fetched, IssuerKeys};
use super::key_set::NoKey;
use super::permissions::Permissions;
use crate::identity::principal_fields::Permitted;
use crate::ids::{Membership, PrincipalId};

/// Longest token, in bytes.
const MAX_TOKEN: usize = 8 << 10;
/// How long a verified token is not verified again.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How many verified tokens are remembered.
const MAX_REMEMBERED: usize = 10_000;

/// Base64url, and what some decoders take for it.
static LENIENT: LazyLock<Option<Encoding>> = LazyLock::new(|| {
    let mut form = BASE64URL_NOPAD.specification();
    form.check_trailing_bits = false;
    form.ignore.push('=');
    form.translate.from.push_str("+/");
    form.translate.to.push_str("-_");
    form.encoding().ok()
});

/// The issuers whose tokens are accepted.
pub struct Jwt {
    pub(super) issuers: Vec<Issuer>,
    permissions: Permissions,
    /// By the SHA-256 of the whole token.
    verified: Mutex<HashMap<[u8; 32], Arc<VerifiedToken>>>,
}

/// An issuer and what its tokens need.
pub(super) struct Issuer {
    /// The claim `iss`.
    pub(super) url: Arc<str>,
    /// What the ids of its callers end with.
    pub(super) name: Arc<str>,
    pub(super) keys: Keys,
    /// The claim `aud` has one of these.
    pub(super) audience: Vec<String>,
    /// How far its clock may differ.
    pub(super) skew: Duration,
    pub(super) claims: ClaimNames,
    /// How long a token may still be valid; `None` for any time.
    pub(super) longest: Option<Duration>,
}

/// What verifies the signatures of an issuer.
pub(super) enum Keys {
    /// The public keys that it publishes.
    Published(Arc<IssuerKeys>),
    /// A secret that it shares with this gateway (HS256).
    Shared(DecodingKey),
}

/// A verified token.
#[derive(Debug)]
pub struct VerifiedToken {
    /// `user:SUBJECT@ISSUER`.
    pub id: PrincipalId,
    /// Tenant and groups; `None` if it names neither.
    pub membership: Option<Arc<Membership>>,
    /// What its caller may use.
    pub(in crate::identity) permitted: Arc<Permitted>,
    /// From when on it is refused.
    pub expires: Timestamp,
    /// When it has to be verified again.
    until: Instant,
    /// The published keys that verified it.
    by: Option<(Arc<IssuerKeys>, Arc<Fetched>)>,
}

/// What a credential is.
#[derive(Debug)]
pub enum Seen {
    /// A token of one of the issuers, which never counts as anything else.
    Ours(Result<Arc<VerifiedToken>, TokenFault>),
    /// A token of another issuer: a provider's, perhaps.
    Foreign,
    /// Not a token.
    Other,
}

/// Why a token is not accepted. The texts are for the caller: they contain nothing of the token but names of claims that
/// the configuration knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It has more than [`MAX_TOKEN`] bytes.
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// It is not a signed token, or the algorithm is `none` or an unknown one.
    #[error(
        "the token cannot be read: it needs three parts (RFC 7515) and an algorithm that this gateway knows"
    )]
    Malformed,
    /// Its head has a field that would let it choose its own key, or that is not understood.
    #[error("the token has the field {0} in its head, which is not accepted")]
    Field(&'static str),
    /// Its algorithm is not one of its key.
    #[error("the token is signed with an algorithm that is not accepted for its key")]
    Algorithm,
    /// No key of its issuer has its `kid`.
    #[error("the token is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// The keys are being fetched.
    #[error("the keys of the token's issuer are being fetched; try again")]
    KeysPending,
    /// The issuer has not answered for too long.
    #[error("the keys of the token's issuer cannot be fetched")]
    KeysUnavailable,
    /// The signature is wrong.
    #[error("the signature of the token is wrong")]
    Signature,
    /// The token is for another service.
    #[error("the token is not for this gateway: its audience is another one (auth.jwt, audience)")]
    Audience,
    /// The token is of an issuer that is not accepted.
    #[error("the token is of an issuer that this gateway does not accept (auth.jwt.issuers)")]
    Issuer,
    /// A claim is missing or cannot be read.
    #[error("the token has no usable claim {0}")]
    Claim(String),
    /// It is valid from a later time on.
    #[error("the token is not valid yet")]
    NotYet,
    /// It would be valid for longer than own tokens may.
    #[error("the token is valid for too long (auth.jwt.local.ttl)")]
    ValidTooLong,
    /// It has expired.
    #[error("the token has expired; get a new one")]
    Expired,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.issuers.iter().map(|issuer| &issuer.url)).finish()
    }
}

impl Jwt {
    pub(super) fn new(issuers: Vec<Issuer>, permissions: Permissions) -> Self {
        super::crypto::install();
        Self { issuers, permissions, verified: Mutex::default() }
    }

    /// Returns the keys that are fetched.
    pub fn published(&self) -> impl Iterator<Item = &Arc<IssuerKeys>> {
        self.issuers.iter().filter_map(|issuer| match &issuer.keys {
            Keys::Published(keys) => Some(keys),
            Keys::Shared(_) => None,
        })
    }

    /// Takes the keys that `before` has fetched.
    pub fn take_over(&self, before: &Self) {
        for keys in self.published() {
            before.published().for_each(|old| keys.take_over(old));
        }
    }

    /// Determines what a credential is, and verifies it if it is a token of one of the issuers.
    pub fn look(&self, text: &[u8]) -> Seen {
        let Some(issuer) = claimed_issuer(text) else { return Seen::Other };
        match self.issuers.iter().find(|known| issuer.as_str() == Some(&*known.url)) {
            Some(issuer) => Seen::Ours(self.verified(issuer, text)),
            None => Seen::Foreign,
        }
    }

    fn verified(&self, issuer: &Issuer, text: &[u8]) -> Result<Arc<VerifiedToken>, TokenFault> {
        if text.len() > MAX_TOKEN {
            return Err(TokenFault::TooLong);
        }
        let digest: [u8; 32] = Sha256::digest(text).into();
        if let Some(known) = self.verified.lock().get(&digest).filter(|known| known.is_fresh()) {
            return Ok(Arc::clone(known));
        }
        let token = Arc::new(issuer.verify(text, &self.permissions)?);
        let mut verified = self.verified.lock();
        if verified.len() >= MAX_REMEMBERED {
            verified.retain(|_, known| known.is_fresh());
            if verified.len() >= MAX_REMEMBERED {
                verified.clear();
            }
        }
        verified.insert(digest, Arc::clone(&token));
        Ok(token)
    }
}

impl VerifiedToken {
    /// Returns whether it need not be verified again: that was less than a minute ago, and the issuer's keys are the same.
    pub fn is_fresh(&self) -> bool {
        Instant::now() < self.until && self.by.as_ref().is_none_or(|(keys, fetched)| keys.is_current(fetched))
    }
}

impl Issuer {
    fn verify(&self, text: &[u8], permissions: &Permissions) -> Result<VerifiedToken, TokenFault> {
        let head = decode_header(text).map_err(|_| TokenFault::Malformed)?;
        check_head(&head)?;
        let (claims, by) = match &self.keys {
            Keys::Shared(secret) if head.alg == Algorithm::HS256 => {
                (self.decode(text, secret, head.alg)?, None)
            }
            Keys::Shared(_) => return Err(TokenFault::Algorithm),
            Keys::Published(keys) => {
                let pending = |else_: TokenFault| if keys.ask() { TokenFault::KeysPending } else { else_ };
                let fetched = keys.current().ok_or_else(|| pending(TokenFault::KeysUnavailable))?;
                let key = fetched.set.find(head.kid.as_deref(), head.alg).map_err(|fault| match fault {
                    NoKey::Algorithm => TokenFault::Algorithm,
                    NoKey::Unknown => pending(TokenFault::UnknownKey),
                })?;
                let claims = self.decode(text, key, head.alg)?;
                (claims, Some((Arc::clone(keys), fetched)))
            }
        };
        let expires = self.expires(&claims)?;
        let (id, membership) = self.claims.caller(&claims, &self.name)?;
        let permitted = permissions.of(&id, membership.as_deref());
        Ok(VerifiedToken { id, membership, permitted, expires, until: Instant::now() + REMEMBERED, by })
    }

    /// Checks signature, issuer, audience and times.
    fn decode(
        &self,
        text: &[u8],
        key: &DecodingKey,
        algorithm: Algorithm,
    ) -> Result<Map<String, Value>, TokenFault> {
        let mut rules = Validation::new(algorithm);
        rules.leeway = self.skew.as_secs();
        rules.validate_nbf = true;
        rules.set_issuer(&[&self.url]);
        rules.set_audience(&self.audience);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        let decoded = decode(text, key, &rules).map_err(|fault| match fault.kind() {
            ErrorKind::ExpiredSignature => TokenFault::Expired,
            ErrorKind::ImmatureSignature => TokenFault::NotYet,
            ErrorKind::InvalidAudience => TokenFault::Audience,
            ErrorKind::InvalidIssuer => TokenFault::Issuer,
            ErrorKind::InvalidSignature => TokenFault::Signature,
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => TokenFault::Algorithm,
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                TokenFault::Claim(claim.clone())
            }
            _ => TokenFault::Malformed,
        })?;
        Ok(decoded.claims)
    }

    /// Returns when the token has expired for this gateway: the issuer's clock may be behind.
    fn expires(&self, claims: &Map<String, Value>) -> Result<Timestamp, TokenFault> {
        let expires =
            claims.get("exp").and_then(Value::as_f64).ok_or_else(|| TokenFault::Claim("exp".into()))?;
        // Past the last time that can be written, any will do.
        let second = Timestamp::from_second((expires as i64).saturating_add(self.skew.as_secs() as i64));
        let expires = second.unwrap_or(Timestamp::MAX);
        if let Some(longest) = self.longest {
            let latest = Timestamp::now().checked_add(longest + self.skew * 2).unwrap_or(Timestamp::MAX);
            if expires > latest {
                return Err(TokenFault::ValidTooLong);
            }
        }
        Ok(expires)
    }
}

/// Refuses fields that name a key outside the issuer's set, and those that change what the token means (RFC 7515, 4.1).
fn check_head(head: &Header) -> Result<(), TokenFault> {
    let refused = [
        ("jku", head.jku.is_some()),
        ("jwk", head.jwk.is_some()),
        ("x5u", head.x5u.is_some()),
        ("crit", head.crit.is_some()),
        ("enc", head.enc.is_some()),
        ("zip", head.zip.is_some()),
    ];
    let refused = refused.into_iter().find(|(_, is_there)| *is_there);
    refused.map_or(Ok(()), |(field, _)| Err(TokenFault::Field(field)))
}

/// Returns the claim `iss` of a token, which is not verified here; `None` for what is not a token. Lenient, so that a token
/// in another spelling of Base64 is refused, and not passed on as another credential.
fn claimed_issuer(text: &[u8]) -> Option<Value> {
    let mut parts = text.split(|byte| *byte == b'.');
    let (head, claims, _signature, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    if head.is_empty() || rest.is_some() {
        return None;
    }
    let claims = LENIENT.as_ref()?.decode(claims).ok()?;
    let mut claims: Map<String, Value> = serde_json::from_slice(&claims).ok()?;
    Some(claims.remove("iss").unwrap_or_default())
}

#[cfg(test)]
mod tests;
