//! The signing key and signed heads. The head of the chain is signed periodically with an Ed25519 key (RFC 8032) that is
//! kept in the data directory. Without the key, an attacker can rewrite the chain but not sign the result.

use std::io;
use std::path::Path;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::hash_chain::{Tip, canonical};
use super::statement::Statement;
use crate::settings::key_file;

/// The file of the private key in the data directory (PKCS #8, RFC 8410).
const KEY_FILE: &str = "cdr-key.p8";

/// The file of the previous private key. An operator puts it here so that it can announce its successor.
pub(in crate::history) const FORMER_KEY_FILE: &str = "cdr-key.old.p8";

/// The file of the public key, 64 hexadecimal digits. Auditors keep a copy.
pub const PUBLIC_FILE: &str = "cdr-key.pub";

/// The schema of a signed head.
pub const SCHEMA: &str = "elida.cdr-head/1";

/// The schema of what is signed for a seal. It differs from a head's, so that no seal can be passed off as a head.
const SEAL_SCHEMA: &str = "elida.cdr-seal/1";

/// Signs heads and statements.
pub struct Signer(Ed25519KeyPair);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.public_key()).finish()
    }
}

/// A signed head: the tip of the chain at some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The number of the last record.
    pub seq: u64,
    /// Its digest.
    pub hash: String,
    /// When it was signed.
    pub at: Timestamp,
    /// The public key in hexadecimal.
    pub key: String,
    /// The signature over the canonical form of the other members, in hexadecimal.
    pub signature: String,
}

impl Signer {
    /// Reads the key in `folder`, or creates it. Writes the public key beside it.
    ///
    /// # Errors
    /// The folder cannot be written, or the file does not contain an Ed25519 key.
    pub fn load_or_create(folder: &Path) -> io::Result<Self> {
        let kept = key_file::load_or_make(folder, KEY_FILE, || {
            let fresh = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
            let fresh = fresh.map_err(|_| io::Error::other("the system's random number generator failed"))?;
            Ok(fresh.as_ref().to_vec())
        })?;
        let signer = Self::read(&kept, KEY_FILE)?;
        std::fs::write(folder.join(PUBLIC_FILE), format!("{}\n", signer.public_key()))?;
        Ok(signer)
    }

    /// Reads the key in `folder`.
    ///
    /// # Errors
    /// The file does not exist or cannot be read.
    pub(in crate::history) fn load(folder: &Path) -> io::Result<Self> {
        Self::read(&std::fs::read(folder.join(KEY_FILE))?, KEY_FILE)
    }

