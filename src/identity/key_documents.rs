//! The documents of keys that operators make, as they are stored and shared, and the keys that are in force by them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::auth_settings::PrincipalConfig;
use super::key_holder::KeyHolder;
use super::key_text::KeyDigest;
use crate::ids::SharedDocument;
use crate::settings::fault::Faults;

/// How long a tombstone is kept.
const TOMBSTONE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many replaced keys of an id are known, the newest.
const MAX_REPLACED: usize = 64;
/// The bit of a revision that says that the key is revoked.
pub(super) const REVOKED: u64 = 1 << 31;

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDocument {
    /// What the configuration would say of it; the digest is that of the newest key.
    pub principal: PrincipalConfig,
    /// The first characters of the newest key.
    pub shown: String,
    /// A higher revision replaces a lower one. Its upper half counts how often the id was given; then comes [`REVOKED`], so
    /// that a revocation wins over rotations that another instance has made meanwhile; the rest counts those. Lua holds it
    /// exactly for two million keys of the same id.
    pub revision: u64,
    /// When the newest key was made.
    pub created: Timestamp,
    /// Digest of the key before a rotation, and until when it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<(String, Timestamp)>,
    /// Digests of the keys before this one that do not begin like keys of this gateway: they stay known, because what is not known
    /// is sent to the provider.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
    /// When it was revoked; `None` while it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

/// A key that operators may see: never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey {
    /// What the configuration says or would say of it.
    pub principal: PrincipalConfig,
    /// The first characters of the key; `None` for a declared one.
    pub shown: Option<String>,
    /// When it was made; `None` for a declared one.
    pub created: Option<Timestamp>,
    /// The minute of its last use by this process; `None` before one.
    pub last_used: Option<Timestamp>,
}

/// The next number of [`next_generation`].
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Returns a number that no other set of keys of this process has.
pub(super) fn next_generation() -> u64 {
    GENERATION.fetch_add(1, Ordering::Relaxed)
}

/// The keys that were made through the API.
#[derive(Debug, Default)]
pub struct MadeKeys {
    pub(super) holders: HashMap<KeyDigest, Arc<KeyHolder>>,
    /// Digests of revoked keys, and of replaced ones that would count as credentials of the provider.
    pub(super) revoked: HashSet<KeyDigest>,
    pub(super) generation: u64,
}

impl MadeKeys {
    pub(super) fn new(holders: HashMap<KeyDigest, Arc<KeyHolder>>, revoked: HashSet<KeyDigest>) -> Self {
        Self { holders, revoked, generation: next_generation() }
    }

    /// Returns whether a key with this digest is or was in force.
    pub(super) fn is_known(&self, digest: &KeyDigest) -> bool {
        self.holders.contains_key(digest) || self.revoked.contains(digest)
    }
}

/// Keys that are in force, by their digests.
pub(super) type Holders = Vec<(KeyDigest, Arc<KeyHolder>)>;

/// A key in memory.
pub(super) struct Entry {
    pub(super) document: KeyDocument,
    /// The document as it is stored.
    pub(super) text: String,
    /// The keys in force: one, two during the grace of a rotation, none of a tombstone.
    pub(super) holders: Holders,
}

impl Entry {
    /// Builds the keys of a document. `backends` are checked only if there are any.
    pub(super) fn of(
        document: KeyDocument,
        prefix: &str,
        backends: Option<&[String]>,
        old: &[(KeyDigest, Arc<KeyHolder>)],
    ) -> Result<Self, String> {
        let mut holders = Vec::new();
        if document.revoked.is_none() {
            let newest = compiled(document.principal.clone(), prefix, backends, old)?;
            let own = newest.1.expires();
            holders.push(newest);
            if let Some((digest, until)) =
                document.previous.clone().filter(|(_, until)| *until > Timestamp::now())
            {
                let expires = own.map_or(until, |own| own.min(until)).to_string();
                let before = PrincipalConfig {
                    key_sha256: digest,
                    expires: Some(expires),
                    ..document.principal.clone()
                };
                holders.push(compiled(before, prefix, None, old)?);
            }
        }
        let text = serde_json::to_string(&document).map_err(|fault| fault.to_string())?;
        Ok(Self { document, text, holders })
    }

