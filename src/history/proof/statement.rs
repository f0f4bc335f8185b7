//! What the gateway signs besides heads: up to where records were deleted, a new key, an operator's acceptance, and the
//! content of an export.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hash_chain::{Tip, canonical};
use super::signature::{Signer, is_signed};

/// The schema of a statement.
pub const SCHEMA: &str = "elida.cdr-statement/1";

/// The schema of the last line of an export that the gateway does not sign.
pub(in crate::history) const UNSIGNED: &str = "elida.cdr-unsigned/1";

/// What a statement says about the record that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Records up to this one were deleted (`history.retention`, `history.max_size`).
    Pruned,
    /// Records up to this one do not continue from the earlier signatures, and an operator accepted that.
    Accepted,
    /// A new key signs from this record on.
    Handover,
    /// An export ends with this record. This is the last line of the file.
    Export,
}

/// A signed statement: one line of an export, in RFC 8785 form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// What the statement says.
    pub kind: Kind,
    /// The number of the record.
    pub seq: u64,
    /// The digest of the record.
    pub hash: String,
    /// When it was signed.
    pub at: Timestamp,
    /// Acceptance: the operator's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Hand-over: the previous public key in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_key: Option<String>,
    /// Hand-over: the previous key's signature over the same message; `None` if that key was no longer available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_signature: Option<String>,
    /// Export: what it contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<ExportSummary>,
    /// The public key in hexadecimal.
    pub key: String,
    /// The signature over the canonical form of the other members without `former_signature`, in hexadecimal.
    pub signature: String,
}

/// What an export contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSummary {
    /// The number of the first record; `None` if the export has no records.
    pub first: Option<u64>,
    /// The number of records.
    pub records: u64,
    /// The requested range of session end times: from (inclusive); `None` if open.
    pub from: Option<Timestamp>,
    /// To (exclusive); `None` if open.
    pub to: Option<Timestamp>,
    /// Records up to this one were accepted by an operator, and the signatures do not vouch for them.
    pub accepted: Option<u64>,
    /// The SHA-256 of all lines before this one, in hexadecimal.
    pub digest: String,
}

impl Statement {
    /// Creates an unsigned statement about a record.
    pub(in crate::history) fn new(kind: Kind, tip: &Tip, at: Timestamp) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            kind,
            seq: tip.seq,
            hash: tip.hash.clone(),
            at,
            reason: None,
            former_key: None,
            former_signature: None,
            export: None,
            key: String::new(),
            signature: String::new(),
        }
    }

    /// Creates a signed hand-over from `former_key` to the key of `signer`, countersigned by `former` if available.
    pub(in crate::history) fn handover(
        tip: &Tip,
        former_key: &str,
        former: Option<&Signer>,
        signer: &Signer,
    ) -> Self {
        let unsigned = Self {
            former_key: Some(former_key.to_owned()),
            ..Self::new(Kind::Handover, tip, Timestamp::now())
        };
        let mut statement = signer.sign_statement(unsigned);
        statement.former_signature = former.map(|former| former.sign(&statement.message()));
        statement
    }

    /// The position that the statement is about.
    pub(in crate::history) fn tip(&self) -> Tip {
        Tip { seq: self.seq, hash: self.hash.clone() }
    }

    /// Returns true if the signature is valid, and the previous key's signature, if there is one.
    pub fn is_genuine(&self) -> bool {
        let message = self.message();
        let is_announced = match (&self.former_key, &self.former_signature) {
            (Some(key), Some(signature)) => is_signed(&message, key, signature),
            (_, signature) => signature.is_none(),
        };
        self.schema == SCHEMA && is_announced && is_signed(&message, &self.key, &self.signature)
    }

    /// The statement as a line of an export, without newline.
    pub(in crate::history) fn line(&self) -> Vec<u8> {
        canonical(&self.value())
    }

    /// The bytes that are signed.
    pub(in crate::history) fn message(&self) -> Vec<u8> {
        let mut value = self.value();
        if let Some(members) = value.as_object_mut() {
            members.remove("signature");
            members.remove("former_signature");
        }
        canonical(&value)
    }

    fn value(&self) -> Value {
        // All keys are strings, so this cannot fail.
        serde_json::to_value(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handover_is_signed_by_both_keys() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (old, new) =
            (Signer::load_or_create(a.path()).unwrap(), Signer::load_or_create(b.path()).unwrap());
        let tip = Tip { seq: 7, hash: "ab".into() };
        let both = Statement::handover(&tip, &old.public_key(), Some(&old), &new);
        assert!(both.is_genuine());
        let alone = Statement { former_signature: None, ..both.clone() };
        assert!(alone.is_genuine(), "the new key vouches for itself");
        let changes: [fn(&mut Statement); 5] = [
            |it| it.seq = 8,
            |it| it.kind = Kind::Accepted,
            |it| it.former_key = None,
            |it| it.former_signature = Some(it.signature.clone()),
            |it| it.reason = Some(String::new()),
        ];
        for change in changes {
            let mut changed = both.clone();
            change(&mut changed);
            assert!(!changed.is_genuine(), "{changed:?}");
        }
        let read: Statement = serde_json::from_slice(&both.line()).unwrap();
        assert_eq!(read, both);
    }
}
