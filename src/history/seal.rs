//! The seal: the head of the chain, signed now and then with a key that is kept in the data directory
//! (Ed25519, RFC 8032). Without the key nobody can write a chain anew.

use std::io;
use std::path::Path;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::chain::{Tip, canonical};
use super::statement::Statement;
use crate::settings::key_file;

/// The private key in the data directory (PKCS #8, RFC 8410).
const KEY_FILE: &str = "cdr-key.p8";

/// The key before it: put here by the operator, so that it can announce its successor.
pub(super) const FORMER_KEY_FILE: &str = "cdr-key.old.p8";

/// The public key beside it, 64 hexadecimal digits: what an auditor keeps.
pub const PUBLIC_FILE: &str = "cdr-key.pub";

/// The version of a head's form.
pub const SCHEMA: &str = "elida.cdr-head/1";

/// Signs heads.
pub struct Signer(Ed25519KeyPair);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.public_key()).finish()
    }
}

/// A signed head: so far the chain went at that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Number of the last record.
    pub seq: u64,
    /// Its digest.
    pub hash: String,
    /// When it was signed.
    pub at: Timestamp,
    /// The public key, in hexadecimal digits.
    pub key: String,
    /// Over the canonical form of the other members, in hexadecimal digits.
    pub signature: String,
}

impl Signer {
    /// Reads the key of this folder, or makes it; the public half lies beside it.
    ///
    /// # Errors
    /// The folder cannot be written to, or holds something that is no such key.
    pub fn load_or_make(folder: &Path) -> io::Result<Self> {
        let kept = key_file::load_or_make(folder, KEY_FILE, || {
            let fresh = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
            let fresh = fresh.map_err(|_| io::Error::other("the system gives no randomness"))?;
            Ok(fresh.as_ref().to_vec())
        })?;
        let signer = Self::read(&kept, KEY_FILE)?;
        std::fs::write(folder.join(PUBLIC_FILE), format!("{}\n", signer.public_key()))?;
        Ok(signer)
    }

    /// Reads the key of this folder.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub(super) fn load(folder: &Path) -> io::Result<Self> {
        Self::read(&std::fs::read(folder.join(KEY_FILE))?, KEY_FILE)
    }

    /// The key that was in use before, if it still lies in this folder.
    ///
    /// # Errors
    /// The file cannot be read, or holds something that is no such key.
    pub(super) fn former(folder: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(folder.join(FORMER_KEY_FILE)) {
            Ok(kept) => Self::read(&kept, FORMER_KEY_FILE).map(Some),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn read(kept: &[u8], name: &str) -> io::Result<Self> {
        Ed25519KeyPair::from_pkcs8(kept)
            .map(Self)
            .map_err(|why| io::Error::other(format!("{name} holds no Ed25519 key: {why}")))
    }

    /// The public key, in hexadecimal digits.
    pub fn public_key(&self) -> String {
        HEXLOWER.encode(self.0.public_key().as_ref())
    }

    /// Signs where the chain stands.
    pub fn sign(&self, tip: &Tip, at: Timestamp) -> Head {
        let mut head = Head {
            schema: SCHEMA.to_owned(),
            seq: tip.seq,
            hash: tip.hash.clone(),
            at,
            key: self.public_key(),
            signature: String::new(),
        };
        head.signature = self.signature(&head.message());
        head
    }

    /// Signs a statement in the name of this key.
    pub(super) fn state(&self, mut statement: Statement) -> Statement {
        statement.key = self.public_key();
        statement.signature = self.signature(&statement.message());
        statement
    }

    /// The signature over these bytes, in hexadecimal digits.
    pub(super) fn signature(&self, message: &[u8]) -> String {
        HEXLOWER.encode(self.0.sign(message).as_ref())
    }
}

/// True when this key has signed these bytes; key and signature in hexadecimal digits.
pub(super) fn is_signed(message: &[u8], key: &str, signature: &str) -> bool {
    let decoded = |digits: &str| HEXLOWER.decode(digits.as_bytes());
    let (Ok(key), Ok(signature)) = (decoded(key), decoded(signature)) else { return false };
    UnparsedPublicKey::new(&ED25519, key).verify(message, &signature).is_ok()
}

impl Head {
    /// True when the key it names has signed it.
    pub fn is_genuine(&self) -> bool {
        self.schema == SCHEMA && is_signed(&self.message(), &self.key, &self.signature)
    }

    /// Where the chain stood.
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
        let signer = Signer::load_or_make(folder.path()).unwrap();
        let again = Signer::load_or_make(folder.path()).unwrap();
        assert_eq!(signer.public_key(), again.public_key());
        let public = std::fs::read_to_string(folder.path().join(PUBLIC_FILE)).unwrap();
        assert_eq!(public.trim(), signer.public_key());
        let head = signer.sign(&Tip { seq: 3, hash: "ab".into() }, Timestamp::UNIX_EPOCH);
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
    fn what_is_no_key_is_a_fault_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(KEY_FILE), b"short").unwrap();
        let fault = Signer::load_or_make(folder.path()).unwrap_err().to_string();
        assert!(fault.contains(KEY_FILE), "{fault}");
        assert_eq!(std::fs::read(folder.path().join(KEY_FILE)).unwrap(), b"short");
    }
}
