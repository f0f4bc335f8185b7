//! What the gateway signs beside heads: where forgetting has come to, a change of the key, what an operator accepted,
//! and what an export holds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hash_chain::{Tip, canonical};
use super::signature::{Signer, is_signed};

/// The version of a statement's form.
pub const SCHEMA: &str = "elida.cdr-statement/1";

/// The schema of the last line of an export that the gateway does not sign.
pub(in crate::history) const UNSIGNED: &str = "elida.cdr-unsigned/1";

/// What a statement says of the record it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Up to this record the history has been forgotten (`history.retention`, `history.max_size`).
    Pruned,
    /// Up to this record the history does not lead to what was signed before, and an operator accepted that.
    Accepted,
    /// From this record on another key signs.
    Handover,
    /// An export ends with this record: the last line of a file.
    Export,
}

/// One statement: a line of an export, written in the form of RFC 8785.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// What it says.
    pub kind: Kind,
    /// Number of the record.
    pub seq: u64,
    /// Its digest.
    pub hash: String,
    /// When it was signed.
    pub at: Timestamp,
    /// Why an operator accepted, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The key before a hand-over, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_key: Option<String>,
    /// The signature of that key over the same as `signature`; `None` when it was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_signature: Option<String>,
    /// What an export holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<ExportSummary>,
    /// The public key, in hexadecimal digits.
    pub key: String,
    /// Over the canonical form of the other members, without `former_signature`, in hexadecimal digits.
    pub signature: String,
}

/// What an export holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSummary {
    /// Number of the first record; `None` when there is none in the window.
    pub first: Option<u64>,
    /// How many records.
    pub records: u64,
    /// The window that was asked for, by the end of the sessions: not before; `None` when it was open.
    pub from: Option<Timestamp>,
    /// Before; `None` when it was open.
    pub to: Option<Timestamp>,
    /// The signatures do not vouch for the records up to this one: an operator accepted them as they were.
    pub accepted: Option<u64>,
    /// The SHA-256 of all lines before, in hexadecimal digits.
    pub digest: String,
}

impl Statement {
    /// An unsigned statement of a record.
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

    /// A signed hand-over from the key `former_key` to that of `signer`; `former` announces it, where it is there.
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

    /// The record it speaks of.
    pub(in crate::history) fn tip(&self) -> Tip {
        Tip { seq: self.seq, hash: self.hash.clone() }
    }

    /// True when the key it names has signed it, and the former one where it says so.
    pub fn is_genuine(&self) -> bool {
        let message = self.message();
        let is_announced = match (&self.former_key, &self.former_signature) {
            (Some(key), Some(signature)) => is_signed(&message, key, signature),
            (_, signature) => signature.is_none(),
        };
        self.schema == SCHEMA && is_announced && is_signed(&message, &self.key, &self.signature)
    }

    /// Its line in an export.
    pub(in crate::history) fn line(&self) -> Vec<u8> {
        canonical(&self.value())
    }

    /// What is signed.
    pub(in crate::history) fn message(&self) -> Vec<u8> {
        let mut value = self.value();
        if let Some(members) = value.as_object_mut() {
            members.remove("signature");
            members.remove("former_signature");
        }
        canonical(&value)
    }

    fn value(&self) -> Value {
        // It has texts and numbers only, so this cannot fail.
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
