//! Checks lines of the audit log without the gateway.

use serde_json::Value;

use crate::history::proof::hash_chain::{LINK, ORIGIN, Tip, canonical, digest};
use crate::history::proof::signature::{Signer, is_signed};

/// The schema of what is signed for a seal: no seal of a record is one of a line.
const SEAL_SCHEMA: &str = "elida.audit-seal/1";

/// Lines that were verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The number of the first line; 0 without lines.
    pub from: u64,
    /// The number of the last line; 0 without lines.
    pub to: u64,
    /// The digest of the last line.
    pub hash: String,
}

/// Why lines are not those that were written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// A line is not JSON, or has no link.
    #[error("line {0} of the file is not a line of an audit log")]
    Unreadable(usize),
    /// Lines are missing, or are in another order.
    #[error("after line {before} comes line {found}: lines are missing")]
    Gap {
        /// The number of the line before.
        before: u64,
        /// The number that was found instead of the next one.
        found: u64,
    },
    /// A line was changed, or the one before it was replaced.
    #[error("line {0} is not the one that was written")]
    Changed(u64),
    /// The signature is missing or of another key.
    #[error("line {0} was not sealed with a known key")]
    Unsealed(u64),
}

/// Seals a line.
pub(super) fn seal(signer: &Signer, tip: &Tip) -> String {
    signer.sign(&message(tip))
}

fn message(tip: &Tip) -> Vec<u8> {
    canonical(&serde_json::json!({"schema": SEAL_SCHEMA, "seq": tip.seq, "hash": tip.hash}))
}

/// Verifies lines, oldest first, as `GET /control/audit` and `elida audit --json` give them. They need not begin with line 1:
/// then nothing is known of those before. `keys` are public keys in hexadecimal.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify<'l>(lines: impl Iterator<Item = &'l str>, keys: &[String]) -> Result<Verified, Breach> {
    let mut verified = Verified::default();
    for (at, text) in lines.enumerate() {
        let unreadable = || Breach::Unreadable(at + 1);
        let mut line: Value = serde_json::from_str(text).map_err(|_| unreadable())?;
        let seal = line.as_object_mut().and_then(|line| line.remove("seal"));
        let link = line.get_mut(LINK).and_then(Value::as_object_mut).ok_or_else(unreadable)?;
        let hash = link.remove("hash").ok_or_else(unreadable)?;
        let (Some(seq), Some(prev)) = (link["seq"].as_u64(), link["prev"].as_str()) else {
            return Err(unreadable());
        };
        let is_next = seq == verified.to + 1;
        if verified.to > 0 && !is_next {
            return Err(Breach::Gap { before: verified.to, found: seq });
        }
        let continues = match (verified.to, seq) {
            (0, 1) => prev == ORIGIN,
            (0, _) => true,
            _ => prev == verified.hash,
        };
        let tip = Tip { seq, hash: digest(&canonical(&line)) };
        if !continues || hash.as_str() != Some(&tip.hash) {
            return Err(Breach::Changed(seq));
        }
        let seal = seal.as_ref().and_then(Value::as_str).unwrap_or_default();
        if !keys.iter().any(|key| is_signed(&message(&tip), key, seal)) {
            return Err(Breach::Unsealed(seq));
        }
        let from = if verified.to == 0 { seq } else { verified.from };
        verified = Verified { from, to: seq, hash: tip.hash };
    }
    Ok(verified)
}
