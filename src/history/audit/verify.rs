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
    /// The first line is not line 1.
    #[error("the first line is {0}: lines are missing")]
    Beginning(u64),
    /// There are lines, but no head.
    #[error("there are lines, but no audit-head.json that names the last one")]
    NoHead,
    /// The line is another one than the head names.
    #[error("line {0} is not the one that the head names")]
    NotTheHead(u64),
    /// The line that the head names is missing.
    #[error("line {0}, which the head names, is missing")]
    Missing(u64),
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

/// Verifies lines one by one, oldest first, as `GET /control/audit` and `elida audit export` give them. They need not begin with
/// line 1: then nothing is known of those before.
#[derive(Debug, Default)]
pub struct Verifier {
    keys: Vec<String>,
    head: Option<Tip>,
    is_head_found: bool,
    lines: usize,
    verified: Verified,
}

impl Verifier {
    /// Creates a verifier. `keys` are public keys in hexadecimal. `head` is the content of `audit-head.json`, the end that the
    /// lines must reach; with `None`, lines may be missing at the end.
    pub fn new(keys: Vec<String>, head: Option<Tip>) -> Self {
        Self { keys, head, ..Self::default() }
    }

    /// Verifies the next line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, text: &str) -> Result<(), Breach> {
        self.lines += 1;
        let unreadable = || Breach::Unreadable(self.lines);
        let mut line: Value = serde_json::from_str(text).map_err(|_| unreadable())?;
        let seal = line.as_object_mut().and_then(|line| line.remove("seal"));
        let link = line.get_mut(LINK).and_then(Value::as_object_mut).ok_or_else(unreadable)?;
        let hash = link.remove("hash").ok_or_else(unreadable)?;
        let (Some(seq), Some(prev)) = (link["seq"].as_u64(), link["prev"].as_str()) else {
            return Err(unreadable());
        };
        let before = &self.verified;
        if before.to > 0 && seq != before.to + 1 {
            return Err(Breach::Gap { before: before.to, found: seq });
        }
        let continues = match (before.to, seq) {
            (0, 1) => prev == ORIGIN,
            (0, _) => true,
            _ => prev == before.hash,
        };
        let tip = Tip { seq, hash: digest(&canonical(&line)) };
        if !continues || hash.as_str() != Some(&tip.hash) {
            return Err(Breach::Changed(seq));
        }
        let seal = seal.as_ref().and_then(Value::as_str).unwrap_or_default();
        if !self.keys.iter().any(|key| is_signed(&message(&tip), key, seal)) {
            return Err(Breach::Unsealed(seq));
        }
        if let Some(head) = self.head.as_ref().filter(|head| head.seq == seq) {
            if head.hash != tip.hash {
                return Err(Breach::NotTheHead(seq));
            }
            self.is_head_found = true;
        }
        let from = if before.to == 0 { seq } else { before.from };
        self.verified = Verified { from, to: seq, hash: tip.hash };
        Ok(())
    }

    /// Returns the lines that were verified.
    ///
    /// # Errors
    /// The line that the head names is not among them.
    pub fn finish(self) -> Result<Verified, Breach> {
        match self.head {
            Some(head) if head.seq > 0 && !self.is_head_found => Err(Breach::Missing(head.seq)),
            _ => Ok(self.verified),
        }
    }

    /// Returns the lines that were verified: all since line 1, up to the one that the head names or later.
    ///
    /// # Errors
    /// Lines are missing at the beginning or at the end, or there is no head.
    pub fn finish_whole(self) -> Result<Verified, Breach> {
        match (self.verified.from, &self.head) {
            (1, None) => Err(Breach::NoHead),
            (0 | 1, _) => self.finish(),
            (from, _) => Err(Breach::Beginning(from)),
        }
    }
}

/// Verifies all lines of an export.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify<'l>(
    lines: impl Iterator<Item = &'l str>,
    keys: Vec<String>,
    head: Option<Tip>,
) -> Result<Verified, Breach> {
    let mut verifier = Verifier::new(keys, head);
    lines.into_iter().try_for_each(|line| verifier.add(line))?;
    verifier.finish()
}
