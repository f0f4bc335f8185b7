//! Access tokens of people: signed and verified by this gateway (HS256).

use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::local::OWN;
use super::tokens::TokenFault;
use crate::settings::secret::Secret;

/// The `kid` of these tokens, which distinguishes them from tokens that others sign with the same secret.
const KID: &str = "people";
/// Longest token, in bytes.
const MAX_TOKEN: usize = 2 << 10;

/// Signs and verifies access tokens.
pub struct TokenSigner {
    signing: EncodingKey,
    verifying: DecodingKey,
}

/// What each token begins with, whatever the secret.
static HEAD: LazyLock<Option<String>> = LazyLock::new(|| {
    let token = TokenSigner::new(KID.as_bytes())
        .and_then(|signer| signer.sign("", "", Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH));
    token.ok()?.split_once('.').map(|(head, _)| format!("{head}."))
});

/// Returns whether a credential is or should be an access token of a person: it never counts as anything else, also while nobody
/// logs in.
pub fn is_own(text: &[u8]) -> bool {
    HEAD.as_ref().is_some_and(|head| text.starts_with(head.as_bytes()))
}

/// Returns the first text in this one that is or should be an access token of a person.
pub fn find(text: &[u8]) -> Option<&[u8]> {
    let head = HEAD.as_ref()?;
    let at = memchr::memmem::find(text, head.as_bytes())?;
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let length = text[at..].iter().take_while(|byte| is_part(byte)).count();
    text.get(at..at + length)
}

/// What an access token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    iss: String,
    aud: String,
    /// The name of the person.
    pub sub: String,
    /// The log-in that it belongs to.
    pub sid: String,
    iat: i64,
    exp: i64,
}

impl AccessClaims {
    /// Returns when the token expires.
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_second(self.exp).unwrap_or(Timestamp::MIN)
    }
}

/// Signs a token of a program (`auth.jwt.local`) that is valid from now on for so long.
///
/// # Errors
/// It cannot be signed.
pub fn sign_local(
    secret: &Secret,
    subject: &str,
    groups: &[String],
    valid: Duration,
) -> Result<String, String> {
    super::crypto::install();
    let now = Timestamp::now();
    let expires = now.checked_add(valid).map_err(|fault| fault.to_string())?;
    let claims = json!({
        "iss": OWN, "aud": OWN, "sub": subject, "groups": groups, "iat": now.as_second(), "exp": expires.as_second(),
    });
    let signing = EncodingKey::from_secret(secret.reveal().as_bytes()).map_err(|fault| fault.to_string())?;
    encode(&Header::new(Algorithm::HS256), &claims, &signing).map_err(|fault| fault.to_string())
}

impl TokenSigner {
    /// Returns a signer with this secret.
    ///
    /// # Errors
    /// Nothing can be signed with it.
    pub fn new(secret: &[u8]) -> Result<Self, String> {
        super::crypto::install();
        let signing = EncodingKey::from_secret(secret).map_err(|fault| fault.to_string())?;
        let verifying = DecodingKey::from_secret(secret).map_err(|fault| fault.to_string())?;
        Ok(Self { signing, verifying })
    }

    /// Returns a token.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn sign(
        &self,
        name: &str,
        login: &str,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<String, String> {
        let claims = AccessClaims {
            iss: OWN.to_owned(),
            aud: OWN.to_owned(),
            sub: name.to_owned(),
            sid: login.to_owned(),
            iat: now.as_second(),
            exp: expires.as_second(),
        };
        let head = Header { kid: Some(KID.to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&head, &claims, &self.signing).map_err(|fault| fault.to_string())
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// Its signature is wrong, or it has expired.
    pub fn verify(&self, text: &[u8]) -> Result<AccessClaims, TokenFault> {
        if text.len() > MAX_TOKEN {
            return Err(TokenFault::TooLong);
        }
        let mut rules = Validation::new(Algorithm::HS256);
        rules.leeway = 0;
        rules.set_issuer(&[OWN]);
        rules.set_audience(&[OWN]);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        let decoded = decode::<AccessClaims>(text, &self.verifying, &rules);
        decoded.map(|decoded| decoded.claims).map_err(|fault| match fault.kind() {
            ErrorKind::ExpiredSignature => TokenFault::Expired,
            ErrorKind::InvalidSignature => TokenFault::Signature,
            _ => TokenFault::Malformed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_head_and_no_other_secret_signs_it() {
        let [own, other] = [b"one-secret-of-thirty-two-bytes-xx", b"another-secret-of-thirty-2-bytes."]
            .map(|secret| TokenSigner::new(secret).unwrap());
        let now = Timestamp::now();
        let sign = |signer: &TokenSigner, seconds: i64| {
            signer
                .sign("ada", "family", now, Timestamp::from_second(now.as_second() + seconds).unwrap())
                .unwrap()
        };
        let token = sign(&own, 60);
        let claims = own.verify(token.as_bytes()).unwrap();
        assert_eq!((claims.sub.as_str(), claims.sid.as_str()), ("ada", "family"));
        assert_eq!(claims.expires().as_second(), now.as_second() + 60);
        assert!(is_own(token.as_bytes()) && !is_own(b"elida_x") && !is_own(b""));
        assert_eq!(other.verify(token.as_bytes()), Err(TokenFault::Signature));
        assert_eq!(own.verify(sign(&own, -1).as_bytes()), Err(TokenFault::Expired));
        let (head, rest) = token.split_once('.').unwrap();
        let unsigned = format!("{head}.{}.", rest.split_once('.').unwrap().0);
        assert!(is_own(unsigned.as_bytes()) && own.verify(unsigned.as_bytes()).is_err());
        let none = format!("eyJhbGciOiJub25lIn0.{}.", rest.split_once('.').unwrap().0);
        assert!(!is_own(none.as_bytes()) && own.verify(none.as_bytes()).is_err());
    }
}