    /// Reads the previous key, or returns `None` if it is not in `folder`.
    ///
    /// # Errors
    /// The file cannot be read, or does not contain an Ed25519 key.
    pub(in crate::history) fn former(folder: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(folder.join(FORMER_KEY_FILE)) {
            Ok(kept) => Self::read(&kept, FORMER_KEY_FILE).map(Some),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn read(kept: &[u8], name: &str) -> io::Result<Self> {
        Ed25519KeyPair::from_pkcs8(kept)
            .map(Self)
            .map_err(|why| io::Error::other(format!("{name} does not contain an Ed25519 key: {why}")))
    }

    /// The public key in hexadecimal.
    pub fn public_key(&self) -> String {
        HEXLOWER.encode(self.0.public_key().as_ref())
    }

    /// Signs the tip of the chain.
    pub fn sign_head(&self, tip: &Tip, at: Timestamp) -> Head {
        let mut head = Head {
            schema: SCHEMA.to_owned(),
            seq: tip.seq,
            hash: tip.hash.clone(),
            at,
            key: self.public_key(),
            signature: String::new(),
        };
        head.signature = self.sign(&head.message());
        head
    }

    /// Seals a record: returns a signature that shows that a holder of the key wrote it at this position. Unlike a head
    /// it vouches for no record before it.
    pub(in crate::history) fn seal(&self, tip: &Tip) -> String {
        self.sign(&seal_message(tip))
    }

    /// Signs a statement.
    pub(in crate::history) fn sign_statement(&self, mut statement: Statement) -> Statement {
        statement.key = self.public_key();
        statement.signature = self.sign(&statement.message());
        statement
    }

    /// Returns the signature of `message` in hexadecimal.
    pub(in crate::history) fn sign(&self, message: &[u8]) -> String {
        HEXLOWER.encode(self.0.sign(message).as_ref())
    }
}

/// Verifies a signature; `key` and `signature` are in hexadecimal.
pub(in crate::history) fn is_signed(message: &[u8], key: &str, signature: &str) -> bool {
    let decoded = |digits: &str| HEXLOWER.decode(digits.as_bytes());
    let (Ok(key), Ok(signature)) = (decoded(key), decoded(signature)) else { return false };
    UnparsedPublicKey::new(&ED25519, key).verify(message, &signature).is_ok()
}

/// Returns true if one of `keys` sealed this record.
pub(in crate::history) fn is_sealed(tip: &Tip, seal: &str, keys: &[String]) -> bool {
    let message = seal_message(tip);
    keys.iter().any(|key| is_signed(&message, key, seal))
}

fn seal_message(tip: &Tip) -> Vec<u8> {
    canonical(&json!({"schema": SEAL_SCHEMA, "seq": tip.seq, "hash": tip.hash}))
}

impl Head {
    /// Returns true if the signature is valid for the key that the head names.
    pub fn is_genuine(&self) -> bool {
        self.schema == SCHEMA && is_signed(&self.message(), &self.key, &self.signature)
    }

    /// The tip that was signed.
    pub fn tip(&self) -> Tip {
        Tip { seq: self.seq, hash: self.hash.clone() }
    }

    fn message(&self) -> Vec<u8> {
        let signed: Value = json!({
            "schema": self.schema, "seq": self.seq, "hash": self.hash, "at": self.at, "key": self.key,
        });
        canonical(&signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_genuine_until_something_in_it_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::load_or_create(folder.path()).unwrap();
        let again = Signer::load_or_create(folder.path()).unwrap();
        assert_eq!(signer.public_key(), again.public_key());
        let public = std::fs::read_to_string(folder.path().join(PUBLIC_FILE)).unwrap();
        assert_eq!(public.trim(), signer.public_key());
        let head = signer.sign_head(&Tip { seq: 3, hash: "ab".into() }, Timestamp::UNIX_EPOCH);
        assert!(head.is_genuine());
        for changed in [
            Head { seq: 4, ..head.clone() },
            Head { hash: "ac".into(), ..head.clone() },
            Head { signature: head.signature.to_uppercase(), ..head.clone() },
            Head { signature: String::new(), ..head.clone() },
            Head { key: "00".repeat(32), ..head.clone() },
            Head { schema: "other".into(), ..head },
        ] {
            assert!(!changed.is_genuine(), "{changed:?}");
        }
    }

    #[test]
    fn a_seal_is_for_one_record_and_is_no_head() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::load_or_create(folder.path()).unwrap();
        let tip = Tip { seq: 3, hash: "ab".into() };
        let (seal, keys) = (signer.seal(&tip), ["00".repeat(32), signer.public_key()]);
        assert!(is_sealed(&tip, &seal, &keys));
        for (other, seal, keys) in [
            (Tip { seq: 4, ..tip.clone() }, &*seal, &keys[..]),
            (Tip { hash: "ac".into(), ..tip.clone() }, &seal, &keys),
            (tip.clone(), "", &keys),
            (tip.clone(), &seal, &keys[..1]),
        ] {
            assert!(!is_sealed(&other, seal, keys), "{other:?}");
        }
        let head = signer.sign_head(&tip, Timestamp::UNIX_EPOCH);
        assert!(!is_sealed(&tip, &head.signature, &keys) && !Head { signature: seal, ..head }.is_genuine());
    }

    #[test]
    fn what_is_no_key_is_a_fault_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(KEY_FILE), b"short").unwrap();
        let fault = Signer::load_or_create(folder.path()).unwrap_err().to_string();
        assert!(fault.contains(KEY_FILE), "{fault}");
        assert_eq!(std::fs::read(folder.path().join(KEY_FILE)).unwrap(), b"short");
    }
}