    /// Whether it counts, rather than a document of this revision and text: of equal revisions the greater text, so that all
    /// instances agree.
    pub(super) fn ranks_above(&self, revision: u64, text: &str) -> bool {
        (self.document.revision, self.text.as_str()) > (revision, text)
    }
}

fn compiled(
    principal: PrincipalConfig,
    prefix: &str,
    backends: Option<&[String]>,
    old: &[(KeyDigest, Arc<KeyHolder>)],
) -> Result<(KeyDigest, Arc<KeyHolder>), String> {
    let mut faults = Faults::default();
    let all = principal.backends.clone();
    let compiled = principal.compile("", prefix, backends.unwrap_or(&all), &mut faults);
    match compiled.filter(|_| faults.is_empty()) {
        Some((digest, holder)) => {
            let old = old.iter().find(|(known, _)| *known == digest);
            Ok((digest, Arc::new(old.map_or_else(|| holder.clone(), |(_, old)| holder.continuing(old)))))
        }
        None => {
            let faults: Vec<String> = faults.iter().map(|fault| fault.to_string()).collect();
            Err(faults.iter().map(|fault| fault.trim_start_matches('.')).collect::<Vec<_>>().join("; "))
        }
    }
}

impl Entry {
    /// Returns the document.
    pub(super) fn shared(&self) -> SharedDocument {
        let KeyDocument { principal, revision, .. } = &self.document;
        SharedDocument { id: principal.id.clone(), revision: *revision, text: self.text.clone() }
    }
}

/// Puts an entry in the place of the one with its id. Returns the keys that are no longer in force.
pub(super) fn replace(entries: &mut BTreeMap<String, Entry>, entry: Entry) -> Vec<Arc<KeyHolder>> {
    entry.holders.iter().for_each(|(_, holder)| holder.settle());
    let kept: HashSet<KeyDigest> = entry.holders.iter().map(|(digest, _)| *digest).collect();
    let before = entries.insert(entry.document.principal.id.clone(), entry);
    let gone = before.into_iter().flat_map(|before| before.holders);
    gone.filter(|(digest, _)| !kept.contains(digest)).map(|(_, holder)| holder).collect()
}

/// Returns what the next document of an id says of the keys before it.
pub(super) fn replaced(before: Option<&KeyDocument>, prefix: &str) -> Vec<String> {
    let Some(before) = before else { return Vec::new() };
    let is_own = before.shown.starts_with(prefix);
    let newest = (!is_own).then(|| before.principal.key_sha256.clone());
    let all = before.replaced.iter().cloned().chain(newest);
    all.skip((before.replaced.len() + 1).saturating_sub(MAX_REPLACED)).collect()
}

/// Returns the revision of a key that is made where `before` was.
pub(super) fn generation(before: Option<&KeyDocument>) -> u64 {
    before.map_or(1, |before| (before.revision >> 32) + 1) << 32
}

/// Returns what operators may see of a key.
pub(super) fn listed_entry(entry: &Entry) -> ListedKey {
    ListedKey {
        principal: entry.document.principal.clone(),
        shown: Some(entry.document.shown.clone()),
        created: Some(entry.document.created),
        last_used: entry.holders.iter().filter_map(|(_, holder)| holder.last_used()).max(),
    }
}

/// Returns what operators may see of a declared key.
pub(super) fn declared_key((principal, holder): &(PrincipalConfig, Option<Arc<KeyHolder>>)) -> ListedKey {
    let last_used = holder.as_ref().and_then(|holder| holder.last_used());
    ListedKey { principal: principal.clone(), shown: None, created: None, last_used }
}

/// Returns whether a document is a tombstone that is no longer needed.
pub(super) fn is_over(document: &KeyDocument) -> bool {
    document.revoked.is_some_and(|at| at.checked_add(TOMBSTONE).is_ok_and(|until| until < Timestamp::now()))
}
