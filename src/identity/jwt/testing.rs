//! Signs tokens for tests.

use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::tokens::Jwt;
use crate::settings::fault::Faults;

/// The issuer of the tests.
pub(in crate::identity) const ISSUER: &str = "https://idp.example";

fn encoded(json: &Value) -> String {
    BASE64URL_NOPAD.encode(json.to_string().as_bytes())
}

/// Head and claims of a token, ready to be signed.
pub(in crate::identity) fn unsigned(head: &Value, claims: &Value) -> String {
    format!("{}.{}", encoded(head), encoded(claims))
}

/// A token from its parts.
pub(in crate::identity) fn joined(unsigned: &str, signature: &[u8]) -> String {
    format!("{unsigned}.{}", BASE64URL_NOPAD.encode(signature))
}

/// Claims of the test's issuer that are valid for an hour.
pub(in crate::identity) fn claims(more: &Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "aud": ["other", "elida"], "sub": "ada", "exp": now() + 3600});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// Now, in Unix seconds.
pub(in crate::identity) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A key of an issuer.
pub(in crate::identity) struct Signer {
    pub(in crate::identity) kid: &'static str,
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
}

impl Signer {
    pub(in crate::identity) fn new(kid: &'static str) -> Self {
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self {
            kid,
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(algorithm, ec.as_ref(), &random).unwrap(),
        }
    }

    /// Its public keys: one of each type.
    pub(in crate::identity) fn jwks(&self) -> [Value; 2] {
        let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let point = &self.ec.public_key().as_ref()[1..];
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": text(self.ed.public_key().as_ref())});
        let (x, y) = (text(&point[..32]), text(&point[32..]));
        [ed, json!({"kty": "EC", "crv": "P-256", "kid": format!("{}-ec", self.kid), "x": x, "y": y})]
    }

    /// A token with this head.
    pub(in crate::identity) fn sign(&self, head: &Value, claims: &Value) -> String {
        let unsigned = unsigned(head, claims);
        let signature = match head["alg"].as_str() {
            Some("ES256") => {
                self.ec.sign(&SystemRandom::new(), unsigned.as_bytes()).unwrap().as_ref().to_vec()
            }
            _ => self.ed.sign(unsigned.as_bytes()).as_ref().to_vec(),
        };
        joined(&unsigned, &signature)
    }

    /// A token of the test's issuer.
    pub(in crate::identity) fn token(&self, more: &Value) -> String {
        self.sign(&json!({"alg": "EdDSA", "kid": self.kid, "typ": "JWT"}), &claims(more))
    }
}

/// Compiles `auth.jwt` with one issuer whose keys are in a file.
pub(in crate::identity) fn with_keys(keys: &[Value], more: &str) -> (Jwt, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json!({ "keys": keys }).to_string()).unwrap();
    let yaml = format!(
        "issuers: [{{ issuer: '{ISSUER}', name: idp, audience: [elida], jwks: {{ file: {:?} }}, {more} }}]",
        file.path()
    );
    let written: super::JwtConfig = serde_yaml::from_str(&yaml).unwrap();
    let mut faults = Faults::default();
    let jwt = written.compile(&[], &mut faults).unwrap_or_else(|| panic!("{faults}")).unwrap();
    jwt.published().for_each(|keys| assert!(keys.begin_if_due() && keys.fetch()));
    (std::sync::Arc::into_inner(jwt).unwrap(), file)
}
