//! The keys with which an issuer signs: a JWK set (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// Keys of a set that are read; issuers publish two or three.
const MAX_KEYS: usize = 64;

const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The public keys of an issuer.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<PublicKey>,
}

#[derive(Debug)]
struct PublicKey {
    kid: Option<String>,
    /// What the key may verify: by its type and its own `alg`, as far as the configuration accepts it. Never what a token
    /// asks for.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why a set has no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// No key has this id, or there is none and several keys would do.
    Unknown,
    /// The key is for other algorithms.
    Algorithm,
}

impl KeySet {
    /// Reads a set. `accepted` are the algorithms of the configuration; empty accepts all those of public keys.
    ///
    /// # Errors
    /// It is not a JWK set, or no key of it can verify a token.
    pub(super) fn parse(text: &[u8], accepted: &[Algorithm]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Written {
            keys: Vec<Value>,
        }
        let written: Written = serde_json::from_slice(text)
            .map_err(|fault| format!("it is not a JWK set (RFC 7517): {fault}"))?;
        // A key of a kind that is not known does not make the others unusable.
        let keys = written.keys.into_iter().take(MAX_KEYS);
        let keys: Vec<PublicKey> = keys.filter_map(|key| PublicKey::read(key, accepted)).collect();
        match keys.is_empty() {
            true => Err("it holds no public key for an accepted algorithm".to_owned()),
            false => Ok(Self { keys }),
        }
    }

    /// Returns the key with which a token says that it is signed.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&DecodingKey, NoKey> {
        let fits = |key: &&PublicKey| key.algorithms.contains(&algorithm);
        match kid {
            Some(kid) => {
                let mut named = self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).peekable();
                named.peek().ok_or(NoKey::Unknown)?;
                named.find(fits).map(|key| &key.key).ok_or(NoKey::Algorithm)
            }
            None => {
                let mut fitting = self.keys.iter().filter(fits);
                match (fitting.next(), fitting.next()) {
                    (Some(only), None) => Ok(&only.key),
                    _ => Err(NoKey::Unknown),
                }
            }
        }
    }
}

impl PublicKey {
    /// Returns `None` for a key that verifies no token: for encryption, symmetric, of another kind.
    fn read(written: Value, accepted: &[Algorithm]) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(written).ok()?;
        let is_for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        let verifies =
            jwk.common.key_operations.as_ref().is_none_or(|uses| uses.contains(&KeyOperations::Verify));
        if !is_for_signatures || !verifies {
            return None;
        }
        let of_type: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &RSA,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                &[Algorithm::ES256]
            }
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => {
                &[Algorithm::ES384]
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            _ => return None,
        };
        let own = match jwk.common.key_algorithm {
            None => None,
            Some(own) => Some(Algorithm::try_from(own).ok()?),
        };
        let fits = |algorithm: &Algorithm| {
            own.is_none_or(|own| own == *algorithm) && (accepted.is_empty() || accepted.contains(algorithm))
        };
        let algorithms: Vec<Algorithm> = of_type.iter().copied().filter(fits).collect();
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some(Self { kid: jwk.common.key_id, algorithms, key })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(keys: &Value, accepted: &[Algorithm]) -> Result<KeySet, String> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), accepted)
    }

    fn finds(set: &KeySet, kid: Option<&str>, algorithm: Algorithm) -> Result<(), NoKey> {
        set.find(kid, algorithm).map(drop)
    }

    #[test]
    fn a_key_verifies_what_its_type_and_the_configuration_permit() {
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "AAAA"});
        let rsa = json!({"kty": "RSA", "kid": "rsa", "alg": "RS256", "n": "AQAB", "e": "AQAB"});
        let any_rsa = json!({"kty": "RSA", "kid": "any", "n": "AQAB", "e": "AQAB", "use": "sig"});
        let ec =
            json!({"kty": "EC", "crv": "P-256", "kid": "ec", "x": "AA", "y": "AA", "key_ops": ["verify"]});
        let all = set(&json!([ed, rsa, any_rsa, ec, {"kty": "new"}]), &[]).unwrap();
        assert_eq!(finds(&all, Some("ed"), Algorithm::EdDSA), Ok(()));
        assert_eq!(finds(&all, Some("rsa"), Algorithm::RS256), Ok(()));
        assert_eq!(finds(&all, Some("rsa"), Algorithm::PS256), Err(NoKey::Algorithm));
        assert_eq!(finds(&all, Some("any"), Algorithm::PS256), Ok(()));
        for kid in ["ed", "rsa", "any", "ec"] {
            assert_eq!(finds(&all, Some(kid), Algorithm::HS256), Err(NoKey::Algorithm), "{kid}");
        }
        assert_eq!(finds(&all, Some("else"), Algorithm::RS256), Err(NoKey::Unknown));
        assert_eq!(finds(&all, None, Algorithm::ES256), Ok(()), "only one key is for it");
        assert_eq!(finds(&all, None, Algorithm::RS256), Err(NoKey::Unknown), "two keys are for it");
        let accepted = set(&json!([ed, rsa]), &[Algorithm::RS256]).unwrap();
        assert_eq!(finds(&accepted, Some("ed"), Algorithm::EdDSA), Err(NoKey::Unknown));
    }

    #[test]
    fn what_cannot_verify_is_no_key() {
        for key in [
            json!({"kty": "oct", "kid": "a", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}),
            json!({"kty": "RSA", "kid": "a", "use": "enc", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "a", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "a", "alg": "HS256", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "a", "key_ops": ["encrypt"], "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "EC", "crv": "P-521", "kid": "a", "x": "AA", "y": "AA"}),
            json!("text"),
        ] {
            assert!(set(&json!([key]), &[]).is_err(), "{key}");
        }
        assert!(KeySet::parse(b"<html>", &[]).unwrap_err().contains("RFC 7517"));
        assert!(KeySet::parse(b"[]", &[]).is_err() && set(&json!([]), &[]).is_err());
    }
}
