//! Signatures of webhooks, as Standard Webhooks defines them (<https://www.standardwebhooks.com>).

use data_encoding::{BASE64, BASE64_NOPAD};
use ring::hmac;

/// How a secret begins.
const PREFIX: &str = "whsec_";
/// Bytes that a secret may have.
const LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// The secrets of a webhook: each message is signed with all, so that a secret can be changed without a loss.
#[derive(Clone, Debug)]
pub(super) struct Secrets(Vec<hmac::Key>);

impl Secrets {
    /// Reads a file of secrets, one a line.
    ///
    /// # Errors
    /// What is wrong with them; it contains no secret.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Vec<hmac::Key> = lines.map(key).collect::<Result<_, _>>()?;
        match keys.len() {
            0 => Err("it is empty".to_owned()),
            1..=4 => Ok(Self(keys)),
            many => Err(format!("it has {many} secrets, the most are 4")),
        }
    }

    /// Returns the value of `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut signed = format!("{id}.{timestamp}.").into_bytes();
        signed.extend_from_slice(body);
        let signatures: Vec<String> = self
            .0
            .iter()
            .map(|key| format!("v1,{}", BASE64.encode(hmac::sign(key, &signed).as_ref())))
            .collect();
        signatures.join(" ")
    }
}

fn key(line: &str) -> Result<hmac::Key, String> {
    let encoded = line.strip_prefix(PREFIX).ok_or("a secret begins with whsec_")?;
    let bytes = BASE64_NOPAD
        .decode(encoded.trim_end_matches('=').as_bytes())
        .map_err(|_| "what follows whsec_ is not Base64".to_owned())?;
    match LENGTH.contains(&bytes.len()) {
        true => Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
        false => Err(format!("a secret has {} bytes, not 24 to 64", bytes.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // The example of the specification's libraries.
        let secrets = Secrets::read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signature =
            secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_is_none_is_refused_and_not_shown() {
        let good = format!("whsec_{}", BASE64.encode(&[7; 32]));
        assert!(Secrets::read(&format!("{good}\n\n{good}")).is_ok());
        for bad in ["", "\n", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ", "whsec_not base64!"] {
            let fault = Secrets::read(bad).unwrap_err();
            assert!(!fault.contains("MfKQ"), "{fault}");
        }
    }
}
